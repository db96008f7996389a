"""What administrators maintain: policies, reference values and collateral, each by name.

Every version stays in the database; the newest one counts, and deleting adds a version without
data. A document is read strictly before it is stored, and each change is audited.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import re
import threading
from typing import Final

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, update

from secgear.errors import CollateralError, PolicyError, ServiceError
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.importing import import_collateral
from secgear.middleware.attestation.policy import Policy, load_policy
from secgear.middleware.attestation.reference import ReferenceValues, load_reference_values
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.schema import documents, generation
from secgear.middleware.attestation.service.store import Store

MAX_SIZE: Final = 4 << 20  # bytes of one document
MAX_NAMES: Final = 1024  # documents of one kind
NAME: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
_NAME: Final = re.compile(NAME, re.ASCII)


class Kind(enum.Enum):
    """What a document is; the value is its place in the API."""

    POLICY = "policies"
    REFERENCE_VALUES = "reference-values"
    COLLATERAL = "collateral"


class Entry(msgspec.Struct, frozen=True):
    """A document without its content.

    version: counts from 1. sha256: of the content, hexadecimal; empty if this version deletes it.
    at: when it was stored, ISO 8601. author: the administrator.
    """

    name: str
    version: int
    sha256: str
    at: str
    author: str


class Rules(msgspec.Struct, frozen=True):
    """Everything current, read: what an appraisal goes by. number: the generation it is of."""

    number: int
    policies: dict[str, tuple[int, Policy]]
    reference_values: ReferenceValues
    collateral: Collateral


def put(
    store: Store, kind: Kind, name: str, data: bytes, *, author: str, at: datetime.datetime
) -> Entry:
    """Store a new version. Raises PolicyError or CollateralError if it is no good."""
    if not _NAME.fullmatch(name):
        raise PolicyError(f"name: {name[:80]!r}: 1 to 64 small letters, digits and . _ -")
    if len(data) > MAX_SIZE:
        raise PolicyError(f"a document of {len(data)} bytes; at most {MAX_SIZE} are kept")
    _parse(kind, name, data)
    stored = _add(store, kind, name, data, author=author, at=at)
    assert stored is not None  # noqa: S101  (None is for deleting what is not there)
    return stored


def delete(
    store: Store, kind: Kind, name: str, *, author: str, at: datetime.datetime
) -> Entry | None:
    """Delete a document; None if there is none. Its versions stay in the database."""
    if not _NAME.fullmatch(name):
        return None
    return _add(store, kind, name, None, author=author, at=at)


def get(
    store: Store, kind: Kind, name: str, version: int | None = None
) -> tuple[Entry, bytes] | None:
    """A document and its content: the current version, or that one; None if there is none."""
    if not _NAME.fullmatch(name):
        return None
    with store.reading() as connection:
        row = _row(connection, kind, name, version)
    return (_entry(row), row.data) if row is not None and row.data is not None else None


def current(store: Store, kind: Kind) -> list[Entry]:
    """All documents of a kind, by name."""
    with store.reading() as connection:
        return [_entry(row) for row in _current(connection, kind)]


def history(store: Store, kind: Kind, name: str) -> list[Entry]:
    """All versions of a document, oldest first."""
    if not _NAME.fullmatch(name):
        return []
    of_name = (documents.c.kind == kind.value) & (documents.c.name == name)
    with store.reading() as connection:
        rows = connection.execute(select(documents).where(of_name).order_by(documents.c.version))
        return [_entry(row) for row in rows]


class Shelf:
    """The current rules, read again only when any instance has changed a document."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loading = threading.Lock()  # one thread does it for those that come meanwhile
        self._rules: Rules | None = None

    def rules(self) -> Rules:
        """What counts now.

        Raises ServiceError if what is stored can't be read, after an update that reads more
        strictly: an attester is not to blame for it.
        """
        with self._store.reading() as connection:
            number = connection.execute(select(generation.c.number)).scalar() or 0
            with self._loading:
                if self._rules is None or self._rules.number != number:
                    try:
                        self._rules = _load(connection, number)
                    except (PolicyError, CollateralError) as error:
                        raise ServiceError(f"documents: stored, but of no use: {error}") from None
                return self._rules


