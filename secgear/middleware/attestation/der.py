"""Elements of DER: where the value of one begins and ends (X.690, section 8.1)."""

from __future__ import annotations

from secgear.errors import EvidenceMalformed


def content(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Start and end of the value of the element at `at`. Raises IndexError, EvidenceMalformed."""
    if der[at] != tag:
        raise EvidenceMalformed(f"format: a certificate with tag {der[at]:#x} at offset {at}")
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3:
            raise EvidenceMalformed("format: a certificate with a length of no sense")
        length = int.from_bytes(der[start : start + size], "big")
        start += size
    if start + length > len(der):
        raise EvidenceMalformed("format: a certificate that ends early")
    return start, start + length
