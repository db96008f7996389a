"""Public keys of others, from their SubjectPublicKeyInfo to the attributes of PKCS#11."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from secgear.services.crypto.client import algorithms
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, ObjectClass
from secgear.services.crypto.pkcs11.values import Value

EC_PUBLIC_KEY: Final = x509.ObjectIdentifier("1.2.840.10045.2.1")
SM2_CURVE: Final = x509.ObjectIdentifier("1.2.156.10197.1.301")
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


@asn1.sequence
class EcAlgorithm:
    """AlgorithmIdentifier of keys on a curve (RFC 5480)."""

    algorithm: x509.ObjectIdentifier
    curve: x509.ObjectIdentifier

    @property
    def is_sm2(self) -> bool:
        """Whether it is the curve of GM/T 0003.5."""
        return (self.algorithm, self.curve) == (EC_PUBLIC_KEY, SM2_CURVE)


@asn1.sequence
class _PublicKeyInfo:
    algorithm: EcAlgorithm
    key: asn1.BitString


def public_template(spki: bytes) -> dict[int, Value]:
    """The template that C_CreateObject makes the key from.

    RSA, ECDSA and ECDH on NIST's curves, Ed25519, X25519, SM2. Raises ValueError.
    """
    kind, attributes = _described(spki)
    made: dict[Attr, Value] = {
        Attr.CLASS: int(ObjectClass.PUBLIC_KEY),
        Attr.KEY_TYPE: int(kind),
        **attributes,
    }
    return {int(attr): value for attr, value in made.items()}


def _described(spki: bytes) -> tuple[KeyType, dict[Attr, Value]]:
    point = _sm2_point(spki)
    if point is not None:
        params = bytes.fromhex("06082a811ccf5501822d")
        return KeyType.SM2, {Attr.EC_PARAMS: params, Attr.EC_POINT: point}
    try:
        key = load_der_public_key(spki)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    match key:
        case rsa.RSAPublicKey():
            numbers = key.public_numbers()
            return KeyType.RSA, {
                Attr.MODULUS: _octets(numbers.n),
                Attr.PUBLIC_EXPONENT: _octets(numbers.e),
            }
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            curve = algorithms.PAIRS["EC"].variants[_CURVES[key.curve.name]]
            return KeyType.EC, {**curve, Attr.EC_POINT: point}
        case ed25519.Ed25519PublicKey():
            curve = algorithms.PAIRS["ED25519"].variants[""]
            return KeyType.EC_EDWARDS, {**curve, Attr.EC_POINT: key.public_bytes_raw()}
        case x25519.X25519PublicKey():
            curve = algorithms.PAIRS["X25519"].variants[""]
            return KeyType.EC_MONTGOMERY, {**curve, Attr.EC_POINT: key.public_bytes_raw()}
    raise ValueError(f"the module takes no public keys like {type(key).__name__}")


def _sm2_point(spki: bytes) -> bytes | None:
    try:
        info = asn1.decode_der(_PublicKeyInfo, spki)
    except ValueError:
        return None
    return info.key.as_bytes() if info.algorithm.is_sm2 else None


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
