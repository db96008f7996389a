"""Checks: what a verifier looked at, and how it came out.

A check passes, fails, or was not performed; "not performed" is never quietly a pass. Verifiers
write into `Checks` as they go. A failed check ends the verification at once: evidence that is
not authentic has no claims.
"""

from __future__ import annotations

import enum
from typing import NoReturn

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceRefused


class Outcome(enum.Enum):
    """How one check came out."""

    PASS = "pass"  # noqa: S105  (not a password)
    FAIL = "fail"
    NOT_PERFORMED = "not-performed"


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One check.

    name: stable identifier, for example ``signature``; those of a part of composite evidence carry
    its name in front, ``gpu0.signature``.
    detail: one line for people: what was established, or why it was not.
    expected, found: the two values that differ, in print, where there are two.
    fix: what would make it pass; empty where nothing legitimate would.
    """

    name: str
    outcome: Outcome
    detail: str = ""
    expected: str = ""
    found: str = ""
    fix: str = ""

    def within(self, part: str) -> Check:
        """The same check, as one of `part`'s."""
        return msgspec.structs.replace(self, name=f"{part}.{self.name}")


class Checks:
    """The record a verifier keeps. Ends as a tuple in `Claims`, or inside `EvidenceRefused`."""

    def __init__(self) -> None:
        self._done: list[Check] = []

    def passed(self, name: str, detail: str) -> None:
        """`name` holds; `detail` says what that means here."""
        self._done.append(Check(name, Outcome.PASS, detail))

    def not_performed(self, name: str, reason: str, fix: str = "") -> None:
        """`name` could not be checked, and why. The policy decides whether it can be done without.

        fix: what would have to be given, for example which collateral.
        """
        self._done.append(Check(name, Outcome.NOT_PERFORMED, reason, fix=fix))

    def failed(
        self, name: str, reason: str, *, expected: str = "", found: str = "", fix: str = ""
    ) -> NoReturn:
        """`name` does not hold: the evidence is refused. Raises EvidenceRefused with the record."""
        self._done.append(
            Check(name, Outcome.FAIL, reason, expected=expected, found=found, fix=fix)
        )
        raise EvidenceRefused(f"{name}: {reason}{_difference(expected, found)}", self.done)

    def malformed(self, reason: str) -> NoReturn:
        """The bytes are not what their format says. Raises EvidenceMalformed with the record."""
        self._done.append(Check("format", Outcome.FAIL, reason))
        raise EvidenceMalformed(f"format: {reason}", self.done)

    def require(
        self,
        holds: bool,
        name: str,
        detail: str,
        reason: str,
        *,
        expected: str = "",
        found: str = "",
        fix: str = "",
    ) -> None:
        """Record `name` as passed with `detail`, or refuse the evidence with `reason`."""
        if not holds:
            self.failed(name, reason, expected=expected, found=found, fix=fix)
        self.passed(name, detail)

    def adopt(self, part: str, checks: tuple[Check, ...]) -> None:
        """Take over the checks of `part` of this evidence."""
        self._done.extend(check.within(part) for check in checks)

    @property
    def done(self) -> tuple[Check, ...]:
        """Everything recorded so far, in order."""
        return tuple(self._done)


def _difference(expected: str, found: str) -> str:
    if not expected and not found:
        return ""
    return f" (expected {expected or 'nothing'}, found {found or 'nothing'})"
