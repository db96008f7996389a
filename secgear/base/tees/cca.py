"""cca: an Arm CCA realm. Probe only.

Host support in KVM and QEMU is still a patch series: the capability's number changed between its
versions (300, then 240), so asking a kernel by number would prove nothing, and the probe goes by
QEMU's ``rme-guest`` object. Guest support is in Linux since 6.13: drivers/virt/coco/arm-cca-guest
registers with configfs-tsm under its module's name, ``arm_cca_guest``; arch/arm64/kernel/rsi.c
creates the device ``arm-cca-dev`` in realms only.
"""

from __future__ import annotations

from typing import ClassVar

from secgear.base.probing import kvm, qemu, tsm
from secgear.base.probing.probed import Finding, Inside, ProbedTee, architecture

REALM_DEVICE = "/sys/devices/platform/arm-cca-dev"


class CcaTee(ProbedTee):
    """A realm: a virtual machine that CPU and realm manager protect from its hypervisor."""

    name: ClassVar[str] = "cca"
    title: ClassVar[str] = "Arm CCA"
    protects: ClassVar[str] = (
        "from the host's root, kernel, hypervisor and TrustZone; "
        "not from the CPU's maker and its firmware, side channels or denial of service"
    )
    strength: ClassVar[int] = 120
    simulated: ClassVar[bool] = False

    def look_at_host(self) -> list[Finding]:
        """Architecture, KVM, QEMU."""
        machine = self.machine
        engine = qemu.look(machine)
        return [
            architecture(machine, ("aarch64",), self.title),
            *kvm.findings(kvm.look(machine)),
            Finding(
                "host.kvm.realms",
                "not asked: no released kernel fixes the number of the capability",
            ),
            *qemu.findings(engine, machine.arch),
            qemu.object_finding(
                engine,
                "rme-guest",
                "QEMU and a kernel with Arm's CCA patches on a CPU with the Realm Management "
                "Extension",
            ),
        ]

    def look_inside(self) -> Inside:
        """Signs that we are in a realm."""
        machine = self.machine
        reports = tsm.look(machine)
        loaded = tsm.driver(machine, "arm_cca_guest")
        sign = ""
        if machine.exists(REALM_DEVICE):
            sign = REALM_DEVICE
        elif "arm_cca_guest" in reports.providers:
            sign = "configfs-tsm's provider arm_cca_guest"
        return Inside(
            sign,
            (
                Finding(
                    "guest.realm_device", "present" if machine.exists(REALM_DEVICE) else "absent"
                ),
                Finding("guest.driver", "loaded" if loaded else "not seen"),
                reports.finding(),
            ),
        )