def _load(connection: Connection, number: int) -> Rules:
    rows = {
        kind: [(row.name, row.version, row.data) for row in _current(connection, kind)]
        for kind in Kind
    }
    return Rules(
        number,
        {name: (version, load_policy(data)) for name, version, data in rows[Kind.POLICY]},
        ReferenceValues().merged(
            *(load_reference_values(data) for _, _, data in rows[Kind.REFERENCE_VALUES])
        ),
        Collateral().merged(
            *(import_collateral(data, name) for name, _, data in rows[Kind.COLLATERAL])
        ),
    )


def _add(
    store: Store,
    kind: Kind,
    name: str,
    data: bytes | None,
    *,
    author: str,
    at: datetime.datetime,
) -> Entry | None:
    with store.writing(serial=True) as connection:
        before = _row(connection, kind, name, None)
        if data is None and (before is None or before.data is None):
            return None
        if before is None and data is not None:
            _room(connection, kind)
        values = {
            "kind": kind.value,
            "name": name,
            "version": 1 if before is None else before.version + 1,
            "data": data,
            "digest": None if data is None else hashlib.sha256(data).digest(),
            "at": int(at.timestamp()),
            "author": author,
        }
        connection.execute(insert(documents).values(values))
        _count(connection)
        _load(connection, 0)  # all together must still be usable, or nothing is changed
        row = _row(connection, kind, name, None)
        assert row is not None  # noqa: S101  (inserted above)
        entry = _entry(row)
        audit.append(
            connection,
            at=at,
            actor=author,
            action=f"{kind.value}.{'delete' if data is None else 'put'}",
            subject=name,
            detail={"version": entry.version, "sha256": entry.sha256},
        )
    return entry


def _room(connection: Connection, kind: Kind) -> None:
    names = select(func.count(documents.c.name.distinct())).where(documents.c.kind == kind.value)
    if connection.execute(names).scalar_one() >= MAX_NAMES:
        raise PolicyError(f"{kind.value}: {MAX_NAMES} names are taken; use one of them again")


def _count(connection: Connection) -> None:
    done = connection.execute(update(generation).values(number=generation.c.number + 1))
    if not done.rowcount:
        connection.execute(insert(generation).values(one=1, number=1))


def _row(
    connection: Connection, kind: Kind, name: str, version: int | None
) -> Row[tuple[object, ...]] | None:
    wanted = select(documents).where(documents.c.kind == kind.value, documents.c.name == name)
    if version is not None:
        wanted = wanted.where(documents.c.version == version)
    return connection.execute(wanted.order_by(documents.c.version.desc()).limit(1)).first()


def _current(connection: Connection, kind: Kind) -> list[Row[tuple[object, ...]]]:
    newest = (
        select(documents.c.name, func.max(documents.c.version).label("version"))
        .where(documents.c.kind == kind.value)
        .group_by(documents.c.name)
        .subquery()
    )
    rows = connection.execute(
        select(documents)
        .join(
            newest,
            (documents.c.name == newest.c.name) & (documents.c.version == newest.c.version),
        )
        .where(documents.c.kind == kind.value, documents.c.data.is_not(None))
        .order_by(documents.c.name)
    )
    return list(rows)


def _parse(kind: Kind, name: str, data: bytes) -> None:
    match kind:
        case Kind.POLICY:
            load_policy(data)
        case Kind.REFERENCE_VALUES:
            load_reference_values(data)
        case Kind.COLLATERAL:
            import_collateral(data, name)


def _entry(row: Row[tuple[object, ...]]) -> Entry:
    at = datetime.datetime.fromtimestamp(row.at, datetime.UTC)
    digest = row.digest.hex() if row.digest is not None else ""
    return Entry(row.name, row.version, digest, at.isoformat(), row.author)
