"""The audit trail: whole and in order, and any hand in it shows.

The hashes have no key. So the chain alone shows what was changed, deleted, moved or put in; it
can't show that the end is missing or that all was computed anew. A head kept elsewhere does.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from secgear.errors import ServiceError
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.schema import COMMON
from secgear.middleware.attestation.service.store import Store, open_store

AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
COUNT = 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(f"sqlite:///{tmp_path / 'x.db'}", COMMON)
    for number in range(COUNT):
        _append(made, number)
    yield made
    made.close()


def _append(store: Store, number: int) -> audit.Head:
    with store.writing(serial=True) as connection:
        return audit.append(
            connection,
            at=AT,
            actor="alice",
            action="test",
            subject=f"subject {number}",
            detail={"number": number},
        )


def _check(store: Store) -> audit.Head:
    with store.reading() as connection:
        return audit.check(connection)


def test_a_trail_that_nobody_touched_is_whole(store: Store) -> None:
    with store.reading() as connection:
        assert audit.check(connection) == audit.head(connection)
        assert audit.head(connection).seq == COUNT
        records = audit.read(connection, after=5, limit=3)
    assert [record.seq for record in records] == [6, 7, 8]
    assert records[0].detail == {"number": 5}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'mallory' WHERE seq = 7",
        "UPDATE audit SET detail = '{}' WHERE seq = 7",
        "UPDATE audit SET at = '2020' WHERE seq = 7",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 7",
        "UPDATE audit SET previous = zeroblob(32) WHERE seq = 7",
        "DELETE FROM audit WHERE seq = 7",
        "DELETE FROM audit WHERE seq = 1",
        "UPDATE audit SET seq = seq + 100 WHERE seq = 20",
        "UPDATE audit SET seq = 21 - seq + 1000",
        "INSERT INTO audit SELECT 21, at, actor, action, subject, detail, previous, hash "
        "FROM audit WHERE seq = 20",
    ],
)
def test_a_hand_in_the_trail_shows(store: Store, statement: str) -> None:
    with store.writing() as connection:
        connection.execute(text(statement))
    with pytest.raises(ServiceError, match="audit: record"):
        _check(store)


def test_a_cut_off_end_shows_only_against_a_head_that_was_kept(store: Store) -> None:
    """What a chain alone can't say, and why `Head` is given to auditors."""
    kept = _check(store)
    with store.writing() as connection:
        connection.execute(text("DELETE FROM audit WHERE seq > 15"))
    assert _check(store).seq == 15
    assert _check(store) != kept
    for number in range(5):
        _append(store, number)
    assert _check(store).seq == kept.seq
    assert _check(store).hash != kept.hash


def test_a_trail_that_was_rewritten_shows_only_against_a_head_that_was_kept(store: Store) -> None:
    kept = _check(store)
    with store.writing() as connection:
        connection.execute(text("DELETE FROM audit"))
    for number in range(COUNT):
        _append(store, number + 100)
    forged = _check(store)
    assert forged.seq == kept.seq
    assert forged.hash != kept.hash


@pytest.mark.parametrize("batch", [1, 7, COUNT, COUNT + 1])
@pytest.mark.parametrize("seq", [1, 7, 8, COUNT])
def test_the_whole_of_a_long_trail_is_checked(
    store: Store, monkeypatch: pytest.MonkeyPatch, batch: int, seq: int
) -> None:
    monkeypatch.setattr(audit, "_BATCH", batch)
    assert _check(store).seq == COUNT
    with store.writing() as connection:
        connection.execute(text(f"UPDATE audit SET action = 'x' WHERE seq = {seq}"))
    with pytest.raises(ServiceError, match=f"record {seq} "):
        _check(store)


@pytest.mark.parametrize("column", ["at", "actor", "action", "subject", "detail"])
def test_every_field_is_covered(store: Store, column: str) -> None:
    with store.writing() as connection:
        connection.execute(text(f"UPDATE audit SET {column} = {column} || ' ' WHERE seq = 3"))
    with pytest.raises(ServiceError, match="record 3 "):
        _check(store)


def test_fields_do_not_run_into_each_other(store: Store) -> None:
    """What moves from one field to its neighbour changes the hash."""
    with store.writing() as connection:
        connection.execute(text("UPDATE audit SET actor = 'alicet', action = 'est' WHERE seq = 3"))
    with pytest.raises(ServiceError, match="record 3 "):
        _check(store)


def test_racing_records_are_one_chain(store: Store) -> None:
    with ThreadPoolExecutor(16) as racers:
        heads = list(racers.map(lambda number: _append(store, number), range(100)))
    assert sorted(head.seq for head in heads) == list(range(COUNT + 1, COUNT + 101))
    assert _check(store).seq == COUNT + 100


def test_a_transaction_that_fails_leaves_no_record(store: Store) -> None:
    def fail() -> None:
        with store.writing(serial=True) as connection:
            audit.append(connection, at=AT, actor="a", action="b", subject="c")
            raise KeyError("the work itself failed")

    with pytest.raises(KeyError):
        fail()
    assert _check(store).seq == COUNT


def test_a_record_that_is_too_large_is_a_defect_of_ours(store: Store) -> None:
    with pytest.raises(ValueError, match="audit record"), store.writing(serial=True) as connection:
        audit.append(
            connection, at=AT, actor="a", action="b", subject="c", detail={"x": "y" * (17 << 10)}
        )


def test_hostile_names_stay_data(store: Store) -> None:
    hostile = "'; DROP TABLE audit; --\x00\n" + "é" * 500
    with store.writing(serial=True) as connection:
        audit.append(connection, at=AT, actor=hostile, action="b", subject=hostile)
    with store.reading() as connection:
        (record,) = audit.read(connection, after=COUNT)
        audit.check(connection)
    assert record.actor == hostile[:160]


def test_the_service_gives_the_head_for_keeping(start: Callable[..., Any]) -> None:
    service = start()
    trail = service.get("audit?limit=1").json()
    with service.store.reading() as connection:
        assert trail["head"]["hash"] == audit.check(connection).hash
    assert len(trail["records"]) == 1


def test_what_can_not_be_recorded_does_not_happen(start: Callable[..., Any]) -> None:
    """No record, no result: and the nonce is as good as before."""
    service = start()
    nonce = service.nonce()
    body = service.request(nonce)
    for statement, status in (
        ("ALTER TABLE audit RENAME TO gone", 503),
        ("ALTER TABLE gone RENAME TO audit", 200),
    ):
        with service.store.writing() as connection:
            connection.execute(text(statement))
        answer = service.client.post("/v1/attest", json=body)
        assert answer.status_code == status
        assert ("result" in answer.json()) is (status == 200)
    with service.store.writing() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO gone"))
    assert service.put("policies/new", 'name = "new"').status_code == 503
    with service.store.writing() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO audit"))
    assert service.get("policies/new").status_code == 404
