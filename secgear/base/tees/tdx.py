"""tdx: an Intel TDX trust domain. Probe only.

Host: the parameter ``tdx`` of kvm_intel (Linux 6.16, arch/x86/kvm/vmx/tdx.c), which is Y only
after the TDX module has been initialised; the CPU flag ``tdx_host_platform`` tells that the
firmware set private keys aside. Intel's quote generation service listens on
/var/run/tdx-qgs/qgs.socket. Guest: the CPU flag ``tdx_guest``, /dev/tdx_guest
(Documentation/virt/coco/tdx-guest.rst), configfs-tsm's provider ``tdx_guest``.
"""

from __future__ import annotations

from typing import ClassVar

from secgear.base.probing import kvm, qemu, tsm
from secgear.base.probing.probed import Finding, Inside, ProbedTee, architecture

QGS_SOCKET = "/var/run/tdx-qgs/qgs.socket"
KNOWN_FIRMWARE = (
    "/usr/share/edk2/ovmf/OVMF.inteltdx.fd",
    "/usr/share/ovmf/OVMF.inteltdx.fd",
    "/usr/share/OVMF/OVMF.inteltdx.fd",
)
KERNEL_FIX = (
    "boot Linux 6.16 or later with CONFIG_KVM_INTEL_TDX and kvm_intel.tdx=1 on a machine with "
    "TDX switched on in the firmware; dmesg tells why KVM refused"
)


class TdxTee(ProbedTee):
    """A virtual machine that the CPU and Intel's TDX module protect from its hypervisor."""

    name: ClassVar[str] = "tdx"
    title: ClassVar[str] = "Intel TDX"
    protects: ClassVar[str] = (
        "from the host's root, kernel, hypervisor and devices; "
        "not from Intel, side channels, denial of service or a tapped memory bus"
    )
    strength: ClassVar[int] = 120
    simulated: ClassVar[bool] = False

    def look_at_host(self) -> list[Finding]:
        """CPU, KVM, QEMU; the quote service only matters once evidence is wanted."""
        machine = self.machine
        found = kvm.look(machine)
        engine = qemu.look(machine)
        cpu = machine.cpu
        intel = cpu.vendor == "GenuineIntel"
        flagged = "tdx_host_platform" in cpu.flags
        parameter = machine.parameter("kvm_intel", "tdx")
        enabled = parameter in {"Y", "1"}
        return [
            architecture(machine, ("x86_64",), self.title),
            Finding(
                "host.cpu.vendor",
                f"{cpu.vendor or 'unknown'} ({cpu.model})",
                "" if intel else f"the CPU ({cpu.model}) is not Intel's",
                "use a fifth generation Intel Xeon or later",
            ),
            Finding(
                "host.cpu.tdx_host_platform",
                "yes" if flagged else "no",
                # The parameter is KVM's last word; the flag explains a missing one.
                ""
                if flagged or enabled
                else f"the CPU ({cpu.model}) shows no flag tdx_host_platform",
                "use a fifth generation Intel Xeon or later, switch TDX on in its firmware, and "
                "boot Linux 6.16 or later on the bare machine: a virtual one can't host TDX",
            ),
            Finding(
                "host.kvm_intel.tdx",
                parameter or "no such parameter",
                "" if enabled else f"kvm_intel's parameter tdx is {parameter or 'not there'}",
                KERNEL_FIX,
            ),
            *kvm.findings(found),
            kvm.offers_finding(found, kvm.VmType.TDX, "TDX", KERNEL_FIX),
            *qemu.findings(engine, machine.arch),
            qemu.object_finding(engine, "tdx-guest", "QEMU 10.1 or later"),
            qemu.firmware_finding(machine, "intel-tdx", KNOWN_FIRMWARE),
            Finding(
                "host.quote_service",
                QGS_SOCKET if machine.exists(QGS_SOCKET) else f"no socket at {QGS_SOCKET}",
            ),
        ]

    def look_inside(self) -> Inside:
        """Signs that we are a trust domain."""
        machine = self.machine
        reports = tsm.look(machine)
        guest = machine.device("/dev/tdx_guest")
        flagged = "tdx_guest" in machine.cpu.flags
        sign = ""
        if flagged:
            sign = "the CPU flag tdx_guest"
        elif guest.present:
            sign = "/dev/tdx_guest"
        elif "tdx_guest" in reports.providers:
            sign = "configfs-tsm's provider tdx_guest"
        return Inside(
            sign,
            (
                Finding("guest.cpu.tdx_guest", "yes" if flagged else "no"),
                Finding("guest.tdx_guest", guest.seen),
                Finding(
                    "guest.driver", "loaded" if tsm.driver(machine, "tdx_guest") else "not seen"
                ),
                reports.finding(),
            ),
        )
