"""A TEE that this release can look for but not start: the base of all but ``process``."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import msgspec

from secgear.base.probing.machine import Device, Machine, clean, this_machine
from secgear.base.tee import Availability, LaunchConfig, Running, Tee
from secgear.errors import PlatformUnavailable

if TYPE_CHECKING:
    from secgear.base.image import Image

INSTEAD = "until then use tee='process', a simulation"


class Finding(msgspec.Struct, frozen=True):
    """One thing a probe looked at.

    fact: its name in `Availability.facts`; ``host.`` for what starting an enclave needs,
    ``guest.`` for what tells that we are inside one. seen: for people.
    problem: empty if this does not stand in the way, else why it does, as a clause.
    fix: what would remove the problem.
    """

    fact: str
    seen: str
    problem: str = ""
    fix: str = ""


class Inside(msgspec.Struct, frozen=True):
    """Whether this machine is itself a guest of the TEE.

    sign: what shows it, empty if nothing does. A sign is a hint from the kernel; only evidence
    proves anything to anybody else.
    """

    sign: str
    findings: tuple[Finding, ...] = ()


class ProbedTee(Tee):
    """Probe of a TEE without launcher.

    title: the technology's full name, as used in messages.
    nests: whether a guest can commonly start guests of its own.
    """

    title: ClassVar[str]
    nests: ClassVar[bool] = False

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or this_machine()

    @abstractmethod
    def look_at_host(self) -> list[Finding]:
        """What starting an enclave needs, in the order in which one would fix it."""

    @abstractmethod
    def look_inside(self) -> Inside:
        """Whether we are in such an enclave already."""

    def probe(self) -> Availability:
        """Never available: the reason is what is missing here, or that there is no launcher."""
        try:
            host, inside = self.look_at_host(), self.look_inside()
        except Exception as error:  # noqa: BLE001  (a probe never raises, see Tee.probe)
            return Availability(
                available=False,
                reason=clean(f"the probe itself failed: {type(error).__name__}: {error}"),
                fix="please report this with the output of: secgear doctor --json",
            )
        seen = (*host, *inside.findings)
        facts = {finding.fact: clean(finding.seen) or "empty" for finding in seen}
        facts["guest.inside"] = f"yes: {inside.sign}" if inside.sign else "no sign of it"
        later = f"launching {self.name} comes with a later release; {INSTEAD}"
        blocker = next((finding for finding in host if finding.problem), None)
        if blocker is None:
            return Availability(
                available=False,
                reason=f"this machine can run {self.title}, "
                "but this release only probes it and has no launcher yet",
                fix=later,
                facts=facts,
            )
        reason = blocker.problem
        if inside.sign and not self.nests:
            reason = f"this machine is itself inside {self.title} and can't start another: {reason}"
        # Without the second half somebody would fix the machine only to meet the next refusal.
        fix = f"{blocker.fix}. Even so, {later}" if blocker.fix else later
        return Availability(available=False, reason=reason, fix=fix, facts=facts)

    def launch(self, image: Image, config: LaunchConfig) -> Running:
        """Raises PlatformUnavailable: this release has no launcher for this TEE."""
        raise PlatformUnavailable(
            f"{self.name}: this release probes {self.title} but has no launcher for it yet; "
            f"{INSTEAD}; `secgear doctor` shows what this machine has"
        )


def architecture(machine: Machine, wanted: tuple[str, ...], title: str) -> Finding:
    """Whether the machine's architecture is one that `title` exists on."""
    if machine.arch in wanted:
        return Finding("host.arch", machine.arch)
    return Finding(
        "host.arch",
        machine.arch,
        f"{title} exists on {' or '.join(wanted)} only, and this machine is {machine.arch}",
        f"use a machine with {title}",
    )


def device(fact: str, found: Device, purpose: str, absent_fix: str) -> Finding:
    """Whether a device that an enclave needs is there and opens. `purpose`: what it is for."""
    if found.usable:
        return Finding(fact, found.seen)
    if not found.present:
        return Finding(fact, found.seen, f"there is no {found.name} ({purpose})", absent_fix)
    return Finding(fact, found.seen, f"{found.name} ({purpose}) is {found.seen}", found.fix)
