"""Reading fixed binary layouts: every access is bounded, every byte is accounted for."""

from __future__ import annotations

from typing import Final, Literal

from secgear.errors import EvidenceMalformed

# What msgspec raises for hostile JSON: its own error and that of the text's encoding, both of which
# are a ValueError; numbers too large for their type; deep nesting.
UNREADABLE: Final = (ValueError, OverflowError, RecursionError)


class Reader:
    """A cursor over private bytes. Reading past the end raises EvidenceMalformed.

    what: the structure's name, for messages. order: byte order of its integers.
    """

    def __init__(self, data: bytes, what: str, order: Literal["little", "big"] = "little") -> None:
        self._data = bytes(data)
        self._size = len(self._data)
        self._what = what
        self._order: Literal["little", "big"] = order
        self._at = 0

    @property
    def position(self) -> int:
        """Offset of the next byte."""
        return self._at

    @property
    def remaining(self) -> int:
        """Bytes that are left."""
        return len(self._data) - self._at

    def take(self, size: int, field: str) -> bytes:
        """The next `size` bytes."""
        start, end = self._at, self._at + size
        if size < 0 or end > self._size:
            raise EvidenceMalformed(
                f"format: {self._what}: {field} needs {size} bytes at offset {start}, "
                f"{self.remaining} are left"
            )
        self._at = end
        return self._data[start:end]

    def integer(self, size: int, field: str) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, field), self._order)

    def zeros(self, size: int, field: str) -> None:
        """`size` reserved bytes that must be zero."""
        if any(self.take(size, field)):
            raise EvidenceMalformed(f"format: {self._what}: {field} is reserved and not zero")

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.remaining, "rest")

    def end(self) -> None:
        """Refuse bytes after the end of the structure."""
        if self.remaining:
            raise EvidenceMalformed(
                f"format: {self._what}: {self.remaining} bytes after its end at {self._at}"
            )
