"""Messages stay whole: whatever runs out, is given up or breaks in the middle of one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from secgear.errors import ChannelClosed, ChannelError, ChannelTruncated
from secgear.middleware.channel.aio import AsyncSession
from secgear.middleware.channel.messages import PART, Kind, Opened, header
from secgear.middleware.channel.session import Session
from secgear.middleware.channel.streams import SocketBytes
from secgear.middleware.channel.trust import Remote
from tests.middleware.channel.pairs import opened


class Ends:
    """Both sides of a session over a socket, in one process."""

    def __init__(self) -> None:
        pair = opened()
        self.near, self.far = socket.socketpair()
        self.core = pair.client
        self.server = Session(pair.server, SocketBytes(self.far), Remote(), lifetime=60)
        self.client = Session(pair.client, SocketBytes(self.near), Remote(), lifetime=60)
        self.pool = ThreadPoolExecutor(4)

    def open(self) -> None:
        """Server's half of the opening, in a thread."""
        self.pool.submit(self._answer)

    def _answer(self) -> None:
        self.server.await_open()
        self.server.opened(Opened())

    def by_server(self, task: Callable[..., Any], *given: Any) -> Future[Any]:
        return self.pool.submit(task, *given)

    def say(self, kind: Kind, payload: bytes) -> None:
        """One frame of the server's, and no more."""
        self.server._core._tls.write(header(kind, len(payload)) + payload)
        self.server._flush()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    made.open()
    yield made
    made.client.abort()
    made.server.abort()
    made.pool.shutdown()


def test_message_that_comes_late_is_whole(ends: Ends) -> None:
    """The time runs out in the middle: what had come of the message is not lost."""
    ends.client.send(b"hello")
    assert ends.server.recv(10) == b"hello"
    ends.say(Kind.PART, b"one ")
    with pytest.raises(TimeoutError):
        ends.client.recv(0.05)
    ends.say(Kind.PART, b"two ")
    with pytest.raises(TimeoutError):
        ends.client.recv(0.05)
    ends.say(Kind.LAST, b"three")
    ends.say(Kind.LAST, b"next")
    assert ends.client.recv(10) == b"one two three"
    assert ends.client.recv(10) == b"next"


def test_parts_go_on_where_waiting_for_the_whole_was_given_up(ends: Ends) -> None:
    ends.client.send(b"hello")
    ends.say(Kind.PART, b"one ")
    with pytest.raises(TimeoutError):
        ends.client.recv(0.05)
    ends.say(Kind.PART, b"two ")
    ends.say(Kind.LAST, b"three")
    assert b"".join(ends.client.recv_stream(10)) == b"one two three"


def test_trickle_does_not_prolong_the_wait(ends: Ends) -> None:
    ends.client.send(b"hello")
    over = threading.Event()

    def trickle() -> None:
        while not over.wait(0.01):
            ends.say(Kind.PART, b"x")

    trickling = ends.by_server(trickle)
    try:
        with pytest.raises(TimeoutError):
            ends.client.recv(0.2)
    finally:
        over.set()
        trickling.result(10)


def test_tail_of_a_message_is_not_taken_for_one(ends: Ends) -> None:
    ends.client.send(b"hello")
    ends.say(Kind.PART, b"pay nobody, ")
    ends.say(Kind.LAST, b"pay everybody")
    for part in ends.client.recv_stream(10):
        assert part == b"pay nobody, "
        break
    with pytest.raises(ChannelError, match="in the middle of a message"):
        ends.client.recv(10)
    with pytest.raises(ChannelError):
        ends.client.recv(10)


def test_goodbye_in_the_middle_of_a_message_is_no_good_end(ends: Ends) -> None:
    ends.client.send(b"hello")
    ends.say(Kind.LAST, b"whole")
    ends.say(Kind.PART, b"half")
    ends.server.close()
    messages = iter(ends.client)
    assert next(messages) == b"whole"
    with pytest.raises(ChannelTruncated, match="in the middle of a message"):
        next(messages)


def test_goodbye_between_messages_is_a_good_end(ends: Ends) -> None:
    ends.client.send(b"hello")
    ends.say(Kind.PART, b"who")
    ends.say(Kind.LAST, b"le")
    ends.server.close()
    assert list(ends.client) == [b"whole"]
    with pytest.raises(ChannelClosed):
        ends.client.recv()


@pytest.mark.parametrize("error", [ChannelClosed("of another session"), RuntimeError(), None])
def test_source_that_breaks_makes_no_message(ends: Ends, error: Exception | None) -> None:
    """Also one that is a session itself, whose end is no end of this one."""

    def parts() -> Iterator[Any]:
        yield b"some"
        if error is not None:
            raise error
        yield None

    receiving = ends.by_server(ends.server.recv, 10)
    with pytest.raises(TypeError if error is None else type(error)):
        ends.client.send_stream(parts())
    with pytest.raises(ChannelTruncated):
        receiving.result(10)


