"""Writing frames: in order, in one piece, and never waiting where nobody may wait."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from secgear.base.outbox import _BACKLOG, Outbox
from secgear.base.transport.arena import CHUNK_SIZE, Arena, create
from secgear.base.transport.stream import SocketStream
from secgear.base.wire import (
    CHUNK,
    INLINE_MAX,
    Decoder,
    Flag,
    Frame,
    Kind,
    Limits,
    frame,
)
from secgear.errors import EnclaveLost

Buffers = list[bytes | bytearray | memoryview]


class Scripted:
    """A stream that takes what the script lets it take."""

    def __init__(self, script: Callable[[int, bool], int]) -> None:
        self.script = script
        self.data = bytearray()
        self.closed = False

    def recv(self, size: int) -> bytes:
        return b""

    def send(self, buffers: Buffers, *, block: bool = True) -> int:
        joined = b"".join(buffers)
        taken = self.script(len(joined), block)
        self.data += joined[:taken]
        return taken

    def close(self) -> None:
        self.closed = True


def entries(data: bytes) -> list[Frame]:
    decoder = Decoder(Limits())
    decoder.feed(data)
    result = list(decoder.frames())
    assert not decoder._buffer, "half a frame is left"
    assert all(isinstance(entry, Frame) for entry in result)
    return result  # type: ignore[return-value]


def never() -> bool:
    return False


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(20)
    with ours, theirs:
        yield ours, theirs


def test_partial_writes_lose_and_double_nothing() -> None:
    chance = random.Random(1)

    def some(size: int, block: bool) -> int:
        return chance.randint(1 if block else 0, min(size, 7))

    stream = Scripted(some)
    outbox = Outbox(stream, None)
    expected = []
    for number in range(300):
        payload = os.urandom(chance.randint(0, 40))
        if number % 3:
            outbox.send(frame(Kind.LOG, number, payload)[:5], frame(Kind.LOG, number, payload)[5:])
        else:
            outbox.post(frame(Kind.LOG, number, payload))
        expected.append((number, payload))
    outbox.send(frame(Kind.BYE))
    assert [(entry.id, entry.payload) for entry in entries(bytes(stream.data))][:-1] == expected
    outbox.close()


@pytest.mark.parametrize("count", [1, 511, 512, 513, 3000])
def test_more_buffers_than_the_kernel_takes_go_in_several_writes(
    sockets: tuple[socket.socket, socket.socket], count: int
) -> None:
    ours, theirs = sockets
    outbox = Outbox(SocketStream(ours), None)
    attachments = [memoryview(os.urandom(5)) for _ in range(count)]
    outbox.message(
        frame(Kind.RESULT, 1, b"head"), attachments, flags=0, index=5, id=1, give_up=never
    )
    ours.shutdown(socket.SHUT_WR)
    data = bytearray()
    while part := theirs.recv(1 << 20):
        data += part
    head, *rest = entries(bytes(data))
    assert head.payload == b"head"
    assert [entry.payload for entry in rest] == [bytes(view) for view in attachments]
    assert {(entry.kind, entry.index, entry.flags) for entry in rest} == {
        (Kind.DATA, 5, Flag.INLINE)
    }


def test_posting_never_waits_and_arrives_after_what_was_before(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    outbox = Outbox(SocketStream(ours), None)
    big = frame(Kind.CALL, 1, bytes(4 << 20), flags=Flag.OURS)
    sender = threading.Thread(target=outbox.send, args=(big,))
    sender.start()
    time.sleep(0.05)  # it fills the socket and holds the stream
    start = time.monotonic()
    for number in range(1000):
        outbox.post(frame(Kind.CREDIT, number))
    assert time.monotonic() - start < 1
    data = bytearray()
    while len(data) < len(big) + 1000 * 16:
        data += theirs.recv(1 << 20)
    sender.join(5)
    first, *rest = entries(bytes(data))
    assert first.id == 1
    assert [entry.id for entry in rest] == list(range(1000))
    outbox.close()


class LastMoment:
    """A lock; just before its holder gives it back, something happens."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._happens = happens

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._happens()
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


@pytest.mark.parametrize("holder", ["send", "post", "flusher", "deadline"])
def test_a_post_at_the_last_moment_is_not_forgotten(holder: str) -> None:
    """It finds the lock taken, by one who has looked at what there is to write already."""
    full = threading.Event()

    def room(size: int, block: bool) -> int:
        if holder == "flusher" and not full.is_set():
            if not block:
                return 0
            full.set()
        return size

    stream = Scripted(room)
    outbox = Outbox(stream, None)
    late = iter([frame(Kind.CREDIT, 2)])

    def happens() -> None:
        if holder != "flusher" or threading.current_thread().name == "secgear-flush":
            for data in late:
                outbox.post(data)

    outbox._lock = LastMoment(happens)  # type: ignore[assignment]
    if holder == "send":
        outbox.send(frame(Kind.CREDIT, 1))
    elif holder == "deadline":
        outbox.send(frame(Kind.CREDIT, 1), deadline=time.monotonic() + 5)
    else:
        outbox.post(frame(Kind.CREDIT, 1))
    end = time.monotonic() + 5
    while len(stream.data) < 32:
        assert time.monotonic() < end, "a frame waits that nobody writes"
        time.sleep(0.001)
    assert [entry.id for entry in entries(bytes(stream.data))] == [1, 2]
    outbox.close()


