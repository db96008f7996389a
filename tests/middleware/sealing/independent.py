"""A reader of sealed data and protected files that shares no code with ours.

Written from docs/sealing.md alone. Of `cryptography` it uses AES-GCM and Ed25519 only; HKDF
(RFC 5869) is here by hand.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.middleware.channel_protocol.independent import from_cbor, to_cbor


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


# --- protected files -----------------------------------------------------------------------------


class Version(NamedTuple):
    commit: int
    size: int
    depth: int
    value: int
    counter: bytes
    mark: bytes
    data: bytes


def open_file(key: bytes, stored: bytes, name: bytes) -> Version:
    """The newest version. key: the file's. stored: all that the host keeps."""
    found = [version for slot in (0, 1) if (version := _version(key, stored, slot, name))]
    assert found, "no header of this key and name"
    return max(found, key=lambda version: version.commit)


def _version(key: bytes, stored: bytes, slot: int, name: bytes) -> Version | None:
    header = stored[4096 * slot : 4096 * slot + 214]
    if len(header) < 214 or header[:8] != b"secfile\x01":
        return None
    salt, size, nonce = struct.unpack(">32sI12s", header[8:56])
    label = b"secgear protected file v1\0"
    ciphers = {what: AESGCM(hkdf(key, salt, label + what, 32)) for what in (b"header", b"blocks")}
    try:
        state = ciphers[b"header"].decrypt(nonce, header[56:], header[:56] + name)
    except InvalidTag:
        return None
    assert len(state) == 142
    commit, length, depth = struct.unpack(">QQB", state[:17])
    root, (value, identity) = state[17:53], struct.unpack(">QB", state[69:78])
    assert commit % 2 == slot
    chunks = [
        _chunk(ciphers[b"blocks"], stored, size, (root, depth), index)
        for index in range(-(-length // size))
    ]
    return Version(
        commit,
        length,
        depth,
        value,
        state[78 : 78 + identity],
        hashlib.sha256(header).digest(),
        b"".join(chunks)[:length],
    )


def _chunk(cipher: AESGCM, stored: bytes, size: int, tree: tuple[bytes, int], index: int) -> bytes:
    """Down from the root: the block of each level says where the next one is."""
    reference, depth = tree
    fanout = size // 36
    for level in range(depth, -1, -1):
        number, nonce, tag = struct.unpack(">Q12s16s", reference)
        if not number:
            return bytes(size)
        at = 8192 + (number - 1) * size
        place = index // fanout**level
        block = cipher.decrypt(
            nonce, stored[at : at + size] + tag, struct.pack(">BQ", level, place)
        )
        if level:
            position = index // fanout ** (level - 1) % fanout
            reference = block[36 * position : 36 * position + 36]
    return block


# --- counters ------------------------------------------------------------------------------------


def read_counter(record: bytes) -> tuple[int, bytes]:
    """Value and mark in a counter's file."""
    magic, value, mark, digest = struct.unpack(">8sQ32s32s", record)
    assert magic == b"seccount"
    assert digest == hashlib.sha256(record[:48]).digest()
    return value, mark


# --- the witness ---------------------------------------------------------------------------------


def ask(seed: bytes, witness: bytes, nonce: bytes, value: int, mark: bytes) -> bytes:
    """A request of the holder whose private key is `seed`."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    told = witness + nonce + value.to_bytes(8, "big") + mark
    members: dict[str, Any] = {
        "version": 1,
        "holder": key.public_key().public_bytes_raw(),
        "nonce": nonce,
        "value": value,
        "mark": mark,
        "signature": key.sign(b"secgear witness request v1\0" + told),
    }
    return to_cbor(members)


def told(answer: bytes, witness: bytes, holder: bytes, nonce: bytes) -> tuple[int, bytes]:
    """Value and mark in an answer. Raises InvalidSignature."""
    members, rest = from_cbor(answer)
    assert not rest
    assert to_cbor(members) == answer
    assert members.keys() == {"version", "value", "mark", "signature"}
    assert members["version"] == 1
    value, mark = members["value"], members["mark"]
    signed = hashlib.sha256(holder).digest() + nonce + value.to_bytes(8, "big") + mark
    Ed25519PublicKey.from_public_bytes(witness).verify(
        members["signature"], b"secgear witness answer v1\0" + signed
    )
    return value, mark
