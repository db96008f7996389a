"""How the memory of switchless calls is divided.

Lanes come first, one after the other; behind them is the pool of shared buffers. Both sides keep
this in private memory; nothing about it is ever read from the shared memory itself.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import final

import msgspec

from secgear.base.transport import ring
from secgear.errors import ArgumentError, ProtocolError

MAX_LANES = 64
MIN_SLOTS, MAX_SLOTS = 8, 4096
MIN_ARENA, MAX_ARENA = 64 << 10, 64 << 20
MAX_SHARED = 1 << 40
PAGE = 4096
_RING_PIECE = 64 << 10  # RING_PIECE of _ring_core.h
_MADV_POPULATE_WRITE = 23  # madvise(2), since Linux 5.14


@final
class Geometry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How the shared memory is divided; the host says it in HELLO, the enclave checks it.

    token: what references to its shared buffers begin with.
    """

    lanes: int
    slots: int
    arena: int
    shared: int
    token: int = 0

    @property
    def lane_size(self) -> int:
        """Bytes of one lane, whole pages; 0 where there are no rings."""
        return self.rings.size if self.lanes else 0

    @property
    def rings(self) -> ring.Geometry:
        """Of one lane, as the ring takes it."""
        return ring.Geometry(self.slots, self.arena, self.piece)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.lanes * self.lane_size + self.shared

    @property
    def piece(self) -> int:
        """Bytes of one message at the most; a value that is larger goes in several.

        The receiver sets these bytes aside before it knows whose they are. More than the arena
        holds: the ring moves a message through it bit by bit, while both sides copy.
        """
        return 4 * self.arena

    @property
    def ahead(self) -> int:
        """Bytes of large messages that may be under way in one direction without filling it.

        The ring cuts a message into pieces of 64 KiB or a quarter of the arena, each with a slot
        of its own: half of the arena, and no more pieces than half of the slots.
        """
        return min(self.arena // 2, self.slots // 2 * min(self.arena // 4, _RING_PIECE))

    def lane(self, memory: memoryview, number: int) -> memoryview:
        """The memory of lane `number`."""
        start = number * self.lane_size
        return memory[start : start + self.lane_size]

    def populate(self, memory: mmap.mmap, number: int) -> None:
        """Have the pages of a lane now: page faults would fall into calls."""
        with contextlib.suppress(OSError, ValueError):  # an older kernel: then they do
            memory.madvise(_MADV_POPULATE_WRITE, number * self.lane_size, self.lane_size)

    def pool(self, memory: memoryview) -> memoryview:
        """The memory of shared buffers."""
        return memory[self.lanes * self.lane_size : self.size]

    def check(self, size: int) -> None:
        """Raise ProtocolError unless this divides a memory of `size` bytes and is within bounds."""
        try:
            between("lanes", self.lanes, 0, MAX_LANES)
            power_of_two("slots", self.slots, MIN_SLOTS, MAX_SLOTS)
            power_of_two("arena", self.arena, MIN_ARENA, MAX_ARENA)
            between("shared", self.shared, 0, MAX_SHARED)
        except ArgumentError as error:
            raise ProtocolError(f"the geometry of the shared memory: {error}") from error
        if self.size != size:
            raise ProtocolError(f"shared memory of {size} bytes where {self.size} were announced")


def between(name: str, value: int, least: int, most: int) -> None:
    """Raise ArgumentError unless it is."""
    if type(value) is not int or not least <= value <= most:
        raise ArgumentError(f"{name} is a number from {least} to {most}, not {value!r}")


def power_of_two(name: str, value: int, least: int, most: int) -> None:
    """Raise ArgumentError unless it is one between them."""
    between(name, value, least, most)
    if value & (value - 1):
        raise ArgumentError(f"{name} is a power of two, not {value}")
