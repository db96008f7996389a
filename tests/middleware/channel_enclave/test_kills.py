"""Enclave, host or client ended as by a power cut, in the middle of everything."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import secgear
from secgear import errors
from secgear.middleware.channel import Session
from tests.roles.host import Host
from tests.roles.owner import Owner
from tests.roles.part import Part

AT_ONCE = 6


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Host(tmp_path) as running:
        yield running


def _descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def _talk(session: Session) -> None:
    with session:
        while True:
            session.send(bytes(100_000))
            session.recv(60)


def _call(session: Session) -> None:
    with session:
        session.call.wait()


async def _talk_async(owner: Owner) -> None:
    async with await secgear.connect_async(
        owner.address, service="echo", timeout=60, **owner.trust
    ) as session:
        while True:
            await session.send(bytes(100_000))
            await session.recv(60)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["enclave", "host"])
def test_whoever_is_killed_every_client_has_a_typed_error_in_time(host: Host, who: str) -> None:
    """In a handshake, in a message, in a call; from threads and from asyncio."""
    owner = Owner(host.address, host.measurement)
    with ThreadPoolExecutor(3 * AT_ONCE) as pool:
        sessions = [owner.connect(service="echo") for _ in range(AT_ONCE)]
        calls = [owner.connect() for _ in range(2)]
        doomed = [pool.submit(_talk, session) for session in sessions]
        doomed += [pool.submit(_call, session) for session in calls]
        doomed += [pool.submit(asyncio.run, _talk_async(owner)) for _ in range(2)]
        # Some are always in the middle of their handshake.
        doomed += [pool.submit(lambda: [owner.connect() for _ in range(500)]) for _ in range(2)]
        _until(lambda: host.state()["enclave"]["sessions"] > AT_ONCE + 4)
        (host.kill_enclave if who == "enclave" else host.kill)()
        for one in doomed:
            error = one.exception(60)
            assert isinstance(error, errors.ChannelError | errors.EnclaveLost), repr(error)
            assert error.code
        with pytest.raises(errors.ChannelError):
            owner.connect(timeout=20)
    for session in (*sessions, *calls):
        session.close()


@pytest.mark.slow
def test_killed_clients_are_forgotten(host: Host, tmp_path: Path) -> None:
    """With whatever they had on the way; the others go on."""
    owner = Owner(host.address, host.measurement)
    with owner.connect(service="echo") as session:
        session.send(b"before")
        assert session.recv(60) == b"before"
        quiet = host.state()
        for _ in range(3):
            doomed = [
                Part(
                    "tests.roles.owner",
                    host.address,
                    host.measurement.hex(),
                    stderr=tmp_path / "client",
                )
                for _ in range(2)
            ]
            for one in doomed:
                one.ask("begin")
            _until(lambda: all(one.ask("progress")["sent"] > 3 for one in doomed))  # noqa: B023
            for one in doomed:
                one.kill()
                one.close()
        _until(lambda: host.state()["enclave"]["sessions"] == 1)
        _until(lambda: host.state()["relay"]["active"] == 1)
        _until(lambda: host.state()["host"]["descriptors"] <= quiet["host"]["descriptors"])
        after = host.state()
        assert after["enclave"]["descriptors"] == quiet["enclave"]["descriptors"]
        session.send(b"after")
        assert session.recv(60) == b"after"


@pytest.mark.slow
def test_killed_host_leaves_no_descriptor_with_its_clients(host: Host) -> None:
    owner = Owner(host.address, host.measurement)
    before = _descriptors()
    sessions = [owner.connect(service="echo") for _ in range(AT_ONCE)]
    for session in sessions:
        session.send(b"x")
    host.kill()
    for session in sessions:
        with pytest.raises(errors.ChannelTruncated):
            list(session)  # the echo may have come
    assert _descriptors() <= before


@pytest.mark.slow
def test_many_sessions_at_once_from_threads_and_tasks(host: Host) -> None:
    owner = Owner(host.address, host.measurement)

    def talk(number: int) -> bool:
        message = number.to_bytes(2) * 3000
        with owner.connect(service="echo") as session:
            session.send(message)
            return session.recv(60) == message

    async def talk_async(number: int) -> bool:
        message = number.to_bytes(2) * 3000
        async with await secgear.connect_async(
            owner.address, service="echo", timeout=60, **owner.trust
        ) as session:
            await session.send(message)
            return await session.recv(60) == message

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(talk_async(1000 + number) for number in range(16)))

    before = _descriptors()
    with ThreadPoolExecutor(13) as pool:
        tasks = pool.submit(asyncio.run, all_of_them())
        assert all(pool.map(talk, range(24)))
        assert all(tasks.result(120))
    _until(lambda: host.state()["relay"]["active"] == 0)
    assert _descriptors() <= before
