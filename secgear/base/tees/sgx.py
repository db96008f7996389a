"""sgx: an Intel SGX enclave under the Gramine library OS. Probe only.

Host: CPU flags ``sgx`` and ``sgx_lc`` (the driver in Linux needs flexible launch control),
/dev/sgx_enclave and /dev/sgx_provision (Linux 5.11, Documentation/arch/x86/sgx.rst); quotes need
Intel's AESM service. Guest: Gramine shows /dev/attestation to the program (Gramine,
Documentation/attestation.rst).
"""

from __future__ import annotations

from typing import ClassVar

from secgear.base.probing.machine import clean
from secgear.base.probing.probed import Finding, Inside, ProbedTee, architecture, device

AESM_SOCKET = "/var/run/aesmd/aesm.socket"
ATTESTATION = "/dev/attestation/attestation_type"
# Nodes of drivers from before Linux 5.11, which Gramine no longer takes.
OLD_DRIVERS = ("/dev/isgx", "/dev/sgx/enclave", "/dev/sgx")
CPU_FIX = (
    "use an Intel Xeon with SGX, switched on in its firmware; in a cloud, take an instance "
    "that passes SGX through"
)


class SgxTee(ProbedTee):
    """A process whose memory the CPU encrypts and closes to everything outside."""

    name: ClassVar[str] = "sgx"
    title: ClassVar[str] = "Intel SGX"
    protects: ClassVar[str] = (
        "from everything on the host outside the enclave, root and kernel included; "
        "not from Intel, side channels, denial of service or a tapped memory bus"
    )
    strength: ClassVar[int] = 130
    simulated: ClassVar[bool] = False

    def look_at_host(self) -> list[Finding]:
        """CPU, driver, Gramine, quoting service."""
        machine = self.machine
        flags = machine.cpu.flags
        old = next((name for name in OLD_DRIVERS if machine.exists(name)), "")
        driver_fix = "boot Linux 5.11 or later with CONFIG_X86_SGX"
        if old:
            driver_fix += f"; {old} belongs to an older driver, remove it"
        gramine = machine.which("gramine-sgx")
        quoting = machine.exists(AESM_SOCKET)
        return [
            architecture(machine, ("x86_64",), self.title),
            Finding(
                "host.cpu.sgx",
                f"{'yes' if 'sgx' in flags else 'no'} ({machine.cpu.model})",
                "" if "sgx" in flags else f"the CPU ({machine.cpu.model}) shows no flag sgx",
                CPU_FIX,
            ),
            Finding(
                "host.cpu.sgx_lc",
                "yes" if "sgx_lc" in flags else "no",
                "" if "sgx_lc" in flags else "the CPU shows no flag sgx_lc (launch control)",
                "switch flexible launch control on in the firmware",
            ),
            Finding("host.old_driver", old or "none"),
            device(
                "host.sgx_enclave", machine.device("/dev/sgx_enclave"), "for enclaves", driver_fix
            ),
            device(
                "host.sgx_provision",
                machine.device("/dev/sgx_provision"),
                "for evidence",
                driver_fix,
            ),
            Finding(
                "host.gramine",
                gramine or "absent",
                "" if gramine else "there is no gramine-sgx",
                "install Gramine from its own package repository; no distribution ships it",
            ),
            Finding(
                "host.aesmd",
                AESM_SOCKET if quoting else f"no socket at {AESM_SOCKET}",
                "" if quoting else f"Intel's quoting service does not listen at {AESM_SOCKET}",
                "install and start sgx-aesm-service with its quote-ex plug-in",
            ),
        ]

    def look_inside(self) -> Inside:
        """Gramine's pseudo files exist only under Gramine; ``none`` there means no evidence."""
        kind = self.machine.read(ATTESTATION)
        seen = "absent" if kind is None else clean(kind) or "empty"
        return Inside(
            "" if kind is None else f"{ATTESTATION} says {seen}",
            (Finding("guest.attestation", seen),),
        )
