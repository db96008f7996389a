"""PostgreSQL: one state in a transaction, no wait without end, no values in messages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from secgear.errors import ServiceError
from secgear.middleware.attestation.service import audit, documents, store
from secgear.middleware.attestation.service.appraiser import utc_now
from secgear.middleware.attestation.service.documents import Kind, Shelf
from secgear.middleware.attestation.service.schema import ATTESTATION, tokens
from secgear.middleware.attestation.service.schema import documents as table
from secgear.middleware.attestation.service.store import Store, open_store
from tests.postgres import Cluster, cluster


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
def url(server: Cluster) -> str:
    return server.database()


@pytest.fixture
def opened(url: str) -> Iterator[Store]:
    made = open_store(url, ATTESTATION)
    yield made
    made.close()


def put(opened: Store, name: str) -> documents.Entry:
    content = f'name = "{name}"\n'.encode()
    return documents.put(opened, Kind.POLICY, name, content, author="alice", at=utc_now())


def test_a_reader_sees_one_state(opened: Store) -> None:
    put(opened, "before")
    with opened.reading() as connection:
        names = select(table.c.name).order_by(table.c.name)
        assert connection.execute(names).scalars().all() == ["before"]
        put(opened, "later")
        assert connection.execute(names).scalars().all() == ["before"]
    assert set(Shelf(opened).rules().policies) == {"before", "later"}


def test_a_reader_changes_nothing(opened: Store) -> None:
    with pytest.raises(ServiceError, match="read-only"), opened.reading() as connection:
        connection.execute(update(tokens).values(role="admin"))


def test_a_committed_transaction_is_on_disk(opened: Store) -> None:
    with opened.reading() as connection:
        for setting, value in (("synchronous_commit", "on"), ("lock_timeout", "20s")):
            assert connection.execute(text(f"SHOW {setting}")).scalar() == value


def test_messages_carry_no_values(opened: Store) -> None:
    row = {"digest": b"canary" * 5, "name": "canary-name", "role": "admin", "created": 1}
    with opened.writing() as connection:
        connection.execute(insert(tokens).values(**row))
    with (
        pytest.raises(ServiceError, match="duplicate key") as caught,
        opened.writing() as connection,
    ):
        connection.execute(insert(tokens).values(**row))
    shown = str(caught.value)
    assert "canary" not in shown
    assert b"canary".hex() not in shown
    assert caught.value.__cause__ is None
    assert isinstance(caught.value.__context__, SQLAlchemyError)  # not shown in a traceback
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", ["a\0b", "\udc80", "x" * 10_000])
def test_hostile_names_are_not_there(opened: Store, name: str) -> None:
    assert documents.get(opened, Kind.POLICY, name) is None
    assert documents.history(opened, Kind.POLICY, name) == []
    assert documents.delete(opened, Kind.POLICY, name, author="a", at=utc_now()) is None


def test_who_waits_for_one_that_hangs_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_TIMEOUT", 300)
    opened = open_store(url, ATTESTATION)
    held, done = threading.Event(), threading.Event()

    def hang() -> None:
        with opened.writing(serial=True):
            held.set()
            done.wait(20)

    with ThreadPoolExecutor(1) as other:
        hanging = other.submit(hang)
        assert held.wait(20)
        with pytest.raises(ServiceError, match="lock timeout"):
            put(opened, "waiting")
        done.set()
        hanging.result()
    assert put(opened, "waiting").version == 1
    opened.close()


def test_racing_instances_make_the_tables_once(url: str) -> None:
    with ThreadPoolExecutor(8) as racers:
        for made in racers.map(lambda _: open_store(url, ATTESTATION), range(8)):
            made.close()


def test_racing_records_are_one_chain(opened: Store) -> None:
    def append(number: int) -> int:
        with opened.writing(serial=True) as connection:
            return audit.append(
                connection, at=utc_now(), actor="a", action="b", subject=str(number)
            ).seq

    with ThreadPoolExecutor(16) as racers:
        assert sorted(racers.map(append, range(100))) == list(range(1, 101))
    with opened.reading() as connection:
        assert audit.check(connection).seq == 100


def test_a_hand_in_the_trail_shows(opened: Store) -> None:
    for name in ("a", "b", "c"):
        put(opened, name)
    with opened.writing() as connection:
        connection.execute(text("UPDATE audit SET subject = 'x' WHERE seq = 2"))
    with pytest.raises(ServiceError, match="record 2"), opened.reading() as connection:
        audit.check(connection)
