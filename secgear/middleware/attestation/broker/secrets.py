"""The secrets in the database: put, described, deleted, opened for a release.

Nothing here gives the content to an administrator. A new version takes the place of the one before,
whose ciphertext goes; what remains of old versions is when, by whom and under which policy. No
digest of the content is kept either: of a password it would be as good as the password.
"""

from __future__ import annotations

import datetime
import re
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from secgear.errors import ServiceError
from secgear.middleware.attestation.broker.layout import secrets
from secgear.middleware.attestation.broker.names import SecretInvalid, SecretName
from secgear.middleware.attestation.broker.vault import TAG_SIZE, Sealed, Secret, Vault
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.documents import NAME, Kind
from secgear.middleware.attestation.service.schema import documents
from secgear.middleware.attestation.service.store import Store

MAX_SIZE: Final = 64 << 10  # bytes of one secret
MAX_SECRETS: Final = 16_384
_EMPTY: Final = {"master": None, "salt": None, "nonce": None, "ciphertext": None}


class Entry(msgspec.Struct, frozen=True):
    """A secret without its content.

    version: counts from 1. policy: what evidence must satisfy. size: bytes; 0 if this version
    deletes it. at: ISO 8601. author: the administrator.
    """

    name: str
    version: int
    policy: str
    size: int
    at: str
    author: str


def put(
    store: Store,
    vault: Vault,
    secret: Secret,
    *,
    policy: str,
    author: str,
    at: datetime.datetime,
) -> Entry:
    """Store a new version, which counts from now on.

    policy: name of a policy that exists. Raises SecretInvalid.
    """
    if not 1 <= len(secret.content) <= MAX_SIZE:
        raise SecretInvalid(
            f"a secret of {len(secret.content)} bytes; it may have 1 to {MAX_SIZE} bytes"
        )
    with store.writing(serial=True) as connection:
        if not _has_policy(connection, policy):
            raise SecretInvalid("there is no policy of that name; store it first")
        before = _newest(connection, secret.name)
        if before is None and _count(connection) >= MAX_SECRETS:
            raise SecretInvalid(f"{MAX_SECRETS} names are taken; use one of them again")
        version = 1 if before is None else before.version + 1
        sealed = vault.seal(secret, version, policy)
        _erase(connection, secret.name)
        row = _row(sealed) | {"at": int(at.timestamp()), "author": author}
        connection.execute(insert(secrets).values(row))
        audit.append(
            connection,
            at=at,
            actor=author,
            action="secret.put",
            subject=str(secret.name),
            detail={"version": version, "policy": policy, "master": sealed.master.hex()},
        )
        return _described(connection, secret.name)


def delete(store: Store, name: SecretName, *, author: str, at: datetime.datetime) -> Entry | None:
    """Delete a secret; None if there is none. No release follows once this has returned."""
    with store.writing(serial=True) as connection:
        before = _newest(connection, name)
        if before is None or before.ciphertext is None:
            return None
        _erase(connection, name)
        row = {
            "repository": name.repository,
            "type": name.type,
            "tag": name.tag,
            "version": before.version + 1,
            "policy": before.policy,
            "at": int(at.timestamp()),
            "author": author,
        }
        connection.execute(insert(secrets).values(row))
        audit.append(
            connection,
            at=at,
            actor=author,
            action="secret.delete",
            subject=str(name),
            detail={"version": row["version"]},
        )
        return _described(connection, name)


def describe(store: Store, name: SecretName) -> Entry | None:
    """A secret without its content; None if there is none."""
    with store.reading() as connection:
        row = _newest(connection, name)
    return None if row is None or row.ciphertext is None else _entry(row)


def current(store: Store) -> list[Entry]:
    """All secrets without their content, by name."""
    with store.reading() as connection:
        rows = connection.execute(
            select(secrets)
            .where(secrets.c.ciphertext.is_not(None))
            .order_by(secrets.c.repository, secrets.c.type, secrets.c.tag)
        )
        return [_entry(row) for row in rows]


def sealed(connection: Connection, name: SecretName) -> Sealed | None:
    """What counts of a secret, encrypted; None if there is none."""
    row = _newest(connection, name)
    return None if row is None or row.ciphertext is None else _sealed(row)


