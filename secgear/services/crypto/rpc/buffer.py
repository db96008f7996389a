"""The protocol's simple types. Everything is big endian.

Source: p11-kit, ``rpc-message.c``.
"""

from __future__ import annotations

import struct
from typing import Final

from secgear.services.crypto.pkcs11 import calls

NULL: Final = 0xFFFFFFFF
"""Length of a byte array that is not there."""
VERSIONS: Final = (0, 1, 2)
"""p11-kit's."""
OWN: Final = calls.OWN

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


class MalformedMessage(Exception):
    """Bytes are no message of the protocol. Has no text: it would quote what a client sent."""


class Reader:
    """Takes a message apart, once and in order. Every method raises MalformedMessage."""

    __slots__ = ("_at", "_data", "version")

    def __init__(self, data: bytes, version: int, at: int = 0) -> None:
        self._data = data
        self._at = at
        self.version = version

    def u8(self) -> int:
        """One byte."""
        at = self._at
        if at >= len(self._data):
            raise MalformedMessage
        self._at = at + 1
        return self._data[at]

    def u32(self) -> int:
        """A number of 32 bits."""
        at = self._at
        if at + 4 > len(self._data):
            raise MalformedMessage
        self._at = at + 4
        number: int = _U32.unpack_from(self._data, at)[0]
        return number

    def u64(self) -> int:
        """A CK_ULONG."""
        at = self._at
        if at + 8 > len(self._data):
            raise MalformedMessage
        self._at = at + 8
        number: int = _U64.unpack_from(self._data, at)[0]
        return number

    def count(self, limit: int) -> int:
        """A number of items that follow, at most `limit`."""
        number = self.u32()
        if number > limit:
            raise MalformedMessage
        return number

    def array(self) -> bytes | None:
        """Bytes with their length; None for those that are not there."""
        data = self._data
        start = self._at + 4
        if start > len(data):
            raise MalformedMessage
        size: int = _U32.unpack_from(data, start - 4)[0]
        if size == NULL:
            self._at = start
            return None
        end = start + size
        if end > len(data):
            raise MalformedMessage
        self._at = end
        return data[start:end]

    def octets(self) -> bytes:
        """The same where it makes no difference whether they are not there or none."""
        return self.array() or b""

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        at = self._at
        end = at + size
        if end > len(self._data):
            raise MalformedMessage
        self._at = end
        return self._data[at:end]

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise MalformedMessage


class Writer:
    """Puts a message together."""

    __slots__ = ("_parts", "version")

    def __init__(self, version: int) -> None:
        self._parts: list[bytes] = []
        self.version = version

    def u8(self, number: int) -> None:
        """One byte."""
        self._parts.append(bytes((number,)))

    def u32(self, number: int) -> None:
        """A number of 32 bits."""
        self._parts.append(_U32.pack(number))

    def u64(self, number: int) -> None:
        """A CK_ULONG."""
        self._parts.append(_U64.pack(number))

    def array(self, data: bytes | None) -> None:
        """Bytes with their length; None for those that are not there."""
        if data is None:
            self._parts.append(_U32.pack(NULL))
        else:
            self._parts += (_U32.pack(len(data)), data)

    def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        self._parts.append(data)

    def done(self) -> bytes:
        """The message."""
        return b"".join(self._parts)
