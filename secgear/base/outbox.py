"""Writing frames: many threads, one stream, and a reader that must never wait.

If the thread that reads could block while writing, two sides that both write much would wait for
each other for ever. So ordinary threads `send` and wait for room; the reader only ever `post`s,
and what does not fit at once is written by whoever writes next, or by a thread of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import final

from secgear.base.tee import Stream
from secgear.base.transport.arena import CHUNK_SIZE, Arena
from secgear.base.wire import CHUNK, HEADER, INLINE_MAX, Flag, Kind, frame
from secgear.errors import EnclaveLost

Buffer = bytes | bytearray | memoryview

_SMALL = 64 << 10
"""Attachments up to this size go inline: a chunk of shared memory costs a credit frame back."""


@final
class Outbox:
    """The one writer's door to a stream."""

    def __init__(self, stream: Stream, arena: Arena | None) -> None:
        self._stream = stream
        self._arena = arena
        self._lock = threading.Lock()
        self._backlog: deque[memoryview] = deque()
        self._flusher: threading.Thread | None = None
        self._stuck = threading.Event()
        self._broken = False

    def send(self, *buffers: Buffer) -> None:
        """Write all of `buffers` in one piece; waits for room. Raises EnclaveLost."""
        with self._lock:
            self._flush(block=True)
            self._write(list(buffers))
        if self._backlog:
            self._kick()

    def post(self, data: bytes) -> None:
        """Write a small frame without ever waiting; for the thread that reads."""
        self._backlog.append(memoryview(data))
        self._kick()

    def message(
        self,
        head: bytes,
        attachments: Sequence[memoryview],
        *,
        flags: int,
        index: int,
        id: int,
        give_up: Callable[[], bool],
    ) -> bool:
        """Write a message's frame and then its attachments; False when `give_up()` became true.

        flags, index, id: name the message in the DATA frames.
        """
        if sum(map(len, attachments)) <= _SMALL:
            parts: list[Buffer] = [head]
            for data in attachments:
                if data:
                    parts += (_inline(data, flags, index, id), data)
            self.send(*parts)  # one write, one wake-up of the other side
            return True
        self.send(head)
        for data in attachments:
            for start in range(0, len(data), CHUNK_SIZE):
                if not self._piece(data[start : start + CHUNK_SIZE], flags, index, id, give_up):
                    return False
        return True

    def _piece(
        self, data: memoryview, flags: int, index: int, id: int, give_up: Callable[[], bool]
    ) -> bool:
        if self._arena is None or len(data) <= _SMALL:
            for start in range(0, len(data), INLINE_MAX):
                part = data[start : start + INLINE_MAX]
                if give_up():
                    return False
                self.send(_inline(part, flags, index, id), part)
            return True
        chunk = self._arena.put(data, give_up)
        if chunk is None:
            if self._broken:
                raise EnclaveLost("the connection is closed")
            return False
        self.send(frame(Kind.DATA, id, CHUNK.pack(chunk, len(data)), flags=flags, index=index))
        return True

    def close(self) -> None:
        """Fail all writers from now on."""
        self._broken = True
        if self._arena is not None:
            self._arena.close()
        self._stuck.set()

    def _write(self, buffers: list[Buffer]) -> None:
        begun = False
        try:
            while buffers:
                sent = 0 if self._broken else self._stream.send(buffers)
                if not sent:
                    raise EnclaveLost("the connection is closed")
                begun = True
                while buffers and sent >= len(buffers[0]):
                    sent -= len(buffers.pop(0))
                if sent:
                    buffers[0] = memoryview(buffers[0])[sent:]
        except OSError as error:
            self._broken = True
            raise EnclaveLost("the connection is closed") from error
        except BaseException:
            # Half a frame is out (an interrupt from the keyboard, say): nothing that follows
            # could be understood.
            self._broken = self._broken or (begun and bool(buffers))
            raise

    def _flush(self, *, block: bool) -> bool:
        """Write the backlog; the lock is held. False when it would have to wait."""
        while self._backlog:
            head = self._backlog[0]
            try:
                sent = 0 if self._broken else self._stream.send([head], block=block)
            except OSError:
                sent = 0
                self._broken = True
            if self._broken:
                self._backlog.clear()
                return True
            if not sent:
                return False
            if sent < len(head):
                self._backlog[0] = head[sent:]
            else:
                self._backlog.popleft()
        return True

    def _kick(self) -> None:
        # Whoever holds the lock looks at the backlog again after releasing it, so nothing that
        # was appended before a failed acquire is forgotten.
        while self._backlog and self._lock.acquire(blocking=False):
            try:
                flushed = self._flush(block=False)
            finally:
                self._lock.release()
            if not flushed:
                self._wake_flusher()
                return

    def _wake_flusher(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(
                target=self._flush_for_ever, name="secgear-flush", daemon=True
            )
            self._flusher.start()
        self._stuck.set()

    def _flush_for_ever(self) -> None:
        while not self._broken:
            self._stuck.wait()
            self._stuck.clear()
            with self._lock:
                self._flush(block=True)


def _inline(data: memoryview, flags: int, index: int, id: int) -> bytes:
    """Header of a DATA frame that carries `data` itself."""
    return HEADER.pack(len(data), Kind.DATA, flags | Flag.INLINE, index, id)
