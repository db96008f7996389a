"""The ring's protocol as a readable model: the same steps as `_ring_core.h`, in the same order.

Each function is a generator that yields what it does to shared memory, one operation at a time.
What an operation means is decided elsewhere, so the very same steps run in two ways:

- `checker.explore` tries every interleaving, under the memory model of C11: where threads may see
  old values, unless release, acquire and fences forbid it;
- `Side` runs them on real memory, in the layout of the native ring, byte for byte.

Names in comments are those of the C functions.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

Steps = Generator[Any, Any, Any]
Location = tuple[Any, ...]


class Order(Enum):
    """As `memory_order_…`."""

    RELAXED = "relaxed"
    ACQUIRE = "acquire"
    RELEASE = "release"


# --- operations ------------------------------------------------------------------------------


class Load(NamedTuple):
    at: Location
    order: Order


class Store(NamedTuple):
    at: Location
    value: int
    order: Order


class Exchange(NamedTuple):
    at: Location
    value: int


class Fence(NamedTuple):
    """Sequentially consistent."""


class Read(NamedTuple):
    """Of memory that is not atomic: a race with a write is a bug."""

    at: Location


class Write(NamedTuple):
    at: Location
    value: Any


class Sleep(NamedTuple):
    """FUTEX_WAIT: sleep if the word has this value. Answers False when the time is over."""

    at: Location
    value: int


class Wake(NamedTuple):
    """FUTEX_WAKE."""

    at: Location


# --- the protocol ----------------------------------------------------------------------------


class Shape(NamedTuple):
    """Geometry. inline: bytes a slot takes; piece: of a message at a time; unit: granularity."""

    slots: int
    arena: int
    piece: int
    inline: int
    unit: int


@dataclass(frozen=True)
class Rules:
    """What the protocol depends on; each can be broken, to see that the checker notices."""

    publish: Order = Order.RELEASE
    take: Order = Order.ACQUIRE
    credit: Order = Order.RELEASE
    reclaim: Order = Order.ACQUIRE
    sleeper_fences: bool = True
    publisher_fences: bool = True
    looks_again: bool = True  # after it has said that it sleeps
    closer_fences: bool = True  # between saying that it is the end and waking


@dataclass
class Way:
    """One direction as one of its ends knows it: own positions, checked progress of the peer."""

    name: str
    shape: Shape
    producer: bool
    rules: Rules = field(default_factory=Rules)
    position: int = 0
    offset: int = 0
    taken: int = 0
    freed: int = 0

    def bell(self, *, mine: bool) -> str:
        return "producer" if self.producer == mine else "consumer"


class Message(NamedTuple):
    id: int
    tag: int
    payload: bytes


OK, AGAIN, BROKEN, CLOSED, TIMEOUT = "ok", "again", "broken", "closed", "timeout"


def look(way: Way, need: str, amount: int) -> Steps:
    """ring_look: is what I need there? Reads one shared word at most, once."""
    shape = way.shape
    if need == "message":
        slot = way.position % shape.slots
        seq = yield Load((way.name, "seq", slot), way.rules.take)
        if seq == way.position + 1:
            return OK
        a_lap_ago = 0 if way.position < shape.slots else way.position + 1 - shape.slots
        return AGAIN if seq == a_lap_ago else BROKEN
    if need == "slot":
        if way.position - way.taken < shape.slots:
            return OK
        taken = yield Load((way.name, "taken"), way.rules.reclaim)
        if not way.taken <= taken <= way.position:
            return BROKEN
        way.taken = taken
        return OK if way.position - way.taken < shape.slots else AGAIN
    if shape.arena - (way.offset - way.freed) >= amount:
        return OK
    freed = yield Load((way.name, "freed"), way.rules.reclaim)
    if not way.freed <= freed <= way.offset:
        return BROKEN
    way.freed = freed
    return OK if shape.arena - (way.offset - way.freed) >= amount else AGAIN


def wake(way: Way) -> Steps:
    """ring_wake: I have published; does the other side sleep?"""
    bell = (way.name, way.bell(mine=False), "asleep")
    if way.rules.publisher_fences:
        yield Fence()
    if (yield Load(bell, Order.RELAXED)) and (yield Exchange(bell, 0)):
        yield Wake(bell)


def wait(way: Way, need: str, amount: int = 0) -> Steps:
    """ring_wait and ring_sleep, without spinning: that only repeats `look`."""
    bell = (way.name, way.bell(mine=True), "asleep")
    closed = (way.name, way.bell(mine=False), "closed")
    while True:
        yield Store(bell, 1, Order.RELAXED)
        if way.rules.sleeper_fences:
            yield Fence()
        found = AGAIN
        if way.rules.looks_again:
            found = yield from look(way, need, amount)
        if found == AGAIN and (yield Load(closed, Order.ACQUIRE)):
            found = yield from look(way, need, amount)  # what came before the end still counts
            if found == AGAIN:
                found = CLOSED
        if found == AGAIN and not (yield Sleep(bell, 1)):
            found = TIMEOUT
        if found != AGAIN:
            yield Store(bell, 0, Order.RELAXED)
            return found


def place(way: Way, at: int) -> Location:
    """Of byte `at` from here on, in units of the arena."""
    return (way.name, "arena", (way.offset + at) % way.shape.arena // way.shape.unit)


def rounded(way: Way, size: int) -> int:
    """ring_rounded."""
    return -(-size // way.shape.unit) * way.shape.unit


def length(way: Way, size: int, done: int) -> int:
    """ring_piece: both sides derive it."""
    return size if size <= way.shape.inline else min(size - done, way.shape.piece)


def put(way: Way, message: Message) -> Steps:
    """ring_put."""
    payload, size, done = message.payload, len(message.payload), 0
    while True:
        piece = length(way, size, done)
        found = yield from look(way, "slot", 0)
        if found == AGAIN:
            yield from wake(way)
            found = yield from wait(way, "slot")
        if found == OK and size > way.shape.inline:
            found = yield from look(way, "arena", rounded(way, piece))
            if found == AGAIN:
                yield from wake(way)
                found = yield from wait(way, "arena", rounded(way, piece))
        if found != OK:
            return found
        slot = way.position % way.shape.slots
        if size > way.shape.inline:
            at = 0
            while at < piece:
                part = payload[done + at : done + min(at + way.shape.unit, piece)]
                yield Write(place(way, at), part)
                at += way.shape.unit
            way.offset += rounded(way, piece)
        else:
            yield Write((way.name, "bytes", slot), payload)
        yield Write((way.name, "what", slot), message.tag << 32 | size)
        yield Write((way.name, "id", slot), message.id)
        yield Store((way.name, "seq", slot), way.position + 1, way.rules.publish)
        way.position += 1
        done += piece
        yield from wake(way)
        if done >= size:
            return OK


def publish(way: Way) -> Steps:
    """ring_publish: tell the producer, now and then, how far I have come."""
    shape = way.shape
    if way.position - way.taken < shape.slots // 4 and way.offset - way.freed < shape.arena // 8:
        return
    way.taken, way.freed = way.position, way.offset
    yield Store((way.name, "freed"), way.freed, way.rules.credit)
    yield Store((way.name, "taken"), way.taken, way.rules.credit)
    yield from wake(way)


def get(way: Way, limit: int) -> Steps:
    """ring_get, without going on after a timeout. Returns (outcome, message or None)."""
    begun: tuple[int, int] | None = None
    payload = b""
    while True:
        found = yield from look(way, "message", 0)
        if found != OK:
            found = yield from wait(way, "message")
        if found != OK:
            return found, None
        slot = way.position % way.shape.slots
        id = yield Read((way.name, "id", slot))
        what = yield Read((way.name, "what", slot))
        size = what & 0xFFFFFFFF
        if size > limit or begun not in (None, (id, what)):
            return BROKEN, None
        begun = (id, what)
        piece = length(way, size, len(payload))
        if size > way.shape.inline:
            at = 0
            while at < piece:
                part = yield Read(place(way, at))
                payload += part[: piece - at]
                at += way.shape.unit
            way.offset += rounded(way, piece)
        else:
            payload = (yield Read((way.name, "bytes", slot)))[:size]
        way.position += 1
        yield from publish(way)
        if len(payload) >= size:
            return OK, Message(id, what >> 32, payload)


def close(out: Way, back: Way) -> Steps:
    """ring_close, as the peer sees it."""
    for_sleepers = [(way, way.bell(mine=False)) for way in (out, back)]
    yield Store((out.name, out.bell(mine=True), "closed"), 1, Order.RELEASE)
    yield Store((back.name, back.bell(mine=True), "closed"), 1, Order.RELEASE)
    if out.rules.closer_fences:
        yield Fence()
    while for_sleepers:
        way, bell = for_sleepers.pop(0)
        yield Store((way.name, bell, "asleep"), 0, Order.RELAXED)
        yield Wake((way.name, bell, "asleep"))


# --- on real memory --------------------------------------------------------------------------

LINE, SLOT, HEADER, UNIT = 128, 256, 24, 64
_WORDS = {
    "taken": ("<Q", 0),
    "freed": ("<Q", 8),
    ("consumer", "asleep"): ("<I", LINE),
    ("consumer", "closed"): ("<I", LINE + 4),
    ("producer", "asleep"): ("<I", 2 * LINE),
    ("producer", "closed"): ("<I", 2 * LINE + 4),
}
_FIELDS = {"seq": 0, "id": 8, "what": 16}


def native_shape(slots: int, arena: int) -> Shape:
    """What the native ring derives from its geometry."""
    return Shape(slots, arena, min(arena // 4, 1 << 16), SLOT - HEADER, UNIT)


class Side:
    """One end of a lane in real memory, for one thread at a time; never waits."""

    def __init__(self, memory: memoryview, shape: Shape, limit: int, *, host: bool) -> None:
        self._memory = memory
        self._shape = shape
        self._limit = limit
        self.out = Way("there" if host else "back", shape, producer=True)
        self.back = Way("back" if host else "there", shape, producer=False)

    def send(self, message: Message) -> str:
        """OK, or TIMEOUT when there is no room."""
        outcome: str = self._run(put(self.out, message))
        return outcome

    def recv(self) -> tuple[str, Message | None]:
        """OK with a message, or TIMEOUT, CLOSED or BROKEN without."""
        outcome: tuple[str, Message | None] = self._run(get(self.back, self._limit))
        return outcome

    def close(self) -> None:
        """The end, for the peer to see."""
        self._run(close(self.out, self.back))

    def _run(self, steps: Steps) -> Any:
        answer = None
        while True:
            try:
                answer = self._do(steps.send(answer))
            except StopIteration as done:
                return done.value

    def _do(self, operation: Any) -> Any:
        match operation:
            case Load(at, _):
                return self._word(at)
            case Store(at, value, _):
                self._word(at, value)
            case Exchange(at, value):
                old = self._word(at)
                self._word(at, value)
                return old
            case Read((_, ("id" | "what"), _) as at):
                return self._word(at)
            case Write((_, ("id" | "what"), _) as at, value):
                self._word(at, value)
            case Read(at):
                start, size = self._bytes(at)
                return bytes(self._memory[start : start + size])
            case Write(at, value):
                start, _ = self._bytes(at)
                self._memory[start : start + len(value)] = value
            case Sleep():
                return False
        return None

    def _base(self, way: str) -> int:
        whole = 3 * LINE + self._shape.slots * SLOT + self._shape.arena
        return 0 if way == "there" else whole

    def _word(self, at: Location, value: int | None = None) -> int:
        way, *rest = at
        if rest[0] in _FIELDS:
            code, start = "<Q", 3 * LINE + rest[1] * SLOT + _FIELDS[rest[0]]
        else:
            code, start = _WORDS[rest[0] if len(rest) == 1 else tuple(rest)]
        start += self._base(way)
        if value is not None:
            struct.pack_into(code, self._memory, start, value)
        found: int = struct.unpack_from(code, self._memory, start)[0]
        return found

    def _bytes(self, at: Location) -> tuple[int, int]:
        way, what, number = at
        start = self._base(way) + 3 * LINE
        if what == "bytes":
            return start + number * SLOT + HEADER, SLOT - HEADER
        return start + self._shape.slots * SLOT + number * UNIT, UNIT
