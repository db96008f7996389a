"""Nonces: given out once, accepted once, by all instances together, and only for a while."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select

from secgear.middleware.attestation.service.schema import nonces
from secgear.middleware.attestation.service.store import Store

SIZE: Final = 32  # bytes


def issue(store: Store, *, now: int, lifetime: int, limit: int) -> bytes | None:
    """A new nonce that is good for `lifetime` seconds, or None if `limit` are outstanding.

    now: seconds since 1970. Expired ones are removed on the way.
    """
    nonce = secrets.token_bytes(SIZE)
    with store.writing() as connection:
        # Rows that another instance is deleting are left to it: waiting could deadlock.
        expired = select(nonces.c.digest).where(nonces.c.expires <= now)
        expired = expired.with_for_update(skip_locked=True)
        connection.execute(delete(nonces).where(nonces.c.digest.in_(expired)))
        outstanding = connection.execute(select(func.count()).select_from(nonces)).scalar_one()
        if outstanding >= limit:
            return None
        connection.execute(insert(nonces).values(digest=_digest(nonce), expires=now + lifetime))
    return nonce


def is_good(connection: Connection, nonce: bytes, *, now: int) -> bool:
    """Whether `consume` would take it now; no promise that it still will later."""
    return connection.execute(select(nonces.c.digest).where(*_good(nonce, now))).first() is not None


def consume(connection: Connection, nonce: bytes, *, now: int) -> bool:
    """Take a nonce out of circulation. True for exactly one caller, and only before it expires.

    Its row goes, so that what is used up does not count as outstanding. That is final when the
    transaction is: do what the nonce is for in the same one.
    """
    return connection.execute(delete(nonces).where(*_good(nonce, now))).rowcount == 1


def _good(nonce: bytes, now: int) -> tuple[ColumnElement[bool], ...]:
    return nonces.c.digest == _digest(nonce), nonces.c.expires > now


def _digest(nonce: bytes) -> bytes:
    return hashlib.sha256(b"secgear nonce v1\0" + nonce).digest()
