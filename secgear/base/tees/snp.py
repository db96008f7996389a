"""snp: an AMD SEV-SNP confidential virtual machine. Probe only.

Host: the CPU flag ``sev_snp`` (Linux, arch/x86/include/asm/cpufeatures.h), the parameter
``sev_snp`` of kvm_amd (arch/x86/kvm/svm/sev.c), /dev/sev of the ccp driver
(drivers/crypto/ccp/sev-dev.c), which QEMU opens (docs/system/i386/amd-memory-encryption.rst).
Guest: /dev/sev-guest (Documentation/virt/coco/sev-guest.rst), configfs-tsm's ``sev_guest``, and
/sys/devices/system/cpu/sev, which exists in SNP guests only (Documentation/ABI/testing).
"""

from __future__ import annotations

from typing import ClassVar

from secgear.base.probing import kvm, qemu, tsm
from secgear.base.probing.probed import Finding, Inside, ProbedTee, architecture, device

KNOWN_FIRMWARE = (
    "/usr/share/edk2/ovmf/OVMF.amdsev.fd",
    "/usr/share/ovmf/OVMF.amdsev.fd",
    "/usr/share/OVMF/OVMF.amdsev.fd",
)
KERNEL_FIX = (
    "boot Linux 6.11 or later with CONFIG_KVM_AMD_SEV on a machine with SEV-SNP and its RMP table "
    "switched on in the firmware; kvm_amd must not be loaded with sev_snp=0"
)


class SnpTee(ProbedTee):
    """A virtual machine whose memory the CPU encrypts and protects from its hypervisor."""

    name: ClassVar[str] = "snp"
    title: ClassVar[str] = "AMD SEV-SNP"
    protects: ClassVar[str] = (
        "from the host's root, kernel, hypervisor and devices; "
        "not from AMD, side channels, denial of service or a tapped memory bus"
    )
    strength: ClassVar[int] = 120
    simulated: ClassVar[bool] = False

    def look_at_host(self) -> list[Finding]:
        """CPU, KVM, security processor, QEMU."""
        machine = self.machine
        found = kvm.look(machine)
        engine = qemu.look(machine)
        parameter = machine.parameter("kvm_amd", "sev_snp")
        flagged = "sev_snp" in machine.cpu.flags
        enabled = parameter in {"Y", "1"}
        return [
            architecture(machine, ("x86_64",), self.title),
            Finding(
                "host.cpu.sev_snp",
                f"{'yes' if flagged else 'no'} ({machine.cpu.model})",
                "" if flagged else f"the CPU ({machine.cpu.model}) shows no flag sev_snp",
                "use an AMD EPYC 7003 or later with SEV-SNP switched on in its firmware",
            ),
            Finding(
                "host.kvm_amd.sev_snp",
                parameter or "no such parameter",
                "" if enabled else f"kvm_amd's parameter sev_snp is {parameter or 'not there'}",
                KERNEL_FIX,
            ),
            *kvm.findings(found),
            kvm.offers_finding(found, kvm.VmType.SNP, "SEV-SNP", KERNEL_FIX),
            device(
                "host.sev",
                machine.device("/dev/sev"),
                "the way to the security processor",
                "load the ccp module",
            ),
            *qemu.findings(engine, machine.arch),
            qemu.object_finding(engine, "sev-snp-guest", "QEMU 9.1 or later"),
            qemu.firmware_finding(machine, "amd-sev-snp", KNOWN_FIRMWARE),
        ]

    def look_inside(self) -> Inside:
        """Signs that we are an SNP guest."""
        machine = self.machine
        reports = tsm.look(machine)
        guest = machine.device("/dev/sev-guest")
        level = machine.read("/sys/devices/system/cpu/sev/vmpl")
        sign = ""
        if guest.present:
            sign = "/dev/sev-guest"
        elif level is not None:
            sign = "/sys/devices/system/cpu/sev"
        elif "sev_guest" in reports.providers:
            sign = "configfs-tsm's provider sev_guest"
        return Inside(
            sign,
            (
                Finding("guest.sev_guest", guest.seen),
                Finding(
                    "guest.driver", "loaded" if tsm.driver(machine, "sev_guest") else "not seen"
                ),
                Finding("guest.vmpl", "not told" if level is None else level),
                reports.finding(),
            ),
        )
