"""What a module says about a key or about itself: for everybody, inside the enclave and out.

A statement is a CBOR map in deterministic encoding; anything else is refused. About a key pair it
is an extension of a certificate, about a secret key or the module the payload of a COSE_Sign1
(RFC 9052). Whoever reads one has verified nothing yet: `secgear.services.crypto.attestation` does.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import cbor2
import msgspec
from cryptography import x509

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import cbor
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.services.crypto.pkcs11.constants import Attr, ObjectClass

KEY_STATEMENT: Final = x509.ObjectIdentifier("2.25.18518097939175670395856512041432299602.1")
"""The extension. The arc is a UUID's (ITU-T X.667), which nobody has to register."""
KEY_TYPE: Final = "application/secgear-key-statement+cbor"
MODULE_TYPE: Final = "application/secgear-module-statement+cbor"
CONTENT_TYPE: Final = 3
"""COSE header parameter; says which of the two a message holds."""

ATTESTS: Final = "secgear-attests"
"""Claim in the certificate of an attestation key: no key that is for other things signs these."""
ATTESTS_KEYS: Final = b"keys"

MAX_SIZE: Final = 16 << 10  # bytes of one statement
MAX_TEXT: Final = 1024  # bytes of a label or an id
MIN_NONCE, MAX_NONCE = 8, 64  # bytes
_MODULE_ID = 32  # bytes, the module's audit key
_VERSION = 1

FLAGS: Final = {
    attr.name.lower(): attr
    for attr in (
        Attr.SENSITIVE, Attr.ALWAYS_SENSITIVE, Attr.EXTRACTABLE, Attr.NEVER_EXTRACTABLE,
        Attr.ENCRYPT, Attr.DECRYPT, Attr.SIGN, Attr.SIGN_RECOVER, Attr.VERIFY,
        Attr.VERIFY_RECOVER, Attr.WRAP, Attr.UNWRAP, Attr.DERIVE, Attr.ENCAPSULATE,
        Attr.DECAPSULATE, Attr.WRAP_WITH_TRUSTED, Attr.TRUSTED, Attr.ALWAYS_AUTHENTICATE,
        Attr.TOKEN, Attr.PRIVATE, Attr.MODIFIABLE, Attr.COPYABLE, Attr.DESTROYABLE, Attr.LOCAL,
    )
}  # fmt: skip
"""The attributes that are true or false, by the names that a statement has for them."""


class KeyStatement(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A key's attributes as they were. Only its label, id and mark of trust may become more.

    module: the module's audit key, which names it. token: label; serial: its number. class_, type:
    CKO_ and CKK_. flags: see `FLAGS`; those that are true, sorted. generated_by: CKM_ of a key that
    was made on the token, None for any other. envelope: of the envelope it came in, if it did.
    mechanisms: CKA_ALLOWED_MECHANISMS, empty for all. size: bytes of a secret key. check_value: of
    a secret key that was generated here. nonce: the verifier's, empty for none. at: when, in
    seconds since 1970, by the clock of the module's host.
    """

    version: int = msgspec.field(name="secgear-key-statement")
    module: bytes
    token: str
    serial: str
    class_: int = msgspec.field(name="class")
    type: int
    label: bytes = b""
    id: bytes = b""
    flags: tuple[str, ...] = ()
    generated_by: int | None = None
    envelope: bytes = b""
    mechanisms: tuple[int, ...] = ()
    size: int | None = None
    check_value: bytes = b""
    nonce: bytes = b""
    at: int

    def __post_init__(self) -> None:
        """Raise EvidenceMalformed unless every field can be what it says."""
        _check(self.version == _VERSION, f"version {self.version}")
        _check(len(self.module) == _MODULE_ID, "no module")
        _check(self.class_ in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY), "no key")
        _check(max(len(self.label), len(self.id)) <= MAX_TEXT, "a label or id that is too long")
        _check(list(self.flags) == sorted(set(self.flags) & FLAGS.keys()), "flags in disorder")
        _check(("local" in self.flags) == (self.generated_by is not None), "an origin of no sense")
        _check(not self.envelope or self.generated_by is None, "an origin of no sense")
        _check(not self.nonce or MIN_NONCE <= len(self.nonce) <= MAX_NONCE, "a nonce of no sense")

    @property
    def origin(self) -> str:
        """``generated``; ``envelope``: imported sealed; ``other``: created, unwrapped, derived."""
        if self.generated_by is not None:
            return "generated"
        return "envelope" if self.envelope else "other"

    def to_cbor(self) -> bytes:
        """The statement's bytes."""
        return _written(self)

    @classmethod
    def from_cbor(cls, data: bytes) -> KeyStatement:
        """Read one. Raises EvidenceMalformed unless it is one in deterministic encoding."""
        return _read(data, cls, "key statement")


class TokenStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One token. initialised: whether it has a security officer."""

    slot: int
    serial: str
    label: str
    initialised: bool


class ModuleStatement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A module, its tokens, and how far its audit trail has come. Fields as in `KeyStatement`."""

    version: int = msgspec.field(name="secgear-module-statement")
    module: bytes
    tokens: tuple[TokenStatement, ...]
    audit_seq: int
    audit_hash: bytes
    nonce: bytes = b""
    at: int

    def __post_init__(self) -> None:
        """Raise EvidenceMalformed unless every field can be what it says."""
        _check(self.version == _VERSION, f"version {self.version}")
        _check(len(self.module) == _MODULE_ID and len(self.audit_hash) == 32, "no module")
        _check(not self.nonce or MIN_NONCE <= len(self.nonce) <= MAX_NONCE, "a nonce of no sense")

    def to_cbor(self) -> bytes:
        """The statement's bytes."""
        return _written(self)

    @classmethod
    def from_cbor(cls, data: bytes) -> ModuleStatement:
        """Read one. Raises EvidenceMalformed unless it is one in deterministic encoding."""
        return _read(data, cls, "module statement")


_Statement = TypeVar("_Statement", KeyStatement, ModuleStatement)


def _written(statement: KeyStatement | ModuleStatement) -> bytes:
    content: Any = msgspec.to_builtins(statement, builtin_types=(bytes,))
    return cbor2.dumps(content, canonical=True)


def _read(data: bytes, kind: type[_Statement], what: str) -> _Statement:
    content = cbor.decode(data, what, max_size=MAX_SIZE, max_depth=4)
    try:
        read = msgspec.convert(content, kind, builtin_types=(bytes,))
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: {what}: {error}") from None
    if read.to_cbor() != data:
        raise EvidenceMalformed(f"format: {what}: not in deterministic encoding")
    return read


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise EvidenceMalformed(f"format: a statement with {what}")


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = [msgspec.json.Decoder(kind) for kind in (KeyStatement, ModuleStatement)]
