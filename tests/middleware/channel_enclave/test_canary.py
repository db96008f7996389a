"""A secret in the traffic is nowhere at the host: not in its memory, its files or its logs.

Who searches learns the secret only once it has been sent, from the client's process that made it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secgear import errors
from secgear.middleware.channel.addresses import parse
from tests.adversary.memory import found
from tests.roles.host import Host
from tests.roles.owner import Owner
from tests.roles.part import Part


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as running:
        yield running


@pytest.fixture
def client(host: Host, tmp_path: Path) -> Iterator[Part]:
    words = tmp_path.with_name(f"{tmp_path.name}-client")  # not among the host's files
    with Part("tests.roles.owner", host.address, host.measurement.hex(), stderr=words) as part:
        yield part


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def _files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def _sent(client: Part) -> int:
    progress: dict[str, Any] = client.ask("progress")
    assert not progress["failure"], progress
    return int(progress["sent"])


@pytest.mark.slow
def test_secret_in_the_traffic_is_nowhere_at_the_host(
    host: Host, client: Part, tmp_path: Path
) -> None:
    client.ask("begin")
    _until(lambda: _sent(client) > 20)
    secret = bytes.fromhex(client.ask("secret"))
    for _ in range(5):  # while it flows
        before = _sent(client)
        assert found(host.pid, secret) == set()
        _until(lambda before=before: _sent(client) > before)  # type: ignore[misc]
    assert "as it is" in found(client.pid, secret), "the search finds what is there"
    assert client.ask("end")["failure"] == ""
    assert host.state()["relay"]["failed"] == 0
    assert found(host.pid, secret) == set()  # and afterwards
    kept = _files(tmp_path)
    for form in (secret, secret.hex().encode(), repr(secret)[2:-1].encode()):
        assert form not in kept
    assert kept.count(b"secgear") > 0, "the host has logged something"


def test_search_would_find_it(host: Host, tmp_path: Path) -> None:
    """The same relay, memory and search; but the client forgets the channel around its secret."""
    secret = os.urandom(48)
    assert found(host.pid, secret) == set()

    def seen() -> bool:
        with parse(host.address).connect(20) as connection:
            connection.sendall(secret * 4000)
            return "as it is" in found(host.pid, secret)

    _until(seen)
    (tmp_path / "notes").write_bytes(secret)
    assert secret in _files(tmp_path)


def test_what_goes_wrong_is_logged_without_what_it_went_wrong_with(
    host: Host, tmp_path: Path
) -> None:
    secret = os.urandom(24).hex()
    owner = Owner(host.address, host.measurement)
    session = owner.connect(service=secret)  # a name is inside the channel as well
    with pytest.raises(errors.ChannelError, match="no-handler"):
        session.recv(30)
    session = owner.connect(service="echo")
    session.send(secret.encode())
    session.send_calls(secret.encode())  # of another kind of session, and so refused
    with pytest.raises(errors.ChannelError):
        list(session)
    _until(lambda: not host.state()["relay"]["active"])
    assert secret.encode() not in _files(tmp_path)
    assert found(host.pid, secret.encode()) == set()
