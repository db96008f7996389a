"""Names for people, and the mechanisms that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, Mgf
from secgear.services.crypto.pkcs11.mechanism import (
    GcmParams,
    Mechanism,
    OaepParams,
    PssParams,
)
from secgear.services.crypto.pkcs11.values import Value

NONCE_SIZE: Final = 12  # bytes
TAG_SIZE: Final = 16  # bytes
_OAEP_SOURCE: Final = 1  # CKZ_DATA_SPECIFIED


class Kind(NamedTuple):
    """A kind of secret keys. sizes: in bits, the default first."""

    type: KeyType
    mechanism: Mech
    sizes: tuple[int, ...]
    uses: tuple[str, ...]


SECRETS: Final[Mapping[str, Kind]] = {
    "AES": Kind(KeyType.AES, Mech.AES_KEY_GEN, (256, 192, 128), ("encrypt", "decrypt")),
    "CHACHA20": Kind(KeyType.CHACHA20, Mech.CHACHA20_KEY_GEN, (256,), ("encrypt", "decrypt")),
    "SM4": Kind(KeyType.SM4, Mech.SM4_KEY_GEN, (128,), ("encrypt", "decrypt")),
    "HMAC": Kind(KeyType.GENERIC_SECRET, Mech.GENERIC_SECRET_KEY_GEN, (), ("sign", "verify")),
}


class Pair(NamedTuple):
    """A kind of key pairs. variants: the public template of each, the default first.

    uses: of the private key, where nobody says otherwise.
    """

    mechanism: Mech
    variants: Mapping[str, Mapping[Attr, Value]]
    uses: tuple[str, ...]


PAIRS: Final[Mapping[str, Pair]] = {
    "EC": Pair(
        Mech.EC_KEY_PAIR_GEN,
        {
            "P-256": {Attr.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")},
            "P-384": {Attr.EC_PARAMS: bytes.fromhex("06052b81040022")},
            "P-521": {Attr.EC_PARAMS: bytes.fromhex("06052b81040023")},
        },
        ("sign",),
    ),
    "RSA": Pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {str(bits): {Attr.MODULUS_BITS: bits} for bits in (3072, 2048, 4096, 8192)},
        ("sign",),
    ),
    "ED25519": Pair(
        Mech.EC_EDWARDS_KEY_PAIR_GEN,
        {"": {Attr.EC_PARAMS: bytes.fromhex("06032b6570")}},
        ("sign",),
    ),
    "X25519": Pair(
        Mech.EC_MONTGOMERY_KEY_PAIR_GEN,
        {"": {Attr.EC_PARAMS: bytes.fromhex("06032b656e")}},
        ("derive",),
    ),
    "SM2": Pair(Mech.SM2_KEY_PAIR_GEN, {"": {}}, ("sign",)),
    "ML-DSA": Pair(
        Mech.ML_DSA_KEY_PAIR_GEN,
        {name: {Attr.PARAMETER_SET: number} for number, name in ((2, "65"), (1, "44"), (3, "87"))},
        ("sign",),
    ),
    "ML-KEM": Pair(
        Mech.ML_KEM_KEY_PAIR_GEN,
        {name: {Attr.PARAMETER_SET: number} for number, name in ((2, "768"), (3, "1024"))},
        ("decapsulate",),
    ),
}
COUNTERPARTS: Final = {
    "sign": "verify",
    "decrypt": "encrypt",
    "unwrap": "wrap",
    "decapsulate": "encapsulate",
}
"""What the public key is for when the private one is for this."""


def _pss(mech: Mech, digest: Mech, mgf: Mgf, size: int) -> Mechanism:
    return Mechanism(mech, PssParams(digest, mgf, size))


SIGNATURES: Final[Mapping[KeyType, Mapping[str, Mechanism]]] = {
    KeyType.RSA: {
        "pss-sha256": _pss(Mech.SHA256_RSA_PKCS_PSS, Mech.SHA256, Mgf.SHA256, 32),
        "pss-sha384": _pss(Mech.SHA384_RSA_PKCS_PSS, Mech.SHA384, Mgf.SHA384, 48),
        "pss-sha512": _pss(Mech.SHA512_RSA_PKCS_PSS, Mech.SHA512, Mgf.SHA512, 64),
        "pkcs1-sha256": Mechanism(Mech.SHA256_RSA_PKCS),
        "pkcs1-sha384": Mechanism(Mech.SHA384_RSA_PKCS),
        "pkcs1-sha512": Mechanism(Mech.SHA512_RSA_PKCS),
    },
    KeyType.EC: {
        "ecdsa-sha256": Mechanism(Mech.ECDSA_SHA256),
        "ecdsa-sha384": Mechanism(Mech.ECDSA_SHA384),
        "ecdsa-sha512": Mechanism(Mech.ECDSA_SHA512),
    },
    KeyType.EC_EDWARDS: {"ed25519": Mechanism(Mech.EDDSA)},
    KeyType.SM2: {"sm2-sm3": Mechanism(Mech.SM2_SM3)},
    KeyType.ML_DSA: {"ml-dsa": Mechanism(Mech.ML_DSA)},
    KeyType.GENERIC_SECRET: {
        "hmac-sha256": Mechanism(Mech.SHA256_HMAC),
        "hmac-sha384": Mechanism(Mech.SHA384_HMAC),
        "hmac-sha512": Mechanism(Mech.SHA512_HMAC),
        "hmac-sm3": Mechanism(Mech.SM3_HMAC),
    },
    KeyType.AES: {"cmac": Mechanism(Mech.AES_CMAC)},
}
"""By key type and name, the default first; of EC keys that which fits the curve."""
FITTING: Final[Mapping[Value, str]] = {
    bytes.fromhex("06082a8648ce3d030107"): "ecdsa-sha256",
    bytes.fromhex("06052b81040022"): "ecdsa-sha384",
    bytes.fromhex("06052b81040023"): "ecdsa-sha512",
}
"""By CKA_EC_PARAMS."""
DER_SIGNATURES: Final = (KeyType.EC, KeyType.SM2)
"""Whose signatures are ``r || s`` on the token, and DER for everybody else."""

OAEP_SHA256: Final = Mechanism(
    Mech.RSA_PKCS_OAEP, OaepParams(Mech.SHA256, Mgf.SHA256, _OAEP_SOURCE, b"")
)


def gcm(mech: Mech, nonce: bytes, aad: bytes) -> Mechanism:
    """Authenticated encryption with a tag of 16 bytes."""
    return Mechanism(mech, GcmParams(nonce, aad, 8 * TAG_SIZE))
