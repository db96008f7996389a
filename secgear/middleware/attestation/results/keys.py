"""Keys that sign attestation results: ECDSA on P-256 or P-384, named by their thumbprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.errors import KeyFileError
from secgear.middleware.attestation import base64url

MAX_KEYS: Final = 16  # in one file

# Curve name of cryptography: curve, length of a coordinate in bytes, names in JOSE, id in COSE.
_CURVES: Final[Mapping[str, tuple[type[ec.EllipticCurve], int, str, str, int]]] = {
    "secp256r1": (ec.SECP256R1, 32, "P-256", "ES256", -7),
    "secp384r1": (ec.SECP384R1, 48, "P-384", "ES384", -35),
}


class ResultKey:
    """A private key and its name. `repr` shows the name only."""

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        """Raises KeyFileError for other curves than P-256 and P-384."""
        self.kid: Final = thumbprint(private.public_key())
        self.private: Final = private

    def __repr__(self) -> str:
        return f"ResultKey({self.kid!r})"

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        """Its public half."""
        return self.private.public_key()


def new_key(curve: ec.EllipticCurve | None = None) -> ResultKey:
    """A fresh key, on P-256 unless told otherwise."""
    return ResultKey(ec.generate_private_key(curve or ec.SECP256R1()))


def jose_algorithm(key: ec.EllipticCurvePublicKey) -> str:
    """The one JWS algorithm that goes with the key's curve. Raises KeyFileError."""
    return _curve(key)[3]


def cose_algorithm(key: ec.EllipticCurvePublicKey) -> int:
    """The one COSE algorithm that goes with the key's curve. Raises KeyFileError."""
    return _curve(key)[4]


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The key as a JWK (RFC 7517) with its name, algorithm and use."""
    return _coordinates(key) | {
        "kid": thumbprint(key),
        "alg": jose_algorithm(key),
        "use": "sig",
    }


def thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """The key's SHA-256 thumbprint (RFC 7638), base64url: its ``kid``. Raises KeyFileError."""
    text = msgspec.json.encode(_coordinates(key), order="deterministic")
    return base64url.pack(hashlib.sha256(text).digest())


def public_keys(jwks: bytes) -> Mapping[str, ec.EllipticCurvePublicKey]:
    """The keys of a JWK set, such as ``GET /v1/keys`` answers, by name. Raises KeyFileError.

    A name is computed from the key; one that says otherwise is refused.
    """
    try:
        read = msgspec.json.decode(jwks, type=dict[str, list[dict[str, Any]]])
        found = [(_from_jwk(item), item.get("kid")) for item in read["keys"][: MAX_KEYS + 1]]
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, RecursionError):
        raise KeyFileError("not a JWK set with public keys on P-256 or P-384") from None
    if not found or len(found) > MAX_KEYS:
        raise KeyFileError(f"a JWK set of 1 to {MAX_KEYS} keys is read")
    named = {thumbprint(key): key for key, _ in found}
    if any(kid is not None and kid != thumbprint(key) for key, kid in found):
        raise KeyFileError("a key of the JWK set is not the one that its kid names (RFC 7638)")
    return named


def to_pem(keys: Iterable[ResultKey]) -> bytes:
    """Private keys as PKCS #8, one PEM block after the other. Not encrypted."""
    return b"".join(
        key.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for key in keys
    )


def from_pem(pem: bytes) -> tuple[ResultKey, ...]:
    """The private keys of a PEM file, in its order. Raises KeyFileError."""
    end = b"-----END PRIVATE KEY-----"
    blocks = [block + end for block in pem.split(end)[:-1]]
    if not 1 <= len(blocks) <= MAX_KEYS:
        raise KeyFileError(f"result keys: 1 to {MAX_KEYS} PEM blocks BEGIN PRIVATE KEY")
    found = []
    for block in blocks:
        try:
            key = serialization.load_pem_private_key(block, None)
        except (ValueError, TypeError):
            raise KeyFileError("result keys: a block that is no unencrypted PKCS #8 key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeyFileError("result keys: only EC keys on P-256 and P-384 sign results")
        found.append(ResultKey(key))
    return tuple(found)


def _curve(
    key: ec.EllipticCurvePublicKey,
) -> tuple[type[ec.EllipticCurve], int, str, str, int]:
    known = _CURVES.get(key.curve.name)
    if known is None:
        raise KeyFileError(f"result keys are on P-256 or P-384, not {key.curve.name}")
    return known


def _coordinates(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The members that a thumbprint covers, in their order (RFC 7638, section 3.2)."""
    _, size, name, _, _ = _curve(key)
    numbers = key.public_numbers()
    return {
        "crv": name,
        "kty": "EC",
        "x": base64url.pack(numbers.x.to_bytes(size, "big")),
        "y": base64url.pack(numbers.y.to_bytes(size, "big")),
    }


def _from_jwk(jwk: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    if jwk.get("kty") != "EC" or "d" in jwk:
        raise ValueError("not a public EC key")
    for curve, size, name, _, _ in _CURVES.values():
        if jwk.get("crv") == name:
            x, y = (base64url.unpack(jwk[axis]) for axis in ("x", "y"))
            if len(x) != size or len(y) != size:
                raise ValueError("coordinates of the wrong length")
            return ec.EllipticCurvePublicKey.from_encoded_point(curve(), b"\x04" + x + y)
    raise ValueError("another curve")
