"""What a channel's evidence has to carry, so that it is about this connection and no other.

Evidence over a certificate's key alone can be replayed, and relayed by whoever gets hold of the
key; evidence over the TLS exporter alone can be reflected to the one who sent it. So all of it
goes in: who speaks, both nonces, the connection, both keys.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Final

from secgear.middleware.channel.messages import NONCE_SIZE

EXPORTER_LABEL: Final = b"EXPORTER-secgear-attestation-v1"
EXPORTER_SIZE: Final = 32  # bytes
NO_KEY: Final = bytes(32)
"""Stands for the digest of the key of a client that has no certificate."""
_LABEL = b"secgear channel v1\0"


class Role(enum.Enum):
    """Who presents evidence."""

    SERVER = b"S"
    CLIENT = b"C"


def key_digest(spki: bytes | None) -> bytes:
    """SHA-256 of a DER SubjectPublicKeyInfo; zeros for none."""
    return hashlib.sha256(spki).digest() if spki is not None else NO_KEY


def report_data(
    role: Role,
    *,
    client_nonce: bytes,
    server_nonce: bytes,
    exporter: bytes,
    own_key: bytes,
    peer_key: bytes,
) -> bytes:
    """64 bytes: SHA-512 of the label and of all the fields, each of which has a fixed size.

    exporter: RFC 8446, section 7.5, with `EXPORTER_LABEL`, both nonces (the client's first) as
    context, 32 bytes. own_key, peer_key: `key_digest` of the presenting side's key and of the
    other's.
    """
    fields = (client_nonce, server_nonce, exporter, own_key, peer_key)
    if any(len(field) != NONCE_SIZE for field in fields):
        raise ValueError("every field of the binding has 32 bytes")
    return hashlib.sha512(b"".join((_LABEL, role.value, *fields))).digest()
