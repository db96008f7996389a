"""Messages whose attachments are still arriving.

Every byte is copied once, from the stream or from shared memory into memory that is private, and
nobody looks at it before the last byte is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import final

from secgear.base.transport.arena import Arena
from secgear.base.wire import CHUNK, Flag, Limits
from secgear.errors import LimitExceeded, ProtocolError

Key = tuple[bool, int, int]
"""(whether we gave the id, the id, the index): what DATA frames belong to."""

Deliver = Callable[[list[bytearray]], None]


class _Partial:
    __slots__ = ("attachments", "current", "deliver", "position", "total")

    def __init__(self, sizes: tuple[int, ...], deliver: Deliver) -> None:
        self.attachments = [bytearray(size) for size in sizes]
        self.deliver = deliver
        self.total = sum(sizes)
        self.current = 0
        self.position = 0
        self.skip_full()

    def skip_full(self) -> None:
        while not self.complete and self.position == len(self.attachments[self.current]):
            self.current += 1
            self.position = 0

    @property
    def complete(self) -> bool:
        return self.current == len(self.attachments)


@final
class Assembly:
    """Collects attachments; used by the reading thread alone, but for `forget`."""

    def __init__(self, limits: Limits, arena: Arena | None, credit: Callable[[int], None]) -> None:
        self._limits = limits
        self._arena = arena
        self._credit = credit
        self._lock = threading.Lock()
        self._partial: dict[Key, _Partial] = {}
        self._bytes = 0

    def begin(self, key: Key, sizes: tuple[int, ...], deliver: Deliver) -> None:
        """Call `deliver` with the attachments of these sizes once they are here.

        Raises LimitExceeded when they are too many or too large, ProtocolError when `key` is
        still collecting.
        """
        if len(sizes) > self._limits.attachments:
            raise LimitExceeded(
                f"{len(sizes)} attachments are over the limit of {self._limits.attachments}"
            )
        total = 0
        for size in sizes:
            if size < 0:
                raise ProtocolError("an attachment of negative size")
            total += size
        if total > self._limits.attached:
            raise LimitExceeded(
                f"attachments of {total} bytes are over the limit of {self._limits.attached}"
            )
        if not total:
            deliver([bytearray() for _ in sizes])
            return
        with self._lock:
            if key in self._partial:
                raise ProtocolError("a message began before the one before it was complete")
            if self._bytes + total > self._limits.assembling:
                raise LimitExceeded(
                    f"attachments that are arriving are over the limit of "
                    f"{self._limits.assembling} bytes together"
                )
            try:
                self._partial[key] = _Partial(sizes, deliver)
            except MemoryError as error:
                raise LimitExceeded(f"no memory for attachments of {total} bytes") from error
            self._bytes += total

    def data(self, key: Key, flags: int, payload: bytes) -> None:
        """Take a DATA frame. What belongs to nothing (its message was refused) is dropped.

        Raises ProtocolError for more bytes than announced or a chunk outside the arena.
        """
        with self._lock:
            partial = self._partial.get(key)
        if flags & Flag.INLINE:
            if partial is not None:
                room = self._room(partial, len(payload))
                room[:] = payload
                self._advance(key, partial, len(payload))
            return
        if len(payload) != CHUNK.size or self._arena is None:
            raise ProtocolError("malformed DATA frame")
        chunk, size = CHUNK.unpack(payload)
        self._arena.check(chunk, size)
        if partial is not None:
            self._arena.take(chunk, size, self._room(partial, size))
        self._credit(chunk)
        if partial is not None:
            self._advance(key, partial, size)

    def forget(self, ours: bool, id: int) -> None:
        """Drop what is still collecting for a call that has ended."""
        with self._lock:
            for key in [key for key in self._partial if key[0] is ours and key[1] == id]:
                self._bytes -= self._partial.pop(key).total

    def _room(self, partial: _Partial, size: int) -> memoryview:
        target = memoryview(partial.attachments[partial.current])
        if size == 0 or size > len(target) - partial.position:
            raise ProtocolError("a DATA frame does not fit its attachment")
        return target[partial.position : partial.position + size]

    def _advance(self, key: Key, partial: _Partial, size: int) -> None:
        partial.position += size
        partial.skip_full()
        if partial.complete:
            with self._lock:
                if self._partial.get(key) is not partial:
                    return  # forgotten meanwhile
                del self._partial[key]
                self._bytes -= partial.total
            partial.deliver(partial.attachments)
