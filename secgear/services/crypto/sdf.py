"""Internal keys of GM/T 0018: what administrators make on a token for applications that use SDF.

A key is found by its label: ``sdf:sign:N`` and ``sdf:enc:N`` for both halves of the key pairs of
index N, ``sdf:kek:N`` for a key encryption key. Applications have them through the library, see
``library/c/sdf_objects.c``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from secgear.errors import CryptoModuleError
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech
from secgear.services.crypto.pkcs11.mechanism import Mechanism

if TYPE_CHECKING:
    from secgear.services.crypto.client import Session
    from secgear.services.crypto.pkcs11.values import Template

MAX_INDEX: Final = 2**32 - 1
RSA_BITS: Final = 2048
"""What the structures of GM/T 0018 have room for."""
_LABEL: Final = re.compile(r"sdf:(sign|enc|kek):([1-9][0-9]{0,9})", re.ASCII)

# Neither what comes out of an envelope nor what is agreed on is ever to be read.
_SECRET: Final[Template] = {int(Attr.SENSITIVE): True, int(Attr.EXTRACTABLE): False}
_KEPT: Final[Template] = {int(Attr.TOKEN): True, **_SECRET}
_TYPES: Final = {int(KeyType.SM2): "sm2", int(KeyType.RSA): "rsa", int(KeyType.SM4): "sm4"}


class InternalKey(msgspec.Struct, frozen=True, order=True):
    """role: sign, enc or kek. algorithm: sm2, rsa or sm4."""

    role: str
    index: int
    algorithm: str


def make_pair(session: Session, key: InternalKey, *, decrypt: bool = False) -> InternalKey:
    """Make a key pair on the token, as the user that is logged in.

    decrypt: the private key of an enc pair may decrypt too, which SDF_InternalDecrypt_ECC and the
    exchange of envelopes need: whoever may use it can then read what is in envelopes for it.
    Raises CryptoModuleError where there is such a key, TokenRefused.
    """
    if key.role == "sign":
        public: dict[int, Any] = {int(Attr.VERIFY): True}
        private: dict[int, Any] = {int(Attr.SIGN): True}
    else:
        public = {int(Attr.ENCRYPT): True, int(Attr.WRAP): True}
        private = {int(Attr.UNWRAP): True, int(Attr.UNWRAP_TEMPLATE): _SECRET}
        if decrypt:
            private[int(Attr.DECRYPT)] = True
        if key.algorithm == "sm2":
            private |= {int(Attr.DERIVE): True, int(Attr.DERIVE_TEMPLATE): _SECRET}
    mechanism = Mech.SM2_KEY_PAIR_GEN
    if key.algorithm == "rsa":
        mechanism = Mech.RSA_PKCS_KEY_PAIR_GEN
        public[int(Attr.MODULUS_BITS)] = RSA_BITS
    label = _claim(session, key)
    session.call(
        "C_GenerateKeyPair",
        Mechanism(mechanism),
        {int(Attr.TOKEN): True, **label, **public},
        {**_KEPT, **label, **private},
    )
    return key


def make_kek(session: Session, index: int) -> InternalKey:
    """Make a key encryption key (SM4), as the user that is logged in.

    Raises CryptoModuleError where there is one, TokenRefused.
    """
    key = InternalKey("kek", index, "sm4")
    template = {**_KEPT, **_claim(session, key), int(Attr.UNWRAP_TEMPLATE): _SECRET}
    template |= {int(Attr.WRAP): True, int(Attr.UNWRAP): True}
    session.call("C_GenerateKey", Mechanism(Mech.SM4_KEY_GEN), template)
    return key


def internal_keys(session: Session) -> list[InternalKey]:
    """The internal keys on the token, in order. The user has to be logged in to see them."""
    found = set()
    for one in session.find(token=True):
        match = _LABEL.fullmatch(one.label)
        if match is not None and one.type in _TYPES:
            found.add(InternalKey(match[1], int(match[2]), _TYPES[one.type]))
    return sorted(found)


def _claim(session: Session, key: InternalKey) -> dict[int, Any]:
    """The label of a new key. Two of one label would both be useless."""
    if not 1 <= key.index <= MAX_INDEX:
        raise CryptoModuleError(f"an index is a number from 1 to {MAX_INDEX}")
    if key in internal_keys(session):
        raise CryptoModuleError(
            f"there is a {key.algorithm} key sdf:{key.role}:{key.index} on the token already"
        )
    return {int(Attr.LABEL): f"sdf:{key.role}:{key.index}".encode()}
