"""The file of result keys: created once, readable by its owner only, shared by all instances.

The first key signs; all are published. `rotate` puts a new one first; running instances notice and
results that were signed before stay verifiable as long as their key is in the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path
from typing import Final

from secgear.errors import KeyFileError
from secgear.middleware.attestation.results.keys import (
    MAX_KEYS,
    ResultKey,
    from_pem,
    new_key,
    to_pem,
)
from secgear.middleware.attestation.service.keeping import alone, sync, written

_MAX_SIZE: Final = 64 << 10  # bytes


class KeyFile:
    """Result keys in a file. Made by `open_keys`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._keys: tuple[ResultKey, ...] = ()

    def __repr__(self) -> str:
        return f"KeyFile({str(self._path)!r})"

    @property
    def keys(self) -> tuple[ResultKey, ...]:
        """All keys as they are in the file now, the signing one first. Raises KeyFileError."""
        with self._lock:
            try:
                state = self._path.stat()
                seen = (state.st_ino, state.st_mtime_ns, state.st_size)
                if seen != self._seen:
                    self._keys, self._seen = from_pem(_read(self._path)), seen
            except OSError as error:
                raise KeyFileError(f"result keys: {self._path}: {error.strerror}") from None
            return self._keys


def open_keys(path: Path) -> KeyFile:
    """The keys in a file, which is created with one on P-256 if there is none.

    Raises KeyFileError: unreadable, no keys, or readable by others than its owner.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # A link fails if another instance was faster: then its key counts.
            with (
                written(path, to_pem([new_key()])) as made,
                contextlib.suppress(FileExistsError),
            ):
                os.link(made, path)
                sync(path.parent)
    except OSError as error:
        raise KeyFileError(f"result keys: {path}: {error.strerror}") from None
    file = KeyFile(path)
    _ = file.keys
    return file


def rotate(path: Path) -> ResultKey:
    """Put a new key first, keep the others for verification, drop the oldest beyond the limit."""
    open_keys(path)  # makes it if there is none
    try:
        with alone(path.parent):  # of two at once neither may drop the other's new key
            keys = (new_key(), *from_pem(_read(path)))[:MAX_KEYS]
            with written(path, to_pem(keys)) as made:
                made.replace(path)
                sync(path.parent)
    except OSError as error:
        raise KeyFileError(f"result keys: {path}: {error.strerror}") from None
    return keys[0]


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise KeyFileError(
                f"result keys: others may access {path} (mode {mode:o}): chmod 600 it, and "
                "replace the keys if somebody could have read them"
            )
        return file.read(_MAX_SIZE)
