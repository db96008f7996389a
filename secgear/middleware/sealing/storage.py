"""Where protected files keep their bytes: the host's, and believed in nothing."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self, final

from secgear.errors import SealedMalformed, SealingError
from secgear.middleware.sealing.counters import sync_folder


class Storage(Protocol):
    """Random access to bytes. Each call may cross the boundary, so they are few and large."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer, down to none, behind the end."""
        ...

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Put `data`, which changes afterwards, at `offset`, growing what is there as needed."""
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
        path = Path(path)
        self._name = path.name
        self._lost = False  # whether a flush has failed
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # not to wait for a pipe's other end
        flags |= os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        try:
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise SealingError(f"{self._name}: not a regular file")
            how = fcntl.LOCK_EX if writable else fcntl.LOCK_SH
            fcntl.flock(self._descriptor, how | fcntl.LOCK_NB)
            if writable:  # or a new file could be gone after a power cut, its bytes durable or not
                sync_folder(path.parent)
        except BlockingIOError:
            self.close()
            raise SealingError(f"{self._name}: in use by somebody else") from None
        except OSError as error:
            self.close()
            raise self._failed(error) from error
        except BaseException:
            self.close()
            raise

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
            raise self._failed(error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """See `Storage.write`."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view = view[written:]
                offset += written
        except OSError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        """See `Storage.flush`. After one failure all fail: what was written may be lost.

        Linux reports a failed write to one fsync(2) only, and takes the pages for clean then.
        """
        if self._lost:
            raise SealingError(f"{self._name}: a write was lost; open the file anew")
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self._lost = True
            raise self._failed(error) from error

    def close(self) -> None:
        """Let others have it. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _failed(self, error: OSError) -> SealingError:
        return SealingError(f"{self._name}: {error.strerror or error}")


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

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """See `Storage.write`."""
        self._write(offset, bytes(data))

    def flush(self) -> None:
        """See `Storage.flush`."""
        self._flush()
