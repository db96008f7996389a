"""Storage of protected files that remembers, fails, and loses what was not flushed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from secgear.errors import SealingError

Entry = tuple[int, bytes] | None
"""A write: where and what; None for a flush."""


class MemoryStorage:
    """Storage in memory. log: each write and flush so far."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.log: list[Entry] = []

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.log.append((offset, bytes(data)))
        put(self.data, offset, bytes(data))

    def flush(self) -> None:
        self.log.append(None)


class FailingStorage(MemoryStorage):
    """Fails operation number `fails`, from 1; a failing write gets half of its bytes there."""

    def __init__(self, data: bytes = b"", *, fails: int = 0) -> None:
        super().__init__(data)
        self.fails = fails
        self.count = 0

    def read(self, offset: int, size: int) -> bytes:
        self._step()
        return super().read(offset, size)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        try:
            self._step()
        except SealingError:
            put(self.data, offset, bytes(data[: len(data) // 2]))
            raise
        super().write(offset, data)

    def flush(self) -> None:
        self._step()
        super().flush()

    def _step(self) -> None:
        self.count += 1
        if self.count == self.fails:
            raise SealingError("the storage fails")


def put(held: bytearray, offset: int, data: bytes) -> None:
    """What a write does to a file."""
    held.extend(bytes(max(0, offset + len(data) - len(held))))
    held[offset : offset + len(data)] = data


def after_power_cut(
    log: Sequence[Entry], rng: random.Random, *, each: int = 4
) -> Iterator[tuple[int, bytes]]:
    """How many entries were made, and what a disk may hold when the power goes then.

    That is all that was flushed, and of the rest any part, in any order, the last of it torn.
    """
    for cut in range(len(log) + 1):
        before = log[:cut]
        flushed = max((at for at, entry in enumerate(before) if entry is None), default=-1)
        sure = [entry for entry in before[: flushed + 1] if entry]
        open_ends = [entry for entry in before[flushed + 1 :] if entry]
        for _ in range(each if open_ends else 1):
            rest = [entry for entry in open_ends if rng.random() < 0.6]
            rng.shuffle(rest)
            data = bytearray()
            for offset, written in sure:
                put(data, offset, written)
            for number, (offset, written) in enumerate(rest):
                torn = rng.randrange(len(written)) if number == len(rest) - 1 else len(written)
                put(data, offset, written[:torn])
            yield cut, bytes(data)
