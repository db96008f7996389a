"""Looking for data where it must not be: pieces of tables, and the places that are searched."""

from __future__ import annotations

import ctypes
import errno
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

_LENGTH: Final = 48  # bytes of a piece: six numbers, or sixteen airports
_MINIMUM: Final = 32  # of a column that is shorter
_WORD: Final = 8  # bytes of a number
_VARIETY: Final = 4  # different words in it, or it could be anything
_PIECES: Final = 3  # of each column
_TRIES: Final = 50
_CHUNK: Final = 64 << 10  # small: those without content are passed over
_OVERLAP: Final = 256
_MOST: Final = 8 << 30  # bytes of one process
_libc: Final = ctypes.CDLL(None)
_libc.memmem.restype = ctypes.c_void_p
_libc.memmem.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]


class Needle(msgspec.Struct, frozen=True):
    """A piece of somebody's data. what: table and column."""

    what: str
    data: bytes


def pick(name: str, table: pa.Table) -> list[Needle]:
    """Some pieces of every column's bytes, as they lie in memory and as Arrow sends them."""
    found = []
    for column in table.column_names:
        chunks = [chunk for chunk in table[column].chunks if len(chunk)]
        pieces: set[bytes] = set()
        for _ in range(_TRIES):
            chunk = random.choice(chunks)  # noqa: S311  (which ones is no secret)
            content = memoryview(chunk.buffers()[-1])  # behind validity and offsets: the values
            length = min(_LENGTH, len(content))
            start = random.randrange(0, len(content) - length + 1) & ~7  # noqa: S311
            piece = bytes(content[start : start + length])
            words = {piece[at : at + _WORD] for at in range(0, length, _WORD)}
            if length >= _MINIMUM and len(words) >= _VARIETY:
                pieces.add(piece)
            if len(pieces) == _PIECES:
                break
        found += [Needle(f"{name}.{column}", piece) for piece in pieces]
    return found


def search(needles: Iterable[Needle], chunks: Iterable[bytes]) -> tuple[int, list[Needle]]:
    """Bytes that were searched, and which of `needles` were there."""
    missing, found, size = list(needles), [], 0
    for chunk in chunks:
        size += len(chunk)
        if chunk == bytes(len(chunk)):
            continue  # pages that nobody has written to: most of what an allocator holds ready
        here = [needle for needle in missing if _in(needle.data, chunk)]
        found += here
        missing = [needle for needle in missing if needle not in here]
    return size, found


def _in(piece: bytes, chunk: bytes) -> bool:
    """As ``piece in chunk``, by memmem(3): several times as fast on what memory is full of."""
    return _libc.memmem(chunk, len(chunk), piece, len(piece)) is not None


def files(paths: Sequence[Path]) -> Iterator[bytes]:
    """What is in files, in pieces that overlap."""
    for path in paths:
        with path.open("rb") as file:
            before = b""
            while data := file.read(_CHUNK):
                yield before + data
                before = data[-_OVERLAP:]


def memory(pid: int) -> Iterator[bytes]:
    """What a process can write to, in pieces that overlap; shared memory is part of it.

    Raises OSError when the kernel refuses.
    """
    areas = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, mode = line.split(maxsplit=2)[:2]
        if mode.startswith("rw"):
            first, _, last = span.partition("-")
            areas.append((int(first, 16), int(last, 16)))
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    seen = 0
    try:
        for start, end in areas:
            for place in range(start, end, _CHUNK):
                size = min(_CHUNK + _OVERLAP, end - place)
                try:
                    data = os.pread(descriptor, size, place)
                except OSError:
                    continue  # given back meanwhile, or a device's
                yield data
                seen += len(data)
                if seen > _MOST:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    finally:
        os.close(descriptor)
