"""CBOR from the other side: one item, bounded in size and depth, no key twice, nothing after it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NoReturn

import cbor2

from secgear.errors import EvidenceMalformed

MAX_SIZE = 1 << 20  # bytes
MAX_DEPTH = 24  # nesting of arrays, maps and tags
MAX_ITEMS = 100_000  # an empty map is one byte here and a hundred in memory

_KEYS = (int, str, bytes)
_STRINGS = (2, 3)  # major types whose argument is a length in bytes


def decode(data: bytes, what: str, *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> Any:
    """The one CBOR item in `data`. Tags that `cbor2` does not know come as `cbor2.CBORTag`.

    what: the structure's name, for messages. Maps are `Mapping`s, not always dicts.
    Raises EvidenceMalformed: not well-formed (RFC 8949, section 5.3), indefinite lengths, larger
    or deeper than allowed, a map key twice or of another kind than integer and string, trailing
    bytes.
    """
    if len(data) > max_size:
        raise EvidenceMalformed(f"format: {what}: {len(data)} bytes of CBOR, at most {max_size}")
    if len(data) > MAX_ITEMS and _items(data) > MAX_ITEMS:
        raise EvidenceMalformed(f"format: {what}: more than {MAX_ITEMS} CBOR items")
    stream = io.BytesIO(data)
    try:
        item = cbor2.CBORDecoder(
            stream,
            object_hook=_checked_keys,
            semantic_decoders=_REFUSED_TAGS,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        ).decode()
    except Exception as error:  # noqa: BLE001  (semantic tags decode dates, addresses, numbers)
        raise EvidenceMalformed(f"format: {what}: {_whole(error)}") from None
    rest = len(data) - stream.tell()
    if rest:
        raise EvidenceMalformed(f"format: {what}: {rest} bytes after the end of the CBOR")
    return item


def _items(data: bytes) -> int:
    """How many items there are, up to one more than is allowed.

    Heads follow one another, whatever is nested in what (RFC 8949, section 3); what is not
    well-formed is left to the decoder.
    """
    at = count = 0
    while at < len(data) and count <= MAX_ITEMS:
        kind, argument = data[at] >> 5, data[at] & 0x1F
        size = 1 << (argument - 24) if 24 <= argument < 28 else 0
        value = int.from_bytes(data[at + 1 : at + 1 + size]) if size else argument
        at += 1 + size + (value if kind in _STRINGS else 0)
        count += 1
    return count


def _checked_keys(item: Mapping[Any, Any], *_: object) -> Mapping[Any, Any]:
    """Python takes 1, 1.0 and true for one key, CBOR for three: only the first may be one."""
    for key in item:
        if type(key) not in _KEYS:
            raise ValueError("a map key that is neither integer nor string")
    return item


def _refuse(*_: object) -> NoReturn:
    raise ValueError("a tag that is not accepted")


def _whole(error: BaseException) -> str:
    """The decoder's message with its cause: `cbor2` tells the place, the cause what is wrong."""
    return f"{error}: {error.__cause__}" if error.__cause__ else str(error)


# Tags that make a decoder share objects, compile expressions or reach into other items: references
# (25, 256, 28, 29), regular expressions (35), MIME messages (36), sets of unhashable things (258).
# And numbers beyond 64 bits, which no format needs and Python can't even print: 2 to 5, 30.
_REFUSED_TAGS = dict.fromkeys((2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 256, 258), _refuse)
