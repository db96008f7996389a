"""vm: an enclave in a plain virtual machine, on KVM or emulated. Probe only.

Hardware virtualization shows as the CPU flag ``vmx`` or ``svm`` on x86 (Linux,
arch/x86/include/asm/cpufeatures.h); on Arm a working /dev/kvm is the sign. Without either, QEMU
emulates the machine by itself (TCG), which is several times slower.
"""

from __future__ import annotations

from typing import ClassVar

from secgear.base.probing import kvm, qemu
from secgear.base.probing.kvm import Kvm
from secgear.base.probing.machine import clean
from secgear.base.probing.probed import Finding, Inside, ProbedTee

KNOWN_FIRMWARE = {
    "x86_64": (
        "/usr/share/OVMF/OVMF_CODE_4M.fd",
        "/usr/share/OVMF/OVMF_CODE.fd",
        "/usr/share/edk2/ovmf/OVMF_CODE.fd",
        "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "/usr/share/qemu/ovmf-x86_64-code.bin",
    ),
    "aarch64": (
        "/usr/share/AAVMF/AAVMF_CODE.fd",
        "/usr/share/edk2/aarch64/QEMU_EFI.fd",
    ),
}


class VmTee(ProbedTee):
    """A virtual machine without disk or network; its vTPM belongs to the host."""

    name: ClassVar[str] = "vm"
    title: ClassVar[str] = "virtual machines"
    nests: ClassVar[bool] = True
    protects: ClassVar[str] = (
        "from other users and programs of the host, and the host from the enclave; "
        "not from the host's root, kernel or hypervisor"
    )
    strength: ClassVar[int] = 50
    simulated: ClassVar[bool] = True

    def look_at_host(self) -> list[Finding]:
        """QEMU is all that must be there; KVM, firmware and vTPM make it faster or measured."""
        machine = self.machine
        arch = machine.arch
        engine = qemu.look(machine)
        found = kvm.look(machine)
        accelerator, why = self._accelerator(found, engine)
        files = qemu.firmware(machine, known=KNOWN_FIRMWARE.get(arch, ()))
        return [
            Finding("host.arch", arch),
            *qemu.findings(engine, arch),
            Finding("host.qemu.accelerators", ", ".join(engine.accelerators) or "none told"),
            Finding(
                "host.accelerator",
                f"{accelerator or 'none'}: {why}",
                "" if accelerator else f"{engine.path} can neither use KVM here nor emulate: {why}",
                "" if accelerator else "install a QEMU that was built with TCG, or give it KVM",
            ),
            Finding("host.cpu.virtualization", kvm.hardware(machine) or "no vmx or svm flag"),
            # Without KVM the machine is emulated: that KVM is missing is no problem by itself.
            *(Finding(item.fact, item.seen) for item in kvm.findings(found)),
            Finding("host.kvm.caveat", kvm.NESTED_CAVEAT),
            Finding(
                "host.firmware",
                clean(", ".join(item.file for item in files)) or "no UEFI firmware (OVMF, AAVMF)",
            ),
            Finding("host.swtpm", machine.which("swtpm") or "absent: no vTPM, no evidence"),
        ]

    def look_inside(self) -> Inside:
        """The CPU flag ``hypervisor`` and the firmware's DMI names tell of a virtual machine."""
        machine = self.machine
        names = [
            machine.read(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")
        ]
        product = clean(" ".join(name for name in names if name))
        sign = "the CPU flag hypervisor" if "hypervisor" in machine.cpu.flags else ""
        return Inside(sign, (Finding("guest.dmi", product or "not told"),))

    def _accelerator(self, found: Kvm, engine: qemu.Qemu) -> tuple[str, str]:
        """What would run the machine (``kvm``, ``tcg`` or empty) and why."""
        if not engine.path:
            return "", "no QEMU"
        problem = next((item.problem for item in kvm.findings(found) if item.problem), "")
        if not problem and self.machine.arch == "x86_64" and not kvm.hardware(self.machine):
            problem = "/dev/kvm answers, but the CPU shows neither vmx nor svm"
        if not problem and "kvm" not in engine.accelerators:
            problem = "this QEMU was built without KVM"
        if not problem:
            return "kvm", "hardware virtualization"
        if "tcg" in engine.accelerators:
            return "tcg", f"{problem}; emulation is several times slower"
        return "", problem
