"""An opener of envelopes that shares no code with ours: written from docs/envelopes.md alone.

Of `cryptography` it uses only AES-GCM, X25519 and ML-KEM; HPKE's key schedule (RFC 9180) and the
hybrid KEM (X-Wing) are here by hand, so that agreeing with it means following those documents.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NAMES = {1: b"MLKEM768-X25519/HKDF-SHA256/AES-256-GCM", 2: b"X25519/HKDF-SHA256/AES-256-GCM"}
KEMS = {1: 0x647A, 2: 0x0020}
ENCAPSULATED = {1: 1120, 2: 32}


class Opened(NamedTuple):
    data: bytes
    content_key: bytes
    envelope_id: bytes


def open_envelope(secret: bytes, envelope: bytes, purpose: bytes, associated: bytes) -> Opened:
    magic, version, code, power, prefix, key_id = struct.unpack(">7sBBB7s32s", envelope[:49])
    assert (magic, version) == (b"sgenvlp", 1)
    name = lengthed(NAMES[code])
    public = hybrid_keys(secret)[2] if code == 1 else scalar(secret)[1]
    assert key_id == hashlib.sha256(b"secgear enclave key id v1\0" + name + public).digest()
    info = b"secgear envelope v1\0" + name + lengthed(purpose) + envelope[:49]
    info += hashlib.sha256(associated).digest()
    end = 49 + ENCAPSULATED[code] + 32 + 16 + 16
    encapsulated, wrapped = envelope[49 : 49 + ENCAPSULATED[code]], envelope[end - 64 : end]
    shared = (xwing if code == 1 else dhkem)(secret, encapsulated)
    key, nonce = schedule(KEMS[code], shared, info)
    content = AESGCM(key).decrypt(nonce, wrapped, b"")
    content_key, envelope_id = content[:32], content[32:]
    digest = hashlib.sha256(b"secgear envelope header v1\0" + envelope[:end]).digest()
    return Opened(records(content_key, prefix, digest, 1 << power, envelope[end:]), content_key,
                  envelope_id)  # fmt: skip


def records(key: bytes, prefix: bytes, digest: bytes, chunk: int, body: bytes) -> bytes:
    data, number = b"", 0
    while True:
        word = int.from_bytes(body[:4], "big")
        final, size = word >> 31, word & 0x7FFFFFFF
        assert size < chunk if final else size == chunk
        nonce = prefix + number.to_bytes(4, "big") + bytes([final])
        associated = digest
        number += 1
        if final:
            associated += struct.pack(">QQ", number, len(data) + size)
        data += AESGCM(key).decrypt(nonce, body[4 : 20 + size], associated)
        body = body[20 + size :]
        if final:
            assert body == b""
            return data


def lengthed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def scalar(secret: bytes) -> tuple[X25519PrivateKey, bytes]:
    key = X25519PrivateKey.from_private_bytes(secret)
    return key, key.public_key().public_bytes_raw()


def hybrid_keys(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey, bytes]:
    """draft-connolly-cfrg-xwing-kem, expandDecapsulationKey."""
    expanded = hashlib.shake_256(seed).digest(96)
    quantum = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    classic, public = scalar(expanded[64:])
    return quantum, classic, quantum.public_key().public_bytes_raw() + public


def xwing(seed: bytes, encapsulated: bytes) -> bytes:
    quantum, classic, public = hybrid_keys(seed)
    first = quantum.decapsulate(encapsulated[:1088])
    second = classic.exchange(X25519PublicKey.from_public_bytes(encapsulated[1088:]))
    label = bytes.fromhex("5c2e2f2f5e5c")
    return hashlib.sha3_256(first + second + encapsulated[1088:] + public[1184:] + label).digest()


def dhkem(secret: bytes, encapsulated: bytes) -> bytes:
    """RFC 9180, section 4.1."""
    key, public = scalar(secret)
    shared = key.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    suite = b"KEM" + (0x0020).to_bytes(2, "big")
    extracted = labelled_extract(suite, b"", b"eae_prk", shared)
    return labelled_expand(suite, extracted, b"shared_secret", encapsulated + public, 32)


def schedule(kem: int, shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180, section 5.1, base mode: the key and the nonce of the first message."""
    suite = b"HPKE" + struct.pack(">HHH", kem, 1, 2)
    context = b"\0" + labelled_extract(suite, b"", b"psk_id_hash", b"")
    context += labelled_extract(suite, b"", b"info_hash", info)
    secret = labelled_extract(suite, shared, b"secret", b"")
    return (
        labelled_expand(suite, secret, b"key", context, 32),
        labelled_expand(suite, secret, b"base_nonce", context, 12),
    )


def labelled_extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, "sha256")


def labelled_expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    info = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac.digest(key, info + b"\1", "sha256")[:size]
