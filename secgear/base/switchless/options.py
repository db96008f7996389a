"""What a program asks of switchless calls when it launches an enclave."""

from __future__ import annotations

from typing import Literal, final

import msgspec

from secgear.base.transport import ring
from secgear.base.transport.geometry import (
    MAX_ARENA,
    MAX_LANES,
    MAX_SHARED,
    MAX_SLOTS,
    MIN_ARENA,
    MIN_SLOTS,
    PAGE,
    Geometry,
    between,
    power_of_two,
)
from secgear.errors import ArgumentError


@final
class Switchless(msgspec.Struct, frozen=True, kw_only=True):
    """What `launch(switchless=...)` takes; the defaults suit most programs.

    workers: switchless calls that run at once, each on a thread of its own inside the enclave. It
    starts with one and adds others as calls need them; an app never runs more ECALLs at once than
    its `threads`.
    when_busy: what a call does while all workers are: ``wait`` for one (until its deadline), or go
    over the ``stream``, which counts as a fallback.
    slots: messages that may wait in one direction, a power of two. arena: bytes of large messages
    in one direction, a power of two; each worker has both twice.
    shared: bytes of the pool that `Enclave.shared` allocates from.
    window: calls of one `map` that are sent ahead of their answers, at most half the slots.
    eager: seconds that `submit` and `aio` wait for an answer themselves before they leave it to
    another thread.
    """

    workers: int = 4
    when_busy: Literal["wait", "stream"] = "wait"
    slots: int = 64
    arena: int = 1 << 20
    shared: int = 64 << 20
    window: int = 32
    eager: float = 50e-6

    def __post_init__(self) -> None:
        if self.when_busy not in {"wait", "stream"}:
            raise ArgumentError(f"when_busy is 'wait' or 'stream', not {self.when_busy!r}")
        between("workers", self.workers, 1, MAX_LANES)
        power_of_two("slots", self.slots, MIN_SLOTS, MAX_SLOTS)
        power_of_two("arena", self.arena, MIN_ARENA, MAX_ARENA)
        between("shared", self.shared, 0, MAX_SHARED)
        between("window", self.window, 1, self.slots // 2)
        if not 0 <= self.eager <= 1:
            raise ArgumentError(f"eager is from 0 to 1 second, not {self.eager!r}")

    @property
    def geometry(self) -> Geometry:
        """How the shared memory is divided; without rings it holds buffers only."""
        shared = -(-self.shared // PAGE) * PAGE
        lanes = self.workers if ring.available() else 0
        return Geometry(lanes, self.slots, self.arena, shared)
