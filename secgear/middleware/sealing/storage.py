"""Where protected files keep their bytes: the host's, and believed in nothing."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self, final

from secgear.errors import SealedMalformed, SealingError


class Storage(Protocol):
    """Random access to bytes. Each call may cross the boundary, so they are few and large."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer, down to none, behind the end."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Put `data` at `offset`, growing what is there as needed."""
        ...

    def flush(self) -> None:
        """Return once everything written before is durable."""
        ...


@final
class PathStorage:
    """A file of this machine, for the host. One writer at a time; a context manager.

    writable: creates the file if need be. Raises SealingError.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY)
        self._name = Path(path).name
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise SealingError(f"{self._name}: {error.strerror}") from error
        try:
            fcntl.flock(
                self._descriptor, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB
            )
        except BlockingIOError:
            os.close(self._descriptor)
            raise SealingError(f"{self._name}: in use by somebody else") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, offset: int, size: int) -> bytes:
        """See `Storage.read`."""
        pieces = []
        try:
            while size and (piece := os.pread(self._descriptor, size, offset)):
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        except OSError as error:
            raise SealingError(f"{self._name}: {error.strerror}") from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """See `Storage.write`."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view = view[written:]
                offset += written
        except OSError as error:
            raise SealingError(f"{self._name}: {error.strerror}") from error

    def flush(self) -> None:
        """See `Storage.flush`."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise SealingError(f"{self._name}: {error.strerror}") from error

    def close(self) -> None:
        """Let others have it. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@final
class CallStorage:
    """Storage behind OCALLs, for enclaves: three functions with the meaning of `Storage`'s."""

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        flush: Callable[[], None],
    ) -> None:
        self._read, self._write, self._flush = read, write, flush

    def read(self, offset: int, size: int) -> bytes:
        """See `Storage.read`. Raises SealedMalformed for a host that gives more than asked for."""
        data = self._read(offset, size)
        if not isinstance(data, bytes) or len(data) > size:
            raise SealedMalformed("the host gives other bytes than it was asked for")
        return data

    def write(self, offset: int, data: bytes) -> None:
        """See `Storage.write`."""
        self._write(offset, data)

    def flush(self) -> None:
        """See `Storage.flush`."""
        self._flush()
