"""The work of the service without HTTP: give out challenges, judge evidence, sign results."""

from __future__ import annotations

import datetime
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from secgear.base.tee import Evidence
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.appraisal import examine
from secgear.middleware.attestation.results import cwt, jwt
from secgear.middleware.attestation.results.keys import ResultKey
from secgear.middleware.attestation.service import audit, binding, nonces
from secgear.middleware.attestation.service.documents import Shelf
from secgear.middleware.attestation.service.metrics import Metrics
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.service.settings import Settings
from secgear.middleware.attestation.service.store import Store
from secgear.middleware.attestation.verdict import Verdict

Clock = Callable[[], datetime.datetime]


def utc_now() -> datetime.datetime:
    """The time, with its zone."""
    return datetime.datetime.now(datetime.UTC)


class Challenge(msgspec.Struct, frozen=True):
    """A nonce and when it expires."""

    nonce: bytes
    expires: datetime.datetime


class Claim(msgspec.Struct, frozen=True):
    """What an attester sends: evidence, and what it should be judged by.

    nonce: from `Appraiser.challenge`. policy: its name. user_data: see `binding`. audience: for
    whom the result is. form: how it is written.
    """

    evidence: Evidence
    nonce: bytes
    policy: str
    audience: str
    user_data: bytes | None = None
    form: Literal["jwt", "cwt"] = "jwt"


class Answer(msgspec.Struct, frozen=True):
    """What came out. token: the signed result; None unless the verdict is trusted."""

    verdict: Verdict
    token: str | bytes | None


@dataclass(frozen=True, slots=True)
class Appraiser:
    """Safe to use from many threads.

    keys: gives the result keys, the signing one first.
    """

    store: Store
    settings: Settings
    anchors: Anchors
    keys: Callable[[], tuple[ResultKey, ...]]
    shelf: Shelf
    metrics: Metrics
    clock: Clock = utc_now

    def challenge(self) -> Challenge:
        """A new nonce. Raises Problem (503) if too many are outstanding."""
        now = int(self.clock().timestamp())
        lifetime = int(self.settings.nonce_lifetime.total_seconds())
        nonce = nonces.issue(self.store, now=now, lifetime=lifetime, limit=self.settings.max_nonces)
        if nonce is None:
            raise Problem(
                503,
                "nonce.exhausted",
                "Too many challenges are outstanding",
                headers={"Retry-After": "5"},
            )
        self.metrics.challenges.inc()
        return Challenge(nonce, datetime.datetime.fromtimestamp(now + lifetime, datetime.UTC))

    def attest(self, claim: Claim, client: str) -> Answer:
        """Judge evidence. Its nonce is used up whatever comes out.

        Using it up and the audit record are one transaction, committed before the caller has the
        answer: of many requests with one nonce at most one gets any. client: for that record.
        Raises Problem: policy unknown (404), nonce refused (409).
        """
        rules = self.shelf.rules()
        found = rules.policies.get(claim.policy)
        if found is None:
            raise Problem(404, "policy.unknown", "There is no policy of that name")
        version, policy = found
        now = self.clock()
        seconds = int(now.timestamp())
        with self.store.reading() as connection:
            if not nonces.is_good(connection, claim.nonce, now=seconds):
                raise self._refused()
        started = time.perf_counter()
        verdict = examine(
            claim.evidence,
            policy,
            at=now,
            report_data=binding.report_data(claim.nonce, claim.user_data),
            collateral=rules.collateral,
            anchors=self.anchors,
            reference_values=rules.reference_values,
        )
        self.metrics.seconds.observe(time.perf_counter() - started)
        answer = Answer(verdict, self._result(verdict, claim, now) if verdict.trusted else None)
        with self.store.writing(serial=True) as connection:
            if not nonces.consume(connection, claim.nonce, now=seconds):
                raise self._refused()
            audit.append(
                connection,
                at=now,
                actor=client,
                action="appraisal",
                subject=claim.policy,
                detail=_record(answer, claim, version),
            )
        outcome = "trusted" if verdict.trusted else "untrusted"
        tee = verdict.claims.tee if verdict.claims else "none"
        self.metrics.appraisals.labels(outcome, tee).inc()
        return answer

    def _refused(self) -> Problem:
        self.metrics.nonces_refused.inc()
        return Problem(409, "nonce.refused", "The nonce is unknown, expired or was used already")

    def _result(self, verdict: Verdict, claim: Claim, now: datetime.datetime) -> str | bytes:
        issue = jwt.issue_jwt if claim.form == "jwt" else cwt.issue_cwt
        return issue(
            verdict,
            self.keys()[0],
            issuer=self.settings.issuer,
            audience=claim.audience,
            nonce=claim.nonce,
            lifetime=self.settings.result_lifetime,
            now=now,
            user_data=claim.user_data,
        )


def _record(answer: Answer, claim: Claim, version: int) -> dict[str, Any]:
    """What the audit trail keeps: digests of everything, so that copies can be recognised."""
    verdict, token = answer.verdict, answer.token
    content = token.encode() if isinstance(token, str) else token
    return {
        "trusted": verdict.trusted,
        "reasons": [check.name[:64] for check in verdict.reasons][:16],
        "verdict": hashlib.sha256(verdict.to_json()).hexdigest(),
        "result": hashlib.sha256(content).hexdigest() if content else "",
        "format": claim.evidence.format[:64],
        "evidence": verdict.evidence_digest.hex() if verdict.evidence_digest else "",
        "policy_version": version,
        "policy_digest": verdict.policy_digest.hex(),
        "audience": claim.audience,
    }
