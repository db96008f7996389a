"""A digest over all stored objects that is cheap to keep up to date.

Leaves lie in buckets by the object's id. A change makes one bucket's digest anew and the root over
all buckets' digests, so its cost hardly grows with the number of objects.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final, final

_BUCKETS: Final = 1024
_LABEL: Final = b"secgear crypto objects v1\0"
_LEAF = struct.Struct(">QQ32s")


@final
class Tree:
    """Which objects there are, in which state. `root` is 32 bytes."""

    def __init__(self) -> None:
        self._leaves: list[dict[int, bytes]] = [{} for _ in range(_BUCKETS)]
        self._digests = [_digest({})] * _BUCKETS

    def put(self, id: int, slot: int, blob: bytes) -> None:
        """An object is there now, in this state."""
        leaf = _LEAF.pack(id, slot, hashlib.sha256(blob).digest())
        self._leaves[id % _BUCKETS][id] = leaf
        self._refresh(id)

    def delete(self, id: int) -> None:
        """An object is gone."""
        self._leaves[id % _BUCKETS].pop(id, None)
        self._refresh(id)

    def leaf(self, id: int) -> bytes | None:
        """An object's state, for `restore`."""
        return self._leaves[id % _BUCKETS].get(id)

    def restore(self, id: int, leaf: bytes | None) -> None:
        """Back to a state that `leaf` told."""
        if leaf is None:
            self.delete(id)
        else:
            self._leaves[id % _BUCKETS][id] = leaf
            self._refresh(id)

    def root(self) -> bytes:
        """The digest."""
        return hashlib.sha256(_LABEL + b"".join(self._digests)).digest()

    def _refresh(self, id: int) -> None:
        self._digests[id % _BUCKETS] = _digest(self._leaves[id % _BUCKETS])


def _digest(leaves: dict[int, bytes]) -> bytes:
    return hashlib.sha256(b"".join(leaves[id] for id in sorted(leaves))).digest()
