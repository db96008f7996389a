"""The layout of an envelope: one header, then records. All integers are big-endian.

Header: magic (7 bytes), version (1), suite (1), chunk size as a power of two (1), nonce prefix (7),
key id (32), wrapped content (size by suite). Record: a word of four bytes (bit 31: the final one;
the rest: bytes of plaintext), ciphertext, tag. Every record but the final one holds a whole chunk,
and the final one less than a chunk, possibly nothing: so data has exactly one layout.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import msgspec

from secgear.errors import EnvelopeMalformed, EnvelopeRefused
from secgear.middleware.envelopes.suites import Suite, suite_coded

MAGIC: Final = b"sgenvlp"
VERSION: Final = 1
KEY_SIZE: Final = 32  # bytes of the content key, AES-256
ENVELOPE_ID_SIZE: Final = 16  # bytes
PREFIX_SIZE: Final = 7  # bytes of a nonce that are the same in all of an envelope
TAG_SIZE: Final = 16  # bytes
WORD_SIZE: Final = 4  # bytes before each record's ciphertext

MIN_CHUNK, DEFAULT_CHUNK, MAX_CHUNK = 4 << 10, 256 << 10, 16 << 20  # bytes
MAX_RECORDS: Final = 1 << 32  # what the counter of a nonce can tell apart
# At 2^46 AES blocks under one key, the advantage of whoever tells GCM from random stays at 2^-37.
MAX_TOTAL: Final = 1 << 50  # bytes of data in one envelope
MAX_PURPOSE: Final = 255  # bytes in UTF-8

Buffer = bytes | bytearray | memoryview

FINAL: Final = 1 << 31
WORD: Final = struct.Struct(">I")
_FIXED: Final = struct.Struct(f">{len(MAGIC)}sBBB{PREFIX_SIZE}s32s")
FIXED_SIZE: Final = _FIXED.size

_INFO_LABEL: Final = b"secgear envelope v1\0"
_HEADER_LABEL: Final = b"secgear envelope header v1\0"


class Header(msgspec.Struct, frozen=True):
    """The part of fixed size. chunk: bytes of data in every record but the final one."""

    suite: Suite
    chunk: int
    prefix: bytes
    key_id: bytes

    def to_bytes(self) -> bytes:
        """`FIXED_SIZE` bytes."""
        power = self.chunk.bit_length() - 1
        return _FIXED.pack(MAGIC, VERSION, self.suite.code, power, self.prefix, self.key_id)

    @property
    def wrapped_size(self) -> int:
        """Bytes of the wrapped content that follow."""
        return self.suite.wrapped_size(KEY_SIZE + ENVELOPE_ID_SIZE)

    def info(self, purpose: str, associated: bytes) -> bytes:
        """HPKE's `info`: what the content key is bound to besides the recipient's key."""
        return b"".join(
            (
                _INFO_LABEL,
                prefixed(self.suite.name),
                prefixed(purpose),
                self.to_bytes(),
                hashlib.sha256(associated).digest(),
            )
        )


def read_header(data: bytes) -> Header:
    """The fixed part of a header. data: `FIXED_SIZE` bytes. Raises EnvelopeMalformed."""
    magic, version, code, power, prefix, key_id = _FIXED.unpack(data)
    if magic != MAGIC:
        raise EnvelopeMalformed("the bytes are no envelope")
    if version != VERSION:
        raise EnvelopeMalformed(f"an envelope of version {version}; this release reads {VERSION}")
    suite = suite_coded(code)
    chunk = 1 << power if power < 32 else 0
    check_chunk(chunk)
    return Header(suite, chunk, prefix, key_id)


def header_digest(header: bytes) -> bytes:
    """SHA-256 over the label and the whole header: associated data of every record."""
    return hashlib.sha256(_HEADER_LABEL + header).digest()


def nonce(prefix: bytes, counter: int, final: bool) -> bytes:
    """12 bytes: prefix, number of the record, whether it is the final one."""
    return prefix + WORD.pack(counter) + (b"\1" if final else b"\0")


def final_associated(digest: bytes, records: int, total: int) -> bytes:
    """Associated data of the final record.

    records: how many there are, the final one included. total: bytes of data in all of them.
    """
    return digest + records.to_bytes(8, "big") + total.to_bytes(8, "big")


def check_chunk(size: int) -> None:
    """Raise EnvelopeMalformed unless `size` is a power of two within the limits."""
    if not MIN_CHUNK <= size <= MAX_CHUNK or size & (size - 1):
        raise EnvelopeMalformed(
            f"chunks are a power of two from {MIN_CHUNK} to {MAX_CHUNK} bytes, not {size}"
        )


def check_purpose(purpose: str) -> None:
    """Raise EnvelopeMalformed unless `purpose` can be one: 1 to 255 bytes of UTF-8."""
    try:
        size = len(purpose.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_PURPOSE:
        raise EnvelopeMalformed(f"a purpose has 1 to {MAX_PURPOSE} bytes of UTF-8")


def check_room(records: int, total: int) -> None:
    """Raise EnvelopeRefused when an envelope gets larger than its nonces and key allow."""
    if records > MAX_RECORDS or total > MAX_TOTAL:
        raise EnvelopeRefused(
            f"an envelope holds at most {MAX_RECORDS} records and {MAX_TOTAL} bytes"
        )


def record_size(size: int) -> int:
    """Bytes of a record with `size` bytes of data."""
    return WORD_SIZE + size + TAG_SIZE


def flat(data: Buffer) -> memoryview:
    """`data` as a view of single bytes. Raises TypeError where it is not contiguous."""
    return memoryview(data).cast("B")


def prefixed(text: str) -> bytes:
    """UTF-8 with its length in two bytes before it."""
    data = text.encode()
    return len(data).to_bytes(2, "big") + data
