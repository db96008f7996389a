"""Blocks of a protected file: fixed in size, each encrypted, never written over while it counts.

Whoever refers to a block holds a `Ref`: where it is, its nonce and its tag. So what refers to a
block says exactly which bytes it must have, and older ones, moved ones and others' do not fit.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable
from typing import Final, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.errors import SealedMalformed, SealingError
from secgear.middleware.sealing.storage import Storage

NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16
HEADER_AREA: Final = 8192  # bytes before the first block
MAX_WRITES: Final = 1 << 32
"""Blocks that one key encrypts at most: nonces are random (NIST SP 800-38D, section 8.3)."""
MAX_BYTES: Final = 1 << 50
"""And bytes: at 2^46 AES blocks whoever tells GCM from random has an advantage of 2^-37."""
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

    @classmethod
    def unpack(cls, data: bytes | bytearray, offset: int = 0) -> Ref:
        """What `pack` gave, from authenticated bytes."""
        return cls(*_REF.unpack_from(data, offset))


HOLE: Final = Ref(0, bytes(NONCE_SIZE), bytes(TAG_SIZE))


@final
class Blocks:
    """Encrypts blocks to a storage and back.

    cipher: of this file's blocks. size: bytes of plaintext in each. count: blocks in the storage;
    writes: encrypted so far under this key.
    """

    def __init__(
        self, storage: Storage, cipher: AESGCM, size: int, *, count: int, writes: int
    ) -> None:
        self._storage = storage
        self._cipher = cipher
        self.size = size
        self.count = count
        self.writes = writes
        self._most = min(MAX_WRITES, MAX_BYTES // size)
        self._sealed = bytearray(size + TAG_SIZE)  # of the block being written
        self._free = array("Q")
        self._released = array("Q")

    def read(self, ref: Ref, level: int, index: int) -> bytearray:
        """The plaintext of the block at `index` of `level`. Raises SealedMalformed."""
        data = bytearray(self.size)
        if not ref.number:
            return data
        sealed = self._storage.read(self._offset(ref.number), self.size)
        try:
            if len(sealed) != self.size:
                raise InvalidTag
            aad = _AAD.pack(level, index)
            self._cipher.decrypt_into(ref.nonce, sealed + ref.tag, aad, data)
        except InvalidTag:
            where = f"block {index}" if not level else f"inner block {index} of level {level}"
            raise SealedMalformed(
                f"{where} was changed, moved, cut off or is of another time"
            ) from None
        return data

    def write(self, data: bytes | bytearray, level: int, index: int) -> Ref:
        """Encrypt `data`, which has a block's size, to a free place; nothing that counts is lost.

        Raises SealingError when the key has done all it may.
        """
        if self.writes >= self._most:
            raise SealingError("the file's key has encrypted all it may; copy it to a new file")
        self.writes += 1
        number = self._free[-1] if self._free else self.count + 1
        nonce = os.urandom(NONCE_SIZE)
        sealed = memoryview(self._sealed)
        self._cipher.encrypt_into(nonce, data, _AAD.pack(level, index), sealed)
        self._storage.write(self._offset(number), sealed[: self.size])
        if self._free:
            self._free.pop()
        self.count = max(self.count, number)
        return Ref(number, nonce, bytes(sealed[self.size :]))

    def release(self, ref: Ref) -> None:
        """Nothing refers to the block any more, once the next commit is durable."""
        if ref.number:
            self._released.append(ref.number)

    def committed(self) -> None:
        """The commit is durable: what it does not refer to may be written over."""
        self._free += self._released
        self._released = array("Q")

    def reclaim(self, used: Iterable[int]) -> None:
        """Places that a crash has left without anybody to refer to them may be used again.

        used: the numbers of all blocks that the last commit refers to.
        """
        taken = bytearray(self.count + 1)
        for number in used:
            if number <= self.count:
                taken[number] = 1
        self._free = array("Q", (at for at in range(self.count, 0, -1) if not taken[at]))

    def flush(self) -> None:
        """Return once all blocks are durable."""
        self._storage.flush()

    def _offset(self, number: int) -> int:
        return HEADER_AREA + (number - 1) * self.size
