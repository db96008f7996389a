"""Shared memory: chunks that travel by credit, and a file that nobody can shrink."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.transport.arena import CHUNK_SIZE, Arena, create
from secgear.errors import ProtocolError

Pair = tuple[Arena, Arena]


def never() -> bool:
    return False


@pytest.fixture
def pair() -> Iterator[Pair]:
    fd = create(2 * CHUNK_SIZE)
    host, enclave = Arena(fd, host=True), Arena(fd, host=False)
    os.close(fd)
    yield host, enclave
    host.close()
    enclave.close()


@pytest.mark.parametrize("length", [0, 1, 4 * CHUNK_SIZE - 1, 4 * CHUNK_SIZE + 1, 1 << 30])
def test_neither_side_can_change_its_size(length: int) -> None:
    fd = create(2 * CHUNK_SIZE)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(fd, length)
        assert os.fstat(fd).st_size == 4 * CHUNK_SIZE
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, 2 * CHUNK_SIZE + 1, 3 * CHUNK_SIZE])
def test_a_file_of_odd_size_is_refused(size: int) -> None:
    fd = os.memfd_create("odd")
    try:
        os.ftruncate(fd, size)
        with pytest.raises(ProtocolError, match="whole number of chunks"):
            Arena(fd, host=False)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [1, 1000, CHUNK_SIZE])
def test_bytes_cross_in_both_directions_at_once(pair: Pair, size: int) -> None:
    host, enclave = pair
    there, back = os.urandom(size), os.urandom(size)
    first, second = host.put(memoryview(there), never), enclave.put(memoryview(back), never)
    assert first is not None
    assert second is not None
    received, returned = bytearray(size), bytearray(size)
    enclave.take(first, size, memoryview(received))
    host.take(second, size, memoryview(returned))
    assert (received, returned) == (there, back)


def test_a_chunk_is_not_used_again_before_its_credit(pair: Pair) -> None:
    host, _ = pair
    chunks = {host.put(memoryview(b"x"), never) for _ in range(2)}
    assert chunks == {0, 1}
    assert host.put(memoryview(b"x"), lambda: True) is None
    host.credit(1)
    assert host.put(memoryview(b"x"), lambda: True) == 1


def test_a_sender_waits_for_credit(pair: Pair) -> None:
    host, _ = pair
    for _ in range(2):
        host.put(memoryview(b"x"), never)
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(host.put(memoryview(b"y"), never)))
    thread.start()
    time.sleep(0.05)
    assert not got
    host.credit(0)
    thread.join(5)
    assert got == [0]


@pytest.mark.parametrize("end", ["close", "give up"])
def test_a_waiting_sender_can_be_sent_home(pair: Pair, end: str) -> None:
    host, _ = pair
    for _ in range(2):
        host.put(memoryview(b"x"), never)
    over = threading.Event()
    got: list[int | None] = []
    thread = threading.Thread(target=lambda: got.append(host.put(memoryview(b"y"), over.is_set)))
    thread.start()
    if end == "close":
        host.close()
    else:
        over.set()
        host.wake()
    thread.join(5)
    assert got == [None]


def test_a_closed_arena_gives_no_chunks(pair: Pair) -> None:
    host, _ = pair
    host.close()
    assert host.put(memoryview(b"x"), never) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_credit_that_is_not_owed_is_refused(chunk: int) -> None:
    fd = create(2 * CHUNK_SIZE)
    arena = Arena(fd, host=True)
    os.close(fd)
    given_out = arena.put(memoryview(b"x"), never)
    assert given_out is not None
    if chunk != given_out:
        with pytest.raises(ProtocolError, match="does not hold"):
            arena.credit(chunk)
    arena.credit(given_out)
    with pytest.raises(ProtocolError, match="does not hold"):
        arena.credit(given_out)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 2**32 - 1) | st.integers(0, 3),
    st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, CHUNK_SIZE, CHUNK_SIZE + 1]),
)
def test_only_chunks_inside_are_read(chunk: int, size: int) -> None:
    fd = create(2 * CHUNK_SIZE)
    arena = Arena(fd, host=True)
    os.close(fd)
    if chunk < 2 and 0 < size <= CHUNK_SIZE:
        arena.check(chunk, size)
    else:
        with pytest.raises(ProtocolError, match="outside the shared memory"):
            arena.take(chunk, size, memoryview(bytearray(CHUNK_SIZE)))


def test_what_was_copied_does_not_change_with_the_shared_memory(pair: Pair) -> None:
    host, enclave = pair
    chunk = host.put(memoryview(b"as it was"), never)
    assert chunk is not None
    private = bytearray(9)
    enclave.take(chunk, 9, memoryview(private))
    host._out[:9] = b"otherwise"
    assert private == b"as it was"
