"""What the module remembers besides its objects, and how the host is asked to keep it all."""

from __future__ import annotations

from typing import Protocol

import msgspec


class Pin(msgspec.Struct, frozen=True):
    """A PIN that can be checked: salt and result of scrypt. failures: since the last success."""

    salt: bytes
    digest: bytes
    failures: int = 0


class TokenState(msgspec.Struct, frozen=True):
    """A slot's token. label: 32 characters, padded. so: None until it is initialised."""

    serial: str
    label: str = ""
    so: Pin | None = None
    user: Pin | None = None


class Head(msgspec.Struct, frozen=True):
    """The module's whole state but its objects, which `root` covers. Lies in the store, sealed.

    domain_key: encrypts the objects. audit_key: signs the audit trail, whose end is `audit_seq` and
    `audit_hash`. next_id: of objects, never used twice. epoch: number of changes so far.
    """

    domain_key: bytes
    audit_key: bytes
    tokens: tuple[TokenState, ...]
    next_id: int = 1
    epoch: int = 0
    root: bytes = b""
    audit_seq: int = 0
    audit_hash: bytes = bytes(32)

    def __repr__(self) -> str:
        return f"<Head at {self.epoch}>"


class Row(msgspec.Struct, frozen=True):
    """An object as the host keeps it. blob: encrypted, with its attributes, for id and slot."""

    id: int
    slot: int
    blob: bytes


class Record(msgspec.Struct, frozen=True):
    """A record of the audit trail as the host keeps it.

    body: JSON. signature: of its hash, on the last record of each change, b"" on the others.
    """

    seq: int
    body: bytes
    hash: bytes
    signature: bytes


class Change(msgspec.Struct, frozen=True):
    """What the host is asked to make durable, all of it or nothing."""

    head: bytes
    put: tuple[Row, ...] = ()
    delete: tuple[int, ...] = ()
    records: tuple[Record, ...] = ()


class Store(Protocol):
    """The host's store. It is believed in nothing; what it raises is a failure of the device."""

    def head(self) -> bytes:
        """The sealed head, b"" where there is none yet."""
        ...

    def rows(self, after: int) -> list[Row]:
        """Some objects with ids above `after`, in their order; none at the end."""
        ...

    def commit(self, change: Change) -> None:
        """Return once the change is durable."""
        ...


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
HEADS = msgspec.msgpack.Decoder(Head)
encode = msgspec.msgpack.Encoder().encode
DESCRIBED = [msgspec.msgpack.Decoder(kind) for kind in (Change, Row, Record)]
