"""Waiting that is given up: no message is cut, joined with the next one, or taken for the end."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable

import pytest

from secgear.errors import ChannelClosed, ChannelError
from secgear.middleware.channel.aio import AsyncSession
from secgear.middleware.channel.messages import Opened
from secgear.middleware.channel.session import Session
from secgear.middleware.channel.streams import SocketBytes
from secgear.middleware.channel.trust import Remote
from tests.middleware.channel.pairs import Pair, opened

LONG = bytes(range(256)) * 1000  # several frames


def steps(pair: Pair, message: bytes) -> list[bytes]:
    """What the client says, frame by frame."""
    return [pair.client.outgoing() for _ in pair.client.send(message)]


def serving(pair: Pair, lifetime: float = 60) -> tuple[Session, socket.socket]:
    near, far = socket.socketpair()
    return Session(pair.server, SocketBytes(near), Remote(), lifetime=lifetime), far


def test_message_that_came_in_part_before_a_timeout_is_whole_in_the_next_recv() -> None:
    pair = opened()
    session, far = serving(pair)
    with far, session:
        first, *rest = steps(pair, LONG)
        far.sendall(first)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                session.recv(0.01)
        far.sendall(b"".join(rest) + b"".join(steps(pair, b"next")))
        assert session.recv(10) == LONG
        assert session.recv(10) == b"next"


def test_stream_after_a_timeout_begins_with_what_has_come() -> None:
    pair = opened()
    session, far = serving(pair)
    with far, session:
        first, *rest = steps(pair, LONG)
        far.sendall(first)
        with pytest.raises(TimeoutError):
            session.recv(0.01)
        far.sendall(b"".join(rest))
        assert b"".join(session.recv_stream(10)) == LONG


def test_end_of_the_verification_is_no_end_of_what_was_said() -> None:
    pair = opened()
    session, far = serving(pair, lifetime=0.05)
    with far, pytest.raises(ChannelError, match="too long ago") as caught:
        list(session)  # waits for a peer that says nothing
    assert not isinstance(caught.value, ChannelClosed)


def test_peer_that_takes_nothing_can_not_keep_us_from_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secgear.middleware.channel.session.CLOSING", 0.2)
    session, far = serving(opened())
    failed: list[ChannelError] = []

    def send() -> None:
        try:
            session.send(bytes(16 << 20))
        except ChannelError as error:
            failed.append(error)

    sender = threading.Thread(target=send, daemon=True)
    closer = threading.Thread(target=session.close, daemon=True)
    with far:
        sender.start()
        assert far.recv(1)  # it has begun
        closer.start()
        closer.join(20)
        assert not closer.is_alive()
        sender.join(20)
        assert failed


def _with_a_client(
    pair: Pair,
    run: Callable[[AsyncSession, socket.socket], Awaitable[None]],
    *,
    lifetime: float = 60,
) -> None:
    async def main() -> None:
        near, far = socket.socketpair()
        with far:
            reader, writer = await asyncio.open_connection(sock=near)
            session = AsyncSession(
                pair.client, reader, writer, Remote(), service="", events=(), lifetime=lifetime
            )
            try:
                await run(session, far)
            finally:
                session.abort()

    asyncio.run(main())


def _answer(pair: Pair, far: socket.socket, *messages: bytes) -> None:
    pair.server.send_control(Opened())
    for message in messages:
        for _ in pair.server.send(message):
            pass
    far.sendall(pair.server.outgoing())


def test_task_cancelled_while_it_opens_does_not_open_twice() -> None:
    pair = opened()

    async def run(session: AsyncSession, far: socket.socket) -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(session.recv(), 0.05)
        _answer(pair, far, b"one")
        assert await session.recv(10) == b"one"
        pair.hand("S", far.recv(1 << 16))
        assert len(pair.events["S"]) == 3  # of the handshake, and OPEN once
        assert not pair.errors

    _with_a_client(pair, run)


def test_task_cancelled_in_a_message_finds_it_whole_afterwards() -> None:
    pair = opened()

    async def run(session: AsyncSession, far: socket.socket) -> None:
        _answer(pair, far)
        said = []
        for _ in pair.server.send(LONG):
            said.append(pair.server.outgoing())
        far.sendall(said[0])
        with pytest.raises(TimeoutError):
            await session.recv(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.recv(), 0.05)
        writer = threading.Thread(target=far.sendall, args=(b"".join(said[1:]),))
        writer.start()
        assert await session.recv(10) == LONG
        writer.join()

    _with_a_client(pair, run)


def test_message_whose_sending_was_cancelled_is_never_part_of_another() -> None:
    pair = opened()

    async def run(session: AsyncSession, far: socket.socket) -> None:
        _answer(pair, far)
        await session.send(b"first")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.send(bytes(16 << 20)), 0.2)  # nobody takes it
        with pytest.raises(ChannelError):
            await session.send(b"next")

    _with_a_client(pair, run)


def test_asyncio_sees_that_the_verification_has_ended_while_it_waits() -> None:
    pair = opened()

    async def run(session: AsyncSession, far: socket.socket) -> None:
        _answer(pair, far)
        with pytest.raises(ChannelError, match="too long ago"):
            async for _ in session:
                pass

    _with_a_client(pair, run, lifetime=0.2)