def check_keys(store: Store, vault: Vault) -> None:
    """Raises ServiceError unless the master keys of all secrets are here."""
    with store.reading() as connection:
        used = connection.execute(
            select(secrets.c.master, func.count())
            .where(secrets.c.ciphertext.is_not(None))
            .group_by(secrets.c.master)
        ).all()
    here = vault.ids()
    if missing := [(master, count) for master, count in used if master not in here]:
        ids = ", ".join((master or b"").hex() for master, _ in missing)
        raise ServiceError(
            f"broker: {sum(count for _, count in missing)} secrets are under master keys that are "
            f"not in the key file: {ids}; restore the file"
        )


def any_stored(store: Store) -> bool:
    """Whether there is a secret that a master key is needed for."""
    with store.reading() as connection:
        some = select(secrets.c.tag).where(secrets.c.ciphertext.is_not(None)).limit(1)
        return connection.execute(some).first() is not None


def reencrypt(store: Store, vault: Vault, *, author: str, at: datetime.datetime) -> int:
    """Put all secrets under the first master key, each again; how many were not.

    All of it is one transaction. Raises VaultError.
    """
    first, changed = vault.ids()[0], 0
    with store.writing(serial=True) as connection:
        for row in connection.execute(
            select(secrets).where(secrets.c.ciphertext.is_not(None), secrets.c.master != first)
        ).all():
            before = _sealed(row)
            now = vault.seal(vault.open(before), before.version, before.policy)
            here = _of(before.name) & (secrets.c.version == before.version)
            connection.execute(update(secrets).where(here).values(_row(now)))
            changed += 1
        audit.append(
            connection,
            at=at,
            actor=author,
            action="secret.reencrypt",
            subject="all secrets",
            detail={"master": first.hex(), "changed": changed},
        )
    return changed


def _has_policy(connection: Connection, name: str) -> bool:
    """Whether the policy's newest version has content: it was not deleted."""
    if not re.fullmatch(NAME, name, re.ASCII):
        return False
    row = connection.execute(
        select(documents.c.digest)
        .where(documents.c.kind == Kind.POLICY.value, documents.c.name == name)
        .order_by(documents.c.version.desc())
        .limit(1)
    ).first()
    return row is not None and row.digest is not None


def _count(connection: Connection) -> int:
    named = select(secrets.c.repository, secrets.c.type, secrets.c.tag).distinct().subquery()
    count: int = connection.execute(select(func.count()).select_from(named)).scalar_one()
    return count


def _of(name: SecretName) -> ColumnElement[bool]:
    return (
        (secrets.c.repository == name.repository)
        & (secrets.c.type == name.type)
        & (secrets.c.tag == name.tag)
    )


def _newest(connection: Connection, name: SecretName) -> Row[tuple[object, ...]] | None:
    newest = select(secrets).where(_of(name)).order_by(secrets.c.version.desc()).limit(1)
    return connection.execute(newest).first()


def _erase(connection: Connection, name: SecretName) -> None:
    connection.execute(update(secrets).where(_of(name)).values(_EMPTY))


def _described(connection: Connection, name: SecretName) -> Entry:
    row = _newest(connection, name)
    assert row is not None  # noqa: S101  (its caller has just inserted it)
    return _entry(row)


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    at = datetime.datetime.fromtimestamp(row.at, datetime.UTC).isoformat()
    size = 0 if row.ciphertext is None else max(0, len(row.ciphertext) - TAG_SIZE)
    name = f"{row.repository}/{row.type}/{row.tag}"
    return Entry(name, row.version, row.policy, size, at, row.author)


def _sealed(row: Row[tuple[object, ...]]) -> Sealed:
    """Columns that somebody has emptied become what decrypts under no key."""
    return Sealed(
        SecretName(row.repository, row.type, row.tag),
        row.version,
        row.policy,
        row.master or b"",
        row.salt or b"",
        row.nonce or b"",
        row.ciphertext,
    )


def _row(item: Sealed) -> dict[str, object]:
    return {
        "repository": item.name.repository,
        "type": item.name.type,
        "tag": item.name.tag,
        "version": item.version,
        "policy": item.policy,
        "master": item.master,
        "salt": item.salt,
        "nonce": item.nonce,
        "ciphertext": item.ciphertext,
    }
