"""A fake AWS: a security module that attests to whatever it is told."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.middleware.attestation.anchors import Anchors
from tests.adversary.vendors.pki import NOW, Authority, ec_key

HOUR = datetime.timedelta(hours=1)
ES256, ES384, ES512 = -7, -35, -36
_ALGORITHMS: Mapping[int, tuple[hashes.HashAlgorithm, int]] = {
    ES256: (hashes.SHA256(), 32),
    ES384: (hashes.SHA384(), 48),
    ES512: (hashes.SHA512(), 66),
}

PCRS = {index: bytes([index + 1]) * 48 for index in (0, 1, 2, 3, 4, 8)} | {
    index: bytes(48) for index in (5, 6, 7, *range(9, 16))
}


def milliseconds(at: datetime.datetime) -> int:
    return round(at.timestamp() * 1000)


def sign1(
    payload: bytes,
    key: ec.EllipticCurvePrivateKey,
    *,
    algorithm: object = ES384,
    protected: Mapping[Any, Any] | None = None,
    unprotected: Mapping[Any, Any] | None = None,
    aad: bytes = b"",
    context: str = "Signature1",
    digest: hashes.HashAlgorithm | None = None,
    size: int | None = None,
) -> list[Any]:
    """A COSE_Sign1 as a list. `algorithm`: what the header claims; `digest`, `size`: what is
    really used, where that shall differ."""
    known = _ALGORITHMS.get(algorithm) if isinstance(algorithm, int) else None
    digest = digest or (known[0] if known else hashes.SHA384())
    size = size or (known[1] if known else 48)
    header = cbor2.dumps({1: algorithm} if protected is None else protected)
    message = cbor2.dumps([context, header, aad, payload])
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    width = max(size, (key.curve.key_size + 7) // 8)
    return [
        header,
        dict(unprotected or {}),
        payload,
        r.to_bytes(width, "big") + s.to_bytes(width, "big"),
    ]


@dataclass
class SecurityModule:
    """The chain that a Nitro card has, and documents under it.

    start, end: validity of the leaf. leaf_key: what the leaf certifies and what signs.
    """

    root: Authority = field(default_factory=lambda: Authority("fake aws.nitro-enclaves"))
    start: datetime.datetime = NOW - HOUR
    end: datetime.datetime = NOW + 2 * HOUR
    leaf_key: ec.EllipticCurvePrivateKey = field(default_factory=ec_key)

    def __post_init__(self) -> None:
        self.region = Authority("fake region", issuer=self.root)
        self.zone = Authority("fake zone", issuer=self.region)
        self.instance = Authority("fake instance", issuer=self.zone, end=NOW + 24 * HOUR)
        self.leaf = self.instance.issue(
            "fake enclave", self.leaf_key.public_key(), start=self.start, end=self.end
        )
        self.bundle = [
            authority.certificate.der
            for authority in (self.root, self.region, self.zone, self.instance)
        ]

    @property
    def anchors(self) -> Anchors:
        return Anchors((self.root.anchor("fake-aws", "aws"),))

    def fields(self, **changes: object) -> dict[str, Any]:
        """The document's fields; a change to None stays as null, to `...` leaves the field out."""
        fields = {
            "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": milliseconds(NOW),
            "pcrs": dict(PCRS),
            "certificate": self.leaf.der,
            "cabundle": list(self.bundle),
            "public_key": None,
            "user_data": None,
            "nonce": b"nonce of 64 bytes".ljust(64, b"."),
        } | changes
        return {name: value for name, value in fields.items() if value is not ...}

    def document(
        self,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        payload: bytes | None = None,
        tag: int | None = None,
        cose: Mapping[str, Any] | None = None,
        **changes: object,
    ) -> bytes:
        """A signed document. `cose`: arguments of `sign1`."""
        if payload is None:
            payload = cbor2.dumps(self.fields(**changes))
        message: Any = sign1(payload, key or self.leaf_key, **(cose or {}))
        return cbor2.dumps(message if tag is None else cbor2.CBORTag(tag, message))
