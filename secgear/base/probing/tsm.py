"""The kernel's common door to attestation reports inside a guest: configfs-tsm.

Linux 6.7 and later, Documentation/ABI/testing/configfs-tsm-report. A report is made by creating a
directory, which a probe must not do; so the name of the provider shows only where somebody else's
report stands, and otherwise the guest drivers' modules are the best sign.
"""

from __future__ import annotations

import msgspec

from secgear.base.probing.machine import Machine, clean
from secgear.base.probing.probed import Finding

CONFIGFS = "/sys/kernel/config"
REPORTS = f"{CONFIGFS}/tsm/report"
ENTRY_COUNT = 100


class Tsm(msgspec.Struct, frozen=True):
    """What there is to see of configfs-tsm.

    seen: one line for people. providers: names read from existing reports, for example
    ``sev_guest``, ``tdx_guest``, ``arm_cca_guest``.
    """

    ready: bool
    seen: str
    providers: frozenset[str] = frozenset()

    def finding(self) -> Finding:
        """As a fact of the guest."""
        return Finding("guest.tsm", self.seen)


def look(machine: Machine) -> Tsm:
    """See whether reports can be asked for, without asking for one."""
    if machine.exists(REPORTS):
        entries = machine.names(REPORTS)[:ENTRY_COUNT]
        read = (machine.read(f"{REPORTS}/{entry}/provider") for entry in entries)
        providers = frozenset(filter(None, (clean(text or "") for text in read)))
        seen = (
            f"ready, provider {', '.join(sorted(providers))}"
            if providers
            else "ready, provider unknown until somebody makes a report"
        )
        return Tsm(ready=True, seen=seen, providers=providers)
    mounts = machine.read("/proc/mounts") or ""
    if any(line.split()[2:3] == ["configfs"] for line in mounts.splitlines()):
        return Tsm(ready=False, seen="configfs is mounted, but no kernel module offers reports")
    if machine.exists(CONFIGFS):
        return Tsm(ready=False, seen=f"configfs is not mounted on {CONFIGFS}")
    return Tsm(ready=False, seen="this kernel shows no configfs")


def driver(machine: Machine, module: str) -> bool:
    """Whether a guest driver is loaded. One that is built in may not show here."""
    return machine.exists(f"/sys/module/{module}")
