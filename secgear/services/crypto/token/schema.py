"""Which attributes an object has, who gives them, and how they may change.

One row an attribute; PKCS#11 2.40 base specification, section 4, tables 10 to 29. The footnotes of
these tables are the flags here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from secgear.services.crypto.algorithms.keys import SECRET_ATTRIBUTES
from secgear.services.crypto.pkcs11.constants import Attr, ObjectClass
from secgear.services.crypto.pkcs11.values import Value


class How(enum.Flag):
    """Where an attribute comes from, and what may become of it."""

    CREATE = enum.auto()  # may be given when an object is created from its parts
    MAKE = enum.auto()  # may be given when a key is generated, derived or unwrapped
    CHANGE = enum.auto()  # may be changed later, and in a copy
    UP = enum.auto()  # may be changed to true, never back
    DOWN = enum.auto()  # may be changed to false, never back
    COPY = enum.auto()  # may be changed in a copy only
    SO = enum.auto()  # true only by the security officer


class Rule(msgspec.Struct, frozen=True):
    """One attribute of a class of objects. default: its value where nobody gives one."""

    how: How
    default: Value | None = None


_GIVEN = How.CREATE | How.MAKE
_FREE = _GIVEN | How.CHANGE
_USE = _GIVEN | How.DOWN
"""Usage can be taken from a key. It can't be added: see `Object.wraps_sensitive`."""
_FIXED = How(0)  # the token's to say
Rules = Mapping[int, Rule]


def _storage(*, private: bool) -> dict[int, Rule]:
    return {
        Attr.CLASS: Rule(_GIVEN),
        Attr.TOKEN: Rule(_GIVEN | How.COPY, False),
        Attr.PRIVATE: Rule(_GIVEN | How.COPY, private),
        Attr.MODIFIABLE: Rule(_GIVEN | How.COPY, True),
        Attr.LABEL: Rule(_FREE, b""),
        Attr.COPYABLE: Rule(_GIVEN | How.DOWN, True),
        Attr.DESTROYABLE: Rule(_GIVEN, True),
        Attr.UNIQUE_ID: Rule(_FIXED),
    }


_KEY: Final[Rules] = {
    Attr.KEY_TYPE: Rule(_GIVEN),
    Attr.ID: Rule(_FREE, b""),
    Attr.START_DATE: Rule(_FREE, b""),
    Attr.END_DATE: Rule(_FREE, b""),
    Attr.DERIVE: Rule(_USE, False),
    Attr.LOCAL: Rule(_FIXED, False),
    Attr.KEY_GEN_MECHANISM: Rule(_FIXED),
    Attr.ALLOWED_MECHANISMS: Rule(_GIVEN, ()),
    # Of versions of a named key only; see `secgear.services.crypto.token.versions`.
    Attr.KEY_NAME: Rule(_FIXED),
    Attr.KEY_VERSION: Rule(_FIXED),
    Attr.KEY_STATE: Rule(_FIXED),
    Attr.KEY_CREATED: Rule(_FIXED),
    Attr.KEY_MIN_DECRYPTION: Rule(_FIXED),
    Attr.KEY_MIN_ENCRYPTION: Rule(_FIXED),
    Attr.KEY_DELETABLE: Rule(_FIXED),
}
_SECRECY: Final[Rules] = {
    Attr.SENSITIVE: Rule(_GIVEN | How.UP, True),
    Attr.EXTRACTABLE: Rule(_GIVEN | How.DOWN, False),
    Attr.ALWAYS_SENSITIVE: Rule(_FIXED, False),
    Attr.NEVER_EXTRACTABLE: Rule(_FIXED, False),
    Attr.WRAP_WITH_TRUSTED: Rule(_GIVEN | How.UP, False),
    Attr.UNWRAP_TEMPLATE: Rule(_GIVEN),
    Attr.DERIVE_TEMPLATE: Rule(_GIVEN),
    Attr.ENVELOPE: Rule(_FIXED),
}
_EC: Final[Rules] = {Attr.EC_PARAMS: Rule(_GIVEN)}

