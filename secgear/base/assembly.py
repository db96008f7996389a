"""Messages whose attachments are still arriving, and those that nobody has taken yet.

Every byte is copied once, from the stream or from shared memory into memory that is private, and
nobody looks at it before the last byte is here. Memory follows what has come, not what was
announced; and what has come counts against a limit until somebody takes it.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import final

from secgear.base.transport.arena import CHUNK_SIZE, Arena
from secgear.base.wire import CHUNK, INLINE_MAX, Flag, Limits
from secgear.errors import LimitExceeded, ProtocolError

Key = tuple[bool, int, int]
"""(whether we gave the id, the id, the index): what DATA frames belong to."""

_AHEAD = 64 << 20
"""Bytes set aside before they come, in all: one allocation is cheaper than many."""
_SMALL = 64 << 10
"""Messages up to this size do not count: the number of calls bounds them."""
_ZEROS = memoryview(bytes(max(CHUNK_SIZE, INLINE_MAX)))


@final
class Parcel:
    """The attachments of a message that has arrived; they count until they are taken."""

    __slots__ = ("_attachments", "_freed", "_size")

    def __init__(self, attachments: list[bytearray], size: int, freed: deque[int]) -> None:
        self._attachments = attachments
        self._size = size
        self._freed = freed

    def take(self) -> list[bytearray]:
        """The attachments, once."""
        self._free()
        attachments, self._attachments = self._attachments, []
        return attachments

    def __del__(self) -> None:
        self._free()

    def _free(self) -> None:
        # No lock: a collection may run this in a thread that holds whatever lock there is.
        size, self._size = self._size, 0
        if size:
            self._freed.append(size)


Deliver = Callable[[Parcel], None]
Fail = Callable[[LimitExceeded], None]


class _Partial:
    """A message that is arriving. held: bytes it counts for. ahead: bytes set aside for the last.

    filled: bytes of the last attachment that are here.
    """

    __slots__ = ("ahead", "attachments", "deliver", "fail", "filled", "held", "sizes")

    def __init__(self, sizes: tuple[int, ...], held: int, deliver: Deliver, fail: Fail) -> None:
        self.sizes = sizes
        self.held = held
        self.deliver = deliver
        self.fail = fail
        self.attachments: list[bytearray] = []
        self.filled = 0
        self.ahead = 0

    @property
    def missing(self) -> int:
        """Bytes of the last attachment that have not come."""
        return self.sizes[len(self.attachments) - 1] - self.filled

    def room(self, size: int) -> memoryview:
        """Where the next `size` bytes go. Raises ProtocolError when there is no place for them."""
        if not 0 < size <= self.missing:
            raise ProtocolError("a DATA frame does not fit its attachment")
        target = self.attachments[-1]
        if len(target) < self.filled + size:
            target += _ZEROS[:size]
        return memoryview(target)[self.filled : self.filled + size]


@final
class Assembly:
    """Collects attachments; used by the reading thread alone, but for `forget` and `drop`."""

    def __init__(self, limits: Limits, arena: Arena | None, credit: Callable[[int], None]) -> None:
        self._limits = limits
        self._arena = arena
        self._credit = credit
        self._lock = threading.Lock()
        self._partial: dict[Key, _Partial] = {}
        self._held = 0
        self._ahead = 0
        self._freed: deque[int] = deque()

    @property
    def held(self) -> int:
        """Bytes that count against the limit."""
        with self._lock:
            return self._count()

    def begin(
        self, key: Key, sizes: tuple[int, ...], body: int, deliver: Deliver, fail: Fail
    ) -> None:
        """Call `deliver` with the attachments of these sizes once they are here.

        body: bytes of the message itself. fail: called instead when memory runs out meanwhile.
        Raises LimitExceeded when they are too many or too large, ProtocolError when `key` is
        still collecting.
        """
        if key in self._partial:
            raise ProtocolError("a message began before the one before it was complete")
        if not sizes and body <= _SMALL:
            deliver(Parcel([], 0, self._freed))
            return
        limits = self._limits
        if len(sizes) > limits.attachments:
            raise LimitExceeded(
                f"{len(sizes)} attachments are over the limit of {limits.attachments}"
            )
        if any(size < 0 for size in sizes):
            raise ProtocolError("an attachment of negative size")
        total = sum(sizes)
        if total > limits.attached:
            raise LimitExceeded(
                f"attachments of {total} bytes are over the limit of {limits.attached}"
            )
        held = total + body
        partial = _Partial(sizes, held, deliver, fail)
        with self._lock:
            if self._count() + held > limits.assembling:
                raise LimitExceeded(
                    f"with {held} bytes more, the messages that wait here would be over the limit "
                    f"of {limits.assembling} bytes together; send less at a time"
                )
            try:
                complete = self._open(partial)
            except MemoryError as error:
                raise LimitExceeded(f"no memory for attachments of {total} bytes") from error
            self._held += held
            if not complete:
                self._partial[key] = partial
                return
        deliver(Parcel(partial.attachments, held, self._freed))

    def data(self, key: Key, flags: int, payload: bytes) -> None:
        """Take a DATA frame. What belongs to nothing (its message was refused) is dropped.

        Raises ProtocolError for more bytes than announced or a chunk outside the arena.
        """
        partial = self._partial.get(key)
        try:
            if flags & Flag.INLINE:
                if partial is not None:
                    partial.room(len(payload))[:] = payload
                    self._advance(key, partial, len(payload))
                return
            if len(payload) != CHUNK.size or self._arena is None:
                raise ProtocolError("malformed DATA frame")
            chunk, size = CHUNK.unpack(payload)
            self._arena.check(chunk, size)
            try:
                if partial is not None:
                    self._arena.take(chunk, size, partial.room(size))
            finally:
                self._credit(chunk)
            if partial is not None:
                self._advance(key, partial, size)
        except MemoryError:
            if partial is not None and self.drop(key):
                partial.fail(LimitExceeded("no memory for its attachments"))

    def forget(self, ours: bool, id: int) -> None:
        """Drop what is still collecting for a call that has ended."""
        # Most calls have nothing here, and a look needs no lock.
        with contextlib.suppress(RuntimeError):  # it changed while we looked
            if not any(key[0] is ours and key[1] == id for key in self._partial):
                return
        with self._lock:
            for key in [key for key in self._partial if key[0] is ours and key[1] == id]:
                self._remove(key)

    def drop(self, key: Key) -> bool:
        """Drop one message that is still collecting; False when there is none."""
        with self._lock:
            if key not in self._partial:
                return False
            self._remove(key)
            return True

    def _remove(self, key: Key) -> None:
        partial = self._partial.pop(key)
        self._held -= partial.held
        self._ahead -= partial.ahead

    def _count(self) -> int:
        while self._freed:
            self._held -= self._freed.popleft()
        return self._held

    def _open(self, partial: _Partial) -> bool:
        """Make room for the next attachment that has bytes; True when there is none."""
        self._ahead -= partial.ahead
        partial.ahead = partial.filled = 0
        for size in partial.sizes[len(partial.attachments) :]:
            ahead = size if self._ahead + size <= _AHEAD else 0
            partial.attachments.append(bytearray(ahead))
            if size:
                partial.ahead = ahead
                self._ahead += ahead
                return False
        return True

    def _advance(self, key: Key, partial: _Partial, size: int) -> None:
        partial.filled += size
        if partial.missing:
            return
        with self._lock:
            if self._partial.get(key) is not partial:
                return  # forgotten meanwhile
            if not self._open(partial):
                return
            del self._partial[key]
        partial.deliver(Parcel(partial.attachments, partial.held, self._freed))
