"""Monotonic counters: what tells the newest sealed data from older, equally genuine ones."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol, final

from secgear.errors import RolledBack, SealingError

MAX_VALUE: Final = 2**64 - 2
_RECORD = struct.Struct(">8sQ32s")
_MAGIC = b"seccount"


class Counter(Protocol):
    """A number that only ever grows. What it protects from depends on who keeps it."""

    @property
    def identity(self) -> bytes:
        """Names the counter in what is sealed with it: 1 to 64 bytes."""
        ...

    def read(self) -> int:
        """The value now. Raises SealingError."""
        ...

    def increment(self) -> int:
        """Make it one more; returns the new value. Raises SealingError."""
        ...


@final
class FileCounter:
    """A counter in a file of this machine, safe against crashes and several processes.

    Who can write the file can set it back: it protects from restoring an old copy of the sealed
    data alone, by mistake or by somebody who can't reach the counter; never from the host.
    """

    def __init__(self, path: Path, *, identity: bytes | None = None) -> None:
        self._path = Path(path)
        self._identity = identity or hashlib.sha256(self._path.name.encode()).digest()[:16]

    @property
    def identity(self) -> bytes:
        """By default from the file's name."""
        return self._identity

    def read(self) -> int:
        """The value now, 0 before the first increment. Raises SealingError for a damaged file."""
        with self._locked():
            return self._read()

    def increment(self) -> int:
        """One more, on the disk when this returns."""
        with self._locked():
            value = self._read() + 1
            if value > MAX_VALUE:
                raise SealingError("the counter is at its end")
            self._write(value)
            return value

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SealingError(f"the counter {self._path.name}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> int:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise SealingError(f"the counter {self._path.name}: {error.strerror}") from error
        if len(data) == _RECORD.size:
            magic, value, digest = _RECORD.unpack(data)
            if magic == _MAGIC and digest == _digest(value):
                return int(value)
        raise SealingError(f"the counter {self._path.name} is damaged; restore it, never reset it")

    def _write(self, value: int) -> None:
        new = self._path.with_name(self._path.name + ".new")
        try:
            with new.open("wb") as file:
                file.write(_RECORD.pack(_MAGIC, value, _digest(value)))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise SealingError(f"the counter {self._path.name}: {error.strerror}") from error


@final
class CallCounter:
    """A counter that the host keeps, reached by OCALLs: ``CallCounter(b"mine", read, increment)``.

    The host can answer what it likes. What it can't do is unnoticed while one enclave runs:
    within its life the counter may not fall.
    """

    def __init__(
        self, identity: bytes, read: Callable[[], int], increment: Callable[[], int]
    ) -> None:
        self._identity = identity
        self._ask, self._raise = read, increment
        self._least = 0

    @property
    def identity(self) -> bytes:
        """As given."""
        return self._identity

    def read(self) -> int:
        """What the host says. Raises RolledBack when it is less than it was."""
        return self._checked(self._ask())

    def increment(self) -> int:
        """What the host says; it has to be more than before."""
        before = self.read()
        after = self._checked(self._raise())
        if after != before + 1:
            raise RolledBack(f"the counter went from {before} to {after}, not to {before + 1}")
        return after

    def _checked(self, value: int) -> int:
        if not isinstance(value, int) or not 0 <= value <= MAX_VALUE:
            raise SealingError("the host's counter gives no number of 64 bits")
        if value < self._least:
            raise RolledBack(f"the counter fell from {self._least} to {value}")
        self._least = value
        return value


def _digest(value: int) -> bytes:
    """Against damage, not against anybody: a torn or flipped record is noticed."""
    return hashlib.sha256(_MAGIC + value.to_bytes(8, "big")).digest()
