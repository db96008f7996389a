"""A witness: it remembers counters for enclaves whose own hosts would set them back.

Runs on a machine that those hosts don't rule. What it is trusted with is that its store does not
go back in time: never restore it from a backup. It learns keys, values and digests, no data.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final, Self, final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.errors import SealingError
from secgear.middleware.sealing.counters import NO_MARK, Standing, sync_folder
from secgear.middleware.sealing.witness_messages import (
    Answer,
    Request,
    answer_message,
    read,
    write,
)

MAX_COUNTERS: Final = 100_000
_BUSY: Final = 30.0  # seconds that another process may hold the store
_STORE, _KEY = "witness.sqlite", "witness.key"


@final
class Witness:
    """Keeps counters in a folder. One instance serves many threads, and several the folder.

    key: signs the answers; enclaves have its public half built in. holders: whose counters are
    kept, by `RemoteCounter.identity`; None for anybody's. most: counters that are kept at most.
    Raises SealingError for a folder that others may write to, or without a usable store.
    """

    def __init__(
        self,
        folder: Path,
        key: Ed25519PrivateKey,
        *,
        holders: Collection[bytes] | None = None,
        most: int = MAX_COUNTERS,
    ) -> None:
        _prepare(folder)
        self._key = key
        self._holders = None if holders is None else frozenset(holders)
        self._most = most
        self._lock = threading.Lock()
        try:
            self._store = sqlite3.connect(
                folder / _STORE, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            # FULL: what was answered is on the disk (https://sqlite.org/pragma.html#pragma_synchronous).
            self._store.execute("PRAGMA journal_mode = WAL")
            self._store.execute("PRAGMA synchronous = FULL")
            self._store.execute(
                "CREATE TABLE IF NOT EXISTS counters"
                " (identity BLOB PRIMARY KEY, value BLOB NOT NULL, mark BLOB NOT NULL)"
                " STRICT, WITHOUT ROWID"
            )
            sync_folder(folder)
        except (sqlite3.Error, OSError) as error:
            raise SealingError(f"the witness's store: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 key, 32 bytes: what `RemoteCounter` takes."""
        return self._key.public_key().public_bytes_raw()

    def answer(self, message: bytes) -> bytes:
        """The answer to a request; what it says is on the disk.

        Raises SealingError for a request that is none or not authorised, and when the store fails.
        """
        request = read(message, Request)
        request.verify(self.public_key)
        identity = request.identity
        if self._holders is not None and identity not in self._holders:
            raise SealingError("this witness keeps no counter for that holder")
        with self._lock:
            try:
                standing = self._advance(identity, Standing(request.value, request.mark))
            except sqlite3.Error as error:
                raise SealingError(f"the witness's store: {error}") from error
        signature = self._key.sign(answer_message(identity, request.nonce, standing))
        return write(Answer(1, *standing, signature))

    def close(self) -> None:
        """Let go of the store. Idempotent."""
        with self._lock:
            self._store.close()

    def _advance(self, identity: bytes, wanted: Standing) -> Standing:
        """Where the counter is, after it went to `wanted` if that is its next step."""
        if not wanted.value:
            return self._read(identity)
        self._store.execute("BEGIN IMMEDIATE")
        try:
            now = self._read(identity)
            if wanted.value == now.value + 1:
                if wanted.value == 1:
                    self._check_room()
                self._store.execute(
                    "INSERT OR REPLACE INTO counters VALUES (?, ?, ?)",
                    (identity, wanted.value.to_bytes(8, "big"), wanted.mark),
                )
                now = wanted
            self._store.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._store.execute("ROLLBACK")
            raise
        return now

    def _read(self, identity: bytes) -> Standing:
        query = "SELECT value, mark FROM counters WHERE identity = ?"
        row = self._store.execute(query, (identity,)).fetchone()
        return Standing(0, NO_MARK) if row is None else Standing(int.from_bytes(row[0]), row[1])

    def _check_room(self) -> None:
        (count,) = self._store.execute("SELECT count(*) FROM counters").fetchone()
        if count >= self._most:
            raise SealingError(f"the witness keeps {self._most} counters and takes no more")


def witness_key(folder: Path) -> Ed25519PrivateKey:
    """The witness's key, kept in its folder; made the first time.

    Raises SealingError for a folder or file that others may use.
    """
    _prepare(folder)
    path = folder / _KEY
    try:
        if not path.exists():
            _make_key(path)
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise SealingError(f"{path}: others may read the witness's key; chmod 600 it")
            key = serialization.load_pem_private_key(file.read(4096), None)
    except OSError as error:
        raise SealingError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError):
        raise SealingError(f"{path}: no Ed25519 key without passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SealingError(f"{path}: no Ed25519 key")
    return key


def _make_key(path: Path) -> None:
    """Put a new key into place in one step; one that somebody else has just made stays."""
    data = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
    sync_folder(path.parent)


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.stat().st_mode
    except OSError as error:
        raise SealingError(f"{folder}: {error.strerror or error}") from error
    if stat.S_IMODE(mode) & 0o022:
        raise SealingError(f"{folder}: others may write to the witness's folder; chmod 700 it")
