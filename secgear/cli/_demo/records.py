"""Taking a recorded stream apart into TLS records: what of it is encrypted, and does it look so."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

_HEADER: Final = 5  # bytes of a record before its body: type, version, length (RFC 8446, 5.1)
_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION_DATA = 20, 21, 22, 23
_MOST: Final = 16384 + 256  # bytes of an encrypted record's body


class Account(msgspec.Struct, frozen=True):
    """Where the bytes of some recorded streams belong.

    encrypted: bodies of encrypted records. hellos: bytes of the records that TLS 1.3 sends in the
    clear, ClientHello and ServerHello and a relic of older versions. headers: of records. other:
    bytes that are no TLS. compressed: size of the encrypted ones after compression, as a share.
    """

    streams: int
    records: int
    encrypted: int
    hellos: int
    headers: int
    other: int
    compressed: float


def account(paths: Sequence[Path]) -> Account:
    """Take streams apart."""
    squeeze = zlib.compressobj(1)
    records = encrypted = hellos = headers = other = packed = 0
    for path in paths:
        data, at = path.read_bytes(), 0
        while at < len(data):
            kind, length = data[at], int.from_bytes(data[at + 3 : at + _HEADER])
            end = at + _HEADER + length
            if not (_whole(data, at) and end <= len(data)):
                other += len(data) - at
                break
            records, headers = records + 1, headers + _HEADER
            if kind == _APPLICATION_DATA:
                encrypted += length
                packed += len(squeeze.compress(data[at + _HEADER : end]))
            else:
                hellos += length
            at = end
    packed += len(squeeze.flush())
    compressed = packed / encrypted if encrypted else 0.0
    return Account(len(paths), records, encrypted, hellos, headers, other, compressed)


def _whole(data: bytes, at: int) -> bool:
    """Whether a record begins at `at`, as far as one can see."""
    kind, version, length = data[at], data[at + 1 : at + 3], data[at + 3 : at + _HEADER]
    known = kind in (_CHANGE_CIPHER_SPEC, _ALERT, _HANDSHAKE, _APPLICATION_DATA)
    return (
        known
        and version in (b"\x03\x01", b"\x03\x03")
        and len(length) == 2
        and int.from_bytes(length) <= _MOST
    )
