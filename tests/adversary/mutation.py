"""Evidence that was damaged on its way: one byte changed, cut off, or longer than it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from secgear.base.tee import Evidence


class Damaged(NamedTuple):
    """part: ``data`` or an attachment's name. position: of the changed byte, or the new length."""

    part: str
    position: int
    evidence: Evidence


def flipped(evidence: Evidence, *, at_most: int, bit: int = 0x01) -> Iterator[Damaged]:
    """One bit changed, at up to so many places of each part, evenly spread."""
    for part, blob in _parts(evidence).items():
        for position in _spread(len(blob), at_most):
            changed = bytearray(blob)
            changed[position] ^= bit
            yield Damaged(part, position, _with(evidence, part, bytes(changed)))


def resized(evidence: Evidence, *, at_most: int) -> Iterator[Damaged]:
    """Cut off at up to so many lengths of each part, evenly spread; and with a byte more."""
    for part, blob in _parts(evidence).items():
        for length in _spread(len(blob), at_most):
            yield Damaged(part, length, _with(evidence, part, blob[:length]))
        yield Damaged(part, len(blob) + 1, _with(evidence, part, blob + b"\x01"))


def _parts(evidence: Evidence) -> Mapping[str, bytes]:
    return {"data": evidence.data, **evidence.attachments}


def _with(evidence: Evidence, part: str, blob: bytes) -> Evidence:
    if part == "data":
        return Evidence(evidence.format, blob, evidence.attachments, evidence.parts)
    attachments = {**evidence.attachments, part: blob}
    return Evidence(evidence.format, evidence.data, attachments, evidence.parts)


def _spread(size: int, at_most: int) -> Iterator[int]:
    """Places in 0..size-1; every one if they are few."""
    step = max(1, size / at_most)
    place = 0.0
    while place < size:
        yield int(place)
        place += step
