"""Types of keys by Vault's names, ours where Vault has none: how they are made, what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, Mgf
from secgear.services.crypto.pkcs11.mechanism import (
    ChachaParams,
    GcmParams,
    Mechanism,
    OaepParams,
)
from secgear.services.crypto.pkcs11.values import Value
from secgear.services.crypto.token.objects import Object

NONCE: Final = 12  # bytes
TAG: Final = 16  # bytes
_SPECIFIED: Final = 1  # CKZ_DATA_SPECIFIED


class Kind(NamedTuple):
    """A type of keys.

    public, secret: templates of the halves; public is empty for secret keys. aead: the mechanism
    that encrypts with a nonce; cipher: the one that does without. signs: whether it makes
    signatures; macs: whether it makes MACs. found: the attributes, besides the type, by which an
    existing key is one of these.
    """

    name: str
    generator: Mech
    key_type: KeyType
    secret: Mapping[int, Value]
    public: Mapping[int, Value] = {}
    found: Mapping[int, Value] = {}
    aead: Mech | None = None
    cipher: Mech | None = None
    signs: bool = False
    macs: bool = False

    @property
    def encrypts(self) -> bool:
        """Whether it encrypts."""
        return self.aead is not None or self.cipher is not None


def sealing(kind: Kind, nonce: bytes, aad: bytes) -> Mechanism:
    """The mechanism that encrypts and decrypts with a key of this kind."""
    if kind.aead is Mech.CHACHA20_POLY1305:
        return Mechanism(kind.aead, ChachaParams(nonce, aad))
    if kind.aead is not None:
        return Mechanism(kind.aead, GcmParams(nonce, aad, 8 * TAG))
    if kind.cipher is Mech.RSA_PKCS_OAEP:
        return Mechanism(kind.cipher, OaepParams(Mech.SHA256, Mgf.SHA256, _SPECIFIED, b""))
    return Mechanism(int(kind.cipher or 0))


def kind_of(item: Object) -> Kind | None:
    """What kind of key an object is, None for one that has no name here."""
    for kind in KINDS.values():
        if kind.key_type == item.key_type and all(
            item.attributes.get(attr) == value for attr, value in kind.found.items()
        ):
            return kind
    return None


def _template(**attributes: Any) -> dict[int, Value]:
    return {int(Attr[name]): value for name, value in attributes.items()}


def _aead(name: str, generator: Mech, key_type: KeyType, mechanism: Mech, size: int) -> Kind:
    secret = _template(
        ENCRYPT=True, DECRYPT=True, VALUE_LEN=size, ALLOWED_MECHANISMS=(int(mechanism),)
    )
    found = _template(VALUE_LEN=size)
    return Kind(name, generator, key_type, secret, found=found, aead=mechanism)


def _rsa(bits: int) -> Kind:
    return Kind(
        f"rsa-{bits}",
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        KeyType.RSA,
        _template(DECRYPT=True, SIGN=True),
        _template(MODULUS_BITS=bits, ENCRYPT=True, VERIFY=True),
        found=_template(MODULUS_BITS=bits),
        cipher=Mech.RSA_PKCS_OAEP,
        signs=True,
    )


def _curve(name: str, generator: Mech, key_type: KeyType, params: str) -> Kind:
    oid = bytes.fromhex(params)
    found = _template(EC_PARAMS=oid)
    public = {**found, **_template(VERIFY=True)}
    return Kind(name, generator, key_type, _template(SIGN=True), public, found, signs=True)


def _ml_dsa(level: int, number: int) -> Kind:
    found = _template(PARAMETER_SET=number)
    return Kind(
        f"ml-dsa-{level}",
        Mech.ML_DSA_KEY_PAIR_GEN,
        KeyType.ML_DSA,
        _template(SIGN=True),
        {**found, **_template(VERIFY=True)},
        found,
        signs=True,
    )


_EC = Mech.EC_KEY_PAIR_GEN
KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        _aead("aes128-gcm96", Mech.AES_KEY_GEN, KeyType.AES, Mech.AES_GCM, 16),
        _aead("aes256-gcm96", Mech.AES_KEY_GEN, KeyType.AES, Mech.AES_GCM, 32),
        _aead(
            "chacha20-poly1305",
            Mech.CHACHA20_KEY_GEN,
            KeyType.CHACHA20,
            Mech.CHACHA20_POLY1305,
            32,
        ),
        _aead("sm4-gcm96", Mech.SM4_KEY_GEN, KeyType.SM4, Mech.SM4_GCM, 16),
        _curve("ed25519", Mech.EC_EDWARDS_KEY_PAIR_GEN, KeyType.EC_EDWARDS, "06032b6570"),
        _curve("ecdsa-p256", _EC, KeyType.EC, "06082a8648ce3d030107"),
        _curve("ecdsa-p384", _EC, KeyType.EC, "06052b81040022"),
        _curve("ecdsa-p521", _EC, KeyType.EC, "06052b81040023"),
        *(_rsa(bits) for bits in (2048, 3072, 4096)),
        Kind(
            "hmac",
            Mech.GENERIC_SECRET_KEY_GEN,
            KeyType.GENERIC_SECRET,
            _template(SIGN=True, VERIFY=True, VALUE_LEN=32),
            macs=True,
        ),
        Kind(
            "sm2",
            Mech.SM2_KEY_PAIR_GEN,
            KeyType.SM2,
            _template(SIGN=True, DECRYPT=True),
            _template(VERIFY=True, ENCRYPT=True),
            cipher=Mech.SM2_ENCRYPT,
            signs=True,
        ),
        _ml_dsa(44, 1),
        _ml_dsa(65, 2),
        _ml_dsa(87, 3),
    )
}
CURVE_NAMES: Final = {"ecdsa-p256": "P-256", "ecdsa-p384": "P-384", "ecdsa-p521": "P-521"}
"""What Vault calls them in a key's versions."""
