"""Session keys in envelopes, as GM/T 0018 has them. Pure: no sessions, no store.

An envelope is what a public key or a key encryption key has encrypted, without more authentication
than that has. Only keys that are made for it leave in one: what PKCS#11 says of wrapping, and what
this token adds to it, holds for all other keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from secgear.services.crypto.pkcs11.constants import (
    Attr,
    KeyType,
    Mech,
    MechanismFlag,
    ObjectClass,
)
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template
from secgear.services.crypto.token import generation
from secgear.services.crypto.token.mechanisms import CipherMaker, Row, lookup
from secgear.services.crypto.token.objects import Object

_ENVELOPES: Final = (Mech.SM2_ENCRYPT, Mech.RSA_PKCS, Mech.SM4_ECB)
"""What envelopes are made with: GM/T 0018-2012, 6.3.5 to 6.3.17."""


def row_of(mechanism: Mechanism, flag: MechanismFlag) -> Row:
    """The mechanism's row, if envelopes are made with it. Raises CryptokiError."""
    if mechanism.type not in _ENVELOPES:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    return lookup(mechanism.type, flag)


def generate(mechanism: Mechanism, template: Template, *, so: bool) -> Object:
    """A key that is going to leave in an envelope, and not again. Raises CryptokiError.

    Whoever opens the envelope knows it, so it is neither called "always sensitive" nor may it
    wrap what is sensitive.
    """
    key = generation.generate(mechanism, template, so=so)
    if not key.flag(Attr.SENSITIVE) or key.flag(Attr.EXTRACTABLE):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    left = {int(Attr.ALWAYS_SENSITIVE): False, int(Attr.NEVER_EXTRACTABLE): False}
    return Object(key.id, {**key.attributes, **left}, key.material)


def seal(row: Row, mechanism: Mechanism, wrapper: Object, key: Object, room: int) -> bytes | int:
    """The envelope with the key, or its size where that is more than `room`.

    Raises CryptokiError.
    """
    required = wrapper.attributes.get(Attr.WRAP_TEMPLATE)
    if isinstance(required, Mapping) and not key.matches(required):
        raise CryptokiError(Rv.KEY_NOT_WRAPPABLE)
    operation = _maker(row)(wrapper.material, mechanism.parameter, True)
    size = operation.size(len(key.material))
    if size > room:
        return size
    try:
        return operation.whole(bytes(key.material))
    except CryptokiError as error:
        raise CryptokiError(Rv.KEY_SIZE_RANGE) from error


def open_(
    row: Row,
    mechanism: Mechanism,
    unwrapper: Object,
    envelope: bytes,
    template: Template,
    *,
    so: bool,
) -> Object:
    """The key in an envelope; it is sensitive, as with C_UnwrapKey.

    Without CKA_KEY_TYPE its length says what it is: of SM4, or a generic secret. Then an envelope
    of RSA whose padding is wrong holds a key as well, one that nobody knows, and whoever tries
    envelopes learns nothing. Raises CryptokiError.
    """
    given = dict(generation.combined(template, unwrapper.attributes.get(Attr.UNWRAP_TEMPLATE)))
    if given.get(Attr.CLASS, ObjectClass.SECRET_KEY) != ObjectClass.SECRET_KEY:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    if given.get(Attr.SENSITIVE, True) is not True:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    operation = _maker(row)(unwrapper.material, mechanism.parameter, False)
    try:
        secret = operation.whole(envelope)
        kind = KeyType.SM4 if len(secret) == 16 else KeyType.GENERIC_SECRET
        given.setdefault(Attr.KEY_TYPE, int(kind))
        return generation.shared(secret, given, so=so)
    except CryptokiError as error:
        raise CryptokiError(_OPENING.get(error.rv, error.rv)) from None


_OPENING: Final = {
    Rv.ENCRYPTED_DATA_INVALID: Rv.WRAPPED_KEY_INVALID,
    Rv.ENCRYPTED_DATA_LEN_RANGE: Rv.WRAPPED_KEY_LEN_RANGE,
    Rv.KEY_SIZE_RANGE: Rv.WRAPPED_KEY_INVALID,
}


def exchange(
    opening: tuple[Row, Mechanism, Object], sealing: tuple[Row, Mechanism, Object], envelope: bytes
) -> bytes:
    """The same content in an envelope for another key; it never leaves the token in between.

    Raises CryptokiError.
    """
    row, mechanism, own = opening
    content = _maker(row)(own.material, mechanism.parameter, False).whole(envelope)
    row, mechanism, other = sealing
    return _maker(row)(other.material, mechanism.parameter, True).whole(content)


def _maker(row: Row) -> CipherMaker:
    if row.cipher is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    return row.cipher
