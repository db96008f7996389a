"""Frames on a stream: ``u32 call code | u32 options | u32 body | options | body``.

A connection begins with one byte from the client, the highest version it speaks, which is answered
by the version that is spoken. The call code tells which call an answer belongs to; answers may come
in any order. Source: p11-kit, ``rpc-transport.c``.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from secgear.services.crypto.rpc.buffer import OWN, VERSIONS, MalformedMessage

HEADER: Final = struct.Struct(">III")
MAX_OPTIONS: Final = 4096
MAX_BODY: Final = 4 << 20
"""Bytes of one message: more data goes in several updates, as PKCS#11 has them."""


class Header(msgspec.Struct, frozen=True):
    """A frame's header, within the limits."""

    code: int
    options: int
    body: int


def parse_header(data: bytes) -> Header:
    """Raises MalformedMessage, after which the stream can't be read any further."""
    code, options, body = HEADER.unpack(data)
    if options > MAX_OPTIONS or body > MAX_BODY:
        raise MalformedMessage
    return Header(code, options, body)


def build_frame(code: int, body: bytes, options: bytes = b"") -> bytes:
    """A frame's bytes."""
    return HEADER.pack(code, len(options), len(body)) + options + body


def negotiate(offered: int) -> int:
    """The version to speak with a client that offers this one."""
    return OWN if offered == OWN else min(offered, VERSIONS[-1])
