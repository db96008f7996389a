"""Writing frames: many threads, one stream, and a reader that must never wait.

If the thread that reads could block while writing, two sides that both write much would wait for
each other for ever. So ordinary threads `send` and wait for room; the reader only ever `post`s,
and what does not fit at once is written by whoever writes next, or by a thread of its own.
"""

from __future__ import annotations

import threading
import time
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
_BACKLOG = 16384
"""Frames that wait for a peer who does not read, at the most."""
_VECTOR = 512
"""Buffers in one write; the kernel takes 1024 (sendmsg(2), IOV_MAX)."""


@final
class Outbox:
    """The one writer's door to a stream.

    overrun: set once the peer read so little that a frame for it had to be dropped.
    """

    def __init__(self, stream: Stream, arena: Arena | None) -> None:
        self.overrun = False
        self._stream = stream
        self._arena = arena
        self._lock = threading.Lock()
        # Frames in order; an event is set when everything before it has been written.
        self._backlog: deque[memoryview | threading.Event] = deque()
        self._flusher: threading.Thread | None = None
        self._starting = threading.Lock()
        self._stuck = threading.Event()
        self._broken = False

    def send(self, *buffers: Buffer, deadline: float | None = None) -> bool:
        """Write all of `buffers` in one piece; waits for room, but not beyond `deadline`.

        deadline: on the clock of `time.monotonic`. Returns False when it passed; if a part has
        gone by then, the rest follows by itself, so that the frame is whole. Raises EnclaveLost.
        """
        if deadline is not None:
            return self._send_until(deadline, buffers)
        try:
            with self._lock:
                self._flush(block=True)
                rest = list(buffers)
                while rest:
                    _advance(rest, self._put(rest[:_VECTOR], block=True))
        finally:
            if self._backlog:
                self._kick()
        return True

    def post(self, data: bytes) -> None:
        """Write a small frame without ever waiting; for the thread that reads."""
        if len(self._backlog) >= _BACKLOG:
            self.overrun = True
            return
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
        deadline: float | None = None,
    ) -> bool:
        """Write a message's frame and then its attachments; False when it was given up.

        flags, index, id: name the message in the DATA frames. give_up: asked before each piece.
        deadline: as for `send`.
        """
        if sum(map(len, attachments)) <= _SMALL:
            parts: list[Buffer] = [head]
            for data in attachments:
                if data:
                    parts += (_inline(data, flags, index, id), data)
            return self.send(*parts, deadline=deadline)  # one write, one wake-up of the peer
        if not self.send(head, deadline=deadline):
            return False
        for data in attachments:
            arena = self._arena if len(data) > _SMALL else None
            size = CHUNK_SIZE if arena is not None else INLINE_MAX
            for start in range(0, len(data), size):
                piece = data[start : start + size]
                if give_up():
                    return False
                if arena is None:
                    header = _inline(piece, flags, index, id)
                    if not self.send(header, piece, deadline=deadline):
                        return False
                    continue
                chunk = arena.put(piece, give_up)
                if chunk is None:
                    if self._broken:
                        raise EnclaveLost("the connection is closed")
                    return False
                # There are never more of these than chunks: they need not wait for room as well.
                name = CHUNK.pack(chunk, len(piece))
                self.post(frame(Kind.DATA, id, name, flags=flags, index=index))
        return True

    def close(self) -> None:
        """Fail all writers from now on."""
        self._broken = True
        if self._arena is not None:
            self._arena.close()
        self._stuck.set()

    def _send_until(self, deadline: float, buffers: Sequence[Buffer]) -> bool:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return False
        done = threading.Event()
        try:
            if self._broken:
                raise EnclaveLost("the connection is closed")
            self._backlog.extend(memoryview(data) for data in buffers if data)
            self._backlog.append(done)
            flushed = self._flush(block=False) and not self._broken
        finally:
            self._lock.release()
        if not flushed:
            self._wake_flusher()
        self._kick()
        written = flushed or done.wait(max(0.0, deadline - time.monotonic()))
        if self._broken and not flushed:
            raise EnclaveLost("the connection is closed")
        return written

    def _put(self, buffers: list[Buffer], *, block: bool) -> int:
        """One write; the lock is held. Raises EnclaveLost."""
        if self._broken:
            raise EnclaveLost("the connection is closed")
        try:
            return self._stream.send(buffers, block=block)
        except OSError as error:
            self._broken = True
            raise EnclaveLost("the connection is closed") from error
        except RecursionError:
            raise  # the app calls out from too deep down; this did not reach the stream
        except BaseException:
            # An interrupt from the keyboard, say. Nobody can tell how much of a frame is out, so
            # nothing that follows could be understood.
            self._broken = True
            self._stream.close()
            raise

    def _flush(self, *, block: bool) -> bool:
        """Write the backlog; the lock is held. False when it would have to wait."""
        while self._backlog:
            head = self._backlog[0]
            if isinstance(head, threading.Event):
                self._backlog.popleft()
                head.set()
                continue
            try:
                sent = self._put([head], block=block)
            except EnclaveLost:
                self._drop()
                return True
            if not sent:
                return False
            if sent < len(head):
                self._backlog[0] = head[sent:]
            else:
                self._backlog.popleft()
        return True

    def _drop(self) -> None:
        """The connection is gone: forget what was to be written, let go who waits for it."""
        while self._backlog:
            entry = self._backlog.popleft()
            if isinstance(entry, threading.Event):
                entry.set()

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
        with self._starting:
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
            self._kick()
        with self._lock:
            self._drop()


def _advance(buffers: list[Buffer], sent: int) -> None:
    """Cut `sent` bytes off the front of `buffers`."""
    done = 0
    while done < len(buffers) and sent >= len(buffers[done]):
        sent -= len(buffers[done])
        done += 1
    del buffers[:done]
    if sent:
        buffers[0] = memoryview(buffers[0])[sent:]


def _inline(data: memoryview, flags: int, index: int, id: int) -> bytes:
    """Header of a DATA frame that carries `data` itself."""
    return HEADER.pack(len(data), Kind.DATA, flags | Flag.INLINE, index, id)
