"""What the module remembers besides its objects, and how the host is asked to keep it all."""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from secgear.services.crypto.token.roles import Roles


class Pin(msgspec.Struct, frozen=True):
    """A PIN that can be checked: salt and result of scrypt.

    failures: since the last success; one under way counts. tries: all there ever were.
    """

    salt: bytes
    digest: bytes
    failures: int = 0
    tries: int = 0


class Right(enum.IntFlag):
    """What a user with a name may do: work with keys, and make, change and destroy them."""

    USE = 1
    MANAGE = 2


class NamedUser(msgspec.Struct, frozen=True):
    """A user of a token besides the one that PKCS#11 has. rights: `Right`, as a number.

    id: 8 random bytes, so that a later user of the same name is somebody else.
    """

    id: bytes
    name: str
    pin: Pin
    rights: int


class TokenState(msgspec.Struct, frozen=True):
    """A slot's token. label: 32 characters, padded. so: None until it is initialised.

    generation: how often it was. Sessions and logins are of one generation and end with it, in
    whichever enclave they are. record_uses: whether uses of its keys are in the audit trail.
    """

    serial: str
    label: str = ""
    so: Pin | None = None
    user: Pin | None = None
    generation: int = 0
    users: tuple[NamedUser, ...] = ()
    record_uses: bool = False


class Member(msgspec.Struct, frozen=True):
    """A platform whose enclaves may open the module. public: domain keys are encrypted to it.

    id: 16 bytes, of `public`. tee, measurement: what its evidence said when it was admitted.
    """

    id: bytes
    public: bytes
    tee: str
    measurement: bytes


class Root(msgspec.Struct, frozen=True):
    """A trust anchor for members' evidence besides those that come with secGear, as PEM.

    subject: whose key it is, as `KeyAnchor` has it; empty for a certificate.
    """

    family: str
    name: str
    pem: str
    subject: str = ""


class Founding(msgspec.Struct, frozen=True):
    """What was settled when the module was founded.

    roots: who besides the vendors vouches for members. witness: the public key of the witness that
    keeps the counter, b"" where the host does. seed: secret of that counter.
    """

    roots: tuple[Root, ...] = ()
    witness: bytes = b""
    seed: bytes = b""

    def __repr__(self) -> str:
        return "<Founding>"


class Head(msgspec.Struct, frozen=True):
    """The module's whole state but its objects, which `root` covers. Lies in the store, encrypted.

    domain_key: encrypts objects and head; generation: which one it is, from 1. older: keys before
    it, by their generation, that objects are still encrypted under. audit_key: signs the audit
    trail, whose end is `audit_seq` and `audit_hash`. next_id: of objects, never used twice. epoch:
    the counter's value that this state has. recent: marks of the states before, the last one first.
    svn: the highest version that has written here; older ones do not read on. expelled: ids of
    members that were sent away, who do not come back.
    """

    domain_key: bytes
    audit_key: bytes
    tokens: tuple[TokenState, ...]
    next_id: int = 1
    epoch: int = 0
    root: bytes = b""
    audit_seq: int = 0
    audit_hash: bytes = bytes(32)
    generation: int = 1
    older: tuple[tuple[int, bytes], ...] = ()
    recent: tuple[bytes, ...] = ()
    svn: int = 0
    members: tuple[Member, ...] = ()
    expelled: tuple[bytes, ...] = ()
    founding: Founding = Founding()
    roles: Roles = Roles(b"")

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


class MemberRow(msgspec.Struct, frozen=True):
    """A member as the host keeps it.

    credential: sealed by its platform; b"" in a change leaves what is kept. grant: the domain key,
    encrypted to the member and signed by the module.
    """

    id: bytes
    credential: bytes
    grant: bytes


class Change(msgspec.Struct, frozen=True):
    """What the host is asked to make durable, all of it or nothing.

    epoch: that the store has afterwards, if it is at the one before now. expelled: ids of members.
    """

    epoch: int
    head: bytes
    put: tuple[Row, ...] = ()
    delete: tuple[int, ...] = ()
    records: tuple[Record, ...] = ()
    members: tuple[MemberRow, ...] = ()
    expelled: tuple[bytes, ...] = ()


class News(msgspec.Struct, frozen=True):
    """What has changed in the store after an epoch, all seen at one moment.

    whole: whether rows and gone are all there is; otherwise it is too much, or too long ago.
    """

    head: bytes
    rows: tuple[Row, ...] = ()
    gone: tuple[int, ...] = ()
    whole: bool = True


class Store(Protocol):
    """The host's store. It is believed in nothing; what it raises is a failure of the device."""

    def head(self) -> bytes:
        """The sealed head, b"" where there is none yet."""
        ...

    def rows(self, after: int) -> list[Row]:
        """Some objects with ids above `after`, in their order; none at the end."""
        ...

    def since(self, epoch: int) -> News:
        """What has changed after that epoch."""
        ...

    def members(self) -> list[MemberRow]:
        """All members."""
        ...

    def trail(self, after: int) -> list[Record]:
        """Some records of the audit trail behind a number; none at the end."""
        ...

    def commit(self, change: Change) -> bool:
        """Return once the change is durable: whether the store was at the epoch before it."""
        ...


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
HEADS = msgspec.msgpack.Decoder(Head)
encode = msgspec.msgpack.Encoder().encode
DESCRIBED = [
    msgspec.msgpack.Decoder(kind) for kind in (Change, Row, Record, MemberRow, News, Member, Root)
]
