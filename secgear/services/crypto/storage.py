"""The host's store: sealed blobs in SQLite or PostgreSQL, and a counter in a file.

It is the administrator's to keep and to back up; it can't be read or changed without the enclave's
noticing. A change is one transaction, and takes the place of one state: of several enclaves that
change the same state, one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)

from secgear.errors import CryptoModuleError
from secgear.middleware.attestation.service.schema import Layout
from secgear.middleware.attestation.service.store import Store as Database
from secgear.middleware.attestation.service.store import open_store
from secgear.middleware.sealing import FileCounter

_PIECE: Final = 4 << 20  # bytes of objects that are handed to the enclave at once
_BATCH: Final = 1000
_REMOVED: Final = 100_000  # ids of removed objects that are told at once
_KEPT: Final = 10_000
"""Changes for which is known what they removed; who is further behind reads everything."""
_TABLES: Final = MetaData()

_head = Table(
    "crypto_head",
    _TABLES,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)
_objects = Table(
    "crypto_objects",
    _TABLES,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("slot", Integer, nullable=False),
    Column("blob", LargeBinary, nullable=False),
    Column("epoch", BigInteger, nullable=False, index=True),  # of its last change
)
_gone = Table(
    "crypto_gone",
    _TABLES,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("epoch", BigInteger, nullable=False, index=True),
)
_members = Table(
    "crypto_members",
    _TABLES,
    Column("id", LargeBinary(16), primary_key=True),
    Column("credential", LargeBinary, nullable=False),  # sealed by the member's platform
    Column("grant", LargeBinary, nullable=False),  # the domain key, encrypted to the member
)
_audit = Table(
    "crypto_audit",
    _TABLES,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Column("signature", LargeBinary, nullable=False),
)
LAYOUT: Final = Layout("crypto", 2, _TABLES)

ObjectRow = tuple[int, int, bytes]
AuditRow = tuple[int, bytes, bytes, bytes]
MemberRow = tuple[bytes, bytes, bytes]


@final
class Storage:
    """What the host keeps for one module.

    url: of the database. counter: file of the counter, which belongs elsewhere than the database:
    who restores both from one backup has undone what it protects from.
    Raises ServiceError for a database that can't be used.
    """

    def __init__(self, url: str, counter: Path) -> None:
        self._database: Database = open_store(url, LAYOUT)
        self._counter = FileCounter(counter, identity=b"secgear crypto host")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def head(self) -> bytes:
        """The sealed head, b"" where there is none."""
        with self._database.reading() as connection:
            return connection.execute(select(_head.c.sealed)).scalar() or b""

    def epoch(self) -> int:
        """How far the store is; 0 where there is no module."""
        with self._database.reading() as connection:
            return connection.execute(select(_head.c.epoch)).scalar() or 0

    def rows(self, after: int) -> list[ObjectRow]:
        """Objects with ids above `after`, as many as fit into one piece."""
        query = select(_objects).where(_objects.c.id > after).order_by(_objects.c.id)
        with self._database.reading() as connection:
            return _piece(connection.execute(query.limit(_BATCH)))

    def since(self, epoch: int) -> tuple[bytes, list[ObjectRow], list[int], bool]:
        """Head, objects that were put after that epoch, ids of those removed, whether that is all.

        All of it as it is at one moment.
        """
        with self._database.reading() as connection:
            now, sealed = connection.execute(select(_head.c.epoch, _head.c.sealed)).one()
            if now == epoch:
                return sealed, [], [], True
            changed = select(_objects).where(_objects.c.epoch > epoch).limit(_BATCH + 1)
            rows = _piece(connection.execute(changed))
            count = select(func.count()).select_from(_objects).where(_objects.c.epoch > epoch)
            removed = select(_gone.c.id).where(_gone.c.epoch > epoch).limit(_REMOVED + 1)
            gone = list(connection.execute(removed).scalars())
            whole = (
                now - epoch <= _KEPT
                and len(gone) <= _REMOVED
                and len(rows) == connection.execute(count).scalar()
            )
        return (sealed, rows, gone, True) if whole else (sealed, [], [], False)

    def members(self) -> list[MemberRow]:
        """Id, credential and grant of each."""
        with self._database.reading() as connection:
            rows = connection.execute(select(_members)).all()
        return [(row.id, row.credential, row.grant) for row in rows]

    def commit(
        self,
        epoch: int,
        head: bytes,
        *,
        put: list[ObjectRow],
        gone: list[int],
        records: list[AuditRow],
        members: list[MemberRow],
        expelled: list[bytes],
    ) -> bool:
        """Make a change durable: all of it, if the store is at the epoch before; or nothing."""
        with self._database.writing() as connection:
            # Who is second waits here for who is first, and then finds no such epoch.
            this = update(_head).where(_head.c.epoch == epoch - 1)
            if not connection.execute(this.values(epoch=epoch, sealed=head)).rowcount:
                if connection.execute(select(_head.c.epoch)).scalar() is not None:
                    return False
                connection.execute(insert(_head).values(one=1, epoch=epoch, sealed=head))
            self._put(connection, epoch, put, gone)
            for seq, body, digest, signature in records:
                connection.execute(
                    insert(_audit).values(seq=seq, body=body, hash=digest, signature=signature)
                )
            for id, credential, grant in members:
                here = update(_members).where(_members.c.id == id)
                values = {"grant": grant} | ({"credential": credential} if credential else {})
                if not connection.execute(here.values(values)).rowcount:
                    row = {"id": id, "credential": credential, "grant": grant}
                    connection.execute(insert(_members).values(row))
            if expelled:
                connection.execute(delete(_members).where(_members.c.id.in_(expelled)))
        return True

    @staticmethod
    def _put(connection: Connection, epoch: int, put: list[ObjectRow], gone: list[int]) -> None:
        ids = [*gone, *(id for id, _, _ in put)]
        for start in range(0, len(ids), _BATCH):
            some = ids[start : start + _BATCH]
            connection.execute(delete(_objects).where(_objects.c.id.in_(some)))
            # A restoration puts objects in under their numbers, and does it again when interrupted.
            connection.execute(delete(_gone).where(_gone.c.id.in_(some)))
        if put:
            rows = [
                {"id": id, "slot": slot, "blob": blob, "epoch": epoch} for id, slot, blob in put
            ]
            connection.execute(insert(_objects), rows)
        if gone:
            connection.execute(insert(_gone), [{"id": id, "epoch": epoch} for id in gone])
            connection.execute(delete(_gone).where(_gone.c.epoch < epoch - _KEPT))

    def keep_credential(self, id: bytes, credential: bytes) -> None:
        """What a new member's platform has sealed."""
        with self._database.writing() as connection:
            here = update(_members).where(_members.c.id == id)
            if not connection.execute(here.values(credential=credential)).rowcount:
                raise CryptoModuleError("the module has not admitted this member")

    def erase(self) -> None:
        """Remove a module whose founding did not come to its end."""
        with self._database.writing() as connection:
            for table in _TABLES.sorted_tables:
                connection.execute(delete(table))

    def counter_read(self) -> tuple[int, bytes]:
        """See `Counter.read`."""
        return self._counter.read()

    def counter_advance(self, value: int, mark: bytes) -> tuple[int, bytes]:
        """See `Counter.advance`."""
        return self._counter.advance(value, mark)

    def trail(self) -> Iterator[list[AuditRow]]:
        """The audit trail from its beginning, in batches."""
        after = 0
        while rows := self.trail_after(after):
            yield rows
            after = rows[-1][0]

    def trail_after(self, after: int) -> list[AuditRow]:
        """Some of its records behind a number."""
        query = select(_audit).where(_audit.c.seq > after).order_by(_audit.c.seq).limit(_BATCH)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [(row.seq, row.body, row.hash, row.signature) for row in rows]


def _piece(rows: Iterable[Any]) -> list[ObjectRow]:
    """As many as are handed to the enclave at once."""
    found: list[ObjectRow] = []
    size = 0
    for row in rows:
        found.append((row.id, row.slot, row.blob))
        size += len(row.blob)
        if size >= _PIECE or len(found) == _BATCH:
            break
    return found
