"""COSE_Sign1 (RFC 9052, section 4.2) with the few ECDSA algorithms that attestation uses."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import cbor2
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import cbor

ALG = 1  # header parameter
X5CHAIN = 33  # RFC 9360
TAG = 18

# RFC 9053, section 2.1, with the curve that each must come with here, so that an attacker can't
# pair a strong curve with a weak hash.
ALGORITHMS: Mapping[int, tuple[str, type[ec.EllipticCurve], type[hashes.HashAlgorithm], int]] = {
    -7: ("ES256", ec.SECP256R1, hashes.SHA256, 32),
    -35: ("ES384", ec.SECP384R1, hashes.SHA384, 48),
    -36: ("ES512", ec.SECP521R1, hashes.SHA512, 66),
}
_CURVES: Mapping[int, tuple[type[ec.EllipticCurve], int]] = {
    1: (ec.SECP256R1, 32),
    2: (ec.SECP384R1, 48),
    3: (ec.SECP521R1, 66),
}


class Sign1(msgspec.Struct, frozen=True):
    """A parsed COSE_Sign1, not verified yet.

    protected: its header as it was signed. headers: both headers in one; the protected one wins and
    no parameter may be in both.
    """

    protected: bytes
    headers: Mapping[Any, Any]
    payload: bytes
    signature: bytes

    def to_be_signed(self, external_aad: bytes = b"") -> bytes:
        """The Sig_structure (RFC 9052, section 4.4)."""
        return cbor2.dumps(["Signature1", self.protected, external_aad, self.payload])


def parse(item: bytes | cbor2.CBORTag | list[Any], what: str) -> Sign1:
    """Read a COSE_Sign1, tagged or not, from bytes or from an item that is decoded already.

    Raises EvidenceMalformed.
    """
    content = cbor.decode(item, what) if isinstance(item, bytes) else item
    if isinstance(content, cbor2.CBORTag):
        if content.tag != TAG:
            raise EvidenceMalformed(f"format: {what}: CBOR tag {content.tag} is no COSE_Sign1")
        content = content.value
    match content:
        case [bytes() as protected, Mapping() as unprotected, bytes() as payload, bytes() as sig]:
            pass
        case _:
            raise EvidenceMalformed(f"format: {what}: no COSE_Sign1 (array of four)")
    header = cbor.decode(protected, f"{what}: protected header") if protected else {}
    if not isinstance(header, Mapping):
        raise EvidenceMalformed(f"format: {what}: the protected header is no map")
    if set(header) & set(unprotected):
        raise EvidenceMalformed(f"format: {what}: a header parameter twice")
    if 2 in header or 2 in unprotected:
        raise EvidenceMalformed(f"format: {what}: critical header parameters are not supported")
    return Sign1(protected, {**unprotected, **header}, payload, sig)


def verify(message: Sign1, key: ec.EllipticCurvePublicKey, external_aad: bytes = b"") -> str | None:
    """Check the signature. Returns None if it holds, else why not.

    The algorithm must be in the protected header and fit the key's curve.
    """
    header = cbor.decode(message.protected, "protected header") if message.protected else {}
    identifier = header.get(ALG)
    algorithm = ALGORITHMS.get(identifier) if isinstance(identifier, int) else None
    if algorithm is None:
        return f"algorithm {identifier!r} is none of {', '.join(_names())}"
    name, curve, digest, size = algorithm
    if not isinstance(key.curve, curve):
        return f"{name} with a key on {key.curve.name}"
    if len(message.signature) != 2 * size:
        return f"{name} signatures have {2 * size} bytes, this has {len(message.signature)}"
    r = int.from_bytes(message.signature[:size], "big")
    s = int.from_bytes(message.signature[size:], "big")
    try:
        key.verify(
            encode_dss_signature(r, s), message.to_be_signed(external_aad), ec.ECDSA(digest())
        )
    except InvalidSignature:
        return "the signature does not verify"
    return None


def key_from_map(key: Mapping[Any, Any], what: str) -> ec.EllipticCurvePublicKey:
    """An EC2 COSE_Key (RFC 9053, section 7.1.1). Raises EvidenceMalformed."""
    identifier = key.get(-1)
    curve = _CURVES.get(identifier) if isinstance(identifier, int) else None
    x, y = key.get(-2), key.get(-3)
    if key.get(1) != 2 or curve is None or not isinstance(x, bytes) or not isinstance(y, bytes):
        raise EvidenceMalformed(f"format: {what}: no EC2 COSE_Key with a full point")
    if len(x) != curve[1] or len(y) != curve[1]:
        raise EvidenceMalformed(f"format: {what}: coordinates of the wrong length")
    return key_from_point(b"\x04" + x + y, what)


def key_from_point(point: bytes, what: str) -> ec.EllipticCurvePublicKey:
    """An uncompressed point (SEC 1, section 2.3.3); its length tells the curve."""
    for curve, size in _CURVES.values():
        if len(point) == 1 + 2 * size and point[:1] == b"\x04":
            return _on_curve(point, curve, what)
    raise EvidenceMalformed(f"format: {what}: {len(point)} bytes are no uncompressed point")


@functools.lru_cache(maxsize=256)
def _on_curve(point: bytes, curve: type[ec.EllipticCurve], what: str) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve(), point)
    except ValueError:
        raise EvidenceMalformed(f"format: {what}: a point that is not on its curve") from None


def _names() -> list[str]:
    return [name for name, *_ in ALGORITHMS.values()]
