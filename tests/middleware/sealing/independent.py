"""A reader of sealed data and protected files that shares no code with ours.

Written from docs/sealing.md alone. Of `cryptography` it uses AES-GCM and Ed25519 only; HKDF
(RFC 5869) is here by hand.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def hkdf(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with SHA-384."""
    extracted = hmac.digest(salt or bytes(48), key, "sha384")
    made, block = b"", b""
    while len(made) < size:
        block = hmac.digest(extracted, block + info + bytes([len(made) // 48 + 1]), "sha384")
        made += block
    return made[:size]


def derived_key(key: bytes, purpose: str, salt: bytes, size: int) -> bytes:
    """key: the TEE's."""
    name = purpose.encode()
    return hkdf(key, salt, b"secgear derived key v1\0" + bytes([size, len(name)]) + name, size)


# --- sealed data ---------------------------------------------------------------------------------


class Sealed(NamedTuple):
    policy: int
    svn: int
    value: int
    counter: bytes
    data: bytes
    mark: bytes


def open_sealed(key: bytes, sealed: bytes, associated: bytes) -> Sealed:
    """key: the TEE's, for the policy and svn in the header."""
    magic, policy, length, svn, value, salt = struct.unpack(">8sBBIQ32s", sealed[:54])
    assert magic == b"secseal\x01"
    assert policy in (1, 2)
    assert length <= 64
    assert bool(length) == bool(value)
    end = 54 + length
    material = hkdf(key, salt, b"secgear sealing v1\0", 44)
    data = AESGCM(material[:32]).decrypt(material[32:], sealed[end:], sealed[:end] + associated)
    return Sealed(policy, svn, value, sealed[54:end], data, hashlib.sha256(sealed).digest())
