"""Frames in pieces, and what an enclave notes about a connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.services.crypto.rpc.buffer import OWN, VERSIONS, MalformedMessage
from secgear.services.crypto.rpc.frames import HEADER, MAX_BODY, MAX_OPTIONS, Frames, build_frame
from secgear.services.crypto.rpc.marks import (
    MAX_CODES,
    READING,
    WRITING,
    Standing,
    note_codes,
    note_version,
    read_mark,
)

FRAMES = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=40), st.binary(max_size=8)), max_size=8
)


def all_of(frames: Frames) -> list[tuple[int, bytes]]:
    return list(iter(frames.next, None))


@given(FRAMES, st.data())
def test_frames_are_the_same_in_whatever_pieces_they_come(
    frames: list[tuple[int, bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(build_frame(*frame) for frame in frames)
    reader, got = Frames(), list[tuple[int, bytes]]()
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        got += all_of(reader)
        assert all_of(reader) == []  # asking again changes nothing
    assert got == [(code, body) for code, body, _ in frames]
    assert reader.empty
    assert reader.missing == HEADER.size


@given(st.integers(1, 40), st.integers(0, 51))
def test_what_is_missing_is_never_more_than_what_is(body: int, cut: int) -> None:
    frame = build_frame(1, bytes(body))
    reader = Frames()
    reader.feed(frame[:cut])
    assert reader.next() is None or cut >= len(frame)
    if 0 < cut < len(frame):
        assert not reader.empty
        assert 1 <= reader.missing <= len(frame) - cut


@pytest.mark.parametrize(
    "header", [(1, MAX_OPTIONS + 1, 0), (1, 0, MAX_BODY + 1), (2**32 - 1, 2**32 - 1, 2**32 - 1)]
)
def test_frames_beyond_the_limits_are_refused_at_their_header(
    header: tuple[int, int, int],
) -> None:
    reader = Frames()
    reader.feed(HEADER.pack(*header))
    with pytest.raises(MalformedMessage):
        reader.next()


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    reader = Frames()
    reader.feed(data)
    try:
        for _, body in all_of(reader):
            assert len(body) <= MAX_BODY
    except MalformedMessage:
        pass


@given(st.sampled_from((*VERSIONS, OWN)), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_a_mark_tells_the_calls_under_way_or_that_it_can_not(
    version: int, codes: list[int]
) -> None:
    mark = memoryview(bytearray(64))
    assert read_mark(bytes(mark)) == Standing(None, ())
    note_version(mark, version)
    note_codes(mark, codes)
    standing = read_mark(bytes(mark))
    assert standing == (Standing(version, tuple(codes)) if len(codes) <= MAX_CODES else None)
    for flag in (READING, WRITING):
        mark[flag] = 1
        assert read_mark(bytes(mark)) is None
        mark[flag] = 0
    assert read_mark(bytes(mark)) == standing


def test_a_mark_is_unclear_while_it_changes() -> None:
    """Whatever step an enclave is killed at: what was, what will be, or unclear."""
    steps: list[Standing | None] = []

    class Codes(list[int]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for code in list.__iter__(self):
                steps.append(read_mark(bytes(mark)))
                yield code
            steps.append(read_mark(bytes(mark)))

    mark = memoryview(bytearray(64))
    note_codes(mark, [1, 2, 3])
    note_codes(mark, Codes([2, 3]))
    assert steps == [None, None, None]
    assert read_mark(bytes(mark)) == Standing(None, (2, 3))


@given(st.binary(max_size=80))
def test_any_mark_is_understood_or_unclear(mark: bytes) -> None:
    standing = read_mark(mark)
    assert standing is None or (
        standing.version in (None, *VERSIONS, OWN) and len(standing.codes) <= MAX_CODES
    )
