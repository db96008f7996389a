"""Joins two owners' tables and lets only aggregates out. Runs inside the enclave."""

from __future__ import annotations

import threading

import duckdb
import pyarrow as pa

from secgear import App

app = App("private-join", version="1.0", svn=1, requires=["duckdb", "pyarrow"])

SMALLEST_GROUP = 10
"""Groups of fewer people stay inside: a result about one person is that person's data."""

PATIENCE = 30.0  # seconds that one owner waits for the other

COLUMNS = {
    "clinic": {"person", "treatment"},
    "registry": {"person", "recovery_days"},
}

_tables: dict[str, pa.Table] = {}
_changed = threading.Condition()


class Refused(ValueError):
    """What was asked would break the rules that the owners agreed on."""


@app.remote  # offered to clients, over channels that end in here
@app.ecall(raises=[Refused])
def contribute(owner: str, table: pa.Table) -> int:
    """Take one owner's table, once; returns its number of rows."""
    if owner not in COLUMNS:
        raise Refused("the owners are " + " and ".join(COLUMNS))
    if set(table.column_names) != COLUMNS[owner]:
        raise Refused(f"{owner}'s table has the columns " + ", ".join(sorted(COLUMNS[owner])))
    with _changed:
        if owner in _tables:
            raise Refused(f"{owner} has contributed already")
        _tables[owner] = table
        _changed.notify_all()
    return int(table.num_rows)


@app.remote
@app.ecall(raises=[Refused])
def recovery_by_treatment() -> pa.Table:
    """People and median days to recovery by treatment, for groups that are large enough.

    Waits until both owners have contributed.
    """
    with _changed:
        if not _changed.wait_for(lambda: _tables.keys() == COLUMNS.keys(), PATIENCE):
            raise Refused("the other owner has not contributed")
        clinic, registry = _tables["clinic"], _tables["registry"]
    with duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": False,  # no files, no network, no extensions
            "lock_configuration": True,  # and no query can change that
            "threads": 2,
        },
    ) as database:
        database.register("clinic", clinic)
        database.register("registry", registry)
        result: pa.Table = database.sql(
            """
            SELECT treatment, count(*) AS people, median(recovery_days) AS median_days
            FROM clinic JOIN registry USING (person)
            GROUP BY treatment HAVING count(*) >= ?
            ORDER BY treatment
            """,
            params=[SMALLEST_GROUP],
        ).to_arrow_table()
        return result
