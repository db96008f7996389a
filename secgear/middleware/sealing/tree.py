"""The tree of a protected file: from the number of a chunk to its block, authenticated all the way.

Inner blocks hold references; the root's reference is in the header. Changed inner blocks stay in
memory until `save` writes them, from the bottom up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, final

from secgear.middleware.sealing.blocks import HOLE, REF_SIZE, Blocks, Ref, unpack_refs

_KEPT: Final = 64  # unchanged inner blocks in memory
Place = tuple[int, int]
"""Level (from 1) and index there of an inner block."""


@final
class Tree:
    """References of all chunks.

    depth: levels of inner blocks; 0 for a file of one chunk at most, whose root is the chunk.
    """

    def __init__(self, blocks: Blocks, root: Ref, depth: int) -> None:
        self._blocks = blocks
        self.root = root
        self.depth = depth
        self._fanout = blocks.size // REF_SIZE
        self._kept: OrderedDict[Place, list[Ref]] = OrderedDict()
        self._changed: dict[Place, list[Ref]] = {}

    def get(self, chunk: int) -> Ref:
        """Where chunk number `chunk` is. Raises SealedMalformed for a tree that was changed."""
        if chunk >= self._fanout**self.depth:
            return HOLE
        if not self.depth:
            return self.root
        return self._load(1, chunk // self._fanout)[chunk % self._fanout]

    def set(self, chunk: int, ref: Ref) -> None:
        """Chunk number `chunk` is elsewhere now; the block it was in is released."""
        while chunk >= self._fanout**self.depth:
            self._grow()
        if not self.depth:
            self._blocks.release(self.root)
            self.root = ref
            return
        place = (1, chunk // self._fanout)
        refs = self._change(place)
        self._blocks.release(refs[chunk % self._fanout])
        refs[chunk % self._fanout] = ref

    def save(self) -> None:
        """Write the inner blocks that have changed, and with them a new root."""
        for level in range(1, self.depth + 1):
            for place in sorted(place for place in self._changed if place[0] == level):
                refs = self._changed.pop(place)
                data = b"".join(ref.pack() for ref in refs).ljust(self._blocks.size, b"\0")
                empty = all(not ref.number for ref in refs)
                ref = HOLE if empty else self._blocks.write(data, *place)
                self._keep(place, refs)
                if level == self.depth:
                    self._blocks.release(self.root)
                    self.root = ref
                    continue
                parent = self._change((level + 1, place[1] // self._fanout))
                self._blocks.release(parent[place[1] % self._fanout])
                parent[place[1] % self._fanout] = ref

    def numbers(self) -> Iterator[int]:
        """The numbers of all blocks that the saved tree refers to."""
        if self.root.number:
            yield self.root.number
        pending = [(self.depth, 0, self.root)] if self.depth else []
        while pending:
            level, index, ref = pending.pop()
            if not ref.number:
                continue
            for position, child in enumerate(unpack_refs(self._blocks.read(ref, level, index))):
                if child.number:
                    yield child.number
                    if level > 1:
                        pending.append((level - 1, index * self._fanout + position, child))

    def _grow(self) -> None:
        """One level more: the old root becomes the first entry of a new one."""
        refs = [HOLE] * self._fanout
        refs[0] = self.root
        self.depth += 1
        self._changed[self.depth, 0] = refs
        # Its block is the child's now, not released; `save` gives the new root a block of its own.
        self.root = HOLE

    def _load(self, level: int, index: int) -> list[Ref]:
        place = (level, index)
        found = self._changed.get(place) or self._kept.get(place)
        if found is not None:
            return found
        if level == self.depth:
            ref = self.root
        else:
            ref = self._load(level + 1, index // self._fanout)[index % self._fanout]
        refs = (
            unpack_refs(self._blocks.read(ref, level, index))
            if ref.number
            else [HOLE] * self._fanout
        )
        self._keep(place, refs)
        return refs

    def _change(self, place: Place) -> list[Ref]:
        refs = self._changed.get(place)
        if refs is None:
            refs = self._changed[place] = list(self._load(*place))
            self._kept.pop(place, None)
        return refs

    def _keep(self, place: Place, refs: list[Ref]) -> None:
        self._kept[place] = refs
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
