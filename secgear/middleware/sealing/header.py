"""The header of a protected file: which blocks are its newest version. Written anew by each commit.

A file begins with two slots of 4096 bytes; commit number n goes to slot n % 2, so that the one
before stays until the new one is durable. All numbers are big endian:

    offset  size  field
    0       8     magic "secfile" and the version, 1
    8       32    salt of the file, random
    40      4     chunk size
    44      12    nonce
    56      158   the state, encrypted: number of the commit (8), size of the file (8), levels of
                  inner blocks (1), reference to the root (36), blocks in the file (8), blocks
                  encrypted so far (8), value of the counter (8), length of its identity (1), the
                  identity with zeros behind it (64); then the tag (16)

A reference is a block's number (8, from 1; 0 for zeros), nonce (12) and tag (16). Block n is at
8192 + (n - 1) times the chunk size; an inner block holds references one after the other, and zeros
behind the last. Both are AES-256-GCM. Keys are HKDF-SHA-384 of the file's key with the salt and
the info "secgear protected file v1", a zero byte, and "header" or "blocks". Associated data are, of
a header, the 56 bytes before it and the file's name; of a block its level (1; 0 for data) and its
index there (8).
The counter's mark is the SHA-256 of the header, 214 bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Final, NoReturn, final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secgear.errors import SealedForOther, SealedMalformed, SealingError
from secgear.middleware.sealing.blocks import HEADER_AREA, HOLE, NONCE_SIZE, TAG_SIZE, Ref
from secgear.middleware.sealing.counters import MAX_IDENTITY
from secgear.middleware.sealing.storage import Storage

MIN_CHUNK, DEFAULT_CHUNK, MAX_CHUNK = 4 << 10, 64 << 10, 1 << 20  # bytes
KEY_SIZE: Final = 32
SALT_SIZE: Final = 32
MAX_COMMITS: Final = 1 << 32
"""Headers that one key encrypts: nonces are random (NIST SP 800-38D, section 8.3)."""
VERSION: Final = 1
_MAGIC: Final = b"secfile" + bytes([VERSION])
_SLOT: Final = HEADER_AREA // 2
_CLEAR = struct.Struct(">8s32sI12s")
_STATE = struct.Struct(">QQB36sQQQB")
_SEALED_SIZE: Final = _STATE.size + MAX_IDENTITY + TAG_SIZE
SIZE: Final = _CLEAR.size + _SEALED_SIZE
_LABEL = b"secgear protected file v1\0"


class State(msgspec.Struct, frozen=True):
    """One version of a file.

    commit: its number, from 1. size: of the file in bytes. depth: levels of inner blocks. blocks:
    in the storage. writes: blocks encrypted so far. counter, value: what it is bound to.
    """

    commit: int = 0
    size: int = 0
    depth: int = 0
    root: Ref = HOLE
    blocks: int = 0
    writes: int = 0
    counter: bytes = b""
    value: int = 0

    def pack(self) -> bytes:
        """Its bytes, always as many."""
        fixed = _STATE.pack(
            self.commit,
            self.size,
            self.depth,
            self.root.pack(),
            self.blocks,
            self.writes,
            self.value,
            len(self.counter),
        )
        return fixed + self.counter.ljust(MAX_IDENTITY, b"\0")

    @classmethod
    def unpack(cls, data: bytes) -> State:
        """What `pack` gave, from authenticated bytes."""
        fields = _STATE.unpack_from(data)
        commit, size, depth, root, blocks, writes, value, length = fields
        counter = data[_STATE.size : _STATE.size + length]
        return cls(commit, size, depth, Ref.unpack(root), blocks, writes, counter, value)


@final
class Keys:
    """The keys of one file: for its headers and, as `blocks`, for its blocks.

    key: 32 bytes. Raises SealingError for another size.
    """

    def __init__(self, key: bytes | bytearray | memoryview, salt: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise SealingError(f"a file's key has {KEY_SIZE} bytes")
        self.salt = salt
        self._header = _derived(key, salt, b"header")
        self.blocks = _derived(key, salt, b"blocks")

    def seal(self, state: State, chunk_size: int, name: bytes) -> bytes:
        """The header of a version. Raises SealingError when the key has done all it may."""
        if state.commit > MAX_COMMITS:
            raise SealingError("the file has had all the versions it may; copy it to a new file")
        nonce = os.urandom(NONCE_SIZE)
        clear = _CLEAR.pack(_MAGIC, self.salt, chunk_size, nonce)
        return clear + self._header.encrypt(nonce, state.pack(), clear + name)

    def open(self, header: bytes, name: bytes) -> State | None:
        """The version in a header, None if it is none of this file and name."""
        clear, nonce = header[: _CLEAR.size], header[_CLEAR.size - NONCE_SIZE : _CLEAR.size]
        try:
            return State.unpack(self._header.decrypt(nonce, header[_CLEAR.size :], clear + name))
        except InvalidTag:
            return None


class Version(msgspec.Struct, frozen=True):
    """What was found in a slot. mark: of the header, for the counter."""

    state: State
    chunk_size: int
    keys: Keys
    mark: bytes


def read(storage: Storage, key: bytes | bytearray | memoryview, name: bytes) -> list[Version]:
    """The versions that can be opened, newest first.

    What else is in a slot does not matter then: it may be what a crash has left of a header.
    """
    data = storage.read(0, HEADER_AREA)
    found = []
    for start in (0, _SLOT):
        header = data[start : start + SIZE]
        clear = _read_clear(header)
        if clear is None:
            continue
        salt, chunk_size = clear
        keys = Keys(key, salt)
        state = keys.open(header, name)
        if state is not None and state.commit % 2 * _SLOT == start:  # where a commit puts it
            found.append(Version(state, chunk_size, keys, mark_of(header)))
    return sorted(found, key=lambda version: version.state.commit, reverse=True)


def write(storage: Storage, header: bytes, commit: int) -> None:
    """Put a header into the slot of its commit."""
    storage.write(commit % 2 * _SLOT, header)


def refuse(storage: Storage) -> NoReturn:
    """Say why there is no version to open. Raises SealedMalformed, SealedForOther."""
    data = storage.read(0, HEADER_AREA)
    slots = [data[start : start + SIZE] for start in (0, _SLOT)]
    for slot in slots:
        version = _version(slot)
        if version not in (0, VERSION):
            raise SealedMalformed(f"a file of version {version}; this release reads {VERSION}")
    if any(_read_clear(slot) for slot in slots):
        raise SealedForOther("not a file of this key and name, or its headers were changed")
    raise SealedMalformed("the bytes are no protected file")


def is_begun(storage: Storage) -> bool:
    """Whether nothing is there, or what is left of a first commit that was cut short.

    That goes to the second slot and has no blocks, so there never was any data.
    """
    data = storage.read(0, HEADER_AREA + 1)
    version = _version(data[_SLOT:])
    return len(data) <= HEADER_AREA and not any(data[:_SLOT]) and version in (0, VERSION)


def mark_of(header: bytes) -> bytes:
    """What a counter keeps of a header, to know it again: SHA-256, 32 bytes."""
    return hashlib.sha256(header).digest()


def check_chunk(size: int) -> None:
    """Raise SealingError unless chunks may have `size` bytes."""
    if not _is_chunk(size):
        raise SealingError(f"chunks have {MIN_CHUNK} to {MAX_CHUNK} bytes, a power of two")


def _read_clear(header: bytes) -> tuple[bytes, int] | None:
    """Salt and chunk size of a header, None for what is none."""
    if len(header) < SIZE:
        return None
    magic, salt, chunk_size, _ = _CLEAR.unpack_from(header)
    return (salt, chunk_size) if magic == _MAGIC and _is_chunk(chunk_size) else None


def _version(header: bytes) -> int:
    """The version of a header; 0 for what is none, or was cut off before it."""
    known = len(header) >= len(_MAGIC) and header.startswith(_MAGIC[:-1])
    return header[len(_MAGIC) - 1] if known else 0


def _is_chunk(size: int) -> bool:
    return MIN_CHUNK <= size <= MAX_CHUNK and not size & (size - 1)


def _derived(key: bytes | bytearray | memoryview, salt: bytes, what: bytes) -> AESGCM:
    made = bytearray(KEY_SIZE)
    HKDF(hashes.SHA384(), KEY_SIZE, salt=salt, info=_LABEL + what).derive_into(key, made)
    try:
        return AESGCM(made)
    finally:
        made[:] = bytes(KEY_SIZE)
