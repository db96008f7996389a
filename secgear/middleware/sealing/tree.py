"""The tree of a protected file: from the number of a chunk to its block, authenticated all the way.

Inner blocks hold references; the root's reference is in the header. Changed inner blocks stay in
memory until `save` writes them, from the bottom up. Whatever fails can be tried again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, final

from secgear.middleware.sealing.blocks import HOLE, REF_SIZE, Blocks, Ref

_KEPT: Final = 64  # unchanged inner blocks in memory
_CHANGED: Final = 64  # and changed ones, before they are written
_NO_REF: Final = HOLE.pack()
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
        self._kept: OrderedDict[Place, bytearray] = OrderedDict()
        self._changed: dict[Place, bytearray] = {}

    def get(self, chunk: int) -> Ref:
        """Where chunk number `chunk` is. Raises SealedMalformed for a tree that was changed."""
        if chunk >= self._fanout**self.depth:
            return HOLE
        if not self.depth:
            return self.root
        return _get(self._load(1, chunk // self._fanout), chunk % self._fanout)

    def set(self, chunk: int, ref: Ref) -> None:
        """Chunk number `chunk` is elsewhere now; the block it was in is released."""
        while chunk >= self._fanout**self.depth:
            self._grow()
        if not self.depth:
            self._blocks.release(self.root)
            self.root = ref
            return
        if len(self._changed) >= _CHANGED:
            self.save()
        self._replace((1, chunk // self._fanout), chunk % self._fanout, ref)

    def cut(self, keep: int) -> None:
        """Forget all chunks from number `keep` on."""
        if self.depth:
            self._cut(self.depth, 0, keep)
        elif not keep:
            self._blocks.release(self.root)
            self.root = HOLE

    def save(self) -> None:
        """Write the inner blocks that have changed, and with them a new root."""
        for level in range(1, self.depth + 1):
            for place in sorted(place for place in self._changed if place[0] == level):
                parent = (level + 1, place[1] // self._fanout)
                if level < self.depth:
                    self._change(parent)  # what may fail comes before what can't be done twice
                refs = self._changed[place]
                count = len(refs) // REF_SIZE
                ref = HOLE if refs[: count * REF_SIZE] == _NO_REF * count else None
                ref = ref or self._blocks.write(refs, *place)
                del self._changed[place]
                self._keep(place, refs)
                if level < self.depth:
                    self._replace(parent, place[1] % self._fanout, ref)
                else:
                    self._blocks.release(self.root)
                    self.root = ref

    def numbers(self) -> Iterator[int]:
        """The numbers of all blocks that the tree refers to; of one that has no changes."""
        if self.root.number:
            yield self.root.number
        pending = [(self.depth, 0, self.root)] if self.depth else []
        while pending:
            level, index, ref = pending.pop()
            if not ref.number:
                continue
            refs = self._blocks.read(ref, level, index)
            for position in range(self._fanout):
                child = _get(refs, position)
                if child.number:
                    yield child.number
                    if level > 1:
                        pending.append((level - 1, index * self._fanout + position, child))

    def _cut(self, level: int, index: int, keep: int) -> None:
        span = self._fanout ** (level - 1)  # chunks below one reference
        begin = index * self._fanout
        for position in range(max(0, keep // span - begin), self._fanout):
            child = (level - 1, begin + position)
            ref = _get(self._load(level, index), position)
            if not ref.number and child not in self._changed:
                continue
            if level > 1:
                self._cut(*child, keep)
            if child[1] * span >= keep:
                self._changed.pop(child, None)
                self._kept.pop(child, None)
                self._replace((level, index), position, HOLE)

    def _grow(self) -> None:
        """One level more: the old root becomes the first entry of a new one."""
        self.depth += 1
        refs = bytearray(self._blocks.size)
        refs[:REF_SIZE] = self.root.pack()
        self._changed[self.depth, 0] = refs
        # Its block is the child's now, not released; `save` gives the new root a block of its own.
        self.root = HOLE

    def _load(self, level: int, index: int) -> bytearray:
        place = (level, index)
        found = self._changed.get(place) or self._kept.get(place)
        if found is not None:
            return found
        if level == self.depth:
            ref = self.root
        else:
            ref = _get(self._load(level + 1, index // self._fanout), index % self._fanout)
        refs = self._blocks.read(ref, level, index)
        self._keep(place, refs)
        return refs

    def _replace(self, place: Place, position: int, ref: Ref) -> None:
        """What an inner block refers to is another now; what it was is released."""
        refs = self._change(place)
        self._blocks.release(_get(refs, position))
        refs[position * REF_SIZE : (position + 1) * REF_SIZE] = ref.pack()

    def _change(self, place: Place) -> bytearray:
        refs = self._changed.get(place)
        if refs is None:
            refs = self._changed[place] = self._load(*place)
            self._kept.pop(place, None)
        return refs

    def _keep(self, place: Place, refs: bytearray) -> None:
        self._kept[place] = refs
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)


def _get(refs: bytearray, position: int) -> Ref:
    return Ref.unpack(refs, position * REF_SIZE)
