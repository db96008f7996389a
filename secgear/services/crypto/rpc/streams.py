"""Several streams of bytes over one channel of messages: what a message is.

A message is ``u32 number of the stream | bytes``; without bytes it is the end of that stream in
this direction. The client numbers streams, from 1 upwards, and begins one by its first message.
"""

from __future__ import annotations

import struct
from typing import Final

from secgear.services.crypto.rpc.buffer import MalformedMessage

PIECE: Final = 64 << 10
"""Bytes of a stream in one message, at most."""
_HEAD = struct.Struct(">I")


def pack(stream: int, piece: bytes) -> bytes:
    """The message that carries a piece of a stream."""
    return _HEAD.pack(stream) + piece


def unpack(message: bytes) -> tuple[int, bytes]:
    """Stream and piece. Raises MalformedMessage."""
    if not _HEAD.size <= len(message) <= _HEAD.size + PIECE:
        raise MalformedMessage
    number: int = _HEAD.unpack_from(message)[0]
    if not number:
        raise MalformedMessage
    return number, message[_HEAD.size :]


LARGEST: Final = _HEAD.size + PIECE
"""Bytes of a message."""
