"""The frame parser, fed by a hostile peer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.wire import (
    HARD_CAP,
    HEADER,
    Decoder,
    Flag,
    Frame,
    Kind,
    Limits,
    Violation,
    frame,
)
from secgear.errors import ProtocolError

LIMITS = Limits(message=4096)


def decode(data: bytes, step: int | None = None) -> list[Frame | Violation]:
    decoder = Decoder(LIMITS)
    entries: list[Frame | Violation] = []
    step = step or max(1, len(data))
    for start in range(0, len(data), step):
        decoder.feed(data[start : start + step])
        entries += decoder.frames()
    return entries


@given(st.binary(max_size=3000), st.integers(0, 2**64 - 1), st.integers(1, 700))
def test_a_frame_survives_any_fragmentation(payload: bytes, id: int, step: int) -> None:
    data = frame(Kind.CALL, id, payload, flags=Flag.OURS) + frame(Kind.BYE)
    assert decode(data, step) == [
        Frame(Kind.CALL, Flag.OURS, 0, id, payload),
        Frame(Kind.BYE, 0, 0, 0, b""),
    ]


@settings(max_examples=2000)
@given(
    length=st.integers(0, 9000),
    kind=st.integers(0, 255),
    flags=st.integers(0, 255),
    index=st.integers(0, 65535),
    id=st.integers(0, 2**64 - 1),
    step=st.integers(1, 9000),
)
def test_whatever_the_header_says_the_next_frame_is_found(
    length: int, kind: int, flags: int, index: int, id: int, step: int
) -> None:
    hostile = HEADER.pack(length, kind, flags, index, id) + bytes(length)
    first, last = decode(hostile + frame(Kind.CLOSE), step)
    assert last == Frame(Kind.CLOSE, 0, 0, 0, b"")
    if isinstance(first, Frame):
        assert len(first.payload) == length
    else:
        assert first.reason


@settings(max_examples=500)
@given(st.binary(max_size=2000), st.integers(1, 100))
def test_noise_is_frames_violations_or_the_end_never_a_crash(noise: bytes, step: int) -> None:
    try:
        entries = decode(noise, step)
    except ProtocolError:
        return
    assert all(isinstance(entry, Frame | Violation) for entry in entries)


def test_a_length_over_the_hard_cap_ends_the_stream() -> None:
    with pytest.raises(ProtocolError, match="hard cap"):
        decode(HEADER.pack(HARD_CAP + 1, Kind.CALL, 0, 0, 1))


def test_an_oversized_payload_is_never_held() -> None:
    decoder = Decoder(LIMITS)
    decoder.feed(HEADER.pack(HARD_CAP, Kind.CALL, Flag.OURS, 0, 1))
    assert [entry.reason for entry in decoder.frames()] == [
        f"CALL: {HARD_CAP} bytes are over the limit of 4096"
    ]
    for _ in range(HARD_CAP // (1 << 20)):
        decoder.feed(bytes(1 << 20))
        assert not decoder._buffer
    decoder.feed(frame(Kind.BYE))
    assert list(decoder.frames()) == [Frame(Kind.BYE, 0, 0, 0, b"")]


@pytest.mark.parametrize(
    ("kind", "flags", "size"),
    [
        (Kind.CANCEL, Flag.OURS, 1),
        (Kind.DATA, Flag.OURS, 9),
        (Kind.LOG, 0, (64 << 10) + 1),
        (Kind.CALL, Flag.STREAM, 0),
        (Kind.RESULT, Flag.OURS, 0),
    ],
)
def test_each_kind_has_its_own_limits(kind: Kind, flags: int, size: int) -> None:
    (entry,) = decode(frame(kind, 1, bytes(size), flags=flags))
    assert isinstance(entry, Violation)


@pytest.mark.parametrize("field", ["message", "attachments", "attached", "calls", "depth"])
def test_limits_refuse_nonsense(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 0})