def test_interrupted_sender_leaves_no_half_message(ends: Ends) -> None:
    """A next message would be taken for the end of this one."""
    ends.client.send(b"hello")

    class Interrupted(BaseException):
        pass

    stream: Any = ends.client._stream
    send = stream.send
    calls = []

    def once(data: bytes) -> None:
        calls.append(len(data))
        if len(calls) == 2:
            raise Interrupted
        send(data)

    ends.client._stream = type("Stream", (), {"send": staticmethod(once), "close": stream.close})()  # type: ignore[assignment]
    receiving = ends.by_server(lambda: (ends.server.recv(10), ends.server.recv(10)))
    with pytest.raises(Interrupted):
        ends.client.send(bytes(4 * PART))
    with pytest.raises(ChannelClosed):
        ends.client.send(b"tail")
    with pytest.raises(ChannelTruncated):
        receiving.result(10)


def test_what_is_no_bytes_is_refused_before_anything_is_said(ends: Ends) -> None:
    ends.client.send(b"hello")
    with pytest.raises(TypeError):
        ends.client.send("text")  # type: ignore[arg-type]
    ends.client.send(b"goes on")
    assert [ends.server.recv(10), ends.server.recv(10)] == [b"hello", b"goes on"]


def test_opening_keeps_the_time_and_is_said_once() -> None:
    ends = Ends()
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                ends.client.recv(0.05)
            assert time.monotonic() - began < 10
        with pytest.raises(ChannelError, match="for messages"):
            _ = ends.client.call
        ends.open()
        answering = ends.by_server(lambda: ends.server.send(ends.server.recv(10)))
        ends.client.send(b"once")
        assert ends.client.recv(10) == b"once"
        answering.result(10)
    finally:
        ends.client.abort()
        ends.server.abort()
        ends.pool.shutdown()


def test_reason_is_still_there_for_who_could_not_send(ends: Ends) -> None:
    ends.client.send(b"hello")
    ends.server.failed("session.failed", "the enclave's handler failed")
    with contextlib.suppress(ChannelError):
        for _ in range(100):
            ends.client.send(bytes(PART))
    with pytest.raises(ChannelError, match=r"session\.failed"):
        ends.client.recv(10)


# --- asyncio -------------------------------------------------------------------------------------


async def _async(ends: Ends) -> AsyncSession:
    reader, writer = await asyncio.open_connection(sock=ends.near)
    return AsyncSession(ends.core, reader, writer, Remote(), service="", events=(), lifetime=60)


def test_asyncio_message_that_comes_late_is_whole(ends: Ends) -> None:
    async def talk() -> None:
        session = await _async(ends)
        await session.send(b"hello")
        ends.say(Kind.PART, b"one ")
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await session.recv(0.05)
        waiting = asyncio.create_task(session.recv())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        ends.say(Kind.LAST, b"two")
        assert await session.recv(10) == b"one two"
        session.abort()

    asyncio.run(talk())


def test_asyncio_cancelled_sender_leaves_no_half_message(ends: Ends) -> None:
    async def talk() -> None:
        session = await _async(ends)
        await session.send(b"hello")
        with pytest.raises(TimeoutError):  # the server takes nothing
            async with asyncio.timeout(0.2):
                await session.send(bytes(64 << 20))
        with pytest.raises(ChannelError):
            await session.send(b"tail")

    asyncio.run(talk())
    assert ends.server.recv(10) == b"hello"
    with pytest.raises(ChannelTruncated):
        ends.server.recv(10)


@pytest.mark.parametrize("error", [ChannelClosed("of another session"), RuntimeError()])
def test_asyncio_source_that_breaks_makes_no_message(ends: Ends, error: Exception) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"some"
        raise error

    async def talk() -> None:
        session = await _async(ends)
        with pytest.raises(type(error)):
            await session.send_stream(parts())

    receiving = ends.by_server(ends.server.recv, 10)
    asyncio.run(talk())
    with pytest.raises(ChannelTruncated):
        receiving.result(10)


def test_asyncio_opening_keeps_the_time_and_is_said_once() -> None:
    ends = Ends()

    async def talk() -> None:
        session = await _async(ends)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await session.recv(0.05)
        ends.open()
        await session.send(b"once")
        assert await asyncio.to_thread(ends.server.recv, 10) == b"once"
        session.abort()

    try:
        asyncio.run(talk())
    finally:
        ends.server.abort()
        ends.pool.shutdown()
