"""What KVM offers: API version, kinds of virtual machines, hardware behind it.

Numbers from Linux, include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h; meaning from
Documentation/virt/kvm/api.rst, sections 4.1 (KVM_GET_API_VERSION) and 4.4 (KVM_CHECK_EXTENSION).
"""

from __future__ import annotations

import enum

import msgspec

from secgear.base.probing.machine import Device, Machine
from secgear.base.probing.probed import Finding

KVM_GET_API_VERSION = 0xAE00  # _IO(KVMIO, 0x00), KVMIO 0xAE
KVM_CHECK_EXTENSION = 0xAE03  # _IO(KVMIO, 0x03)
KVM_API_VERSION = 12
KVM_CAP_VM_TYPES = 235

NESTED_CAVEAT = (
    "on a nested or paravirtual KVM creating a VM succeeds even where no guest can run: "
    "only a real boot proves it"
)


class VmType(enum.IntEnum):
    """Bit numbers in the answer to KVM_CAP_VM_TYPES (KVM_X86_*_VM)."""

    DEFAULT = 0
    SW_PROTECTED = 1
    SEV = 2
    SEV_ES = 3
    SNP = 4
    TDX = 5


class Kvm(msgspec.Struct, frozen=True):
    """What /dev/kvm answered.

    api: the API version, None if it did not answer; every KVM since 2007 says 12.
    vm_types: bitmask by `VmType`, 0 from kernels that don't know the question.
    modules: loaded kernel modules of the kvm family, for example ``kvm_amd``.
    """

    device: Device
    api: int | None = None
    vm_types: int = 0
    modules: tuple[str, ...] = ()

    def offers(self, kind: VmType) -> bool:
        """Whether KVM says it can create virtual machines of this kind."""
        return bool(self.vm_types >> kind & 1)

    @property
    def kinds(self) -> str:
        """The kinds it offers, for people."""
        names = [kind.name.lower().replace("_", "-") for kind in VmType if self.offers(kind)]
        return ", ".join(names) or "not told"


def look(machine: Machine) -> Kvm:
    """Open /dev/kvm and ask; creates no virtual machine."""
    device, (api, types) = machine.ask(
        "/dev/kvm", (KVM_GET_API_VERSION, 0), (KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES)
    )
    return Kvm(
        device=device,
        api=api if isinstance(api, int) else None,
        vm_types=types if isinstance(types, int) and types > 0 else 0,
        modules=tuple(name for name in machine.names("/sys/module") if name.startswith("kvm")),
    )


def hardware(machine: Machine) -> str:
    """The CPU's virtualization extension as /proc/cpuinfo names it: vmx, svm, or empty."""
    return next((flag for flag in ("vmx", "svm") if flag in machine.cpu.flags), "")


def findings(kvm: Kvm) -> list[Finding]:
    """Whether /dev/kvm is there and answers; the next kind of question is `offers_finding`."""
    device = kvm.device
    problem = fix = ""
    if not device.present:
        problem = "there is no /dev/kvm"
        fix = (
            "switch virtualization on in the firmware and load kvm_intel or kvm_amd; "
            "in a cloud, take a bare-metal instance"
        )
    elif not device.usable:
        problem, fix = f"/dev/kvm is {device.seen}", device.fix
    elif kvm.api != KVM_API_VERSION:
        problem = f"/dev/kvm does not answer as KVM does (API version {kvm.api}, not 12)"
        fix = "load this kernel's own kvm modules"
    return [
        Finding("host.kvm.device", device.seen, problem, fix),
        Finding("host.kvm.api", "no answer" if kvm.api is None else str(kvm.api)),
        Finding("host.kvm.modules", ", ".join(kvm.modules) or "none visible"),
    ]


def offers_finding(kvm: Kvm, kind: VmType, product: str, fix: str) -> Finding:
    """Whether KVM can create virtual machines of `kind`; `fix` says how to get there."""
    problem = (
        "" if kvm.offers(kind) else f"KVM offers no {product} machines (it offers: {kvm.kinds})"
    )
    return Finding("host.kvm.vm_types", kvm.kinds, problem, "" if not problem else fix)
