"""The native ring and its model do the same, down to every byte of shared memory."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from secgear.base.transport import ring

from .model import BROKEN, CLOSED, OK, TIMEOUT, Message, Side, native_shape

pytestmark = pytest.mark.skipif(not ring.available(), reason=ring.reason())

SLOTS, ARENA, LIMIT = 4, 4096, 12_000
SHAPE = native_shape(SLOTS, ARENA)
SIZES = st.one_of(
    st.integers(0, 300),
    st.sampled_from([231, 232, 233, 1023, 1024, 1025, 2048]),
    st.integers(0, 4096),
)


def native_send(end: object, message: Message) -> str:
    try:
        end.send(*message, 0)  # type: ignore[attr-defined]
    except TimeoutError:
        return TIMEOUT
    except ConnectionError:
        return CLOSED
    return OK


def native_recv(end: object) -> tuple[str, Message | None]:
    try:
        got = end.recv(0)  # type: ignore[attr-defined]
    except ring.broken():
        return BROKEN, None
    except ConnectionError:
        return CLOSED, None
    return (TIMEOUT, None) if got is None else (OK, Message(*got))


class BothRings(RuleBasedStateMachine):
    """Two lanes get the same operations: one has native ends, one the model's.

    A third has one of each, so that they also understand one another.
    """

    def __init__(self) -> None:
        super().__init__()
        geometry = ring.Geometry(SLOTS, ARENA, LIMIT)
        self.native, self.modelled, self.mixed = (
            memoryview(_aligned(geometry.size)) for _ in range(3)
        )
        self.ends = {
            host: (
                ring.open_lane(self.native, geometry, host=host),
                Side(self.modelled, SHAPE, LIMIT, host=host),
                ring.open_lane(self.mixed, geometry, host=True)
                if host
                else Side(self.mixed, SHAPE, LIMIT, host=False),
            )
            for host in (True, False)
        }
        self.under_way: dict[bool, list[Message]] = {True: [], False: []}
        self.number = 0

    @rule(host=st.booleans(), size=SIZES, tag=st.integers(0, 2**32 - 1))
    def send(self, host: bool, size: int, tag: int) -> None:
        pieces = 1 if size <= SHAPE.inline else -(-size // SHAPE.piece)
        if pieces > 1 and self.under_way[host]:
            return  # it might go out in part only: that ends a native ring and has tests of its own
        self.number += 1
        message = Message(self.number, tag, os.urandom(size))
        native, model, mixed = self.ends[host]
        outcome = native_send(native, message)
        assert model.send(message) == outcome  # type: ignore[attr-defined]
        if host:
            assert native_send(mixed, message) == outcome
        else:
            assert mixed.send(message) == outcome  # type: ignore[attr-defined]
        if outcome == OK:
            self.under_way[host].append(message)
        else:
            assert self.under_way[host]

    @rule(host=st.booleans())
    def recv(self, host: bool) -> None:
        native, model, mixed = self.ends[host]
        expected: tuple[str, Message | None] = (TIMEOUT, None)
        if self.under_way[not host]:
            expected = OK, self.under_way[not host].pop(0)
        assert native_recv(native) == expected
        assert model.recv() == expected  # type: ignore[attr-defined]
        got = native_recv(mixed) if host else mixed.recv()  # type: ignore[attr-defined]
        assert got == expected

    @invariant()
    def shared_memory_is_the_same(self) -> None:
        assert self.native == self.modelled
        assert self.native == self.mixed


def _aligned(size: int) -> memoryview:
    import mmap

    return memoryview(mmap.mmap(-1, size))


BothRings.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBothRings = BothRings.TestCase
TestBothRings.pytestmark = [pytestmark]


def test_both_tell_their_peer_of_the_end_in_the_same_way() -> None:
    geometry = ring.Geometry(SLOTS, ARENA, LIMIT)
    native, modelled = _aligned(geometry.size), _aligned(geometry.size)
    end = ring.open_lane(native, geometry, host=True)
    other = ring.open_lane(native, geometry, host=False)
    side = Side(modelled, SHAPE, LIMIT, host=True)
    end.close()
    side.close()
    assert native == modelled
    assert native_recv(other) == (CLOSED, None)
    assert Side(modelled, SHAPE, LIMIT, host=False).recv() == (CLOSED, None)
