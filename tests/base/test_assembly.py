"""Messages that arrive in pieces: right or refused, and no more memory than what came."""

from __future__ import annotations

import os
import random
import threading
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base import assembly
from secgear.base.assembly import Assembly, Key, Parcel
from secgear.base.transport.arena import CHUNK_SIZE, Arena, create
from secgear.base.wire import ARGUMENTS, CHUNK, INLINE_MAX, VALUE, Flag, Limits
from secgear.errors import LimitExceeded, ProtocolError

KEY: Key = (False, 1, ARGUMENTS)
LIMITS = Limits(attachments=8, attached=1 << 20, assembling=3 << 20)


class Desk:
    """Takes what an assembly delivers."""

    def __init__(self, limits: Limits = LIMITS, arena: Arena | None = None) -> None:
        self.credits: list[int] = []
        self.assembly = Assembly(limits, arena, self.credits.append)
        self.parcels: list[Parcel] = []
        self.failures: list[LimitExceeded] = []

    def begin(self, *sizes: int, key: Key = KEY, body: int = 0) -> None:
        self.assembly.begin(key, sizes, body, self.parcels.append, self.failures.append)

    def inline(self, data: bytes, key: Key = KEY) -> None:
        self.assembly.data(key, Flag.INLINE, data)

    def taken(self) -> list[list[bytes]]:
        return [[bytes(data) for data in parcel.take()] for parcel in self.parcels]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(1, 700))
def test_attachments_arrive_as_they_were_sent_however_they_are_cut(
    sizes: list[int], step: int
) -> None:
    desk = Desk()
    originals = [os.urandom(size) for size in sizes]
    desk.begin(*sizes)
    for data in originals:
        for start in range(0, len(data), step):
            desk.inline(data[start : start + step])
    assert desk.taken() == [originals]
    assert desk.assembly.held == 0


def test_large_attachments_grow_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "_AHEAD", 1000)
    desk = Desk()
    originals = [os.urandom(size) for size in (5000, 900, 0, 3000)]
    desk.begin(*map(len, originals))
    for data in originals:
        for start in range(0, len(data), 700):
            desk.inline(data[start : start + 700])
    assert desk.taken() == [originals]


def test_announced_bytes_take_no_memory_before_they_come() -> None:
    desk = Desk(Limits())
    tracemalloc.start()
    try:
        for id in range(100):
            desk.begin(1 << 25, 1 << 20, key=(False, id, ARGUMENTS))
        assert desk.assembly.held == 100 * ((1 << 25) + (1 << 20))
        assert tracemalloc.get_traced_memory()[0] < assembly._AHEAD + (1 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("sizes", "error"),
    [
        ((1,) * 9, LimitExceeded),
        (((1 << 20) + 1,), LimitExceeded),
        ((1 << 19, 1 << 19, 1), LimitExceeded),
        ((1 << 64,), LimitExceeded),
        ((-1,), ProtocolError),
        ((5, -1), ProtocolError),
        ((1 << 30, -(1 << 30)), ProtocolError),
    ],
)
def test_sizes_beyond_the_limits_are_refused(
    sizes: tuple[int, ...], error: type[Exception]
) -> None:
    desk = Desk()
    with pytest.raises(error):
        desk.begin(*sizes)
    assert desk.assembly.held == 0
    desk.begin(3)
    desk.inline(b"abc")
    assert desk.taken() == [[b"abc"]]


def test_what_arrived_counts_until_it_is_taken() -> None:
    desk = Desk()
    for id in range(3):
        key = (False, id, ARGUMENTS)
        desk.begin((1 << 20) - 100, key=key)
        for _ in range(4):
            desk.inline(bytes((1 << 18) - 25), key)
    with pytest.raises(LimitExceeded, match="wait here"):
        desk.begin(1000, key=(False, 9, ARGUMENTS))
    assert len(desk.parcels.pop().take()[0]) == (1 << 20) - 100
    desk.begin(1000, key=(False, 9, ARGUMENTS))
    desk.parcels.clear()  # nobody wants the others
    assert desk.assembly.held == 1000


def test_large_bodies_count_like_attachments() -> None:
    desk = Desk()
    for id in range(3):
        desk.begin(key=(False, id, ARGUMENTS), body=1 << 20)
    with pytest.raises(LimitExceeded):
        desk.begin(key=(False, 3, ARGUMENTS), body=1 << 20)
    desk.begin(key=(False, 3, ARGUMENTS), body=1000)
    assert desk.taken() == [[], [], [], []]
    assert desk.assembly.held == 0


@pytest.mark.parametrize("data", [b"", b"1234", bytes(INLINE_MAX)])
def test_data_that_does_not_fit_is_refused(data: bytes) -> None:
    desk = Desk()
    desk.begin(3, 5)
    with pytest.raises(ProtocolError, match="does not fit"):
        desk.inline(data)
    desk.inline(b"abc")
    desk.inline(b"defgh")
    assert desk.taken() == [[b"abc", b"defgh"]]


