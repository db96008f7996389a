"""Nonces alone: accepted once, in time, in a transaction; used and expired ones take no room."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select, text

from secgear.middleware.attestation.service import nonces
from secgear.middleware.attestation.service.schema import nonces as table
from secgear.middleware.attestation.service.store import Store, open_store

NOW, LIFETIME = 1_000, 300


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = open_store(f"sqlite:///{tmp_path / 'x.db'}")
    yield made
    made.close()


def issue(store: Store, now: int = NOW, limit: int = 100) -> bytes | None:
    return nonces.issue(store, now=now, lifetime=LIFETIME, limit=limit)


def consume(store: Store, nonce: bytes, now: int = NOW) -> bool:
    with store.writing() as connection:
        good = nonces.is_good(connection, nonce, now=now)
        taken = nonces.consume(connection, nonce, now=now)
    assert taken is good
    return taken


def outstanding(store: Store) -> int:
    with store.reading() as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def test_a_nonce_is_taken_once(store: Store) -> None:
    nonce = issue(store)
    assert nonce is not None
    assert len(nonce) == nonces.SIZE
    assert consume(store, nonce)
    assert not consume(store, nonce)


def test_nonces_differ(store: Store) -> None:
    assert len({issue(store) for _ in range(50)}) == 50


@pytest.mark.parametrize(("age", "good"), [(0, True), (LIFETIME - 1, True), (LIFETIME, False)])
def test_a_nonce_is_good_until_it_expires(store: Store, age: int, good: bool) -> None:
    nonce = issue(store)
    assert nonce is not None
    assert consume(store, nonce, NOW + age) is good


@pytest.mark.parametrize("nonce", [b"", b"x" * 32, b"x" * 10_000])
def test_made_up_nonces_are_refused(store: Store, nonce: bytes) -> None:
    issue(store)
    assert not consume(store, nonce)


def test_the_database_does_not_have_the_nonce(store: Store) -> None:
    nonce = issue(store)
    with store.reading() as connection:
        rows = connection.execute(text("SELECT * FROM nonces")).all()
    assert len(rows) == 1
    assert nonce not in rows[0]


def test_what_is_used_up_is_not_outstanding(store: Store) -> None:
    """Else so many attestations in five minutes would be all that there can be."""
    for _ in range(10):
        nonce = issue(store, limit=1)
        assert nonce is not None
        assert issue(store, limit=1) is None
        assert consume(store, nonce)
    assert outstanding(store) == 0


def test_expired_ones_make_room(store: Store) -> None:
    assert issue(store, limit=1)
    assert issue(store, NOW + LIFETIME - 1, limit=1) is None
    assert issue(store, NOW + LIFETIME, limit=1)
    assert outstanding(store) == 1


def test_a_transaction_that_fails_leaves_the_nonce_good(store: Store) -> None:
    nonce = issue(store)
    assert nonce is not None

    def fail() -> None:
        with store.writing() as connection:
            assert nonces.consume(connection, nonce, now=NOW)
            raise KeyError("the work itself failed")

    with pytest.raises(KeyError):
        fail()
    assert consume(store, nonce)


def test_of_racing_threads_one_takes_it(store: Store) -> None:
    nonce = issue(store)
    assert nonce is not None

    def take(_: int) -> bool:
        with store.writing() as connection:
            return nonces.consume(connection, nonce, now=NOW)

    with ThreadPoolExecutor(16) as racers:
        assert sum(racers.map(take, range(64))) == 1
