"""The verdict: what an appraisal came to, item by item, for people and for programs."""

from __future__ import annotations

import datetime
from typing import Any, Final

import msgspec

from secgear.base.printing import printable
from secgear.errors import Untrusted
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims

VERSION: Final = 1
_MARK: Final = "secgear-verdict"
_GLYPHS: Final = {Outcome.PASS: "✓", Outcome.FAIL: "✗", Outcome.NOT_PERFORMED: "\N{EN DASH}"}

# Without a pass of these no appraisal has taken place.
_ESSENTIAL: Final = ("policy.tee", "policy.identity")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came out. Whether that is trust follows from the checks and is never set.

    checks: the verifier's, then the policy's. claims: None if the evidence is not authentic.
    policy, policy_digest: name and `Policy.digest`. at: the time that was judged for.
    evidence_digest: SHA-256 of the evidence as `envelope.to_cbor` writes it; None if only claims
    were judged. waived: positions in `checks` of those that the policy can do without.
    """

    checks: tuple[Check, ...]
    claims: Claims | None
    policy: str
    policy_digest: bytes
    at: datetime.datetime
    evidence_digest: bytes | None = None
    waived: frozenset[int] = frozenset()

    @property
    def trusted(self) -> bool:
        """Claims exist, no check failed, and the policy waives each that was not performed."""
        passed = {check.name for check in self.checks if check.outcome is Outcome.PASS}
        return (
            self.claims is not None
            and passed.issuperset(_ESSENTIAL)
            and set(self.checks).issuperset(self.claims.checks)
            and not self.reasons
        )

    @property
    def reasons(self) -> tuple[Check, ...]:
        """The checks that stand between the evidence and trust: failed, or missing and needed."""
        return tuple(
            check
            for position, check in enumerate(self.checks)
            if check.outcome is Outcome.FAIL
            or (check.outcome is Outcome.NOT_PERFORMED and position not in self.waived)
        )

    def require(self) -> Claims:
        """The claims, if they are trusted. Raises Untrusted with the reasons."""
        if self.claims is None or not self.trusted:
            reasons = "; ".join(_reason(check) for check in self.reasons)
            raise Untrusted(
                printable(
                    f"not trusted under policy {self.policy!r}: {reasons or 'not appraised'}"
                ),
                self,
            )
        return self.claims

    def explain(self) -> str:
        """Text for people: the conclusion, then every check, with what would make it pass."""
        lines = [self._conclusion()]
        if self.claims is not None:
            lines.append(f"evidence: {self.claims.format}, under {self.claims.root.name}")
        width = max((len(check.name) for check in self.checks), default=0)
        for position, check in enumerate(self.checks):
            waived = " (the policy does without)" if position in self.waived else ""
            head = f"  {_GLYPHS[check.outcome]} {check.name:<{width}}  {check.detail}{waived}"
            lines.append(head.rstrip())
            if check.outcome is Outcome.PASS:
                continue
            lines += [
                f"    {'':<{width}}  {label:<9} {value}"
                for label, value in (
                    ("expected:", check.expected),
                    ("found:", check.found),
                    ("fix:", check.fix),
                )
                if value
            ]
        return "\n".join(printable(line) for line in lines)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold. Keys only ever get more within a version.

        ``secgear-verdict`` (version), ``trusted``, ``policy``, ``policy_digest``, ``at``,
        ``evidence_digest``, ``checks`` (``name``, ``outcome``: pass, fail, not-performed;
        ``detail``, ``expected``, ``found``, ``fix``, ``waived``) and ``claims``.
        """
        return {
            _MARK: VERSION,
            "trusted": self.trusted,
            "policy": self.policy,
            "policy_digest": self.policy_digest.hex(),
            "at": self.at.isoformat(),
            "evidence_digest": None if self.evidence_digest is None else self.evidence_digest.hex(),
            "checks": [
                msgspec.structs.asdict(check)
                | {"outcome": check.outcome.value, "waived": position in self.waived}
                for position, check in enumerate(self.checks)
            ],
            "claims": None if self.claims is None else self.claims.to_dict(),
        }

    def to_json(self) -> bytes:
        """`to_dict` as JSON."""
        return msgspec.json.encode(self.to_dict())

    def _conclusion(self) -> str:
        under = f"under policy {self.policy!r} for {self.at.isoformat()}"
        if self.trusted:
            return f"TRUSTED {under}"
        names = ", ".join(dict.fromkeys(check.name for check in self.reasons))
        return f"NOT TRUSTED {under}: {names or 'nothing was appraised'}"


def _reason(check: Check) -> str:
    missing = " (not performed)" if check.outcome is Outcome.NOT_PERFORMED else ""
    return f"{check.name}{missing}: {check.detail}"
