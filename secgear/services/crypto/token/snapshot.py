"""The module's state at one epoch, and its objects as the host keeps them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag

from secgear.errors import CryptoModuleError
from secgear.services.crypto.token import keyring
from secgear.services.crypto.token.keyring import Keyring
from secgear.services.crypto.token.objects import Object, pack, unpack
from secgear.services.crypto.token.state import Head, Row

_OBJECT: Final = b"secgear crypto object v2\0"


class Snapshot(NamedTuple):
    """A head that was read or written. mark: what the counter has of it."""

    head: Head
    mark: bytes
    keys: Keyring

    def includes(self, earlier: Snapshot) -> bool:
        """Whether this is `earlier`, or was made of it a few changes ago."""
        back = self.head.epoch - earlier.head.epoch
        if not back:
            return self.mark == earlier.mark
        return 0 < back <= len(self.head.recent) and self.head.recent[back - 1] == earlier.mark

    def opened(self, row: Row) -> Object:
        """An object of this state. Raises CryptoModuleError for what is none."""
        try:
            return unpack(self.keys.open(row.blob, _label(row.id, row.slot)))
        except (InvalidTag, KeyError):
            raise CryptoModuleError(f"object {row.id} of the store was changed") from None

    def newest(self, rows: Iterable[Row]) -> set[int]:
        """Ids of those that are under the newest domain key."""
        generation = self.head.generation
        return {row.id for row in rows if keyring.generation_of(row.blob) == generation}


def sealed_row(keys: Keyring, slot: int, item: Object) -> Row:
    """An object as the host is to keep it."""
    return Row(item.id, slot, keys.seal(pack(item), _label(item.id, slot)))


def _label(id: int, slot: int) -> bytes:
    return _OBJECT + id.to_bytes(8, "big") + slot.to_bytes(4, "big")
