"""CBOR from the other side: one item, bounded in size and depth, no key twice, nothing after it."""

from __future__ import annotations

from typing import Any

import cbor2

from secgear.errors import EvidenceMalformed

MAX_SIZE = 1 << 20  # bytes
MAX_DEPTH = 24  # nesting of arrays, maps and tags

_MAJOR_UNSIGNED, _MAJOR_NEGATIVE, _MAJOR_BYTES, _MAJOR_TEXT = 0, 1, 2, 3
_MAJOR_ARRAY, _MAJOR_MAP, _MAJOR_TAG = 4, 5, 6
_ARGUMENT_SIZES = {24: 1, 25: 2, 26: 4, 27: 8}
# Tags that make a decoder share objects, compile expressions or reach into other items: references
# (25, 256, 28, 29), regular expressions (35), MIME messages (36), sets of unhashable things (258).
_REFUSED_TAGS = frozenset((25, 28, 29, 35, 36, 256, 258))


def decode(data: bytes, what: str, *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> Any:
    """The one CBOR item in `data`. Tags that `cbor2` does not know come as `cbor2.CBORTag`.

    what: the structure's name, for messages.
    Raises EvidenceMalformed: not well-formed (RFC 8949, section 5.3), indefinite lengths, larger
    or deeper than allowed, a map key twice, trailing bytes.
    """
    if len(data) > max_size:
        raise EvidenceMalformed(f"format: {what}: {len(data)} bytes of CBOR, at most {max_size}")
    _walk(data, what, max_depth)
    try:
        return cbor2.loads(data)
    except Exception as error:  # noqa: BLE001  (semantic tags decode dates, addresses, expressions)
        raise EvidenceMalformed(f"format: {what}: {error}") from None


class _Container:
    """An array, map or tag whose items are being read.

    left: items that it still wants. keys: those of a map so far. key_start: where the key that is
    being read begins.
    """

    __slots__ = ("is_map", "key_start", "keys", "left")

    def __init__(self, left: int, is_map: bool) -> None:
        self.left = left
        self.is_map = is_map
        self.keys: set[tuple[int, int | bytes]] = set()
        self.key_start = 0


def _walk(data: bytes, what: str, max_depth: int) -> None:
    """Check form before any object is made: an iterative walk over the heads of all items."""
    at = 0
    stack: list[_Container] = []
    while True:
        if stack and stack[-1].is_map and stack[-1].left % 2 == 0:
            stack[-1].key_start = at
        major, argument, after = _head(data, at, what)
        children = 0
        if major in (_MAJOR_BYTES, _MAJOR_TEXT):
            after += argument
        elif major in (_MAJOR_ARRAY, _MAJOR_MAP):
            children = argument * (2 if major == _MAJOR_MAP else 1)
        elif major == _MAJOR_TAG:
            if argument in _REFUSED_TAGS:
                raise _bad(what, f"tag {argument} is not accepted", at)
            children = 1
        if after + children > len(data):
            raise _bad(what, "CBOR ends early", at)
        at = after
        if children:
            if len(stack) >= max_depth:
                raise _bad(what, f"CBOR nested deeper than {max_depth}", at)
            stack.append(_Container(children, major == _MAJOR_MAP))
            continue
        _complete(stack, data, at, what)
        if not stack:
            break
    if at != len(data):
        raise _bad(what, f"{len(data) - at} bytes after the end of the CBOR", at)


def _head(data: bytes, at: int, what: str) -> tuple[int, int, int]:
    """Major type, argument and where the content begins (RFC 8949, section 3)."""
    if at >= len(data):
        raise _bad(what, "CBOR ends early", at)
    major, info = data[at] >> 5, data[at] & 31
    if info < 24:
        return major, info, at + 1
    size = _ARGUMENT_SIZES.get(info)
    if size is None:
        raise _bad(what, "indefinite or reserved length", at)
    after = at + 1 + size
    if after > len(data):
        raise _bad(what, "CBOR ends early", at)
    return major, int.from_bytes(data[at + 1 : after], "big"), after


def _complete(stack: list[_Container], data: bytes, at: int, what: str) -> None:
    """An item ends at `at`; so may the containers that it closes."""
    while stack:
        top = stack[-1]
        top.left -= 1
        if top.is_map and top.left % 2 == 1:
            key = _key(data, top.key_start, at, what)
            if key in top.keys:
                raise _bad(what, "a map key twice", top.key_start)
            top.keys.add(key)
        if top.left:
            return
        stack.pop()


def _key(data: bytes, start: int, end: int, what: str) -> tuple[int, int | bytes]:
    """What makes a map key the same key, however it is encoded.

    Integers and strings only: Python takes 1, 1.0 and true for one key, CBOR for three.
    """
    major, argument, after = _head(data, start, what)
    if major in (_MAJOR_BYTES, _MAJOR_TEXT):
        return major, data[after:end]
    if major in (_MAJOR_UNSIGNED, _MAJOR_NEGATIVE):
        return major, argument
    raise _bad(what, "a map key that is neither integer nor string", start)


def _bad(what: str, reason: str, at: int) -> EvidenceMalformed:
    return EvidenceMalformed(f"format: {what}: {reason} at offset {at}")