_DATA: Final[Rules] = {
    **_storage(private=False),
    Attr.APPLICATION: Rule(_FREE, b""),
    Attr.OBJECT_ID: Rule(_FREE, b""),
    Attr.VALUE: Rule(_FREE, b""),
}
_CERTIFICATE: Final[Rules] = {
    **_storage(private=False),
    Attr.CERTIFICATE_TYPE: Rule(How.CREATE),
    Attr.TRUSTED: Rule(How.CREATE | How.CHANGE | How.SO, False),
    Attr.CERTIFICATE_CATEGORY: Rule(How.CREATE, 0),
    Attr.CHECK_VALUE: Rule(How.CREATE),
    Attr.START_DATE: Rule(How.CREATE | How.CHANGE, b""),
    Attr.END_DATE: Rule(How.CREATE | How.CHANGE, b""),
    Attr.PUBLIC_KEY_INFO: Rule(How.CREATE, b""),
    Attr.SUBJECT: Rule(How.CREATE),
    Attr.ID: Rule(How.CREATE | How.CHANGE, b""),
    Attr.ISSUER: Rule(How.CREATE | How.CHANGE, b""),
    Attr.SERIAL_NUMBER: Rule(How.CREATE | How.CHANGE, b""),
    Attr.VALUE: Rule(How.CREATE, b""),
    Attr.URL: Rule(How.CREATE, b""),
    Attr.HASH_OF_SUBJECT_PUBLIC_KEY: Rule(How.CREATE, b""),
    Attr.HASH_OF_ISSUER_PUBLIC_KEY: Rule(How.CREATE, b""),
    Attr.JAVA_MIDP_SECURITY_DOMAIN: Rule(How.CREATE, 0),
    Attr.NAME_HASH_ALGORITHM: Rule(How.CREATE, 0x220),
}
_PUBLIC: Final[Rules] = {
    **_storage(private=False),
    **_KEY,
    **_EC,
    Attr.SUBJECT: Rule(_FREE, b""),
    Attr.ENCRYPT: Rule(_USE, False),
    Attr.VERIFY: Rule(_USE, False),
    Attr.VERIFY_RECOVER: Rule(_USE, False),
    Attr.WRAP: Rule(_USE, False),
    Attr.ENCAPSULATE: Rule(_USE, False),
    Attr.TRUSTED: Rule(_FREE | How.SO, False),
    Attr.WRAP_TEMPLATE: Rule(_GIVEN),
    Attr.PUBLIC_KEY_INFO: Rule(How.CREATE),
    Attr.MODULUS: Rule(How.CREATE),
    Attr.MODULUS_BITS: Rule(How.MAKE),
    Attr.PUBLIC_EXPONENT: Rule(_GIVEN),
    Attr.EC_POINT: Rule(How.CREATE),
    Attr.PARAMETER_SET: Rule(_GIVEN),
    Attr.VALUE: Rule(How.CREATE),
}
_PRIVATE: Final[Rules] = {
    **_storage(private=True),
    **_KEY,
    **_EC,
    **_SECRECY,
    Attr.SUBJECT: Rule(_FREE, b""),
    Attr.DECRYPT: Rule(_USE, False),
    Attr.SIGN: Rule(_USE, False),
    Attr.SIGN_RECOVER: Rule(_USE, False),
    Attr.UNWRAP: Rule(_USE, False),
    Attr.DECAPSULATE: Rule(_USE, False),
    Attr.ALWAYS_AUTHENTICATE: Rule(_GIVEN, False),
    Attr.PUBLIC_KEY_INFO: Rule(_FIXED),
    Attr.MODULUS: Rule(How.CREATE),
    Attr.PUBLIC_EXPONENT: Rule(How.CREATE),
    Attr.PARAMETER_SET: Rule(How.CREATE),
    **{attr: Rule(How.CREATE) for attr in SECRET_ATTRIBUTES},
}
_SECRET: Final[Rules] = {
    **_storage(private=True),
    **_KEY,
    **_SECRECY,
    Attr.ENCRYPT: Rule(_USE, False),
    Attr.DECRYPT: Rule(_USE, False),
    Attr.SIGN: Rule(_USE, False),
    Attr.VERIFY: Rule(_USE, False),
    Attr.WRAP: Rule(_USE, False),
    Attr.UNWRAP: Rule(_USE, False),
    Attr.TRUSTED: Rule(_FREE | How.SO, False),
    Attr.WRAP_TEMPLATE: Rule(_GIVEN),
    Attr.CHECK_VALUE: Rule(_GIVEN),
    Attr.VALUE: Rule(How.CREATE),
    Attr.VALUE_LEN: Rule(How.MAKE),
    Attr.SM2_CONFIRMATION: Rule(_FIXED),
    Attr.SM2_PEER_CONFIRMATION: Rule(_FIXED),
    Attr.ENVELOPES_TAKEN: Rule(_FIXED),
}

RULES: Final[Mapping[int, Rules]] = {
    int(ObjectClass.DATA): _DATA,
    int(ObjectClass.CERTIFICATE): _CERTIFICATE,
    int(ObjectClass.PUBLIC_KEY): _PUBLIC,
    int(ObjectClass.PRIVATE_KEY): _PRIVATE,
    int(ObjectClass.SECRET_KEY): _SECRET,
}
KEYS: Final = (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY)
SECRETS: Final = (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY)
