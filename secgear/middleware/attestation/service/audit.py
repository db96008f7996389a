"""The audit trail: an append-only table in which each record's hash covers the one before.

A record is written in the transaction of what it tells about, so that neither is there without the
other. Who can write to the database can still cut off the end or rewrite all of it: keep the newest
`Head` elsewhere from time to time, and compare.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, insert, select

from secgear.errors import ServiceError
from secgear.middleware.attestation.service.schema import audit

MAX_DETAIL: Final = 16 << 10  # bytes of a record's JSON
_LABEL: Final = b"secgear audit v1\0"
_BEGINNING: Final = bytes(32)
_BATCH: Final = 1000


class Record(msgspec.Struct, frozen=True):
    """One entry. seq counts from 1 without gaps; hash is hexadecimal.

    actor: name of the administrator, or the address of a client. detail: no secrets, ever.
    """

    seq: int
    at: str
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    hash: str


class Head(msgspec.Struct, frozen=True):
    """The end of the trail: number of records, and the hash that covers all of them."""

    seq: int
    hash: str


def append(
    connection: Connection,
    *,
    at: datetime.datetime,
    actor: str,
    action: str,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> Head:
    """Add a record. The transaction must be a serial one (`Store.writing`)."""
    seq, previous = _last(connection)
    record: dict[str, Any] = {
        "seq": seq + 1,
        "at": at.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
        "actor": actor[:160],
        "action": action,
        "subject": subject[:160],
        "detail": msgspec.json.encode(detail or {}, order="deterministic").decode(),
    }
    if len(record["detail"]) > MAX_DETAIL:
        raise ValueError(f"an audit record of {len(record['detail'])} characters")
    digest = _hash(previous, record)
    connection.execute(insert(audit).values(**record, previous=previous, hash=digest))
    return Head(seq + 1, digest.hex())


def read(connection: Connection, *, after: int = 0, limit: int = 100) -> list[Record]:
    """At most `limit` records that follow number `after`, oldest first."""
    rows = connection.execute(
        select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit)
    ).mappings()
    return [
        Record(
            row["seq"],
            row["at"],
            row["actor"],
            row["action"],
            row["subject"],
            msgspec.json.decode(row["detail"]),
            row["hash"].hex(),
        )
        for row in rows
    ]


def head(connection: Connection) -> Head:
    """The end of the trail; seq 0 if it is empty."""
    seq, digest = _last(connection)
    return Head(seq, digest.hex())


def check(connection: Connection) -> Head:
    """Compute the whole chain anew. Raises ServiceError at the first record that was tampered with.

    Returns the end of the trail: compare with a copy that you keep elsewhere.
    """
    seq, previous = 0, _BEGINNING
    while True:
        rows = connection.execute(
            select(audit).where(audit.c.seq > seq).order_by(audit.c.seq).limit(_BATCH)
        ).mappings()
        batch = [dict(row) for row in rows]
        if not batch:
            return Head(seq, previous.hex())
        for row in batch:
            seq += 1
            claimed, before = row.pop("hash"), row.pop("previous")
            if row["seq"] != seq or not (
                hmac.compare_digest(before, previous)
                and hmac.compare_digest(claimed, _hash(previous, row))
            ):
                raise ServiceError(f"audit: record {seq} is missing or was changed")
            previous = claimed


def _last(connection: Connection) -> tuple[int, bytes]:
    row = connection.execute(
        select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
    ).first()
    return (row.seq, row.hash) if row else (0, _BEGINNING)


def _hash(previous: bytes, record: Mapping[str, Any]) -> bytes:
    fields = ("seq", "at", "actor", "action", "subject", "detail")
    text = msgspec.json.encode([record[name] for name in fields])
    return hashlib.sha256(_LABEL + previous + text).digest()
