"""How a module stands: its keys and who decides there, and evidence that an enclave says so.

An auditor learns the audit key, and a custodian the administrators, from the TEE and not from the
host: the evidence's report data is a digest of all that is told.
"""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import CryptoRefused, EvidenceMalformed
from secgear.services.crypto.roles.operations import PinPolicy
from secgear.services.crypto.roles.persons import MAX_PEOPLE, Person

if TYPE_CHECKING:
    from secgear.middleware.attestation import Anchors, Policy, ReferenceValues, Verdict
    from secgear.middleware.attestation.collateral import Collateral

NONCE_SIZE: Final = 32
MAX_SIZE: Final = 16 << 20  # bytes of the document; evidence has attachments
_LABEL: Final = b"secgear crypto standing v1\0"
_HEX_16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_HEX_32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_People = Annotated[tuple[Person, ...], msgspec.Meta(max_length=MAX_PEOPLE)]


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a module says about itself. phase: open, restoring or zeroised.

    open_requests: how many wait for approvals.
    """

    module: _HEX_16
    audit_key: _HEX_32
    phase: str
    threshold: int
    administrators: _People
    auditors: _People
    operators: _People
    pins: PinPolicy
    open_requests: int


class Vouched(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same with evidence. nonce: whoever asked has chosen it. evidence: an envelope in CBOR."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = msgspec.field(
        name="secgear-crypto-standing", default=1
    )
    standing: Standing
    nonce: _HEX_32
    evidence: bytes

    def to_bytes(self) -> bytes:
        """JSON."""
        return _encode(self)


def report_data(standing: Standing, nonce: bytes) -> bytes:
    """What the evidence has to carry: 64 bytes."""
    return hashlib.sha512(_LABEL + nonce + _encode(standing)).digest()


def vouched(standing: Standing, nonce: bytes, evidence: Evidence) -> bytes:
    """The document of evidence that carries `report_data`."""
    from secgear.middleware.attestation import envelope

    body = envelope.to_cbor(evidence)
    return Vouched(standing=standing, nonce=nonce.hex(), evidence=body).to_bytes()


def parse(data: bytes) -> Vouched:
    """A document of which nothing is verified. Raises CryptoRefused."""
    if len(data) > MAX_SIZE:
        raise CryptoRefused(f"no module's standing: more than {MAX_SIZE} bytes")
    try:
        return _VOUCHED.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CryptoRefused(f"no module's standing: {error}") from None


def verify(
    data: bytes,
    policy: Policy,
    *,
    at: datetime.datetime,
    nonce: bytes | None = None,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
    reference_values: ReferenceValues | None = None,
) -> tuple[Standing, Verdict]:
    """What the module says, once the policy trusts the enclave that says it.

    nonce: the one that was asked with; None takes a document that was made for somebody else. The
    rest as in `examine`. Raises CryptoRefused for what is no such document or has another nonce,
    Untrusted with the verdict.
    """
    from secgear.middleware.attestation import envelope
    from secgear.middleware.attestation.appraisal import examine

    document = parse(data)
    given = bytes.fromhex(document.nonce)
    if nonce is not None and given != nonce:
        raise CryptoRefused("the evidence was not made for this nonce")
    try:
        evidence = envelope.from_cbor(document.evidence)
    except EvidenceMalformed as error:
        raise CryptoRefused(f"no module's standing: {error}") from None
    verdict = examine(
        evidence,
        policy,
        at=at,
        report_data=report_data(document.standing, given),
        collateral=collateral,
        anchors=anchors,
        reference_values=reference_values,
    )
    verdict.require()
    return document.standing, verdict


_encode = msgspec.json.Encoder(order="deterministic").encode
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_VOUCHED = msgspec.json.Decoder(Vouched)
