"""Blocks of a protected file: fixed in size, each encrypted, never written over while it counts.

Whoever refers to a block holds a `Ref`: where it is, its nonce and its tag. So what refers to a
block says exactly which bytes it must have, and older ones, moved ones and others' do not fit.
"""

from __future__ import annotations

import os
import struct
from typing import Final, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.errors import SealedMalformed, SealingError
from secgear.middleware.sealing.storage import Storage

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
HEADER_AREA: Final = 8192  # bytes before the first block
MAX_WRITES: Final = 2**32
"""Blocks that one key encrypts at most: nonces are random (NIST SP 800-38D, section 8.3)."""
_REF = struct.Struct(">Q12s16s")
REF_SIZE: Final = _REF.size  # 36
_AAD = struct.Struct(">BQ")


class Ref(msgspec.Struct, frozen=True, gc=False):
    """Which block: its number (from 1), nonce and tag. Number 0 stands for zeros."""

    number: int
    nonce: bytes
    tag: bytes

    def pack(self) -> bytes:
        """36 bytes."""
        return _REF.pack(self.number, self.nonce, self.tag)


HOLE: Final = Ref(0, bytes(NONCE_SIZE), bytes(TAG_SIZE))


def unpack_refs(data: bytes) -> list[Ref]:
    """All the refs in an inner block; what is left over behind the last is padding."""
    count = len(data) // REF_SIZE
    return [
        Ref(*fields) if fields[0] else HOLE for fields in _REF.iter_unpack(data[: count * REF_SIZE])
    ]


def unpack_ref(data: bytes) -> Ref:
    """One ref. Raises SealedMalformed."""
    if len(data) != REF_SIZE:
        raise SealedMalformed("a reference of another size")
    return unpack_refs(data)[0]


@final
class Blocks:
    """Encrypts blocks to a storage and back.

    key: of this file's blocks. size: bytes of plaintext in each. count: blocks in the storage;
    writes: encrypted so far under this key.
    """

    def __init__(self, storage: Storage, key: bytes, size: int, *, count: int, writes: int) -> None:
        self._storage = storage
        self._aead = AESGCM(key)
        self.size = size
        self.count = count
        self.writes = writes
        self._free: list[int] = []
        self._released: list[int] = []

    def read(self, ref: Ref, level: int, index: int) -> bytes:
        """The plaintext of the block at `index` of `level`. Raises SealedMalformed."""
        if not ref.number:
            return bytes(self.size)
        data = self._storage.read(self._offset(ref.number), self.size)
        try:
            return self._aead.decrypt(ref.nonce, data + ref.tag, _AAD.pack(level, index))
        except InvalidTag:
            where = f"block {index}" if not level else f"inner block {index} of level {level}"
            raise SealedMalformed(
                f"{where} was changed, moved, cut off or is of another time"
            ) from None

    def write(self, data: bytes | bytearray, level: int, index: int) -> Ref:
        """Encrypt `data`, which has a block's size, to a free place; nothing that counts is lost.

        Raises SealingError when the key has done all it may.
        """
        if self.writes >= MAX_WRITES:
            raise SealingError("the file's key has encrypted all it may; copy it to a new file")
        self.writes += 1
        number = self._free.pop() if self._free else self.count + 1
        self.count = max(self.count, number)
        nonce = os.urandom(NONCE_SIZE)
        sealed = self._aead.encrypt(nonce, data, _AAD.pack(level, index))
        self._storage.write(self._offset(number), sealed[:-TAG_SIZE])
        return Ref(number, nonce, sealed[-TAG_SIZE:])

    def release(self, ref: Ref) -> None:
        """Nothing refers to the block any more, once the next commit is durable."""
        if ref.number:
            self._released.append(ref.number)

    def committed(self) -> None:
        """The commit is durable: what it does not refer to may be written over."""
        self._free += self._released
        self._released = []

    def reclaim(self, used: set[int]) -> None:
        """Places that a crash has left without anybody to refer to them may be used again."""
        self._free = [number for number in range(self.count, 0, -1) if number not in used]

    def flush(self) -> None:
        """Return once all blocks are durable."""
        self._storage.flush()

    def _offset(self, number: int) -> int:
        return HEADER_AREA + (number - 1) * self.size
