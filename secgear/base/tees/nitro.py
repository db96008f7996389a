"""nitro: an AWS Nitro enclave beside an EC2 instance. Probe only.

Parent instance: /dev/nitro_enclaves, the CPU pool in the parameter ``ne_cpus`` of nitro_enclaves
(Linux, Documentation/virt/ne_overview.rst and include/uapi/linux/nitro_enclaves.h), nitro-cli.
Enclave: /dev/nsm (Linux 6.8, drivers/misc/nsm.c). QEMU can emulate the latter: only a document
signed under AWS's root proves a Nitro enclave.
"""

from __future__ import annotations

import re
from typing import ClassVar

from secgear.base.probing.machine import clean
from secgear.base.probing.probed import Finding, Inside, ProbedTee, architecture, device

_VERSION = re.compile(r"\b(\d{1,6}\.\d{1,6}(?:\.\d{1,6})?)\b")
DEVICE_FIX = (
    "take an EC2 instance with at least 4 vCPUs, started with EnclaveOptions.Enabled=true, "
    "and load the nitro_enclaves module"
)


class NitroTee(ProbedTee):
    """A virtual machine cut out of an EC2 instance by the Nitro hypervisor."""

    name: ClassVar[str] = "nitro"
    title: ClassVar[str] = "AWS Nitro Enclaves"
    protects: ClassVar[str] = (
        "from the parent instance, its root and its administrators; "
        "not from AWS, whose hypervisor and hardware it trusts"
    )
    strength: ClassVar[int] = 110
    simulated: ClassVar[bool] = False

    def look_at_host(self) -> list[Finding]:
        """Device, CPU pool, tool."""
        machine = self.machine
        vendor = clean(machine.read("/sys/class/dmi/id/sys_vendor") or "")
        pool = machine.parameter("nitro_enclaves", "ne_cpus")
        filled = pool not in {None, "", "(null)"}
        tool = machine.which("nitro-cli")
        answer = machine.output(tool, "--version") if tool else None
        version = _VERSION.search((answer or "")[:4096])
        return [
            architecture(machine, ("x86_64", "aarch64"), self.title),
            Finding("host.vendor", vendor or "not told"),
            device(
                "host.nitro_enclaves",
                machine.device("/dev/nitro_enclaves"),
                "the way to the Nitro hypervisor",
                DEVICE_FIX,
            ),
            Finding(
                "host.cpu_pool",
                pool or "empty",
                "" if filled else "no CPUs are set aside for enclaves",
                "set cpu_count and memory_mib in /etc/nitro_enclaves/allocator.yaml, then: "
                "sudo systemctl restart nitro-enclaves-allocator",
            ),
            Finding(
                "host.nitro_cli",
                f"{tool} {version.group(1) if version else '(does not tell its version)'}"
                if tool
                else "absent",
                "" if tool else "there is no nitro-cli",
                "install aws-nitro-enclaves-cli and join its group: sudo usermod -aG ne $USER",
            ),
        ]

    def look_inside(self) -> Inside:
        """The Nitro security module is there inside an enclave only, or emulated by QEMU."""
        module = self.machine.device("/dev/nsm")
        return Inside("/dev/nsm" if module.present else "", (Finding("guest.nsm", module.seen),))
