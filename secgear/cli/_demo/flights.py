"""The demo's trusted program: what does the weather cost a flight? Runs inside the enclave.

An airline contributes its flights, a weather service its hourly observations and its stations'
names, each over a channel of its own that ends in here. They are joined in DuckDB; only aggregates
over large groups leave, and only to the two of them: their certificates lie beside this file, in
``owners.pem``, and are measured with it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pkgutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secgear import App

CERTIFICATES = x509.load_pem_x509_certificates(pkgutil.get_data(__name__, "owners.pem") or b"")

app = App("flights-and-weather", version="1.0", svn=1, requires=["duckdb", "pyarrow"])
app.sessions.configure(authorities=tuple(one.public_bytes(Encoding.PEM) for one in CERTIFICATES))

SMALLEST_GROUP = 50
"""Groups of fewer flights stay inside."""

_TIME = pa.timestamp("s", "UTC")
TABLES = {
    "flights": (
        "airline",
        pa.schema({"origin": pa.string(), "time_hour": _TIME, "dep_delay": pa.float64()}),
    ),
    "weather": (
        "weather service",
        pa.schema(
            {
                "origin": pa.string(),
                "time_hour": _TIME,
                "visib": pa.float64(),
                "precip": pa.float64(),
                "wind_speed": pa.float64(),
            }
        ),
    ),
    "airports": ("weather service", pa.schema({"faa": pa.string(), "name": pa.string()})),
}
"""Who contributes which columns. Units: minutes, miles, inches an hour, miles an hour."""

CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,  # no files, no network, no extensions
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "memory_limit": "512MiB",
    "temp_directory": "",  # nothing is spilled
    "threads": 2,
    "lock_configuration": True,  # and no query can change any of this
}

BATCH = 50_000

_STEPS = (
    (
        "joining",
        """
        CREATE TEMP TABLE joined AS
        SELECT flights.origin, dep_delay,
            CASE
                WHEN weather.origin IS NULL THEN 'not reported'
                WHEN visib < 3 THEN 'low visibility'
                WHEN precip > 0 THEN 'rain or snow'
                WHEN wind_speed >= 20 THEN 'strong wind'
                ELSE 'fair'
            END AS weather
        FROM flights LEFT JOIN weather USING (origin, time_hour)
        """,
    ),
    (
        "aggregating",
        """
        CREATE TEMP TABLE answer AS
        SELECT name AS airport, weather, count(*) AS flights,
            100 * avg((dep_delay IS NULL)::INT) AS cancelled,
            avg(dep_delay) AS mean_delay,
            100 * avg((dep_delay > 30)::INT) AS late
        FROM joined JOIN airports ON faa = origin
        GROUP BY ALL
        """,
    ),
)


OWNERS = {
    hashlib.sha256(
        certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).digest(): str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
    for certificate in CERTIFICATES
}
"""Names of the owners by their keys, in the form in which a session tells its peer's."""

_lock = threading.Lock()
_taken: set[str] = set()
_complete: set[str] = set()
_database: duckdb.DuckDBPyConnection


class Refused(ValueError):
    """What was asked would break the rules that the parties agreed on."""


class Attempt(msgspec.Struct, frozen=True):
    """Something that code inside must not be able to do.

    what: in words. barrier: what is expected to stop it. refused: whether it was. how: the words
    of the refusal, or what came of it.
    """

    what: str
    barrier: str
    refused: bool
    how: str


@app.ocall
def progress(stage: str, fraction: float) -> None:
    """Tell the host how far the work is; it learns nothing else."""


@app.on_start
def open_database() -> None:
    global _database  # noqa: PLW0603  (an enclave is one process with one database)
    _database = duckdb.connect(":memory:", config=CONFIGURATION)


@app.remote
@app.ecall(raises=[Refused])
def contribute(name: str, table: pa.Table) -> int:
    """Take one of the caller's tables, once; returns its number of rows."""
    owner = _caller()
    if name not in TABLES or TABLES[name][0] != owner:
        raise Refused(
            "the tables are " + ", ".join(f"{key} of the {of}" for key, (of, _) in TABLES.items())
        )
    schema = TABLES[name][1]
    if not table.schema.equals(schema):
        raise Refused(f"{name} has the columns {', '.join(map(str, schema))}, and no others")
    with _lock:
        if name in _taken:
            raise Refused(f"{name} has been contributed already")
        _taken.add(name)
    try:
        rows = _take_in(name, table)
    except BaseException:  # its owner has left, or there is no memory: another attempt is fine
        with _lock, _database.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {name}")
            _taken.discard(name)
        raise
    with _lock:
        _complete.add(name)
    return rows


