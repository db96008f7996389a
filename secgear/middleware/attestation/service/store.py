"""The database: SQLite in a file by default, PostgreSQL by URL. Several instances may share it.

A transaction is either read or write. What `writing` has committed survives a crash of the process
and of the machine: SQLite runs with a write-ahead log and ``synchronous=FULL``, PostgreSQL with
``synchronous_commit=on``.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from secgear.errors import ServiceError
from secgear.middleware.attestation.service.schema import COMMON, Layout, layouts

BUSY_TIMEOUT: Final = 20_000  # milliseconds that a writer waits for another process's transaction
CONNECT_TIMEOUT: Final = 10  # seconds that a PostgreSQL server may take to answer
STALL_TIMEOUT: Final = 60_000  # milliseconds after which an instance that hangs loses its locks

# Statements' parameters are kept out of messages and logs; threads bound how many connections.
_OPTIONS: Final[dict[str, Any]] = {"hide_parameters": True, "max_overflow": -1}
_WRITING: Final = "secgear_writing"
_LOCK: Final = 0x5EC6EA5  # PostgreSQL's advisory lock for what must happen one after the other


class Store:
    """The tables of some components in one database. Safe to use from many threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        # In SQLite any transaction sees one state; PostgreSQL has to be told.
        self._reader = (
            engine
            if self._sqlite
            else engine.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        )
        # SQLite has one writer at a time. Threads queue up here, where the wait is fair; other
        # processes compete by polling.
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state and changes nothing."""
        with self._errors(), self._reader.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, serial: bool = False) -> Iterator[Connection]:
        """A transaction: all of it is durable when the block ends, or nothing if it raises.

        serial: no other serial transaction of any instance runs meanwhile; for what depends on the
        newest row of a table.
        """
        with self._errors(), self._turn if self._sqlite else contextlib.nullcontext():
            options = {_WRITING: True}
            with (
                self._engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                if serial and not self._sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def create(self, layout: Layout) -> None:
        """Create the component's tables if they are not there. Raises ServiceError."""
        with self.writing(serial=True) as connection:
            COMMON.tables.create_all(connection)
            layout.tables.create_all(connection)
            for each in (COMMON, layout):
                _check_version(connection, each)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            # Values, which may be digests of secrets, are kept out: SQLAlchemy leaves them away as
            # it was told, but PostgreSQL's message goes on with a detail that has them.
            raise ServiceError(f"database: {_message(error)}") from None


def open_store(url: str, *components: Layout) -> Store:
    """Open the database and make sure that the components' tables are there.

    url: ``sqlite:////var/lib/secgear/attestation.db`` or ``postgresql://user@host/name``.
    Raises ServiceError: no such database, another version's tables.
    """
    try:
        parsed = make_url(url)
        engine = _sqlite(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed)
    except (ArgumentError, NoSuchModuleError, ValueError):  # ValueError: a port that is none
        raise ServiceError("database: no URL such as sqlite:////path/file.db") from None
    store = Store(engine)
    for component in components or (COMMON,):
        store.create(component)
    return store


def _message(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    return " ".join(str(primary or original or type(error).__name__).split())


def _check_version(connection: Connection, layout: Layout) -> None:
    of_component = select(layouts.c.version).where(layouts.c.component == layout.component)
    found = connection.execute(of_component).scalar()
    if found is None:
        values = {"component": layout.component, "version": layout.version}
        connection.execute(insert(layouts).values(values))
    elif found != layout.version:
        raise ServiceError(
            f"database: {layout.component} has layout {found}; this release knows {layout.version}"
        )


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:" or url.query:
        raise ServiceError("database: SQLite needs a plain file that several connections can open")
    path = Path(url.database)
    try:
        # Created here so that nobody else can read it; SQLite gives its log the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ServiceError(f"database: {path}: {error.strerror}") from None
    engine = create_engine(url, **_OPTIONS)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin where `begin` below says
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "secure_delete=ON",  # what is erased is overwritten, and not only let go
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock at once: one that upgrades later could have read what is old.
        writing = connection.get_execution_options().get(_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    if url.get_backend_name() != "postgresql":
        raise ServiceError(f"database: SQLite and PostgreSQL, not {url.get_backend_name()}")
    try:
        if "connect_timeout" not in url.query:
            url = url.update_query_dict({"connect_timeout": str(CONNECT_TIMEOUT)})
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"), pool_pre_ping=True, **_OPTIONS
        )
    except ImportError:
        raise ServiceError(
            "database: PostgreSQL needs psycopg (secgear[attestation-service])"
        ) from None

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: object) -> None:
        connection.autocommit = True
        connection.execute("SET synchronous_commit TO on")
        connection.execute(f"SET lock_timeout TO {BUSY_TIMEOUT}")
        connection.execute(f"SET idle_in_transaction_session_timeout TO {STALL_TIMEOUT}")
        connection.autocommit = False

    return engine
