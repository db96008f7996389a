"""Attribute values as Python values: the form in which the token keeps and compares them.

A value is a bool, an int (CK_ULONG), bytes, a tuple of mechanism types, or a template.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, Union

from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Attr
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

Value = Union[bool, int, bytes, "tuple[int, ...]", "Template"]
Template = Mapping[int, Value]

MAX_ATTRIBUTES: Final = 128  # in one template, and in one nested in it
MAX_DEPTH: Final = 2  # a template, and one nested in it (CKA_WRAP_TEMPLATE and its like)
MAX_BYTES: Final = 64 << 10  # of one attribute's value
MAX_MECHANISMS: Final = 256  # of CKA_ALLOWED_MECHANISMS


class Kind(enum.Enum):
    """What an attribute's value is."""

    BOOL = enum.auto()
    ULONG = enum.auto()
    BYTES = enum.auto()
    DATE = enum.auto()  # 8 ASCII digits, or nothing
    MECHANISMS = enum.auto()
    TEMPLATE = enum.auto()


_BOOLS = (
    Attr.TOKEN, Attr.PRIVATE, Attr.TRUSTED, Attr.SENSITIVE, Attr.ENCRYPT, Attr.DECRYPT, Attr.WRAP,
    Attr.UNWRAP, Attr.SIGN, Attr.SIGN_RECOVER, Attr.VERIFY, Attr.VERIFY_RECOVER, Attr.DERIVE,
    Attr.EXTRACTABLE, Attr.LOCAL, Attr.NEVER_EXTRACTABLE, Attr.ALWAYS_SENSITIVE, Attr.MODIFIABLE,
    Attr.COPYABLE, Attr.DESTROYABLE, Attr.ALWAYS_AUTHENTICATE, Attr.WRAP_WITH_TRUSTED,
    Attr.ENCAPSULATE, Attr.DECAPSULATE, Attr.KEY_DELETABLE,
)  # fmt: skip
_ULONGS = (
    Attr.CLASS, Attr.CERTIFICATE_TYPE, Attr.CERTIFICATE_CATEGORY, Attr.JAVA_MIDP_SECURITY_DOMAIN,
    Attr.NAME_HASH_ALGORITHM, Attr.KEY_TYPE, Attr.MODULUS_BITS, Attr.VALUE_LEN,
    Attr.KEY_GEN_MECHANISM, Attr.PARAMETER_SET, Attr.KEY_VERSION, Attr.KEY_STATE, Attr.KEY_CREATED,
    Attr.KEY_MIN_DECRYPTION, Attr.KEY_MIN_ENCRYPTION,
)  # fmt: skip

KINDS: Final[Mapping[int, Kind]] = {
    **{int(attr): Kind.BYTES for attr in Attr},
    **{int(attr): Kind.BOOL for attr in _BOOLS},
    **{int(attr): Kind.ULONG for attr in _ULONGS},
    int(Attr.START_DATE): Kind.DATE,
    int(Attr.END_DATE): Kind.DATE,
    int(Attr.ALLOWED_MECHANISMS): Kind.MECHANISMS,
    int(Attr.WRAP_TEMPLATE): Kind.TEMPLATE,
    int(Attr.UNWRAP_TEMPLATE): Kind.TEMPLATE,
    int(Attr.DERIVE_TEMPLATE): Kind.TEMPLATE,
}


def from_raw(attr: int, raw: bytes) -> Value:
    """The value of an attribute that came as the bytes of a C program on this machine's kind.

    Raises CryptokiError for one that those bytes can't be a value of.
    """
    match KINDS.get(attr, Kind.BYTES):
        case Kind.BOOL:
            if len(raw) == 1:
                return raw != b"\0"
        case Kind.ULONG:
            if len(raw) == 8:
                return int.from_bytes(raw, "little")
        case Kind.MECHANISMS:
            if len(raw) % 8 == 0 and len(raw) // 8 <= MAX_MECHANISMS:
                numbers = range(0, len(raw), 8)
                return tuple(int.from_bytes(raw[at : at + 8], "little") for at in numbers)
        case Kind.TEMPLATE:
            pass  # pointers of another process
        case Kind.BYTES | Kind.DATE:
            return raw
    raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)


def to_raw(value: Value) -> bytes:
    """The bytes that a C program on this machine's kind expects."""
    if isinstance(value, bool):
        return b"\1" if value else b"\0"
    if isinstance(value, int):
        return value.to_bytes(8, "little")
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple):
        return b"".join(number.to_bytes(8, "little") for number in value)
    raise CryptokiError(Rv.ATTRIBUTE_TYPE_INVALID)


def size_of(value: Value) -> int:
    """Bytes that a C program needs for it: what CK_ATTRIBUTE.ulValueLen says."""
    if isinstance(value, bool):
        return 1
    if isinstance(value, int):
        return 8
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, tuple):
        return 8 * len(value)
    return 24 * len(value)  # CK_ATTRIBUTE: type, pointer, length


def weight_of(value: Value) -> int:
    """Bytes of a value with all that is nested in it."""
    nested = map(weight_of, value.values()) if isinstance(value, Mapping) else ()
    return size_of(value) + sum(nested)


def check_kind(attr: int, value: Value) -> None:
    """Raise CryptokiError unless `value` is one that the attribute can have."""
    kind = KINDS.get(attr, Kind.BYTES)
    fits = {
        Kind.BOOL: isinstance(value, bool),
        Kind.ULONG: type(value) is int and 0 <= value <= UNAVAILABLE,
        Kind.BYTES: isinstance(value, bytes) and len(value) <= MAX_BYTES,
        Kind.DATE: isinstance(value, bytes) and (not value or _date(value)),
        Kind.MECHANISMS: isinstance(value, tuple) and len(value) <= MAX_MECHANISMS,
        Kind.TEMPLATE: isinstance(value, Mapping) and len(value) <= MAX_ATTRIBUTES,
    }
    if not fits[kind]:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)


def _date(value: bytes) -> bool:
    return len(value) == 8 and value.isdigit()
