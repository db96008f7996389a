"""The enclave's half: leases of what the host shares, from which everything is copied first.

The host can change shared memory at any time, between two looks at the same byte too. So nothing
here gives a view of it: what is parsed, decrypted or computed with is a private copy, made once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, final

from secgear.base import arrow
from secgear.base.shared import Shared
from secgear.errors import ArgumentError, SharedBufferError

_PIECE = 1 << 20


@final
class Lease(Shared):
    """A buffer of the host's, for the call that it was passed to.

    Every method copies, and raises SharedBufferError once the call has ended or for a range that
    is not inside.
    """

    __slots__ = ("_shared", "_size")

    def __init__(self, shared: memoryview) -> None:
        self._shared: memoryview | None = shared
        self._size = len(shared)

    def __repr__(self) -> str:
        return f"<Lease of {self._size} bytes{'' if self._shared is not None else ', ended'}>"

    def __len__(self) -> int:
        return self._size

    def copy(self, start: int = 0, size: int | None = None) -> bytearray:
        """`size` bytes from `start` on, or all from there, in private memory."""
        shared = self._range(start, size)
        with shared:
            return bytearray(shared)

    def __bytes__(self) -> bytes:
        with self._range(0, None) as shared:
            return bytes(shared)

    def read_into(self, private: bytearray | memoryview, start: int = 0) -> int:
        """Fill `private`, or as much of it as there is from `start` on; returns how many bytes."""
        target = memoryview(private).cast("B")
        size = max(0, min(len(target), self._size - start))
        with self._range(start, size) as shared:
            target[:size] = shared
        return size

    def pieces(self, size: int = _PIECE) -> Iterator[bytearray]:
        """Private copies of `size` bytes each, the last one of what is left."""
        for start in range(0, self._size, size):
            yield self.copy(start, min(size, self._size - start))

    def array(self, dtype: Any, shape: int | tuple[int, ...] | None = None, at: int = 0) -> Any:
        """A numpy array over a private copy, of the bytes from offset `at` on."""
        import numpy as np

        kind = np.dtype(dtype)
        if kind.hasobject or not kind.itemsize:
            raise SharedBufferError(f"an array of {kind} can't be made of bytes")
        count = (self._size - at) // kind.itemsize if shape is None else int(np.prod(shape))
        private = self.copy(at, count * kind.itemsize)
        return np.frombuffer(private, kind).reshape(-1 if shape is None else shape)

    def table(self, size: int | None = None) -> Any:
        """The `pyarrow.Table` in the first `size` bytes, an IPC stream: copied, then validated.

        Raises ArgumentError for what is none.
        """
        private = self.copy(0, size)
        try:
            return arrow.decode(private, batch=False)
        except ValueError as error:
            raise ArgumentError(f"shared buffer: {error}") from error

    def close(self) -> None:
        """End the lease; the runtime does when the call returns. Idempotent."""
        shared, self._shared = self._shared, None
        if shared is not None:
            with contextlib.suppress(BufferError):  # another thread is copying: the last time
                shared.release()

    def _range(self, start: int, size: int | None) -> memoryview:
        shared = self._shared
        if shared is None:
            raise SharedBufferError("this lease has ended with the call that it was given to")
        size = self._size - start if size is None else size
        if not 0 <= start <= start + size <= self._size:
            raise SharedBufferError(f"{size} bytes at {start} are not inside {self._size}")
        return shared[start : start + size]


class _Pool:
    """What the host shares with this enclave. token: how it names it."""

    memory: memoryview | None = None
    token = 0


_pool = _Pool()


def install(memory: memoryview, token: int) -> None:
    """Called once by the runtime: leases are of `memory`, which the host calls `token`."""
    _pool.memory, _pool.token = memory, token


def lease(value: Any, attachment: Callable[[Any], bytearray]) -> Lease:
    """The lease of what a message refers to. Raises ValueError."""
    if not isinstance(value, list):
        return Lease(memoryview(attachment(value)))
    if len(value) != 3 or not all(type(number) is int for number in value):
        raise ValueError("malformed reference to a shared buffer")
    token, start, size = value
    if _pool.memory is None or token != _pool.token:
        raise ValueError("a shared buffer of another enclave")
    if not 0 <= start <= start + size <= len(_pool.memory) or not size:
        raise ValueError("a shared buffer outside the shared memory")
    return Lease(_pool.memory[start : start + size])


def end_leases(values: dict[str, Any]) -> None:
    """The call that these arguments were for is over."""
    for value in values.values():
        if isinstance(value, Lease):
            value.close()
