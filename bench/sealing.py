"""Sealed data against plain data: protected files against files, blobs against the bare cipher.

Both kinds of file do the same work: the same bytes in the same pieces and order, written ones
flushed to the disk before the time is taken. What is read comes out of the page cache for both, so
that the work shows and not the disk; a protected file keeps 64 chunks in memory, and the file is
much larger than that.
"""

from __future__ import annotations

import functools
import hashlib
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bench.measure import Row, interleaved, rows
from secgear.base.sandbox.secret import SecretMemory, SecretPool
from secgear.base.tee import Evidence, Guest, SealingPolicy
from secgear.errors import GuestError
from secgear.middleware.sealing import PathStorage, ProtectedFile, seal, unseal

_PIECE = 1 << 20  # bytes of a sequential write or read
_SMALL = 4 << 10  # bytes at a random place
_NAME = b"benchmark"


def main(*, quick: bool) -> list[Row]:
    """Tables for files, in sequence and at random, and for small blobs."""
    with tempfile.TemporaryDirectory(prefix="secgear-bench-") as folder:
        return [*_files(Path(folder), quick=quick), *_blobs(quick=quick)]


class _File(Protocol):
    def seek(self, offset: int, /) -> int: ...
    def write(self, data: memoryview, /) -> int | None: ...
    def readinto(self, buffer: bytearray | memoryview, /) -> int | None: ...
    def flush(self) -> None: ...


class _Plain:
    """A file of the operating system; `flush` means the disk, as it does for a protected one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self.seek = self._file.seek
        self.write = self._file.write
        self.readinto = self._file.readinto

    def flush(self) -> None:
        os.fsync(self._file.fileno())


def _files(folder: Path, *, quick: bool) -> list[Row]:
    size = (16 if quick else 64) << 20
    rounds = 3 if quick else 9
    count = 200 if quick else 2000
    data = memoryview(os.urandom(size))
    places = [random.randrange(0, size // _SMALL) * _SMALL for _ in range(count)]
    key = os.urandom(32)
    files: dict[str, _File] = {"plain file": _Plain(folder / "plain")}
    for chunk in (64 << 10, 4 << 10):
        storage = PathStorage(folder / f"protected-{chunk}", writable=True)
        name = f"protected, chunks of {chunk >> 10} KiB"
        files[name] = ProtectedFile.create(storage, key, name=_NAME, chunk_size=chunk)

    def in_sequence(file: _File, work: Callable[[_File, int], None]) -> None:
        file.seek(0)
        for start in range(0, size, _PIECE):
            work(file, start)
        file.flush()

    def at_random(file: _File, work: Callable[[_File, int], None]) -> None:
        for place in places:
            file.seek(place)
            work(file, place)
        file.flush()

    buffer, small = bytearray(_PIECE), bytearray(_SMALL)
    tables: list[tuple[str, Callable[[_File], None]]] = [
        (
            f"write {size >> 20} MiB, flushed",
            lambda file: in_sequence(file, lambda f, at: _write(f, data[at : at + _PIECE])),
        ),
        (
            f"read {size >> 20} MiB",
            lambda file: in_sequence(file, lambda f, at: _read(f, buffer)),
        ),
        (
            f"read {count} x 4 KiB",
            lambda file: at_random(file, lambda f, at: _read(f, small)),
        ),
        (
            f"write {count} x 4 KiB, flushed",
            lambda file: at_random(file, lambda f, at: _write(f, data[at : at + _SMALL])),
        ),
    ]
    found: list[Row] = []
    for what, work in tables:
        contenders = {name: functools.partial(work, file) for name, file in files.items()}
        found += rows(what, interleaved(contenders, rounds=rounds, batch=1), "plain file")
    return found


def _write(file: _File, piece: memoryview) -> None:
    if file.write(piece) != len(piece):
        raise RuntimeError("not all of it was written")


def _read(file: _File, buffer: bytearray) -> None:
    if file.readinto(buffer) != len(buffer):
        raise RuntimeError("not all of it was read")


def _blobs(*, quick: bool) -> list[Row]:
    guest = _Guest()
    rounds, batch = (5, 50) if quick else (25, 200)
    found: list[Row] = []
    for size in (1 << 10, 1 << 20):
        data = os.urandom(size)
        sealed = seal(data, guest=guest)
        bare = _bare(data, guest, None)
        tables: dict[str, dict[str, Callable[[], object]]] = {
            "seal": {
                "HKDF and AES-GCM": functools.partial(_bare, data, guest, None),
                "seal": functools.partial(seal, data, guest=guest),
            },
            "unseal": {
                "HKDF and AES-GCM": functools.partial(_bare, data, guest, bare),
                "unseal": functools.partial(unseal, sealed, guest=guest),
            },
        }
        for what, contenders in tables.items():
            times = max(1, batch * 1024 // size)
            samples = interleaved(contenders, rounds=rounds, batch=times)
            found += rows(f"{what} {size >> 10} KiB", samples, "HKDF and AES-GCM")
    return found


def _bare(data: bytes, guest: Guest, sealed: bytes | None) -> bytes:
    """The least that sealing has to do: derive a key for this message, and use it."""
    with guest.sealing_key(SealingPolicy.MEASUREMENT) as secret:
        material = HKDF(hashes.SHA384(), 44, salt=bytes(32), info=b"").derive(secret.view())
    cipher, nonce = AESGCM(material[:32]), material[32:]
    if sealed is None:
        return cipher.encrypt(nonce, data, b"")
    return cipher.decrypt(nonce, sealed, b"")


class _Guest(Guest):
    """Gives a sealing key at once; what a TEE takes for that is its own affair."""

    tee: ClassVar[str] = "benchmark"
    svn = 1

    def __init__(self) -> None:
        self._pool = SecretPool()

    def evidence(self, report_data: bytes) -> Evidence:
        raise GuestError("this guest has no evidence")

    def sealing_key(self, policy: SealingPolicy, svn: int | None = None) -> SecretMemory:
        key = self._pool.allocate(32)
        key.write(hashlib.sha256(policy.value.encode()).digest())
        return key

    def random(self, size: int) -> bytes:
        return os.urandom(size)
