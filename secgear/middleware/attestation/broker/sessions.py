"""Sessions of the KBS protocol, in the database that all instances share.

A session begins with a challenge, is attested at most once, and ends when its time is over. Its
identifier is 32 random bytes, of which the database has the digest only.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from secgear.base.tee import Evidence
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.broker.layout import kbs_sessions as table
from secgear.middleware.attestation.service.store import Store

LIFETIME: Final = 300  # seconds from challenge to end
MAX_SESSIONS: Final = 16_384  # at a time, of all instances
_CHALLENGED: Final = "challenged"
_ATTESTED: Final = "attested"


class Session(msgspec.Struct, frozen=True):
    """What is known of a client. The last three are None until it is attested.

    key: JWK that the evidence vouches for. report_data: what the evidence carries.
    """

    digest: bytes
    tee: str
    algorithm: str
    nonce: str
    expires: int
    key: Mapping[str, str] | None = None
    evidence: Evidence | None = None
    report_data: bytes | None = None


def begin(store: Store, *, tee: str, algorithm: str, nonce: str, now: int) -> str | None:
    """A new session's identifier, or None if there are too many. now: seconds since 1970."""
    identifier = secrets.token_urlsafe(32)
    with store.writing() as connection:
        # Rows that another instance is deleting are left to it: waiting could deadlock.
        expired = select(table.c.digest).where(table.c.expires <= now)
        expired = expired.with_for_update(skip_locked=True)
        connection.execute(delete(table).where(table.c.digest.in_(expired)))
        count = connection.execute(select(func.count()).select_from(table)).scalar_one()
        if count >= MAX_SESSIONS:
            return None
        connection.execute(
            insert(table).values(
                digest=_digest(identifier),
                expires=now + LIFETIME,
                state=_CHALLENGED,
                tee=tee,
                algorithm=algorithm,
                nonce=nonce,
            )
        )
    return identifier


def challenged(connection: Connection, identifier: str, *, now: int) -> Session | None:
    """The session that waits for evidence, or None."""
    return _find(connection, _digest(identifier), _CHALLENGED, now)


def attested(connection: Connection, identifier: str, *, now: int) -> Session | None:
    """The session that is attested, or None."""
    return _find(connection, _digest(identifier), _ATTESTED, now)


def attest(
    connection: Connection,
    session: Session,
    *,
    key: Mapping[str, str],
    evidence: Evidence,
    report_data: bytes,
    now: int,
) -> bool:
    """Make a challenged session an attested one. True for exactly one caller."""
    values = {
        "state": _ATTESTED,
        "key": msgspec.json.encode(key).decode(),
        "evidence": envelope.to_cbor(evidence),
        "report_data": report_data,
    }
    here = _is(session.digest, _CHALLENGED, now)
    return connection.execute(update(table).where(*here).values(values)).rowcount == 1


def end(connection: Connection, session: Session, *, now: int) -> bool:
    """Forget a challenged session: its evidence was no good. True for exactly one caller."""
    here = _is(session.digest, _CHALLENGED, now)
    return connection.execute(delete(table).where(*here)).rowcount == 1


def still_attested(connection: Connection, session: Session, *, now: int) -> bool:
    """Whether the session has not ended meanwhile."""
    return _find(connection, session.digest, _ATTESTED, now) is not None


def _find(connection: Connection, digest: bytes, state: str, now: int) -> Session | None:
    row = connection.execute(select(table).where(*_is(digest, state, now))).first()
    if row is None:
        return None
    return Session(
        row.digest,
        row.tee,
        row.algorithm,
        row.nonce,
        row.expires,
        None if row.key is None else msgspec.json.decode(row.key, type=dict[str, str]),
        None if row.evidence is None else envelope.from_cbor(row.evidence),
        row.report_data,
    )


def _is(digest: bytes, state: str, now: int) -> tuple[ColumnElement[bool], ...]:
    return table.c.digest == digest, table.c.state == state, table.c.expires > now


def _digest(identifier: str) -> bytes:
    return hashlib.sha256(b"secgear kbs session v1\0" + identifier.encode()).digest()
