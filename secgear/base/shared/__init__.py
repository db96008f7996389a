"""Buffers in shared memory: the host writes once, the enclave copies what it looks at.

As a parameter's type, `Shared` means: a buffer that `Enclave.shared` made. The app is given a
`secgear.base.shared.enclave.Lease` of it, for as long as the call runs.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

from secgear.errors import ArgumentError, SharedBufferError

_PIECE = 1 << 20


class Shared:
    """The type of such a parameter: ``def total(values: Shared) -> float``.

    What is read is copied first, because the other side may write meanwhile. Methods raise
    SharedBufferError for a range that is not inside.
    """

    __slots__ = ("__weakref__",)

    def __len__(self) -> int:
        """Bytes of the buffer."""
        raise NotImplementedError

    def copy(self, start: int = 0, size: int | None = None) -> bytearray:
        """`size` bytes from `start` on, or all from there, in private memory."""
        shared = self._range(start, size)
        with shared:
            return bytearray(shared)

    def __bytes__(self) -> bytes:
        """All of it."""
        with self._range(0, None) as shared:
            return bytes(shared)

    def read_into(self, private: bytearray | memoryview, start: int = 0) -> int:
        """Fill `private`, or as much of it as there is from `start` on; returns how many bytes."""
        target = memoryview(private).cast("B")
        size = max(0, min(len(target), len(self) - start))
        with self._range(start, size) as shared:
            target[:size] = shared
        return size

    def pieces(self, size: int = _PIECE) -> Iterator[bytearray]:
        """Private copies of `size` bytes each, the last one of what is left."""
        for start in range(0, len(self), size):
            yield self.copy(start, min(size, len(self) - start))

    def array(self, dtype: Any, shape: int | tuple[int, ...] | None = None, at: int = 0) -> Any:
        """A numpy array over a private copy, of the bytes from offset `at` on."""
        import numpy as np

        kind = np.dtype(dtype)
        if kind.hasobject or not kind.itemsize:
            raise SharedBufferError(f"an array of {kind} can't be made of bytes")
        if shape is None:
            shape = (len(self) - at) // kind.itemsize
        parts = [operator.index(part) for part in (shape if isinstance(shape, tuple) else (shape,))]
        if any(part < 0 for part in parts):
            raise SharedBufferError(f"an array has no shape {shape}")
        private = self.copy(at, math.prod(parts) * kind.itemsize)
        return np.frombuffer(private, kind).reshape(parts)

    def table(self, size: int | None = None) -> Any:
        """The `pyarrow.Table` in the first `size` bytes, an IPC stream: copied, then validated.

        Raises ArgumentError for what is none.
        """
        from secgear.base import arrow

        private = self.copy(0, size)
        try:
            return arrow.decode(private, batch=False)
        except ValueError as error:
            raise ArgumentError(f"shared buffer: {error}") from error

    def _bytes(self) -> memoryview:
        """The bytes themselves. Raises SharedBufferError when they can't be had any more."""
        raise NotImplementedError

    def _range(self, start: int, size: int | None) -> memoryview:
        shared = self._bytes()
        size = len(self) - start if size is None else size
        if not 0 <= start <= start + size <= len(self):
            raise SharedBufferError(f"{size} bytes at {start} are not inside {len(self)}")
        return shared[start : start + size]

    def reference(self) -> tuple[int, int, int] | memoryview:
        """How a message refers to it: pool, offset, size; or its bytes, to be attached."""
        raise TypeError("a lease belongs to the call it was given to; it can't be passed on")


Attachment = Callable[[Any], bytearray]
Leaser = Callable[[Any, Attachment], Shared]


class _Inside:
    """Whether this is an enclave, and how references become leases in it."""

    leaser: Leaser | None = None


def lease_with(leaser: Leaser) -> None:
    """Called once by the runtime inside an enclave."""
    _Inside.leaser = leaser


def resolve(value: Any, attachment: Attachment) -> Shared:
    """The lease of what a message refers to. attachment: takes one by its number.

    Raises ValueError for what is no reference to this enclave's shared memory.
    """
    if _Inside.leaser is None:
        raise ValueError("a shared buffer is read inside of an enclave only")
    return _Inside.leaser(value, attachment)
