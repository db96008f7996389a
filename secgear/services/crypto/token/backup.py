"""A backup in the making: a snapshot of everything, record by record, for one backup operator.

The key lives here alone, for as long as it takes. What is written is of one moment, that of the
change in which the request was used up, however long it takes to fetch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Final, final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles import custody
from secgear.services.crypto.roles.archive import Manifest, Seal, SealedShare, digest_of
from secgear.services.crypto.roles.operations import MakeBackup
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.governing import decided
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.objects import Object, pack
from secgear.services.crypto.token.roles import Roles
from secgear.services.crypto.token.splitting import split
from secgear.services.crypto.token.state import Head, TokenState

_PIECE: Final = 1 << 20  # bytes of objects in a record


class Contents(msgspec.Struct, frozen=True):
    """The first record: all but the objects. objects: how many follow."""

    tokens: tuple[TokenState, ...]
    roles: Roles
    next_id: int
    objects: int


@final
class Backup:
    """Gives a backup's records in their order, and then the signature."""

    def __init__(
        self, head: Head, objects: list[tuple[int, Object]], made: MakeBackup, at: int
    ) -> None:
        key, id = os.urandom(custody.KEY_SIZE), os.urandom(16)
        signer = Ed25519PrivateKey.from_private_bytes(head.audit_key)
        shares = split(key, id, threshold=made.threshold, count=len(made.custodians))
        self.manifest = Manifest(
            id=id.hex(),
            module=head.roles.module.hex(),
            made_at=at,
            audit_key=signer.public_key().public_bytes_raw().hex(),
            audit_seq=head.audit_seq,
            audit_hash=head.audit_hash.hex(),
            threshold=made.threshold,
            shares=tuple(
                SealedShare(
                    one.name,
                    hashlib.sha256(one.raw).hexdigest(),
                    custody.seal_share(share, one.raw, one.name),
                )
                for one, share in zip(made.custodians, shares, strict=True)
            ),
        ).to_bytes()
        self._pieces = _pieces(Seal(key, self.manifest), signer, _plain(head, objects))
        self._next = 0

    def __repr__(self) -> str:
        return "<Backup>"

    @property
    def digest(self) -> str:
        """Names it."""
        return digest_of(self.manifest).hex()

    def piece(self, number: int) -> bytes:
        """The next record, at last the signature, and b"" behind that. Raises CryptoRefused."""
        if number != self._next:
            raise CryptoRefused(f"the next piece of the backup is {self._next}")
        self._next += 1
        return next(self._pieces, b"")


def begin(app: Application, request: bytes, approvals: bytes) -> bytes:
    """Begin a backup, which `app` may fetch then. Returns its manifest. Raises CryptoRefused."""

    def take(draft: Draft) -> Backup:
        done = decided(app, draft, request, approvals)
        if not isinstance(done.operation, MakeBackup):
            raise CryptoRefused("the request is for no backup")
        tables = enumerate(app.module.vault.tables)
        objects = [(slot, item) for slot, table in tables for item in table.all()]
        made = Backup(draft.head, objects, done.operation, int(app.module.vault.now().timestamp()))
        detail: dict[str, str | int | bool] = {"backup": made.digest, "objects": len(objects)}
        draft.record(Event("backup made", app.actor, None, detail))
        return made

    app.badge.backup = app.module.vault.transact(take, first=True)
    return app.badge.backup.manifest


def _plain(head: Head, objects: list[tuple[int, Object]]) -> Iterator[tuple[bytes, bool]]:
    """What the records hold, and whether it is the last."""
    roles = msgspec.structs.replace(head.roles, requests=())
    yield _encode(Contents(head.tokens, roles, head.next_id, len(objects))), not objects
    waiting: list[tuple[int, bytes]] = []
    size = 0
    for at, (slot, item) in enumerate(objects, 1):
        packed = pack(item)
        waiting.append((slot, packed))
        size += len(packed)
        if size >= _PIECE or at == len(objects):
            yield _encode(waiting), at == len(objects)
            waiting, size = [], 0


def _pieces(
    seal: Seal, signer: Ed25519PrivateKey, plain: Iterator[tuple[bytes, bool]]
) -> Iterator[bytes]:
    for data, last in plain:
        yield seal.record(data, last=last)
    yield signer.sign(seal.to_be_signed())


_encode = msgspec.msgpack.Encoder().encode
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
CONTENTS: Final = msgspec.msgpack.Decoder(Contents)
OBJECTS: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes]])
