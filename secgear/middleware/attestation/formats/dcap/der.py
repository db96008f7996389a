"""A small strict reader of DER (ITU-T X.690): what PCK certificates and chains need of it."""

from __future__ import annotations

from collections.abc import Iterator

from secgear.errors import EvidenceMalformed

SEQUENCE, INTEGER, OCTETS, OID, ENUMERATED, BOOLEAN = 0x30, 0x02, 0x04, 0x06, 0x0A, 0x01


def element(data: bytes, at: int = 0) -> tuple[int, bytes, int]:
    """Tag, value and end of the element at `at`. Raises EvidenceMalformed.

    Only definite lengths in their shortest form, of at most three bytes, and one-byte tags.
    """
    if at + 2 > len(data):
        raise EvidenceMalformed("format: DER that ends early")
    tag, length, start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F:
        raise EvidenceMalformed("format: DER with a tag of several bytes")
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3 or start + size > len(data):
            raise EvidenceMalformed("format: DER with a length of no sense")
        length = int.from_bytes(data[start : start + size], "big")
        if length < 0x80 or length >> 8 * (size - 1) == 0:
            raise EvidenceMalformed("format: DER with a length that is not in its shortest form")
        start += size
    if start + length > len(data):
        raise EvidenceMalformed("format: DER that ends early")
    return tag, data[start : start + length], start + length


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of all elements in `data`, one after the other. Raises EvidenceMalformed."""
    at = 0
    while at < len(data):
        tag, value, at = element(data, at)
        yield tag, value


def split(data: bytes, limit: int) -> tuple[bytes, ...]:
    """The elements in `data`, whole. Raises EvidenceMalformed, also for more than `limit`."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        _, _, end = element(data, at)
        found.append(data[at:end])
        at = end
        if len(found) > limit:
            raise EvidenceMalformed(f"format: more than {limit} DER elements")
    return tuple(found)


def value(data: bytes, tag: int) -> bytes:
    """The value of the only element in `data`, which must have `tag`. Raises EvidenceMalformed."""
    found, content, end = element(data)
    if found != tag or end != len(data):
        raise EvidenceMalformed(f"format: DER with tag {found:#x} where {tag:#x} alone belongs")
    return content


def natural(content: bytes) -> int:
    """An INTEGER's or ENUMERATED's value, not negative. Raises EvidenceMalformed."""
    padded = len(content) > 1 and content[0] == 0 and not content[1] & 0x80
    if not content or content[0] & 0x80 or padded:
        raise EvidenceMalformed("format: DER with a number that is empty, negative or padded")
    return int.from_bytes(content, "big")


def boolean(content: bytes) -> bool:
    """A BOOLEAN's value. Raises EvidenceMalformed."""
    if content not in (b"\x00", b"\xff"):
        raise EvidenceMalformed("format: DER with a truth value that is neither")
    return content == b"\xff"


def identifier(content: bytes) -> tuple[int, ...]:
    """The arcs of an OBJECT IDENTIFIER. Raises EvidenceMalformed."""
    if not content or content[-1] & 0x80 or len(content) > 64:
        raise EvidenceMalformed("format: DER with an object identifier of no sense")
    arcs: list[int] = []
    arc = 0
    for index, byte in enumerate(content):
        if arc == 0 and byte == 0x80 and (index == 0 or not content[index - 1] & 0x80):
            raise EvidenceMalformed("format: DER with a padded object identifier")
        arc = arc << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return (first, arcs[0] - 40 * first, *arcs[1:])
