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


class Frames:
    """Takes a stream of frames apart, in pieces of whatever size they come in.

    missing: bytes without which there will be no further frame. empty: nothing is left over.
    """

    __slots__ = ("_at", "_data", "_parts", "missing")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        self._parts: list[bytes] = []
        self.missing = HEADER.size

    @property
    def empty(self) -> bool:
        """Whether all that came were whole frames, which `next` has given."""
        return not self._parts and self._at == len(self._data)

    @property
    def held(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return sum(map(len, self._parts))

    def feed(self, data: bytes) -> None:
        """What has come, once `next` has no more."""
        if self._parts:
            self._parts.append(data)
            self.missing -= len(data)
            if self.missing > 0:
                return
            data = b"".join(self._parts)
            self._parts = []
        self._data, self._at = data, 0

    def next(self) -> tuple[int, bytes] | None:
        """The next frame's call code and body. Raises MalformedMessage: there is no way on."""
        data, at = self._data, self._at
        left = len(data) - at
        size = HEADER.size
        if left >= size:
            code, options, body = HEADER.unpack_from(data, at)
            if options > MAX_OPTIONS or body > MAX_BODY:
                raise MalformedMessage
            size += options + body
            if left >= size:
                self._at = end = at + size
                return code, data[end - body : end]
        if left:
            self._parts = [data[at:]]
            self._data, self._at = b"", 0
        if left or not self._parts:
            self.missing = size - left
        return None


def build_frame(code: int, body: bytes, options: bytes = b"") -> bytes:
    """A frame's bytes."""
    return HEADER.pack(code, len(options), len(body)) + options + body


def negotiate(offered: int) -> int:
    """The version to speak with a client that offers this one."""
    return OWN if offered == OWN else min(offered, VERSIONS[-1])
