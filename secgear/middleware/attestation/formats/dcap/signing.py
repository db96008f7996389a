"""Signatures as DCAP has them: ECDSA with P-256 and SHA-256, r and s as 32 big-endian bytes each.

And the JSON that Intel's Provisioning Certification Service (PCS) signs: an object with the signed
object as one member and the hexadecimal signature as the other. The signature covers the bytes of
the inner object exactly as served.
"""

from __future__ import annotations

import functools
import json
from typing import Any, NoReturn

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import Certificate

MAX_DOCUMENT = 1 << 20  # bytes; genuine ones have up to 20 kB

_ECDSA = ec.ECDSA(hashes.SHA256())


class SignedJson(msgspec.Struct, frozen=True):
    """A document of the PCS. body: the bytes that were signed. signature: r and s."""

    body: bytes
    signature: bytes


@functools.lru_cache(maxsize=512)
def load_key(point: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 key from x and y, 64 bytes. Raises EvidenceMalformed for no point of the curve."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point)
    except ValueError:
        raise EvidenceMalformed("format: quote: the attestation key is no point of P-256") from None


def signature_holds(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the 64-byte `signature` over `message` is by `key`."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, _ECDSA)
    except InvalidSignature:
        return False
    return True


def signed_by(certificate: Certificate, signature: bytes, message: bytes) -> bool:
    """Whether the certificate's key signed `message`. That it did is remembered."""
    try:
        return _signed_by(certificate, signature, message)
    except _Not:
        return False


class _Not(Exception):
    pass


@functools.lru_cache(maxsize=512)
def _signed_by(certificate: Certificate, signature: bytes, message: bytes) -> bool:
    """Raises _Not, which `lru_cache` does not keep: only successes are remembered."""
    key = certificate.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _Not
    if not signature_holds(key, signature, message):
        raise _Not
    return True


def read_signed(data: bytes, member: str) -> SignedJson:
    """The signed object `member` of a document and its signature. Raises ValueError.

    Names that appear twice, anywhere, are refused: readers differ in which one they take.
    """
    if len(data) > MAX_DOCUMENT:
        raise ValueError(f"{len(data)} bytes; at most {MAX_DOCUMENT} are read")
    try:
        json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if set(members) != {member, "signature"}:
        raise ValueError(f"its members are not {member} and signature")
    signature = bytes.fromhex(msgspec.json.decode(members["signature"], type=str))
    if len(signature) != 64:
        raise ValueError(f"a signature of {len(signature)} bytes, not 64")
    return SignedJson(bytes(members[member]), signature)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice in one JSON object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
