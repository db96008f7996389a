"""Monotonic counters: what tells the newest sealed data from older, equally genuine ones.

A number alone does not do it. A host that stops the enclave after it has written version 8, before
it has counted, can start it with version 7, have it write and count another version 8, and go back
to the first one: both have the number. So a counter also keeps a mark, the digest of the one
version that was acknowledged at its value.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Protocol, final

from secgear.errors import RolledBack, SealingError

MAX_VALUE: Final = 2**64 - 2
MARK_SIZE: Final = 32  # bytes
NO_MARK: Final = bytes(MARK_SIZE)
MAX_IDENTITY: Final = 64  # bytes

_RECORD = struct.Struct(">8sQ32s32s")
_MAGIC = b"seccount"


class Standing(NamedTuple):
    """Where a counter is. mark: SHA-256 of what was stored at `value`; zeros before the first."""

    value: int
    mark: bytes


class Counter(Protocol):
    """A number that only ever grows. What it protects from depends on who keeps it."""

    @property
    def identity(self) -> bytes:
        """Names the counter in what is sealed with it: 1 to 64 bytes."""
        ...

    def read(self) -> Standing:
        """Where it is now. Raises SealingError."""
        ...

    def advance(self, value: int, mark: bytes) -> Standing:
        """If the counter is at ``value - 1``, make it `value` with `mark`, durably and in one step.

        Returns where it is then: elsewhere than asked for when somebody else was faster. Asking
        again is harmless. Raises SealingError.
        """
        ...


def identity_of(counter: Counter | None) -> bytes:
    """The counter's identity; empty for none. Raises SealingError for one that is too long."""
    if counter is None:
        return b""
    identity = counter.identity
    if not 0 < len(identity) <= MAX_IDENTITY:
        raise SealingError(f"a counter's identity has 1 to {MAX_IDENTITY} bytes")
    return identity


def following(value: int) -> int:
    """The value of what is stored after the version of `value`. Raises SealingError at the end."""
    if not 0 <= value < MAX_VALUE:
        raise SealingError(f"nothing comes after {value}: a counter ends at {MAX_VALUE}")
    return value + 1


def acknowledge(counter: Counter, value: int, mark: bytes) -> None:
    """Count what was stored as `value`, once it is durable.

    Raises RolledBack when something else was counted as that.
    """
    reached = counter.advance(value, mark)
    if reached != (value, mark):
        raise RolledBack(
            f"the counter is at {reached.value}, and not with this data of {value}: somebody else "
            "uses it"
        )


def check_newest(counter: Counter, value: int, mark: bytes) -> None:
    """Raise RolledBack unless what has `value` and `mark` is the newest.

    That of the next value is, too: storing it was the last thing before a crash. It is counted
    now, so that whatever else was stored as the next one is refused from here on.
    """
    now = counter.read()
    if value == now.value + 1:
        acknowledge(counter, value, mark)
    elif value < now.value:
        raise RolledBack(f"it is of {value}, and the counter at {now.value}: there is newer data")
    elif value > now.value:
        raise RolledBack(f"it is of {value}, but the counter at {now.value}: that was set back")
    elif mark != now.mark:
        raise RolledBack(f"it is of {value}, and other data was acknowledged as that")


@final
class FileCounter:
    """A counter in a file of this machine, safe against crashes and several processes.

    Who can write the file can set it back: it protects from restoring an old copy of the sealed
    data alone, by mistake or by somebody who can't reach the counter; never from the host.
    """

    def __init__(self, path: Path, *, identity: bytes | None = None) -> None:
        self._path = Path(path)
        self._identity = identity or hashlib.sha256(self._path.name.encode()).digest()[:16]

    def __repr__(self) -> str:
        return f"FileCounter({self._path.name!r})"

    @property
    def identity(self) -> bytes:
        """By default from the file's name."""
        return self._identity

    def read(self) -> Standing:
        """Where it is, 0 before it was advanced first. Raises SealingError for a damaged file."""
        with self._locked():
            return self._read()

    def advance(self, value: int, mark: bytes) -> Standing:
        """See `Counter.advance`; on the disk when this returns."""
        check_step(value, mark)
        with self._locked():
            now = self._read()
            if value == now.value + 1:
                now = Standing(value, bytes(mark))
                self._write(now)
            return now

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise self._failed(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        except OSError as error:
            raise self._failed(error) from error
        finally:
            os.close(descriptor)

    def _read(self) -> Standing:
        try:
            with self._path.open("rb") as file:
                data = file.read(_RECORD.size + 1)
        except FileNotFoundError:
            return Standing(0, NO_MARK)
        if len(data) == _RECORD.size:
            magic, value, mark, digest = _RECORD.unpack(data)
            if magic == _MAGIC and digest == _digest(value, mark):
                return Standing(value, mark)
        raise SealingError(f"the counter {self._path.name} is damaged; restore it, never reset it")

    def _write(self, standing: Standing) -> None:
        new = self._path.with_name(self._path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(new, flags, 0o600), "wb") as file:
            file.write(_RECORD.pack(_MAGIC, *standing, _digest(*standing)))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        sync_folder(self._path.parent)

    def _failed(self, error: OSError) -> SealingError:
        return SealingError(f"the counter {self._path.name}: {error.strerror or error}")


@final
class CallCounter:
    """A counter behind OCALLs, for enclaves: two functions with the meaning of `Counter`'s.

    The host can answer what it likes. What it can't do is unnoticed while one enclave runs:
    within its life the counter may not fall, nor change its mark.
    """

    def __init__(
        self,
        identity: bytes,
        read: Callable[[], tuple[int, bytes]],
        advance: Callable[[int, bytes], tuple[int, bytes]],
    ) -> None:
        self._identity = identity
        self._ask, self._raise = read, advance
        self._least = Standing(0, b"")

    def __repr__(self) -> str:
        return f"CallCounter({self._identity!r})"

    @property
    def identity(self) -> bytes:
        """As given."""
        return self._identity

    def read(self) -> Standing:
        """What the host says. Raises RolledBack when it is less than it was."""
        return self._checked(self._ask())

    def advance(self, value: int, mark: bytes) -> Standing:
        """What the host says; never less than before."""
        check_step(value, mark)
        return self._checked(self._raise(value, mark))

    def _checked(self, answer: object) -> Standing:
        match answer:
            case (int(value), bytes(mark)) if 0 <= value <= MAX_VALUE and len(mark) == MARK_SIZE:
                now = Standing(value, mark)
            case _:
                raise SealingError("the host's counter gives no number of 64 bits with a mark")
        if now.value < self._least.value:
            raise RolledBack(f"the counter fell from {self._least.value} to {now.value}")
        if now.value == self._least.value and now.mark != self._least.mark and self._least.mark:
            raise RolledBack(f"the counter is at {now.value} still, but with another mark")
        self._least = now
        return now


def check_step(value: int, mark: bytes) -> None:
    """Raise SealingError unless a counter can be advanced to that."""
    if not 0 < value <= MAX_VALUE or len(mark) != MARK_SIZE:
        raise SealingError(f"a counter goes to 1 to {MAX_VALUE}, with a mark of {MARK_SIZE} bytes")


def sync_folder(folder: Path) -> None:
    """Make durable which files are in `folder` (fsync(2), on directories). Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(value: int, mark: bytes) -> bytes:
    """Against damage, not against anybody: a torn or flipped record is noticed."""
    return hashlib.sha256(_MAGIC + value.to_bytes(8, "big") + mark).digest()