@app.remote
@app.ecall(raises=[Refused])
def answer() -> pa.Table:
    """Flights, share of cancelled and late ones, and mean delay by airport and weather.

    cancelled, late (by more than 30 minutes): percent. mean_delay: minutes at departure.
    """
    _caller()
    with _lock:
        missing = TABLES.keys() - _complete
    if missing:
        raise Refused("still to be contributed: " + ", ".join(sorted(missing)))
    with _database.cursor() as cursor:
        for done, (stage, statement) in enumerate(_STEPS):
            progress(stage, done / len(_STEPS))
            cursor.execute(statement)
        result: pa.Table = cursor.sql(
            "FROM answer WHERE flights >= ? ORDER BY airport, mean_delay",
            params=[SMALLEST_GROUP],
        ).to_arrow_table()
    progress(_STEPS[-1][0], 1.0)
    return result


@app.ecall
def try_to_get_out() -> list[Attempt]:
    """Try from the inside what a malicious query, or malicious code in a library, would try."""
    queries = {
        "read a file": "FROM read_text('/etc/passwd')",
        "write a file": "COPY (SELECT 1) TO '/tmp/secgear-demo.csv'",
        "attach another database": "ATTACH '/tmp/secgear-demo.db'",
        "fetch from the network": "FROM read_csv('https://example.org/a.csv')",
        "install an extension": "INSTALL httpfs",
        "load an extension": "LOAD httpfs",
        "allow access again": "SET enable_external_access = true",
        "raise the memory limit": "SET memory_limit = '64GiB'",
    }
    attempts = [_attempt(what, "DuckDB", _query(sql)) for what, sql in queries.items()]
    deeds: dict[str, Callable[[], object]] = {
        "read a file": _read,
        "write a file": _write,
        "open a socket": _connect,
        "start a program": _spawn,
    }
    attempts += [_attempt(what, "sandbox", deed) for what, deed in deeds.items()]
    return attempts


def _take_in(name: str, table: pa.Table) -> int:
    rows = 0
    with _database.cursor() as cursor:
        cursor.register("incoming", table.slice(0, 0))
        # Safe to format: the name is one of ours.
        cursor.execute(f"CREATE TABLE {name} AS FROM incoming")
        for batch in table.to_batches(BATCH):
            cursor.register("incoming", pa.Table.from_batches([batch]))
            cursor.execute(f"INSERT INTO {name} FROM incoming")
            rows += batch.num_rows
            progress(f"taking in {name}", rows / max(1, table.num_rows))
        cursor.unregister("incoming")
    return rows


def _caller() -> str:
    """Which owner calls. Raises Refused for anybody else, such as the host, who needs no session.

    That a client holds the key of its certificate was found out in the handshake.
    """
    peer = app.sessions.peer
    owner = OWNERS.get(peer.key) if peer is not None and peer.key is not None else None
    if owner is None:
        raise Refused("this is for the owners, over sessions of their own")
    return owner


def _attempt(what: str, barrier: str, deed: Callable[[], object]) -> Attempt:
    try:
        deed()
    except (duckdb.PermissionException, duckdb.InvalidInputException) as error:
        return Attempt(what, barrier, True, str(error).splitlines()[0])
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "OSError")
        return Attempt(what, barrier, True, f"{name}: {error.strerror}")
    except Exception as error:  # noqa: BLE001  (a query that fails for another reason)
        return Attempt(what, barrier, False, f"failed by itself: {error}".splitlines()[0])
    return Attempt(what, barrier, False, "nothing stopped it")


def _query(sql: str) -> Callable[[], object]:
    def run() -> object:
        with _database.cursor() as cursor:
            return cursor.execute(sql).fetchall()

    return run


def _read() -> object:
    return Path("/etc/passwd").read_bytes()


def _write() -> None:
    path = Path("/tmp/secgear-demo")  # noqa: S108  (it is refused; that is the point)
    path.touch(exist_ok=False)
    path.unlink()


def _connect() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def _spawn() -> None:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
