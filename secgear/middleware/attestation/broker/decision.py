"""Whether a secret goes out: evidence, held against the secret's own policy. The default is no.

A secret that is not there, whose policy is not there, or whose policy the evidence does not satisfy
is refused alike. What is judged and what is done about it are apart: `Judge.decide` computes, and
`Judge.settle` makes the release and its audit record one transaction, in which secret and rules are
still those that were judged by.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from prometheus_client import Counter
from sqlalchemy import Connection, select

from secgear.base.tee import Evidence
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.appraisal import examine
from secgear.middleware.attestation.broker import secrets
from secgear.middleware.attestation.broker.names import SecretName
from secgear.middleware.attestation.broker.vault import Sealed, Vault, VaultError
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.appraiser import Clock
from secgear.middleware.attestation.service.documents import Shelf
from secgear.middleware.attestation.service.metrics import Metrics
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.service.schema import generation
from secgear.middleware.attestation.service.settings import Settings
from secgear.middleware.attestation.service.store import Store
from secgear.middleware.attestation.verdict import Verdict

T = TypeVar("T")

# What evidence is held against where there is no policy: as much work as any, and never an answer.
_NOBODY: Final = load_policy(b'name = "nobody"\n[accept]\ntees = []\n')


@dataclass(frozen=True, slots=True)
class Decision:
    """What was judged, by which rules. generation: of all documents at that time.

    sealed: None if there is no such secret. policy_version: None if its policy is not there.
    """

    name: SecretName
    sealed: Sealed | None
    policy_version: int | None
    verdict: Verdict
    generation: int
    at: datetime.datetime
    format: str

    @property
    def granted(self) -> bool:
        """Secret and policy exist, and the evidence is trusted under it."""
        return self.sealed is not None and self.policy_version is not None and self.verdict.trusted

    @property
    def reasons(self) -> list[str]:
        """Why not, in stable names; for the audit trail, not for the client."""
        if self.sealed is None:
            return ["secret.missing"]
        if self.policy_version is None:
            return ["policy.missing"]
        return [check.name[:64] for check in self.verdict.reasons][:16]


class Judge:
    """Decides and settles. Safe to use from many threads."""

    def __init__(
        self,
        *,
        store: Store,
        vault: Vault,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.store = store
        self.vault = vault
        self.settings = settings
        self.metrics = metrics
        self.clock = clock
        self.anchors: Anchors = settings.anchors()
        self.shelf = Shelf(store)
        self._releases = Counter(
            "secgear_releases",
            "Secrets that were asked for, by interface and outcome.",
            ("interface", "outcome"),
            registry=metrics.registry,
        )

    def decide(self, name: SecretName, evidence: Evidence, report_data: bytes) -> Decision:
        """Hold `evidence` against the policy of the secret. Changes nothing.

        report_data: what the evidence must carry.
        """
        rules, now = self.shelf.rules(), self.clock()
        with self.store.reading() as connection:
            sealed = secrets.sealed(connection, name)
        found = rules.policies.get(sealed.policy) if sealed else None
        version, policy = found or (None, _NOBODY)
        started = time.perf_counter()
        verdict = examine(
            evidence,
            policy,
            at=now,
            report_data=report_data,
            collateral=rules.collateral,
            anchors=self.anchors,
            reference_values=rules.reference_values,
        )
        self.metrics.seconds.observe(time.perf_counter() - started)
        return Decision(name, sealed, version, verdict, rules.number, now, evidence.format)

    def settle(
        self,
        decision: Decision,
        wrap: Callable[[bytes], T],
        *,
        client: str,
        interface: str,
        key: str,
        first: Callable[[Connection], None],
    ) -> T | None:
        """The secret, wrapped, if the decision is to release it; None if not. Audited either way.

        wrap: encrypts for the client. client: its address. interface: through which it asked. key:
        digest of the key that is wrapped to; both for the record. first: what else must hold in
        the same transaction; it may raise, and then nothing has happened.
        Raises Problem: 409 if secret or rules have changed since the decision, 500 if the secret
        can't be decrypted.
        """
        answer, damage = None, None
        if decision.granted and decision.sealed is not None:
            try:
                answer = wrap(self.vault.open(decision.sealed).content)
            except VaultError as error:
                damage = error
        outcome = "damaged" if damage else "refused" if answer is None else "released"
        with self.store.writing(serial=True) as connection:
            if decision.granted:
                self._unchanged(connection, decision)
            first(connection)
            audit.append(
                connection,
                at=decision.at,
                actor=client,
                action="secret.release",
                subject=str(decision.name),
                detail=_record(decision, outcome, interface, key, damage),
            )
        self._releases.labels(interface, outcome).inc()
        if damage is not None:
            raise Problem(500, damage.code, "The secret can't be decrypted") from damage
        return answer

    def _unchanged(self, connection: Connection, decision: Decision) -> None:
        now = secrets.sealed(connection, decision.name)
        number = connection.execute(select(generation.c.number)).scalar() or 0
        if now != decision.sealed or number != decision.generation:
            raise Problem(
                409,
                "release.changed",
                "The secret or the rules were changed meanwhile",
                "Send the same request again",
            )


def _record(
    decision: Decision, outcome: str, interface: str, key: str, damage: VaultError | None
) -> dict[str, Any]:
    verdict, sealed = decision.verdict, decision.sealed
    return {
        "outcome": outcome,
        "reasons": [str(damage)] if damage else [] if decision.granted else decision.reasons,
        "interface": interface,
        "key": key,
        "format": decision.format[:64],
        "evidence": verdict.evidence_digest.hex() if verdict.evidence_digest else "",
        "secret_version": sealed.version if sealed else None,
        "policy": sealed.policy if sealed else "",
        "policy_version": decision.policy_version,
        "policy_digest": verdict.policy_digest.hex(),
    }
