"""The file of master keys: raw bytes, 32 for each key, readable by its owner only.

The first key encrypts, all of them decrypt. It is created together with the first secret's broker
and never again: a broker that has secrets and no key refuses to start instead of making one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from secgear.errors import KeyFileError
from secgear.middleware.attestation.service.keeping import alone, sync, written

SIZE: Final = 32  # bytes of one key
MAX_KEYS: Final = 16
_ID_SIZE: Final = 16


class MasterKey:
    """One key. id: tells which one a secret is under. `repr` shows no secret."""

    __slots__ = ("id", "material")

    def __init__(self, material: bytes) -> None:
        self.material = material
        self.id = hashlib.sha256(b"secgear broker master key v1\0" + material).digest()[:_ID_SIZE]

    def __repr__(self) -> str:
        return f"MasterKey({self.id.hex()})"


class MasterKeyFile:
    """The keys in a file, read again when it has changed. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._keys: tuple[MasterKey, ...] = ()

    def __repr__(self) -> str:
        return f"MasterKeyFile({str(self._path)!r})"

    @property
    def keys(self) -> tuple[MasterKey, ...]:
        """The keys in the file now, the encrypting one first. Raises KeyFileError."""
        with self._lock:
            try:
                state = self._path.stat()
                seen = (state.st_ino, state.st_ctime_ns, state.st_size)
                if seen != self._seen:
                    self._keys, self._seen = _read(self._path), seen
            except OSError as error:
                raise _failed(self._path, error) from None
            return self._keys


def create(path: Path) -> None:
    """Make the file with one new key, unless it exists. Of several that try, one makes it."""
    if path.exists():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with written(path, secrets.token_bytes(SIZE)) as made:
            # A link, not a rename: what is there stays there.
            with contextlib.suppress(FileExistsError):
                os.link(made, path)
            sync(path.parent)
    except OSError as error:
        raise _failed(path, error) from None


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Nobody else changes the file meanwhile. Raises KeyFileError.

    For adding a key and using it, and for looking which keys are in use and dropping the others:
    of two who did that at once, one would drop what the other has just put secrets under.
    """
    try:
        with alone(path.parent):
            yield
    except OSError as error:
        raise _failed(path, error) from None


def add_key(path: Path) -> MasterKey:
    """Put a new key first and keep the others, within `changing`.

    Raises KeyFileError, also if the file is full.
    """
    before = MasterKeyFile(path).keys
    if len(before) >= MAX_KEYS:
        raise KeyFileError(f"master key: {path} has {MAX_KEYS} keys; drop those not in use first")
    new = MasterKey(secrets.token_bytes(SIZE))
    _replace(path, [new, *before])
    return new


def keep_first_key(path: Path) -> int:
    """Drop all keys but the first, within `changing`; how many. What is under them is lost."""
    first, *others = MasterKeyFile(path).keys
    if others:
        _replace(path, [first])
    return len(others)


def _replace(path: Path, keys: Sequence[MasterKey]) -> None:
    try:
        with written(path, b"".join(key.material for key in keys)) as made:
            made.replace(path)
            sync(path.parent)
    except OSError as error:
        raise _failed(path, error) from None


def _read(path: Path) -> tuple[MasterKey, ...]:
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        if stat.S_IMODE(state.st_mode) & 0o077:
            raise KeyFileError(
                f"master key: others may access {path} (mode {stat.S_IMODE(state.st_mode):o}): "
                "chmod 600 it, and change the key and all secrets if somebody could have read it"
            )
        data = file.read(SIZE * MAX_KEYS + 1)
    count, rest = divmod(len(data), SIZE)
    keys = [data[at : at + SIZE] for at in range(0, len(data), SIZE)]
    if rest or not 1 <= count <= MAX_KEYS or len(set(keys)) != count or bytes(SIZE) in keys:
        raise KeyFileError(f"master key: {path} is not 1 to {MAX_KEYS} different keys of {SIZE} B")
    return tuple(MasterKey(key) for key in keys)


def _failed(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(f"master key: {path}: {error.strerror}")
