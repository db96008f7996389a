"""The host's half: a pool in shared memory, and the buffers that programs take from it."""

from __future__ import annotations

import bisect
import contextlib
import mmap
import secrets
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, final

from secgear.base.shared import Shared
from secgear.errors import LimitExceeded, SharedBufferError

_ALIGN = 4096
_ZEROS = 1 << 20


@final
class Pool:
    """Allocates from the part of shared memory that is for buffers.

    memory: None where there is none; then buffers lie in the host's own memory, and their bytes
    travel with each call. start, size: the part, in bytes. token: tells pools apart.

    What is free only this side knows, in private memory: an enclave can't forge it.
    """

    def __init__(self, memory: mmap.mmap | None, start: int = 0, size: int = 0) -> None:
        self.token = secrets.randbits(63)
        self._memory = memory
        self._start = start
        self._size = size
        self._lock = threading.Lock()
        self._free = [(0, size)] if size else []  # offset and size, by offset, never adjacent

    def buffer(self, size: int) -> SharedBuffer:
        """A buffer of `size` bytes, zero at first. Raises LimitExceeded when there is no room."""
        if type(size) is not int or size < 1:
            raise SharedBufferError(f"a shared buffer has at least 1 byte, not {size!r}")
        if self._memory is None:
            return SharedBuffer(memoryview(bytearray(size)), None)
        offset, room = self._take(size)
        start = self._start + offset
        view = memoryview(self._memory)[start : start + size]
        for at in range(0, size, _ZEROS):  # what was there before belonged to somebody else
            view[at : at + _ZEROS] = bytes(min(_ZEROS, size - at))
        place = Place(self, offset, room)
        # Arrays over a buffer hold its view, so the place is free once the last of them is gone.
        weakref.finalize(view, place.free)
        return SharedBuffer(view, place)

    def _take(self, size: int) -> tuple[int, int]:
        room = -(-size // _ALIGN) * _ALIGN
        with self._lock:
            for at, (offset, free) in enumerate(self._free):
                if free >= room:
                    self._free[at : at + 1] = [(offset + room, free - room)] if free > room else []
                    return offset, room
        raise LimitExceeded(
            f"no room for {size} bytes among the shared buffers, which have {self._size}; close "
            "some, or launch with Switchless(shared=...)"
        )

    def give(self, offset: int, room: int) -> None:
        """A place is free again."""
        with self._lock:
            free = self._free
            at = bisect.bisect(free, (offset, room))
            if at < len(free) and offset + room == free[at][0]:
                room += free.pop(at)[1]
            if at and sum(free[at - 1]) == offset:
                at -= 1
                offset, room = free[at][0], free[at][1] + room
                del free[at]
            free.insert(at, (offset, room))


@final
class Place:
    """Where a buffer lies. pins: calls that have it. lent: whether one was given up meanwhile.

    An enclave may go on reading for a call that its caller gave up; such a place is not given to
    another buffer while the enclave lives.
    """

    def __init__(self, pool: Pool, offset: int, room: int) -> None:
        self.token = pool.token
        self.offset = offset
        self._pool = pool
        self._room = room
        self._lock = threading.Lock()
        self._pins = 0
        self._lent = False
        self._gone = False

    @property
    def pinned(self) -> bool:
        """Whether a call has it now."""
        return self._pins > 0

    def pin(self) -> None:
        """A call begins."""
        with self._lock:
            self._pins += 1

    def unpin(self, *, lent: bool) -> None:
        """A call has ended for its caller; lent: maybe not for the enclave."""
        with self._lock:
            self._pins -= 1
            self._lent |= lent
            free = self._gone and not self._pins and not self._lent
        if free:
            self._pool.give(self.offset, self._room)

    def free(self) -> None:
        """Nobody on this side looks at it any more."""
        with self._lock:
            self._gone = True
            free = not self._pins and not self._lent
        if free:
            self._pool.give(self.offset, self._room)


@final
class SharedBuffer(Shared):
    """Memory that an enclave can read without a copy on the way: ``enclave.shared(size)``.

    ``buffer.view`` is writable bytes; `array` and `write_table` put data there once. Passed as an
    argument of type `secgear.Shared`, it costs a few bytes, whatever its size. What the enclave
    reads is what is there at that time: don't write while a call has it.

    A context manager; leaving it closes the buffer.
    """

    __slots__ = ("_place", "_size", "_view")

    def __init__(self, view: memoryview, place: Place | None) -> None:
        self._view: memoryview | None = view
        self._place = place
        self._size = len(view)

    def __repr__(self) -> str:
        return f"<SharedBuffer of {self._size} bytes{'' if self._view else ', closed'}>"

    def __len__(self) -> int:
        return self._size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # what went wrong counts, not that its arrays are still there
            with contextlib.suppress(SharedBufferError):
                self.close()

    @property
    def view(self) -> memoryview:
        """The bytes, writable. Raises SharedBufferError once closed."""
        if self._view is None:
            raise SharedBufferError("this shared buffer was closed")
        return self._view

    def write(self, data: bytes | bytearray | memoryview, at: int = 0) -> int:
        """Copy `data` to offset `at`; returns where it ends. Raises SharedBufferError."""
        source = memoryview(data).cast("B")
        end = at + len(source)
        if not 0 <= at <= end <= self._size:
            raise SharedBufferError(f"{len(source)} bytes at {at} are not inside {self._size}")
        self.view[at:end] = source
        return end

    def array(self, dtype: Any, shape: int | tuple[int, ...] | None = None, at: int = 0) -> Any:
        """A numpy array that lies in the buffer, from offset `at` on; all the rest without shape.

        The buffer can't be closed while there are such arrays.
        """
        import numpy as np

        kind = np.dtype(dtype)
        if kind.hasobject or not kind.itemsize:
            raise SharedBufferError(f"an array of {kind} can't lie in shared memory")
        if shape is None:
            shape = ((self._size - at) // kind.itemsize,)
        try:
            return np.ndarray(shape, kind, self.view, at)
        except (TypeError, ValueError) as error:
            raise SharedBufferError(f"no such array in {self._size} bytes: {error}") from error

    def arrow(self) -> Any:
        """A `pyarrow.Buffer` over the bytes, for Arrow's writers."""
        import pyarrow as pa

        return pa.py_buffer(self.view)

    def write_table(self, table: Any) -> int:
        """Write a `pyarrow.Table` or `RecordBatch` as an IPC stream; returns its bytes.

        Raises SharedBufferError when it does not fit.
        """
        import pyarrow as pa

        sink = pa.FixedSizeBufferWriter(self.arrow())
        try:
            with sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write(table)
                end: int = sink.tell()
        except (pa.ArrowException, OSError) as error:
            raise SharedBufferError(f"the table does not fit in {self._size} bytes") from error
        return min(end + 8, self._size)  # the end-of-stream marker follows

    def close(self) -> None:
        """Give the memory back. Idempotent.

        Raises SharedBufferError while a call has the buffer, or arrays over it exist.
        """
        view = self._view
        if view is None:
            return
        if self._place is not None and self._place.pinned:
            raise SharedBufferError("a call has this shared buffer; wait for it to end")
        try:
            view.release()
        except BufferError:
            raise SharedBufferError(
                "arrays or views over this shared buffer still exist; delete them first"
            ) from None
        self._view = None

    def reference(self) -> tuple[int, int, int] | memoryview:
        """See `Shared.reference`. Raises SharedBufferError once closed."""
        view, place = self.view, self._place
        return view if place is None else (place.token, place.offset, self._size)

    def _bytes(self) -> memoryview:
        return self.view

    @property
    def place(self) -> Place | None:
        """Where it lies; None in private memory."""
        return self._place


def pin(values: Mapping[str, Any]) -> list[Place]:
    """The places of shared buffers among arguments, pinned."""
    places = [
        value.place
        for value in values.values()
        if isinstance(value, SharedBuffer) and value.place is not None
    ]
    for place in places:
        place.pin()
    return places


def unpin(places: Sequence[Place], *, lent: bool) -> None:
    """The call has ended for its caller; lent: maybe not for the enclave."""
    for place in places:
        place.unpin(lent=lent)


def may_go_on(error: BaseException | None) -> bool:
    """Whether the enclave may still be at work on a call that ended with `error` here."""
    from secgear.errors import CallCancelled, DeadlineExceeded

    return isinstance(error, CallCancelled | DeadlineExceeded)
