"""Bearer tokens of those who administer the service.

A token is 32 random bytes; the database has its SHA-256 only, which for a random secret is as good
as any slow hash. Lookup is by that digest, so comparing takes no longer for a better guess.
"""

from __future__ import annotations

import base64
import datetime
import enum
import hashlib
import hmac
import re
import secrets
from typing import Final

import msgspec
from sqlalchemy import insert, select, update

from secgear.errors import ServiceError
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.schema import tokens
from secgear.middleware.attestation.service.store import Store

_PREFIX: Final = "sgt_"  # lets secret scanners recognise a token
_TOKEN: Final = re.compile(r"sgt_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}", re.ASCII)


class Role(enum.Enum):
    """What a token is for. An administrator may do all that an auditor may."""

    ADMIN = "admin"
    AUDITOR = "auditor"

    def covers(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        return self is needed or self is Role.ADMIN


class Principal(msgspec.Struct, frozen=True):
    """Who a token belongs to."""

    name: str
    role: Role


def create_token(store: Store, role: Role, name: str) -> str:
    """Make a token and return it; it can't be had again. `name` is what the audit trail says.

    Raises ServiceError for a name that is taken or unusual.
    """
    if not _NAME.fullmatch(name):
        raise ServiceError(f"token: {name!r}: 1 to 64 small letters, digits and . _ @ -")
    token = _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    now = datetime.datetime.now(datetime.UTC)
    with store.writing(serial=True) as connection:
        taken = select(tokens.c.name).where(tokens.c.name == name, tokens.c.revoked.is_(None))
        if connection.execute(taken).first():
            raise ServiceError(f"token: {name!r} has one already; revoke it first")
        connection.execute(
            insert(tokens).values(
                digest=_digest(token), name=name, role=role.value, created=int(now.timestamp())
            )
        )
        audit.append(
            connection,
            at=now,
            actor="command line",
            action="token.create",
            subject=name,
            detail={"role": role.value},
        )
    return token


def revoke_token(store: Store, name: str) -> None:
    """Make the token of `name` worthless, at once and everywhere. Raises ServiceError: none."""
    now = datetime.datetime.now(datetime.UTC)
    with store.writing(serial=True) as connection:
        done = connection.execute(
            update(tokens)
            .where(tokens.c.name == name, tokens.c.revoked.is_(None))
            .values(revoked=int(now.timestamp()))
        )
        if not done.rowcount:
            raise ServiceError(f"token: {name!r} has none")
        audit.append(connection, at=now, actor="command line", action="token.revoke", subject=name)


def authenticate(store: Store, token: str) -> Principal | None:
    """Whose token this is, or None."""
    if not _TOKEN.fullmatch(token):
        return None
    digest = _digest(token)
    with store.reading() as connection:
        row = connection.execute(select(tokens).where(tokens.c.digest == digest)).first()
    if row is None or row.revoked is not None or not hmac.compare_digest(row.digest, digest):
        return None
    return Principal(row.name, Role(row.role))


def _digest(token: str) -> bytes:
    return hashlib.sha256(b"secgear token v1\0" + token.encode()).digest()
