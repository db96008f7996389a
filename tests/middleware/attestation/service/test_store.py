"""The database door: which URLs, whose files, which layouts; and nothing secret in messages."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text, update

from secgear.errors import ServiceError
from secgear.middleware.attestation.service.schema import ATTESTATION, COMMON, layouts, tokens
from secgear.middleware.attestation.service.store import open_store
from secgear.middleware.attestation.service.tokens import (
    Role,
    authenticate,
    create_token,
    revoke_token,
)


def _url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'x.db'}"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////nowhere/at/all.db",
        "mysql://host/name",
        "sqlite:////tmp/x.db?mode=ro",
        "nosuch://x",
        "postgresql://user:password@host:port/name",
    ],
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="database"):
        open_store(url)


def test_a_server_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="database") as caught:
        open_store(f"postgresql://me:letmein@/name?host={tmp_path}")
    assert "letmein" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(ServiceError, match="not a database"):
        open_store(_url(tmp_path))


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    store = open_store(_url(tmp_path))
    create_token(store, Role.ADMIN, "alice")
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    store.close()


def test_another_releases_layout_is_refused(tmp_path: Path) -> None:
    store = open_store(_url(tmp_path), ATTESTATION)
    with store.writing() as connection:
        connection.execute(update(layouts).values(version=2))
    store.close()
    with pytest.raises(ServiceError, match="layout 2; this release knows 1"):
        open_store(_url(tmp_path), ATTESTATION)


def test_racing_instances_make_the_tables_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as racers:
        for made in racers.map(lambda _: open_store(_url(tmp_path), ATTESTATION), range(8)):
            made.close()


def test_a_reader_sees_one_state(tmp_path: Path) -> None:
    store = open_store(_url(tmp_path))
    create_token(store, Role.ADMIN, "before")
    names = select(tokens.c.name).order_by(tokens.c.created)
    with store.reading() as connection:
        assert connection.execute(names).scalars().all() == ["before"]
        create_token(store, Role.ADMIN, "later")
        assert connection.execute(names).scalars().all() == ["before"]
    with store.reading() as connection:
        assert set(connection.execute(names).scalars()) == {"before", "later"}
    store.close()


def test_a_committed_transaction_is_on_disk(tmp_path: Path) -> None:
    store = open_store(_url(tmp_path))
    with store.reading() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
    store.close()


def test_messages_carry_no_values(tmp_path: Path) -> None:
    store = open_store(_url(tmp_path))
    row = {"digest": b"canary" * 5, "name": "canary-name", "role": "admin", "created": 1}
    with store.writing() as connection:
        connection.execute(insert(tokens).values(**row))
    with pytest.raises(ServiceError) as caught, store.writing() as connection:
        connection.execute(insert(tokens).values(**row))
    assert "UNIQUE" in str(caught.value)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


def test_a_token_is_nowhere_but_with_its_owner(tmp_path: Path) -> None:
    store = open_store(_url(tmp_path), COMMON)
    token = create_token(store, Role.AUDITOR, "bob")
    assert authenticate(store, token) is not None
    store.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"bob" in kept  # the control: this is where it would be
    assert token.encode() not in kept
    assert token.removeprefix("sgt_").encode() not in kept


def test_a_token_belongs_to_its_role_until_it_is_revoked(tmp_path: Path) -> None:
    store = open_store(_url(tmp_path))
    token = create_token(store, Role.AUDITOR, "bob")
    found = authenticate(store, token)
    assert found is not None
    assert (found.name, found.role) == ("bob", Role.AUDITOR)
    assert Role.ADMIN.covers(Role.AUDITOR)
    assert not Role.AUDITOR.covers(Role.ADMIN)
    with pytest.raises(ServiceError, match="has one already"):
        create_token(store, Role.ADMIN, "bob")
    revoke_token(store, "bob")
    assert authenticate(store, token) is None
    with pytest.raises(ServiceError, match="has none"):
        revoke_token(store, "bob")
    again = create_token(store, Role.ADMIN, "bob")
    assert authenticate(store, again) is not None
    assert authenticate(store, token) is None
    with store.reading() as connection:
        assert len(connection.execute(select(tokens)).all()) == 2  # history stays
    store.close()


@pytest.mark.parametrize("name", ["", "A", "a b", "a" * 65, "-a", "a\n", "ä"])
def test_unusual_names_get_no_token(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServiceError, match="small letters"):
        create_token(open_store(_url(tmp_path)), Role.ADMIN, name)


@pytest.mark.parametrize("token", ["", "sgt_", "sgt_" + "A" * 43, "sgt_" + "A" * 44, "x" * 47])
def test_made_up_tokens_are_nobodys(tmp_path: Path, token: str) -> None:
    assert authenticate(open_store(_url(tmp_path)), token) is None
