"""From claims to a verdict: hold what a verifier established against a policy."""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceRefused
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.policy import Policy, Rules, rules
from secgear.middleware.attestation.policy.rego import judge_by_rego
from secgear.middleware.attestation.reference import ReferenceValues
from secgear.middleware.attestation.verdict import Verdict
from secgear.middleware.attestation.verification import verify

CLOCK_SKEW = datetime.timedelta(seconds=60)  # that an attester's clock may be ahead


def examine(
    evidence: Evidence,
    policy: Policy,
    *,
    at: datetime.datetime,
    report_data: bytes | None = None,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
    reference_values: ReferenceValues | None = None,
) -> Verdict:
    """Verify evidence and appraise what it claims. Bad evidence gives a verdict, never an error.

    at: the time to judge for. report_data: what the evidence must carry; None if the caller has no
    expectation, which most policies do not accept. The rest as in `verify`.
    """
    digest = hashlib.sha256(envelope.to_cbor(evidence)).digest()
    try:
        claims = verify(evidence, at=at, collateral=collateral, anchors=anchors)
    except EvidenceRefused as refusal:
        done = tuple(item for item in refusal.checks if isinstance(item, Check))
        if not any(item.outcome is Outcome.FAIL for item in done):
            reason = str(refusal).removeprefix("format: ")
            done = (*done, Check("format", Outcome.FAIL, reason))
        return _refused(done, policy, at, digest)
    except CollateralError as error:
        return _refused((Check("collateral", Outcome.FAIL, str(error)),), policy, at, digest)
    verdict = appraise(
        claims, policy, at=at, report_data=report_data, reference_values=reference_values
    )
    return msgspec.structs.replace(verdict, evidence_digest=digest)


def appraise(
    claims: Claims,
    policy: Policy,
    *,
    at: datetime.datetime,
    report_data: bytes | None,
    reference_values: ReferenceValues | None = None,
) -> Verdict:
    """Hold `claims` against `policy`. Pure; never raises for any claims.

    report_data: what the claims must carry: exactly, or with zeros up to their fixed length.
    """
    if at.tzinfo is None:
        raise ValueError("at= needs a time zone: datetime.datetime.now(datetime.UTC)")
    verified: list[Check] = []
    appraised: list[Check] = []
    without: set[int] = set()
    for path, part, applicable in _covered(claims, policy):
        for item in _own_checks(part):
            if applicable and _waived(item, part, applicable, reference_values, at):
                without.add(len(verified))
            verified.append(item.within(path) if path else item)
        if applicable is None:
            found = [_uncovered(part)]
        else:
            found = [
                *rules.judge(part, applicable, reference_values, at),
                *_count_parts(part, applicable),
            ]
        appraised += [item.within(path) if path else item for item in found]
    appraised += _age(claims, policy, at)
    if policy.rego is not None:
        appraised.append(judge_by_rego(policy.rego, claims, reference_values))
    fresh = _freshness(claims, policy, report_data)
    if fresh.outcome is Outcome.NOT_PERFORMED and policy.freshness.report_data == "optional":
        without.add(len(verified) + len(appraised))
    return Verdict(
        checks=(*verified, *appraised, fresh),
        claims=claims,
        policy=policy.name,
        policy_digest=policy.digest,
        at=at,
        waived=frozenset(without),
    )


def _refused(
    checks: tuple[Check, ...], policy: Policy, at: datetime.datetime, digest: bytes
) -> Verdict:
    return Verdict(
        checks=checks,
        claims=None,
        policy=policy.name,
        policy_digest=policy.digest,
        at=at,
        evidence_digest=digest,
    )


def _covered(
    claims: Claims, applicable: Rules | None, path: str = ""
) -> Iterator[tuple[str, Claims, Rules | None]]:
    """The claims and all their parts, each with its path and the rules for it, or None."""
    yield path, claims, applicable
    for name, part in claims.parts.items():
        inner = applicable.parts.for_tee(part.tee) if applicable else None
        yield from _covered(part, inner, f"{path}.{name}" if path else name)


def _own_checks(claims: Claims) -> list[Check]:
    """Without those that were taken over from parts, which are judged by the parts' rules."""
    adopted = {item.within(name) for name, part in claims.parts.items() for item in part.checks}
    return [item for item in claims.checks if item not in adopted]


def _waived(
    item: Check,
    claims: Claims,
    applicable: Rules,
    values: ReferenceValues | None,
    at: datetime.datetime,
) -> bool:
    return item.outcome is Outcome.NOT_PERFORMED and (
        item.name in applicable.unchecked.allow
        or (item.name == "tcb" and rules.unassessed_but_bounded(claims, applicable, values, at))
    )


def _uncovered(part: Claims) -> Check:
    return Check(
        "policy.part",
        Outcome.FAIL,
        f"the policy has no rules for a part that is a {part.tee}",
        found=part.tee,
        fix=f"[parts.policy.{part.tee}]",
    )


def _count_parts(claims: Claims, applicable: Rules) -> Iterator[Check]:
    counts = Counter(part.tee for part in claims.parts.values())
    for tee, least in applicable.parts.require.items():
        yield rules.check(
            counts[tee] >= least,
            "policy.parts",
            f"{counts[tee]} {tee}, at least {least}",
            f"fewer parts of {tee} than the policy requires",
            expected=f"at least {least}",
            found=str(counts[tee]),
            fix="evidence of the missing devices",
        )


def _age(claims: Claims, policy: Policy, at: datetime.datetime) -> Iterator[Check]:
    limit, made = policy.freshness.max_age, claims.evidence_time
    if limit is None:
        return
    if made is None:
        fix = "no [freshness] max_age for this TEE; its report data shows freshness"
        yield Check(
            "policy.age", Outcome.FAIL, "the evidence does not say when it was made", fix=fix
        )
        return
    age = at - made
    yield rules.check(
        -CLOCK_SKEW <= age <= limit,
        "policy.age",
        f"made at {made.isoformat()}",
        "the evidence is too old" if age > limit else "the evidence was made in the future",
        expected=f"at most {limit} before {at.isoformat()}, and not after",
        found=made.isoformat(),
        fix="new evidence" if age > limit else "the attester's clock",
    )


def _freshness(claims: Claims, policy: Policy, expected: bytes | None) -> Check:
    if expected is None:
        return Check(
            "freshness",
            Outcome.NOT_PERFORMED,
            "nobody said what report data the evidence should carry; it may be a copy of old one",
            fix='the report data that was asked for; or [freshness] report_data = "optional"',
        )
    found = claims.report_data
    # SNP, TDX and others have a field of fixed length that short data is put at the beginning of.
    padded = expected.ljust(len(found), b"\0")
    return rules.check(
        bool(expected) and hmac.compare_digest(padded, found),
        "freshness",
        "the report data is the expected one",
        "the report data is not the expected one"
        if expected
        else "empty report data binds nothing",
        expected=expected.hex(),
        found=found.hex(),
        fix="evidence made for this very challenge",
    )
