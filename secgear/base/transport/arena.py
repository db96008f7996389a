"""Shared memory for bulk: one arena for each direction, in chunks that travel by credit.

The sender of a direction alone decides which chunk is free; it keeps that in private memory. A
chunk is free again when the receiver has copied it and said so. The receiver never reads a chunk
twice: it copies, then looks at its private copy.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Callable
from typing import final

from secgear.errors import ProtocolError

CHUNK_SIZE = 1 << 20


def create(size: int) -> int:
    """A memfd for both directions of `size` bytes each; see `shared_file`."""
    return shared_file("secgear-arena", 2 * size)


def shared_file(name: str, size: int) -> int:
    """A memfd of `size` zero bytes, whose size can't be changed by either side.

    Without the seals a peer could shrink the file and turn our next access into SIGBUS.
    """
    import fcntl

    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    except OSError:
        os.close(fd)
        raise
    return fd


@final
class Arena:
    """One side's view of both directions.

    fd: the memfd; the arena keeps no reference to it. host: which side this is; the host sends
    through the first half, the enclave through the second.
    """

    def __init__(self, fd: int, *, host: bool) -> None:
        total = os.fstat(fd).st_size
        if total % (2 * CHUNK_SIZE) or total == 0:
            raise ProtocolError(f"shared memory of {total} bytes is not a whole number of chunks")
        self._map = mmap.mmap(fd, total)
        half = total // 2
        view = memoryview(self._map)
        self._out = view[:half] if host else view[half:]
        self._shared_in = view[half:] if host else view[:half]
        view.release()
        self._count = half // CHUNK_SIZE
        self._free = list(range(self._count))
        self._given: set[int] = set()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, data: memoryview, give_up: Callable[[], bool]) -> int | None:
        """Copy `data` (at most CHUNK_SIZE bytes) into a free chunk; waits for one.

        Returns the chunk's number, or None when `give_up()` became true or the arena closed.
        """
        with self._changed:
            while not self._free:
                if self._closed or give_up():
                    return None
                self._changed.wait(0.25)
            if self._closed:
                return None
            chunk = self._free.pop()
            self._given.add(chunk)
        start = chunk * CHUNK_SIZE
        try:
            self._out[start : start + len(data)] = data
        except ValueError:
            if self._closed:  # meanwhile
                return None
            raise
        return chunk

    def credit(self, chunk: int) -> None:
        """The peer has copied `chunk`. Raises ProtocolError if it did not hold it."""
        with self._changed:
            if chunk not in self._given:
                raise ProtocolError(f"credit for chunk {chunk}, which the peer does not hold")
            self._given.remove(chunk)
            self._free.append(chunk)
            self._changed.notify()

    def take(self, chunk: int, size: int, private: memoryview) -> None:
        """Copy `size` bytes of the peer's `chunk` into `private`, once.

        Raises ProtocolError for a chunk or size outside the arena.
        """
        self.check(chunk, size)
        start = chunk * CHUNK_SIZE
        try:
            private[:size] = self._shared_in[start : start + size]
        except ValueError:
            if self._closed:
                raise ProtocolError("the shared memory is closed") from None
            raise

    def check(self, chunk: int, size: int) -> None:
        """Raise ProtocolError unless chunk and size lie inside the arena."""
        if not (0 <= chunk < self._count and 0 < size <= CHUNK_SIZE):
            raise ProtocolError(f"{size} bytes in chunk {chunk} lie outside the shared memory")

    def wake(self) -> None:
        """Let waiting senders look at their `give_up` again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """No more chunks; the mapping and its descriptor are freed. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._out.release()
        self._shared_in.release()
        # A thread in the middle of a copy holds a view of its own; then the collector frees it.
        with contextlib.suppress(BufferError):
            self._map.close()
