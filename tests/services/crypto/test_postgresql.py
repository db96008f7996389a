"""Several enclaves over PostgreSQL, which is killed at any moment: nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from secgear.services.crypto.pkcs11.rv import CryptokiError
from tests.postgres import Cluster, cluster
from tests.services.crypto.running import Server, founded, prepare_token, secgear, serving
from tests.services.crypto.test_crashes import check, make_pairs


@pytest.fixture(scope="module")
def database() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def writing(server: Server, name: str, acknowledged: list[bytes]) -> list[threading.Thread]:
    """Clients that make key pairs until something breaks."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=make_pairs, args=(server, f"{name}-{at}", acknowledged, stop))
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    return threads


def steady(server: Server) -> None:
    """Wait until no connection leads to an enclave that has just died."""
    good, until = 0, time.monotonic() + 60
    while good < 4:
        assert time.monotonic() < until
        try:
            with server.caller() as caller:
                caller.call("C_GetInfo")
            good += 1
        except CryptokiError:
            good = 0


@pytest.mark.slow
def test_the_database_is_killed_at_random_points(tmp_path: Path, database: Cluster) -> None:
    directory = tmp_path / "module"
    key = founded(directory, "--database", database.database())
    acknowledged: list[bytes] = []
    with serving(directory, "--workers", "2") as server:
        prepare_token(server.socket, directory / "pins")
        for life in range(2):
            wanted = len(acknowledged) + random.randint(1, 12)
            threads = writing(server, str(life), acknowledged)
            while len(acknowledged) < wanted and any(thread.is_alive() for thread in threads):
                threading.Event().wait(random.random() / 200)
            database.kill()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)
            database.start()
            check(server, acknowledged)  # by the same enclaves, which have lived on
        assert acknowledged
    with serving(directory) as server:
        check(server, acknowledged)
    assert "whole" in secgear("crypto", "audit", "verify", str(directory), "--key", key)


@pytest.mark.slow
def test_enclaves_are_killed_at_random_points_while_others_write(
    tmp_path: Path, database: Cluster
) -> None:
    directory = tmp_path / "module"
    key = founded(directory, "--database", database.database())
    acknowledged: list[bytes] = []
    with serving(directory, "--workers", "2") as server:
        prepare_token(server.socket, directory / "pins")
        for life in range(2):
            wanted = len(acknowledged) + random.randint(1, 12)
            threads = writing(server, str(life), acknowledged)
            while len(acknowledged) < wanted and any(thread.is_alive() for thread in threads):
                threading.Event().wait(random.random() / 200)
            os.kill(random.choice(sorted(server.enclaves)), signal.SIGKILL)
            while len(acknowledged) < wanted + 3 and any(thread.is_alive() for thread in threads):
                threading.Event().wait(random.random() / 200)
            os.kill(random.choice(sorted(server.enclaves)), signal.SIGKILL)
            steady(server)  # now there are two again, and some clients write on
            for pid in server.enclaves:
                os.kill(pid, signal.SIGKILL)
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)
            steady(server)
            check(server, acknowledged)
    assert "whole" in secgear("crypto", "audit", "verify", str(directory), "--key", key)


def test_a_database_of_an_older_layout_is_refused(tmp_path: Path, database: Cluster) -> None:
    import sqlalchemy

    directory = tmp_path / "module"
    url = database.database()
    founded(directory, "--database", url)
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(
            sqlalchemy.text("UPDATE layouts SET version = 1 WHERE component = 'crypto'")
        )
    engine.dispose()
    said = secgear("serve", "crypto", "--directory", str(directory), fails=True)
    assert "crypto has layout 1; this release knows 2" in said


def test_a_database_holds_one_module(tmp_path: Path, database: Cluster) -> None:
    url = database.database()
    founded(tmp_path / "one", "--database", url)
    said = secgear("crypto", "init", str(tmp_path / "other"), "--database", url, fails=True)
    assert "holds a module already" in said
    assert "this machine" in secgear("crypto", "domain", "members", str(tmp_path / "one"))