def test_many_threads_write_whole_frames(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = sockets
    outbox = Outbox(SocketStream(ours), None)

    def write(thread: int) -> None:
        for number in range(100):
            payload = bytes([thread]) * (number * 37 % 5000)
            if number % 4:
                outbox.send(frame(Kind.LOG, thread * 1000 + number, payload))
            else:
                outbox.post(frame(Kind.LOG, thread * 1000 + number, payload))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    decoder = Decoder(Limits())
    seen: dict[int, list[int]] = {number: [] for number in range(8)}
    while sum(map(len, seen.values())) < 800:
        decoder.feed(theirs.recv(1 << 16))
        for entry in decoder.frames():
            assert isinstance(entry, Frame)
            thread, number = divmod(entry.id, 1000)
            assert entry.payload == bytes([thread]) * (number * 37 % 5000)
            seen[thread].append(number)
    for thread in threads:
        thread.join()
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    outbox.close()


def test_a_peer_that_does_not_read_is_found_out() -> None:
    outbox = Outbox(Scripted(lambda size, block: 0), None)
    with outbox._lock:  # somebody waits for room
        for number in range(_BACKLOG + 10):
            outbox.post(frame(Kind.CREDIT, number))
    assert outbox.overrun
    assert len(outbox._backlog) == _BACKLOG
    outbox.close()


def test_a_deadline_ends_the_wait_and_leaves_the_frame_whole(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    outbox = Outbox(SocketStream(ours), None)
    big = frame(Kind.CALL, 1, os.urandom(4 << 20), flags=Flag.OURS)
    start = time.monotonic()
    assert outbox.send(big, deadline=start + 0.2) is False
    assert 0.1 < time.monotonic() - start < 2
    assert outbox.send(frame(Kind.BYE), deadline=time.monotonic() + 0.1) is False
    outbox.post(frame(Kind.CANCEL, 1, flags=Flag.OURS))
    data = bytearray()
    while len(data) < len(big) + 16:
        data += theirs.recv(1 << 20)
    call, cancel = entries(bytes(data))
    assert (call.kind, cancel.kind) == (Kind.CALL, Kind.CANCEL)
    assert call.payload == big[16:]
    assert outbox.send(frame(Kind.BYE), deadline=time.monotonic() + 5) is True
    assert entries(theirs.recv(100))[0].kind is Kind.BYE
    outbox.close()


def test_a_dead_peer_fails_who_waits_and_who_comes_later(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = sockets
    outbox = Outbox(SocketStream(ours), None)
    failed: list[BaseException] = []

    def write(deadline: float | None) -> None:
        try:
            outbox.send(bytes(8 << 20), deadline=deadline)
        except EnclaveLost as error:
            failed.append(error)

    threads = [
        threading.Thread(target=write, args=(deadline,))
        for deadline in (None, time.monotonic() + 30, None)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    theirs.close()
    for thread in threads:
        thread.join(5)
    assert len(failed) == 3
    with pytest.raises(EnclaveLost):
        outbox.send(b"x")
    with pytest.raises(EnclaveLost):
        outbox.send(b"x", deadline=time.monotonic() + 1)
    outbox.post(b"x")  # nobody to tell
    outbox.close()


@pytest.mark.parametrize("posted", [False, True])
def test_an_interrupt_in_the_middle_of_a_write_ends_the_stream(posted: bool) -> None:
    """After half a frame nothing could be understood; it would become part of the frame."""

    def interrupted(size: int, block: bool) -> int:
        raise KeyboardInterrupt

    stream = Scripted(interrupted)
    outbox = Outbox(stream, None)
    if posted:
        with outbox._lock:
            outbox.post(b"first")
    with pytest.raises(KeyboardInterrupt):
        outbox.send(b"frame")
    assert stream.closed
    stream.script = lambda size, block: size
    with pytest.raises(EnclaveLost):
        outbox.send(b"next")
    assert stream.data == b""


def test_large_attachments_go_through_shared_memory() -> None:
    fd = create(2 * CHUNK_SIZE)
    mine, other = Arena(fd, host=True), Arena(fd, host=False)
    os.close(fd)
    stream = Scripted(lambda size, block: size)
    outbox = Outbox(stream, mine)
    data = os.urandom(5 * CHUNK_SIZE // 2)
    received = bytearray()
    done = threading.Event()

    def receive() -> None:
        position = 0
        while len(received) < len(data):
            for entry in entries(bytes(stream.data[position:])):
                position += 16 + len(entry.payload)
                if entry.kind is Kind.DATA:
                    chunk, size = CHUNK.unpack(entry.payload)
                    private = bytearray(size)
                    other.take(chunk, size, memoryview(private))
                    received.extend(private)
                    mine.credit(chunk)
            time.sleep(0.001)
        done.set()

    threading.Thread(target=receive, daemon=True).start()
    assert outbox.message(
        frame(Kind.RESULT, 1), [memoryview(data)], flags=0, index=1, id=1, give_up=never
    )
    assert done.wait(10)
    assert received == data
    outbox.close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_message_that_is_given_up_stops(shared: bool) -> None:
    fd = create(2 * CHUNK_SIZE)
    arena = Arena(fd, host=True) if shared else None
    os.close(fd)
    stream = Scripted(lambda size, block: size)
    outbox = Outbox(stream, arena)
    asked = iter([False, True])
    data = memoryview(bytes(8 * CHUNK_SIZE))
    assert not outbox.message(
        frame(Kind.RESULT, 1), [data], flags=0, index=1, id=1, give_up=lambda: next(asked, True)
    )
    assert len(stream.data) <= 2 * 16 + INLINE_MAX
    outbox.close()


def test_a_closed_arena_is_a_lost_enclave() -> None:
    fd = create(CHUNK_SIZE)
    outbox = Outbox(Scripted(lambda size, block: size), Arena(fd, host=True))
    os.close(fd)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            outbox.message(
                b"head",
                [memoryview(bytes(4 * CHUNK_SIZE))],
                flags=0,
                index=1,
                id=1,
                give_up=never,
            )
        except EnclaveLost as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.05)
    outbox.close()
    thread.join(5)
    assert failed
