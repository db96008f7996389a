"""Sealed data as bytes: a header in clear, then ciphertext and tag of AES-256-GCM.

All numbers are big endian:

    offset  size  field
    0       8     magic "secseal" and the version, 1
    8       1     policy: 1 MEASUREMENT, 2 SIGNER
    9       1     n, length of the counter's identity: 0 for no counter, at most 64
    10      4     svn that the key belongs to
    14      8     value of the counter that the data has once it is acknowledged, 0 without one
    22      32    salt, random
    54      n     identity of the counter
    54+n    ...   ciphertext, then 16 bytes of tag

Key and nonce are the first 32 and the last 12 of 44 bytes of HKDF-SHA-384 over the TEE's sealing
key of that policy and svn, with the salt and the info "secgear sealing v1" and a zero byte.
Associated data are the header and behind it the caller's. The counter's mark is the SHA-256 of all
of it.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import msgspec

from secgear.base.tee import SealingPolicy
from secgear.errors import SealedMalformed
from secgear.middleware.sealing.counters import MAX_IDENTITY, MAX_VALUE

MAGIC: Final = b"secseal\x01"
SALT_SIZE: Final = 32
TAG_SIZE: Final = 16
MAX_SIZE: Final = 1 << 30
"""Bytes that are sealed in one piece at most; more belongs into a protected file."""

_FIXED = struct.Struct(">8sBBIQ32s")
_POLICIES = {SealingPolicy.MEASUREMENT: 1, SealingPolicy.SIGNER: 2}
_NAMES = {number: policy for policy, number in _POLICIES.items()}


class Header(msgspec.Struct, frozen=True):
    """What sealed data says about itself; true only if the rest could be decrypted with it.

    counter: identity of the counter that it is bound to, empty for none. value: of that counter.
    """

    policy: SealingPolicy
    svn: int
    salt: bytes
    counter: bytes = b""
    value: int = 0

    def pack(self) -> bytes:
        """The header's bytes."""
        return (
            _FIXED.pack(
                MAGIC,
                _POLICIES[self.policy],
                len(self.counter),
                self.svn,
                self.value,
                self.salt,
            )
            + self.counter
        )


def parse(sealed: bytes | bytearray | memoryview) -> tuple[Header, memoryview]:
    """The header and what follows it. Raises SealedMalformed."""
    view = memoryview(sealed).cast("B")
    if len(view) < _FIXED.size + TAG_SIZE:
        raise SealedMalformed(f"{len(view)} bytes are no sealed data")
    if len(view) > MAX_SIZE + _FIXED.size + MAX_IDENTITY + TAG_SIZE:
        raise SealedMalformed(f"{len(view)} bytes are more than is sealed in one piece")
    magic, policy, length, svn, value, salt = _FIXED.unpack_from(view)
    if magic[:-1] != MAGIC[:-1]:
        raise SealedMalformed("the bytes are no sealed data")
    if magic != MAGIC:
        raise SealedMalformed(f"sealed data of version {magic[-1]}; this release reads {MAGIC[-1]}")
    if policy not in _NAMES:
        raise SealedMalformed(f"sealed under the unknown policy {policy}")
    if length > MAX_IDENTITY or len(view) < _FIXED.size + length + TAG_SIZE:
        raise SealedMalformed(f"a counter's identity of {length} bytes")
    if bool(value) != bool(length) or value > MAX_VALUE:
        raise SealedMalformed("a counter without a value, or a value that no counter has here")
    end = _FIXED.size + length
    identity = bytes(view[_FIXED.size : end])
    return Header(_NAMES[policy], svn, salt, identity, value), view[end:]


def mark_of(sealed: bytes | bytearray | memoryview) -> bytes:
    """What a counter keeps of sealed data, to know it again: SHA-256, 32 bytes."""
    return hashlib.sha256(sealed).digest()


def version_of(sealed: bytes | bytearray | memoryview) -> int:
    """The counter's value that sealed data says it is of; 0 for data without a counter.

    Raises SealedMalformed.
    """
    return parse(sealed)[0].value
