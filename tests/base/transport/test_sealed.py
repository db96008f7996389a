"""Sealed frames: nothing changed, moved, repeated or left out goes unnoticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import secgear
from secgear import Switchless, errors
from secgear.base.transport.sealed import OVERHEAD, PREFIX, Opener, Sealer

KEY = bytes(range(32))
FRAME = 64
ROOM = FRAME - OVERHEAD


def sealed(data: bytes, *, aad: bytes = b"") -> tuple[bytes, list[bytes]]:
    """The prefix and copies of all frames."""
    sealer = Sealer(KEY, aad=aad, frame=FRAME)
    return sealer.prefix, [bytes(frame) for frame in sealer.frames(data)]


def opened(prefix: bytes, frames: list[bytes], *, aad: bytes = b"") -> bytes:
    opener = Opener(KEY, prefix, aad=aad, frame=FRAME)
    data = b"".join(bytes(opener.open(frame)) for frame in frames)
    assert opener.finished
    return data


@given(data=st.binary(max_size=500))
def test_what_was_sealed_comes_out(data: bytes) -> None:
    prefix, frames = sealed(data, aad=b"purpose")
    assert len(frames) == max(1, -(-len(data) // ROOM))
    assert opened(prefix, frames, aad=b"purpose") == data


def test_two_streams_have_nothing_in_common() -> None:
    one, other = sealed(bytes(200)), sealed(bytes(200))
    assert one[0] != other[0]
    assert not set(one[1]) & set(other[1])


@given(
    data=st.binary(min_size=3 * ROOM, max_size=6 * ROOM),
    at=st.integers(0, 2),
    where=st.integers(0, FRAME - 1),
    bit=st.integers(0, 7),
)
def test_a_changed_bit_ends_the_stream(data: bytes, at: int, where: int, bit: int) -> None:
    prefix, frames = sealed(data)
    broken = bytearray(frames[at])
    broken[where % len(broken)] ^= 1 << bit
    opener = Opener(KEY, prefix, frame=FRAME)
    for frame in frames[:at]:
        opener.open(frame)
    with pytest.raises(errors.SealedFrameError, match="not the one"):
        opener.open(broken)
    with pytest.raises(errors.SealedFrameError, match="ended"):
        opener.open(frames[at])
    assert not opener.finished


@pytest.mark.parametrize(
    "order", [[1], [0, 2], [0, 0], [0, 1, 2, 4], [4], [0, 1, 2, 3, 3], [0, 1, 2, 3, 4, 4]]
)
def test_frames_come_in_their_order_or_not_at_all(order: list[int]) -> None:
    prefix, frames = sealed(bytes(ROOM * 5))
    opener = Opener(KEY, prefix, frame=FRAME)
    for number in order[:-1]:
        opener.open(frames[number])
    with pytest.raises(errors.SealedFrameError):
        opener.open(frames[order[-1]])


def test_a_stream_cut_short_is_not_finished() -> None:
    prefix, frames = sealed(bytes(ROOM * 3))
    opener = Opener(KEY, prefix, frame=FRAME)
    for frame in frames[:-1]:
        opener.open(frame)
    assert not opener.finished
    assert repr(opener) == "<Opener, 2 frames>"
    opener.open(frames[-1])
    assert opener.finished


def test_another_key_prefix_or_purpose_opens_nothing() -> None:
    prefix, frames = sealed(b"x", aad=b"purpose")
    for opener in (
        Opener(bytes(32), prefix, aad=b"purpose", frame=FRAME),
        Opener(KEY, bytes(PREFIX), aad=b"purpose", frame=FRAME),
        Opener(KEY, prefix, aad=b"other", frame=FRAME),
        Opener(KEY, prefix, frame=FRAME),
    ):
        with pytest.raises(errors.SealedFrameError):
            opener.open(frames[0])


@pytest.mark.parametrize("size", [0, 1, 16, FRAME + 1, 100_000])
def test_frames_of_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(errors.SealedFrameError):
        Opener(KEY, bytes(PREFIX), frame=FRAME).open(bytes(size))


def test_frames_end_with_the_last_one() -> None:
    sealer = Sealer(KEY, frame=FRAME)
    with pytest.raises(errors.SealedFrameError, match="do not fit"):
        sealer.seal(bytes(ROOM + 1))
    sealer.seal(b"x", last=True)
    with pytest.raises(errors.SealedFrameError, match="ended"):
        sealer.seal(b"y")


def test_wrong_parameters_are_named() -> None:
    for wrong in (
        lambda: Sealer(b"short"),
        lambda: Sealer(KEY, b"short"),
        lambda: Sealer(KEY, frame=OVERHEAD),
        lambda: Opener(b"short", bytes(PREFIX)),
        lambda: Opener(KEY, b"short"),
    ):
        with pytest.raises(ValueError, match="has"):
            wrong()


def test_the_key_does_not_show() -> None:
    assert KEY.hex() not in repr(Sealer(KEY)) + repr(vars(Sealer(KEY)))


APP = """
import hashlib
from secgear import App
from secgear.base.transport.sealed import Opener, Sealer

app = App("bulk", requires=["cryptography"], threads=2)
state = {}

@app.ecall
def begin(key: bytes, prefix: bytes) -> None:
    state["opener"], state["hash"] = Opener(key, prefix, aad=b"in"), hashlib.sha256()

@app.ecall
def put(frame: bytes) -> None:
    state["hash"].update(state["opener"].open(frame))

@app.ecall
def digest() -> bytes:
    assert state["opener"].finished
    return state["hash"].digest()

@app.ecall
def begin_out(key: bytes, size: int) -> bytes:
    sealer = Sealer(key, aad=b"out")
    state["frames"] = sealer.frames(bytes(range(256)) * (size // 256))
    return sealer.prefix

@app.ecall
def get(_number: int) -> bytes:
    return bytes(next(state["frames"], b""))
"""


def test_bulk_goes_in_and_out_sealed(tmp_path: Path) -> None:
    """While the enclave opens one frame, the host seals the next, and the other way round."""
    import hashlib

    path = tmp_path / "bulk.py"
    path.write_text(APP)
    data = os.urandom(1 << 20) * 12 + b"rest"
    key = os.urandom(32)
    with secgear.launch(path, switchless=Switchless(workers=1), deadline=60) as enclave:
        calls = enclave.switchless
        sealer = Sealer(key, aad=b"in")
        calls.begin(key, sealer.prefix)
        calls.map.put(sealer.frames(data))
        assert calls.digest() == hashlib.sha256(data).digest()

        opener = Opener(key, calls.begin_out(key, 4 << 20), aad=b"out")
        parts: list[bytes] = []

        def take(frame: bytes) -> None:
            if not opener.finished:
                parts.append(bytes(opener.open(frame)))

        assert calls.map.get(range(20), each=take) == []
        assert opener.finished
        assert b"".join(parts) == bytes(range(256)) * (16 << 10)
        assert enclave.switchless.stats.fallbacks == 0
