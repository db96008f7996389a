"""A peer that writes what it likes into a lane of shared memory."""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

from tests.base.transport.model import HEADER, LINE, SLOT

CONTROL = 3 * LINE
WORDS = (0, 8, LINE, LINE + 4, 2 * LINE, 2 * LINE + 4)
"""Of the control lines that mean something: taken, freed, and two bells of asleep and closed."""
CLOSED = (LINE + 4, 2 * LINE + 4)


class Forgery(NamedTuple):
    """A slot's header as the peer claims it."""

    seq: int
    id: int
    tag: int
    size: int


class Scribbler:
    """Writes into `memory`, a lane of `slots` and `arena`; the same seed writes the same.

    ends: whether it may also say that the ring is closed.
    """

    def __init__(
        self, memory: memoryview, slots: int, arena: int, *, seed: int, ends: bool = False
    ) -> None:
        self._memory = memory
        self._slots = slots
        self._way = CONTROL + slots * SLOT + arena
        self._random = random.Random(seed)
        self._words = WORDS if ends else tuple(at for at in WORDS if at not in CLOSED)

    def header(self, way: int, slot: int, forged: Forgery) -> None:
        """Forge a slot; its seq last, as an honest producer does."""
        at = way * self._way + CONTROL + slot * SLOT
        struct.pack_into("<QQ", self._memory, at + 8, forged.id, forged.tag << 32 | forged.size)
        struct.pack_into("<Q", self._memory, at, forged.seq)

    def word(self, way: int, at: int, value: int) -> None:
        """A word of the control lines."""
        struct.pack_into("<Q" if at < LINE else "<I", self._memory, way * self._way + at, value)

    def scribble(self) -> None:
        """One hostile write: mostly where it hurts, with values that are nearly right."""
        choose = self._random
        slot = CONTROL + choose.randrange(self._slots) * SLOT
        kind = choose.random()
        if kind < 0.4:
            self._quad(slot + choose.randrange(0, HEADER, 8))
        elif kind < 0.6:
            self.control()
        elif kind < 0.8:
            forged = Forgery(*(self._value() & mask for mask in _MASKS))
            self.header(choose.randrange(2), choose.randrange(self._slots), forged)
        else:
            self._quad(choose.randrange(CONTROL, self._way, 8))

    def control(self) -> None:
        """One hostile write to what the protocol itself stands on: progress, bells, numbers."""
        choose = self._random
        if choose.random() < 0.5:
            self._quad(CONTROL + choose.randrange(self._slots) * SLOT)
        else:
            at = choose.choice(self._words)
            mask = 2**64 - 1 if at < LINE else 2**32 - 1
            self.word(choose.randrange(2), at, self._value() & mask)

    def _quad(self, at: int) -> None:
        way = self._random.randrange(2)
        struct.pack_into("<Q", self._memory, way * self._way + at, self._value())

    def _value(self) -> int:
        near = self._random.choice((0, 1, 1 << 31, 1 << 32, 1 << 63, 2**64 - 1, self._slots))
        if self._random.random() < 0.5:
            return (near + self._random.randrange(-3, 70)) & (2**64 - 1)
        old = self._random.randrange(0, 2 * self._way - 8, 8)
        (copied,) = struct.unpack_from("<Q", self._memory, old)
        return (copied + self._random.randrange(-2, 3)) & (2**64 - 1)


_MASKS = (2**64 - 1, 2**64 - 1, 2**32 - 1, 2**32 - 1)
