"""The data owner's side: from a document of unknown worth to a key that data may be sealed to.

A `TrustedKey` exists only after verification, and stops to be one when it expires.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from typing import TYPE_CHECKING

import msgspec

from secgear.errors import EnvelopeRefused
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.verdict import Verdict
from secgear.middleware.envelopes.document import EnclaveKey

if TYPE_CHECKING:
    from secgear.middleware.attestation.anchors import Anchors
    from secgear.middleware.attestation.claims import Claims
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.policy import Policy
    from secgear.middleware.attestation.reference import ReferenceValues

DAY = datetime.timedelta(days=1)


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True):
    """An enclave's key whose evidence was verified and trusted. `verify_key` makes these.

    verdict: why it is trusted. expires: until when, at the latest the end of the key's own life.
    Making one by hand raises EnvelopeRefused unless the verdict is one of trust, on this very
    evidence, which is about this very key.
    """

    key: EnclaveKey
    verdict: Verdict
    expires: datetime.datetime

    def __post_init__(self) -> None:
        claims = self.verdict.require()
        digest = hashlib.sha256(envelope.to_cbor(self.key.evidence)).digest()
        if self.verdict.evidence_digest != digest:
            raise EnvelopeRefused("the verdict is about other evidence than the key's")
        wanted = self.key.report_data.ljust(len(claims.report_data), b"\0")
        if not hmac.compare_digest(wanted, claims.report_data):
            raise EnvelopeRefused("the evidence is about another key")
        if self.expires > self.key.expires:
            raise EnvelopeRefused("a key can't be trusted for longer than it lives")

    def __repr__(self) -> str:
        return f"TrustedKey(id={self.key.id.hex()[:16]}…, until {self.expires.isoformat()})"

    @property
    def claims(self) -> Claims:
        """What the evidence says about the enclave."""
        return self.verdict.require()

    def require(self, purpose: str, at: datetime.datetime) -> EnclaveKey:
        """The key, for sealing. Raises EnvelopeRefused if it expired or has other purposes."""
        if at >= self.expires:
            raise EnvelopeRefused(
                f"the key's verification has expired at {self.expires.isoformat()}; get the "
                "enclave's key anew"
            )
        if self.key.purposes and purpose not in self.key.purposes:
            raise EnvelopeRefused(f"the key is not for the purpose {purpose!r}")
        return self.key


def verify_key(
    document: bytes | EnclaveKey,
    policy: Policy,
    *,
    at: datetime.datetime,
    context: bytes | None = None,
    keep: datetime.timedelta = DAY,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
    reference_values: ReferenceValues | None = None,
) -> TrustedKey:
    """Verify an enclave's key under `policy`; the result can be used many times until it expires.

    at: the time to judge for. context: the nonce that this data owner asked to have in the
    evidence; None for a key that was published for everybody. keep: for how long to rely on the
    verification, whatever the key's own life: the enclave chose that by a clock which its host
    sets. It is shorter still where the policy limits the age of evidence that states its time.
    The rest as in `examine`.
    Raises EnvelopeMalformed for what is no document, EnvelopeRefused for an expired key or another
    context, Untrusted with the verdict.
    """
    from secgear.middleware.attestation.appraisal import examine

    key = document if isinstance(document, EnclaveKey) else EnclaveKey.from_cbor(document)
    if context is not None and key.context != context:
        raise EnvelopeRefused("the evidence was not made for this context")
    if at >= key.expires:
        raise EnvelopeRefused(f"the key has expired at {key.expires.isoformat()}")
    verdict = examine(
        key.evidence,
        policy,
        at=at,
        report_data=key.report_data,
        collateral=collateral,
        anchors=anchors,
        reference_values=reference_values,
    )
    claims = verdict.require()
    expires = min(key.expires, at + keep)
    if policy.freshness.max_age is not None and claims.evidence_time is not None:
        expires = min(expires, claims.evidence_time + policy.freshness.max_age)
    return TrustedKey(key=key, verdict=verdict, expires=expires)
