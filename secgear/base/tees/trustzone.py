"""trustzone: a trusted application in the secure world of an Arm CPU. Probe only.

OP-TEE: /dev/tee0 and up for clients (Linux, Documentation/userspace-api/tee.rst), asked with
TEE_IOC_VERSION (include/uapi/linux/tee.h) as libteec does; on x86 the same device belongs to
AMD's TEE, which is something else. iTrustee: /dev/tc_ns_client of its driver tzdriver, with the
agent teecd (openEuler, itrustee_tzdriver and itrustee_client).
"""

from __future__ import annotations

import re
import struct
from typing import ClassVar

from secgear.base.probing.machine import Device
from secgear.base.probing.probed import Finding, Inside, ProbedTee, architecture

TEE_IOC_VERSION = 0x800CA400  # _IOR(0xa4, 0, struct tee_ioctl_version_data), 12 bytes
IMPLEMENTATIONS = {1: "OP-TEE", 2: "AMD-TEE", 3: "TS-TEE", 4: "QTEE"}
GENERAL_CAPABILITY_GP = 1
ARM = ("aarch64", "armv7l", "armv8l")

LIBRARY_DIRECTORIES = (
    "/usr/local/lib",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/arm-linux-gnueabihf",
    "/usr/lib64",
    "/usr/lib",
    "/lib64",
    "/lib",
    "/vendor/lib64",
)
_CLIENT = re.compile(r"tee\d{1,3}")
_LIBRARY = re.compile(r"libteec(_adaptor)?\.so(\.\d{1,6}){0,3}")


class TrustZoneTee(ProbedTee):
    """A trusted application beside others under one secure-world operating system."""

    name: ClassVar[str] = "trustzone"
    title: ClassVar[str] = "Arm TrustZone"
    protects: ClassVar[str] = (
        "from the normal world: its root, kernel and hypervisor; not from the device's maker, "
        "the secure-world system it shares with others, or someone who reads the memory chips"
    )
    strength: ClassVar[int] = 100
    simulated: ClassVar[bool] = False

    def look_at_host(self) -> list[Finding]:
        """Architecture, a secure-world system that answers, client library, agent."""
        machine = self.machine
        nodes = [name for name in machine.names("/dev") if _CLIENT.fullmatch(name)]
        clients = [self._client(f"/dev/{name}") for name in nodes]
        itrustee = machine.exists("/dev/tc_ns_client")
        op_tee = any(kind == "OP-TEE" for _, kind in clients)
        problem = fix = ""
        if not op_tee and not itrustee:
            closed = next((node for node, _ in clients if not node.usable), None)
            if closed is not None:
                problem, fix = f"{closed.name} is {closed.seen}", closed.fix
            else:
                problem = (
                    "no secure-world system answers: neither OP-TEE (/dev/tee0) nor iTrustee "
                    "(/dev/tc_ns_client)"
                )
                fix = (
                    "boot firmware with OP-TEE and a kernel with CONFIG_OPTEE, or on a Kunpeng "
                    "server with TrustZone load iTrustee's tzdriver"
                )
        library = self._library()
        agent = machine.which("tee-supplicant" if op_tee else "teecd", "/usr/sbin/tee-supplicant")
        seen = ", ".join(f"{node.name}: {kind or node.seen}" for node, kind in clients)
        return [
            architecture(machine, ARM, self.title),
            Finding("host.tee", seen or "no /dev/tee0", problem, fix),
            # Opening these two is not harmless: /dev/teepriv0 makes its opener the supplicant
            # (drivers/tee/optee/core.c), and iTrustee's driver keeps books about its clients.
            Finding("host.teepriv", self._presence("/dev/teepriv0")),
            Finding("host.itrustee", self._presence("/dev/tc_ns_client")),
            Finding("host.tee_class", ", ".join(machine.names("/sys/class/tee")) or "empty"),
            Finding(
                "host.libteec",
                library or "absent",
                "" if library else "there is no libteec (the GlobalPlatform TEE Client API)",
                "install the client of the secure-world system: optee-client or itrustee_client",
            ),
            Finding(
                "host.agent",
                agent or "absent",
                "" if agent else "there is no tee-supplicant or teecd to serve the secure world",
                "install and start tee-supplicant (OP-TEE) or teecd (iTrustee)",
            ),
        ]

    def look_inside(self) -> Inside:
        """A trusted application is no Linux program: code that asks is never inside."""
        return Inside("", (Finding("guest.world", "normal: Linux does not run in the secure one"),))

    def _client(self, name: str) -> tuple[Device, str]:
        """A client device and who answers behind it; empty if nobody that libteec can use."""
        node, (answer,) = self.machine.ask(name, (TEE_IOC_VERSION, bytes(12)))
        if not isinstance(answer, bytes) or len(answer) != 12:
            return node, ""
        implementation, _, general = struct.unpack("=III", answer)
        kind = IMPLEMENTATIONS.get(implementation, f"implementation {implementation}")
        if not general & GENERAL_CAPABILITY_GP:
            kind += " without the GlobalPlatform interface"
        return node, kind

    def _presence(self, name: str) -> str:
        return "present, not opened" if self.machine.exists(name) else "absent"

    def _library(self) -> str:
        for directory in LIBRARY_DIRECTORIES:
            for name in self.machine.names(directory):
                if _LIBRARY.fullmatch(name):
                    return f"{directory}/{name}"
        return ""
