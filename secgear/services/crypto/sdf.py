"""Internal keys of GM/T 0018: what administrators make on a token for applications that use SDF.

A key is found by its label: ``sdf:sign:N`` and ``sdf:enc:N`` for both halves of the key pairs of
index N, ``sdf:kek:N`` for a key encryption key. Applications have them through the library, see
``library/c/sdf_objects.c``.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from secgear.errors import CryptoModuleError
from secgear.services.crypto.client import ROOM, Caller
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.values import Template
from secgear.services.crypto.rpc.attributes import Room

MAX_INDEX: Final = 2**32 - 1
RSA_BITS: Final = 2048
"""What the structures of GM/T 0018 have room for."""
_LABEL: Final = re.compile(rb"sdf:(sign|enc|kek):([1-9][0-9]{0,9})", re.ASCII)
_MOST = 1024  # handles that are asked for at once

# Neither what comes out of an envelope nor what is agreed on is ever to be read.
_SECRET: Final[Template] = {int(Attr.SENSITIVE): True, int(Attr.EXTRACTABLE): False}
_KEPT: Final[Template] = {int(Attr.TOKEN): True, **_SECRET}
_TYPES: Final = {int(KeyType.SM2): "sm2", int(KeyType.RSA): "rsa", int(KeyType.SM4): "sm4"}


class InternalKey(msgspec.Struct, frozen=True, order=True):
    """role: sign, enc or kek. algorithm: sm2, rsa or sm4."""

    role: str
    index: int
    algorithm: str


def make_pair(
    caller: Caller, session: int, key: InternalKey, *, decrypt: bool = False
) -> InternalKey:
    """Make a key pair on the token; the user has to be logged in.

    decrypt: the private key of an enc pair may decrypt too, which SDF_InternalDecrypt_ECC and the
    exchange of envelopes need: whoever may use it can then read what is in envelopes for it.
    Raises CryptoModuleError where there is such a key, CryptokiError.
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
    label = _claim(caller, session, key)
    caller.call(
        "C_GenerateKeyPair",
        session,
        Mechanism(mechanism),
        {int(Attr.TOKEN): True, **label, **public},
        {**_KEPT, **label, **private},
    )
    return key


def make_kek(caller: Caller, session: int, index: int) -> InternalKey:
    """Make a key encryption key (SM4); the user has to be logged in.

    Raises CryptoModuleError where there is one, CryptokiError.
    """
    key = InternalKey("kek", index, "sm4")
    template = {**_KEPT, **_claim(caller, session, key), int(Attr.UNWRAP_TEMPLATE): _SECRET}
    template |= {int(Attr.WRAP): True, int(Attr.UNWRAP): True}
    caller.call("C_GenerateKey", session, Mechanism(Mech.SM4_KEY_GEN), template)
    return key


def keys(caller: Caller, session: int) -> list[InternalKey]:
    """The internal keys on the token, in order. The user has to be logged in to see them."""
    found = []
    for object_class in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
        for handle in _search(
            caller, session, {int(Attr.CLASS): object_class, int(Attr.TOKEN): True}
        ):
            key = _described(caller, session, handle)
            if key is not None:
                found.append(key)
    return sorted(found)


def _claim(caller: Caller, session: int, key: InternalKey) -> dict[int, Any]:
    """The label of a new key. Two of one label would both be useless."""
    if not 1 <= key.index <= MAX_INDEX:
        raise CryptoModuleError(f"an index is a number from 1 to {MAX_INDEX}")
    if key in keys(caller, session):
        raise CryptoModuleError(
            f"there is a {key.algorithm} key sdf:{key.role}:{key.index} on the token already"
        )
    return {int(Attr.LABEL): f"sdf:{key.role}:{key.index}".encode()}


def _search(caller: Caller, session: int, template: Template) -> list[int]:
    caller.call("C_FindObjectsInit", session, template)
    found: list[int] = []
    while some := caller.one("C_FindObjects", session, _MOST):
        found += some
    caller.call("C_FindObjectsFinal", session)
    return found


def _described(caller: Caller, session: int, handle: int) -> InternalKey | None:
    rooms = [Room(Attr.LABEL, ROOM), Room(Attr.KEY_TYPE, ROOM)]
    filled, rv = caller.call("C_GetAttributeValue", session, handle, rooms)
    label, kind = (None, None) if rv else (value for _, _, value in filled)
    match = _LABEL.fullmatch(label) if isinstance(label, bytes) else None
    if match is None or kind not in _TYPES:
        return None
    return InternalKey(match[1].decode(), int(match[2]), _TYPES[kind])
