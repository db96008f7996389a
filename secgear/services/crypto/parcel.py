"""A key on its way into a module: what a data owner seals, and what the enclave finds inside.

A parcel is a CBOR map in deterministic encoding, in an envelope (docs/envelopes.md) for the import
key of one token. That key's purpose names module and token, and the enclave's evidence covers it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import cbor2
import msgspec

from secgear.errors import EnvelopeMalformed, EvidenceMalformed
from secgear.middleware.attestation import cbor
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.services.crypto.pkcs11.values import MAX_ATTRIBUTES, Template, Value

MAX_SIZE: Final = 64 << 10  # bytes of a parcel
MAX_ENVELOPE: Final = MAX_SIZE + (8 << 10)  # bytes of the envelope around it
_VERSION = 1
_DEPTH = 4  # the parcel, a template, one nested in it, an array
_PURPOSE = re.compile(r"secgear crypto import ([0-9a-f]{64}) ([!-~]{1,16}) ([0-9]{1,19})")


class Destination(NamedTuple):
    """Where a parcel may go. module: its audit key, 32 bytes. serial: the token's.

    generation: of the token; it is another one once the token was begun anew, or restored.
    """

    module: bytes
    serial: str
    generation: int

    @property
    def purpose(self) -> str:
        """The purpose of the import key."""
        return f"secgear crypto import {self.module.hex()} {self.serial} {self.generation}"

    @classmethod
    def of_purpose(cls, purpose: str) -> Destination:
        """The other way round. Raises EnvelopeMalformed for the purpose of another kind of key."""
        match = _PURPOSE.fullmatch(purpose)
        if match is None:
            raise EnvelopeMalformed("the enclave's key is not for the import of keys")
        return cls(bytes.fromhex(match[1]), match[2], int(match[3]))


class Parcel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. Its `repr` shows nothing of it.

    pkcs8: PrivateKeyInfo in DER; empty where the key is in `template`, as C_CreateObject takes it.
    template: attributes that the private or secret key shall have. public: those of the public
    key's object; None for no such object.
    """

    version: int = msgspec.field(name="secgear-key-parcel", default=_VERSION)
    pkcs8: bytes = b""
    template: dict[int, Any]
    public: dict[int, Any] | None = None

    def __repr__(self) -> str:
        return "Parcel(…)"

    def __post_init__(self) -> None:
        """Raise EnvelopeMalformed for what can be no parcel."""
        if self.version != _VERSION:
            raise EnvelopeMalformed(f"a key parcel of version {self.version}")
        if max(len(self.template), len(self.public or ())) > MAX_ATTRIBUTES:
            raise EnvelopeMalformed("a key parcel with too many attributes")

    def to_cbor(self) -> bytes:
        """The parcel's bytes; they are secret."""
        content = {
            "secgear-key-parcel": self.version,
            "pkcs8": self.pkcs8,
            "template": _written(self.template),
            "public": None if self.public is None else _written(self.public),
        }
        return cbor2.dumps(content, canonical=True)

    @classmethod
    def from_cbor(cls, data: bytes) -> Parcel:
        """Read one. Raises EnvelopeMalformed; no message has bytes of `data` in it."""
        try:
            content = cbor.decode(data, "key parcel", max_size=MAX_SIZE, max_depth=_DEPTH)
            read = msgspec.convert(content, cls, builtin_types=(bytes,))
            parcel = msgspec.structs.replace(
                read,
                template=_template(read.template),
                public=None if read.public is None else _template(read.public),
            )
        except (EvidenceMalformed, *UNREADABLE):
            raise EnvelopeMalformed("the envelope holds no key parcel") from None
        if parcel.to_cbor() != data:
            raise EnvelopeMalformed("a key parcel that is not in deterministic encoding")
        return parcel


def _written(template: Template) -> dict[int, Any]:
    return {
        int(attr): _written(value)
        if isinstance(value, Mapping)
        else list(value)
        if isinstance(value, tuple)
        else value
        for attr, value in template.items()
    }


def _template(content: Mapping[Any, Any]) -> dict[int, Value]:
    """Raises ValueError for keys and values that no template has."""
    template: dict[int, Value] = {}
    for attr, value in content.items():
        if type(attr) is not int:
            raise ValueError("no attribute")
        match value:
            case bool() | int() | bytes():
                template[attr] = value
            case list() | tuple() if all(type(one) is int for one in value):
                template[attr] = tuple(value)
            case Mapping():
                template[attr] = _template(value)
            case _:
                raise ValueError("no attribute's value")
    return template


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = msgspec.json.Decoder(Parcel)
