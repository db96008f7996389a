"""A peer that writes anything anywhere: a typed error on our side, in bounded time, or no harm."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from secgear.base.transport import ring
from tests.adversary.scribbler import Forgery, Scribbler

from .conftest import SMALL, Lane
from .model import LINE

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring

pytestmark = pytest.mark.skipif(not ring.available(), reason=ring.reason())

ROOT = Path(__file__).resolve().parents[3]
THERE, BACK = 0, 1


def hostile(lane: Lane) -> tuple[Ring, Scribbler]:
    """The enclave's end, and a host that only writes into memory."""
    scribbler = Scribbler(memoryview(lane.memory), SMALL.slots, SMALL.arena, seed=1)
    return lane.open(host=False), scribbler


@pytest.mark.parametrize("seq", [2, 9, 2**63, 2**64 - 1, -7 % 2**64])
def test_a_number_that_is_not_next_breaks_the_ring(lane: Lane, seq: int) -> None:
    enclave, host = hostile(lane)
    host.header(THERE, 0, Forgery(seq, 1, 1, 0))
    with pytest.raises(ring.broken(), match="broke the protocol"):
        enclave.recv(60)
    assert enclave.stats()["rejected"] == 1
    with pytest.raises(ConnectionError, match="closed"):
        enclave.recv(0)


def test_a_slot_filled_again_before_its_turn_breaks_the_ring(lane: Lane) -> None:
    enclave, host = hostile(lane)
    for slot in range(SMALL.slots):
        host.header(THERE, slot, Forgery(slot + 1, 1, 1, 0))
        assert enclave.recv(0) == (1, 1, b"")
    host.header(THERE, 0, Forgery(SMALL.slots * 2 + 1, 1, 1, 0))  # a lap too far
    with pytest.raises(ring.broken()):
        enclave.recv(60)


@pytest.mark.parametrize("size", [SMALL.limit + 1, 2**31, 2**32 - 1])
def test_a_message_above_the_limit_breaks_the_ring_before_memory_is_taken(
    lane: Lane, size: int
) -> None:
    enclave, host = hostile(lane)
    host.header(THERE, 0, Forgery(1, 1, 1, size))
    with pytest.raises(ring.broken()):
        enclave.recv(60)


@pytest.mark.parametrize(
    "second",
    [
        Forgery(2, 8, 1, 10_000),
        Forgery(2, 7, 2, 10_000),
        Forgery(2, 7, 1, 9_999),
        Forgery(2, 7, 1, 0),
    ],
)
def test_a_piece_of_another_message_breaks_the_ring(lane: Lane, second: Forgery) -> None:
    enclave, host = hostile(lane)
    host.header(THERE, 0, Forgery(1, 7, 1, 10_000))
    host.header(THERE, 1, second)
    with pytest.raises(ring.broken()):
        enclave.recv(60)


@pytest.mark.parametrize("word", [0, 8])
@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 100_000])
def test_progress_that_can_not_be_breaks_the_ring(lane: Lane, word: int, value: int) -> None:
    enclave, host = hostile(lane)
    host.word(BACK, word, value)
    payload = bytes(4096 if word else 0)
    for id in range(4 if word else SMALL.slots):
        enclave.send(id, 0, payload, 0)
    with pytest.raises(ring.broken()):
        enclave.send(99, 0, payload, 60)


def test_progress_that_goes_back_breaks_the_ring(lane: Lane) -> None:
    enclave, host = hostile(lane)
    for id in range(SMALL.slots):
        enclave.send(id, 0, b"")
    host.word(BACK, 0, 5)
    enclave.send(8, 0, b"")
    for id in range(4):
        enclave.send(id, 0, b"", 0)
    host.word(BACK, 0, 4)
    with pytest.raises(ring.broken()):
        enclave.send(99, 0, b"", 60)


def test_progress_that_is_too_early_harms_only_who_lies(lane: Lane) -> None:
    enclave, host = hostile(lane)
    for id in range(SMALL.slots):
        enclave.send(id, 0, b"")
    host.word(BACK, 0, SMALL.slots)  # nothing of it was read
    for id in range(SMALL.slots):
        enclave.send(id, 0, b"", 0)
    with pytest.raises(TimeoutError):
        enclave.send(99, 0, b"", 0)


@pytest.mark.parametrize("at", [LINE, LINE + 4, 2 * LINE, 2 * LINE + 4])
@pytest.mark.parametrize("value", [1, 2, 2**32 - 1])
def test_bells_of_any_value_delay_or_end_but_never_hang(lane: Lane, at: int, value: int) -> None:
    enclave, host = hostile(lane)
    for way in (THERE, BACK):
        host.word(way, at, value)
    try:
        enclave.send(1, 0, b"", 0.05)
        assert enclave.recv(0.05) is None
    except ConnectionError:
        assert at in {LINE + 4, 2 * LINE + 4}


def test_a_sleeper_whose_peer_never_rings_wakes_by_itself(lane: Lane) -> None:
    enclave, host = hostile(lane)
    got: list[object] = []
    waiting = lane.thread(lambda: got.append(enclave.recv()))
    while not enclave.stats()["parks"]:
        pass
    host.header(THERE, 0, Forgery(1, 5, 6, 0))
    waiting.join(20)
    assert got == [(5, 6, b"")]


def test_a_sleeper_is_not_kept_by_a_peer_that_unsets_its_bell(lane: Lane) -> None:
    enclave, host = hostile(lane)
    ended: list[object] = []

    def wait() -> None:
        try:
            enclave.recv()
        except ConnectionError:
            ended.append(True)

    waiting = lane.thread(wait)
    while not enclave.stats()["parks"]:
        pass
    host.word(THERE, LINE, 0)
    enclave.close()
    waiting.join(20)
    assert ended


def test_what_is_rewritten_while_it_is_read_is_one_version_or_the_other(lane: Lane) -> None:
    """Sizes change under the reader's eyes: what was checked is what is used."""
    enclave, host = hostile(lane)
    stop = threading.Event()
    at = 3 * LINE + 16

    def flip() -> None:
        while not stop.is_set():
            for slot in range(SMALL.slots):
                for size in (5, 3, SMALL.limit + 1, 4):
                    struct.pack_into("<Q", lane.memory, at + slot * 256, 9 << 32 | size)

    flipping = threading.Thread(target=flip)
    flipping.start()
    seen, rounds = set(), 3000
    try:
        for number in range(rounds):
            host.header(THERE, number % SMALL.slots, Forgery(number + 1, 1, 9, 3))
            message = enclave.recv(60)
            assert message is not None
            seen.add(len(message[2]))
    except ring.broken():
        pass
    finally:
        stop.set()
        flipping.join()
    assert seen <= {3, 4, 5}


def test_one_lane_broken_leaves_the_others_alone(lane: Lane) -> None:
    other = Lane()
    answering = other.echo()
    enclave, host = hostile(lane)
    host.header(THERE, 0, Forgery(77, 1, 1, 0))
    with pytest.raises(ring.broken()):
        enclave.recv(60)
    assert answering.call(1, 2, b"still", 60) == (1, 2, b"still")
    other.close()


@pytest.mark.parametrize("how", ["still", "running", "honest"])
def test_scribbles_end_in_an_answer_or_a_typed_error(how: str) -> None:
    """A short run of what `make fuzz` does for longer, in a process that may crash."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzz" / "ring.py"), how],
        env={**os.environ, "FUZZ_SCRIBBLES": "20000", "FUZZ_SEED": "7"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
