"""Frames and messages: whatever arrives, in whatever pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import ChannelError, HandshakeFailed
from secgear.middleware.attestation import envelope
from secgear.middleware.channel.messages import (
    HEADER_SIZE,
    MAX_PART,
    Challenge,
    Failed,
    Frames,
    Kind,
    Open,
    Opened,
    Presented,
    Refuse,
    clipped,
    decode,
    encode,
    header,
    read_evidence,
    reason,
)
from tests.adversary.vendors.simulated import SimulatedVendor

names = st.text(max_size=64)
messages = st.one_of(
    st.builds(Challenge, st.just(1), st.binary(min_size=32, max_size=32)),
    st.builds(
        Presented,
        st.binary(min_size=32, max_size=32),
        st.binary(max_size=500),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(Refuse, names, st.text(max_size=512)),
    st.builds(Failed, names, st.text(max_size=512)),
    st.builds(Open, names),
    st.builds(Open, st.just(""), st.booleans()),
    st.builds(
        Opened, st.binary(max_size=100), st.sets(names).map(lambda found: tuple(sorted(found)))
    ),
)


def frames(*pieces: bytes) -> list[tuple[Kind, bytes]]:
    reader = Frames(lambda kind, size: None)
    found = []
    for piece in pieces:
        reader.feed([piece])
        found += list(reader)
    assert not reader.pending
    return found


@given(messages)
def test_messages_come_back(message: Challenge) -> None:
    ((kind, payload),) = frames(encode(message))
    assert decode(kind, payload) == message


@given(messages, st.data())
def test_changed_messages_are_others_or_none(message: Challenge, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    at = data.draw(st.integers(HEADER_SIZE, len(frame) - 1))
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    kind = Kind(frame[0])
    try:
        changed = decode(kind, bytes(frame[HEADER_SIZE:]))
    except HandshakeFailed:
        return
    assert changed != message
    assert encode(changed) == bytes(frame)


@given(st.sampled_from(sorted(Kind)), st.binary(max_size=200))
def test_any_payload_is_a_message_or_refused(kind: Kind, payload: bytes) -> None:
    if kind in (Kind.PART, Kind.LAST, Kind.CALLS):
        return
    try:
        message = decode(kind, payload)
    except HandshakeFailed:
        return
    assert encode(message)[HEADER_SIZE:] == payload


@settings(max_examples=200)
@given(
    st.lists(st.binary(max_size=9000), max_size=6),
    st.lists(st.integers(1, 5000), min_size=1, max_size=10),
)
def test_frames_come_out_whatever_the_pieces(payloads: list[bytes], sizes: list[int]) -> None:
    data = b"".join(header(Kind.LAST, len(payload)) + payload for payload in payloads)
    pieces, turn = [], 0
    while data:
        size = sizes[turn % len(sizes)]
        pieces.append(data[:size])
        data, turn = data[size:], turn + 1
    assert frames(*pieces) == [(Kind.LAST, payload) for payload in payloads]


def test_many_small_pieces_are_not_many_objects() -> None:
    """A peer that makes records of a byte must not cost us fifty times its bytes."""
    reader = Frames(lambda kind, size: None)
    reader.feed([header(Kind.PART, MAX_PART)])
    list(reader)
    for _ in range(MAX_PART - 1):
        reader.feed([b"x"])
    assert len(reader._chunks) <= 8
    reader.feed([b"y"])
    assert list(reader) == [(Kind.PART, b"x" * (MAX_PART - 1) + b"y")]


def test_frame_is_announced_before_anything_is_kept_for_it() -> None:
    asked: list[tuple[Kind, int]] = []

    def expect(kind: Kind, size: int) -> None:
        asked.append((kind, size))
        if kind is Kind.OPENED:
            raise ChannelError("not now")

    reader = Frames(expect)
    reader.feed([header(Kind.LAST, 2)[:3]])
    assert list(reader) == []
    reader.feed([header(Kind.LAST, 2)[3:]])
    assert list(reader) == []
    assert asked == [(Kind.LAST, 2)]
    reader.feed([b"ok" + header(Kind.OPENED, 4 << 20)])
    with pytest.raises(ChannelError, match="not now"):
        list(reader)


@pytest.mark.parametrize("kind", sorted(Kind))
def test_lengths_over_the_limit_are_refused(kind: Kind) -> None:
    reader = Frames(lambda kind, size: None)
    reader.feed([header(kind, (4 << 20) + 1)])
    with pytest.raises(ChannelError, match="at most"):
        list(reader)


def test_evidence_has_one_encoding() -> None:
    made = envelope.to_cbor(SimulatedVendor().evidence(report_data=bytes(64)))
    assert read_evidence(Presented(bytes(32), made, False, False)).format
    longer = b"\xb8" + bytes([made[0] & 0x1F]) + made[1:]  # the map's size in a byte of its own
    for wrong in (longer, made + b"\0", made[:-1], b""):
        with pytest.raises(HandshakeFailed, match="EVIDENCE"):
            read_evidence(Presented(bytes(32), wrong, False, False))


def test_words_of_the_peer_move_no_cursor_and_have_an_end() -> None:
    shown = reason(Refuse("code\x1b[2J", "text\r\n\x07"))
    assert shown.isprintable()
    cut = clipped(Failed, "c" * 100, "t" * 1000)
    assert (len(cut.code), len(cut.text)) == (64, 512)
    assert reason(Refuse("code")) == "code"
