"""The host's store: sealed blobs in SQLite or PostgreSQL, and a counter in a file.

It is the administrator's to keep and to back up; it can't be read or changed without the enclave's
noticing. A change is one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    delete,
    insert,
    select,
)

from secgear.middleware.attestation.service.schema import Layout
from secgear.middleware.attestation.service.store import Store as Database
from secgear.middleware.attestation.service.store import open_store
from secgear.middleware.sealing import FileCounter

_PIECE: Final = 4 << 20  # bytes of objects that are handed to the enclave at once
_BATCH: Final = 1000
_TABLES: Final = MetaData()

_head = Table(
    "crypto_head",
    _TABLES,
    Column("one", Integer, primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
)
_objects = Table(
    "crypto_objects",
    _TABLES,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("slot", Integer, nullable=False),
    Column("blob", LargeBinary, nullable=False),
)
_audit = Table(
    "crypto_audit",
    _TABLES,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    Column("signature", LargeBinary, nullable=False),
)
LAYOUT: Final = Layout("crypto", 1, _TABLES)

ObjectRow = tuple[int, int, bytes]
AuditRow = tuple[int, bytes, bytes, bytes]


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

    def rows(self, after: int) -> list[ObjectRow]:
        """Objects with ids above `after`, as many as fit into one piece."""
        query = select(_objects).where(_objects.c.id > after).order_by(_objects.c.id)
        found: list[ObjectRow] = []
        size = 0
        with self._database.reading() as connection:
            for row in connection.execute(query.limit(_BATCH)):
                found.append((row.id, row.slot, row.blob))
                size += len(row.blob)
                if size >= _PIECE:
                    break
        return found

    def commit(
        self, head: bytes, put: list[ObjectRow], gone: list[int], records: list[AuditRow]
    ) -> None:
        """Make a change durable: all of it or nothing."""
        with self._database.writing(serial=True) as connection:
            connection.execute(delete(_head))
            connection.execute(insert(_head).values(one=1, sealed=head))
            for start in range(0, len(gone), _BATCH):
                some = gone[start : start + _BATCH]
                connection.execute(delete(_objects).where(_objects.c.id.in_(some)))
            for id, slot, blob in put:
                connection.execute(delete(_objects).where(_objects.c.id == id))
                connection.execute(insert(_objects).values(id=id, slot=slot, blob=blob))
            for seq, body, digest, signature in records:
                connection.execute(
                    insert(_audit).values(seq=seq, body=body, hash=digest, signature=signature)
                )

    def counter_read(self) -> tuple[int, bytes]:
        """See `Counter.read`."""
        return self._counter.read()

    def counter_advance(self, value: int, mark: bytes) -> tuple[int, bytes]:
        """See `Counter.advance`."""
        return self._counter.advance(value, mark)

    def trail(self) -> Iterator[list[AuditRow]]:
        """The audit trail from its beginning, in batches."""
        after = 0
        while True:
            query = select(_audit).where(_audit.c.seq > after).order_by(_audit.c.seq).limit(_BATCH)
            with self._database.reading() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            yield [(row.seq, row.body, row.hash, row.signature) for row in rows]
            after = rows[-1].seq