def test_data_never_spans_two_attachments() -> None:
    desk = Desk()
    desk.begin(3, 5)
    desk.inline(b"ab")
    with pytest.raises(ProtocolError, match="does not fit"):
        desk.inline(b"cd")


def test_data_for_nothing_is_dropped_and_its_chunk_given_back() -> None:
    fd = create(2 * CHUNK_SIZE)
    desk = Desk(arena=Arena(fd, host=True))
    os.close(fd)
    desk.inline(b"abc")
    desk.assembly.data(KEY, 0, CHUNK.pack(1, 5))
    assert desk.credits == [1]
    assert not desk.parcels


def test_a_chunk_that_does_not_fit_is_given_back_too() -> None:
    fd = create(2 * CHUNK_SIZE)
    desk = Desk(arena=Arena(fd, host=True))
    os.close(fd)
    desk.begin(3)
    with pytest.raises(ProtocolError, match="does not fit"):
        desk.assembly.data(KEY, 0, CHUNK.pack(0, 4))
    assert desk.credits == [0]


@pytest.mark.parametrize("payload", [b"", b"1234567", CHUNK.pack(2, 1), CHUNK.pack(0, 0)])
def test_forged_chunks_are_refused_and_nothing_is_credited(payload: bytes) -> None:
    fd = create(2 * CHUNK_SIZE)
    desk = Desk(arena=Arena(fd, host=True))
    os.close(fd)
    desk.begin(3)
    with pytest.raises(ProtocolError):
        desk.assembly.data(KEY, 0, payload)
    assert desk.credits == []


def test_without_shared_memory_chunks_are_refused() -> None:
    with pytest.raises(ProtocolError, match="malformed DATA"):
        Desk().assembly.data(KEY, 0, CHUNK.pack(0, 1))


@pytest.mark.parametrize("sizes", [(), (0,), (5,)])
def test_a_second_message_under_the_same_name_is_refused(sizes: tuple[int, ...]) -> None:
    desk = Desk()
    desk.begin(3)
    with pytest.raises(ProtocolError, match="before the one before"):
        desk.begin(*sizes)
    desk.inline(b"abc")
    assert desk.taken() == [[b"abc"]]


def test_messages_interleave() -> None:
    desk = Desk()
    keys: list[Key] = [(False, 1, ARGUMENTS), (True, 1, VALUE), (True, 1, 0), (False, 2, 1)]
    chance = random.Random(5)
    rest = {}
    for key in keys:
        desk.begin(400, key=key)
        rest[key] = list(range(400))
    while any(rest.values()):
        key = chance.choice([key for key, left in rest.items() if left])
        rest[key].pop()
        desk.inline(bytes([keys.index(key)]), key)
    assert sorted(desk.taken()) == [[bytes([number]) * 400] for number in range(4)]


def test_a_forgotten_message_is_not_delivered_and_counts_no_more() -> None:
    desk = Desk()
    desk.begin(3)
    desk.begin(3, key=(True, 1, VALUE))
    desk.assembly.forget(False, 1)
    assert desk.assembly.held == 3
    desk.inline(b"abc")
    assert not desk.parcels
    assert desk.assembly.drop((True, 1, VALUE))
    assert not desk.assembly.drop((True, 1, VALUE))
    assert desk.assembly.held == 0


def test_no_memory_is_a_limit_for_that_message_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "_AHEAD", 0)
    desk = Desk()
    desk.begin(6)
    desk.begin(3, key=(False, 2, ARGUMENTS))
    desk.inline(b"abc")

    def exhausted(self: object, size: int) -> memoryview:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(assembly._Partial, "room", exhausted)
        desk.inline(b"def")
    assert len(desk.failures) == 1
    assert desk.assembly.held == 3
    desk.inline(b"abc", (False, 2, ARGUMENTS))
    assert desk.taken() == [[b"abc"]]


def test_forgetting_while_data_arrives_keeps_the_count() -> None:
    """`forget` is called by whoever ends a call, while the reader goes on."""
    desk = Desk(Limits())
    stop = threading.Event()

    def forget() -> None:
        while not stop.is_set():
            for id in range(4):
                desk.assembly.forget(False, id)

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        for number in range(20_000):
            key = (False, number % 4, ARGUMENTS)
            if not desk.assembly.drop(key):
                desk.begin(3, 3, key=key)
            desk.inline(b"abc", key)
            desk.inline(b"def", key)
    finally:
        stop.set()
        thread.join()
    for id in range(4):
        desk.assembly.forget(False, id)
    assert all(parcel == [b"abc", b"def"] for parcel in desk.taken())
    assert desk.parcels
    assert desk.assembly.held == 0
    assert desk.assembly._ahead == 0
