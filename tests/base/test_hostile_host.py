"""A host that lies to a real enclave: it serves on, stays small, and never answers wrongly."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from secgear.base.build import build
from secgear.base.transport.arena import CHUNK_SIZE, Arena
from secgear.base.wire import (
    ARGUMENTS,
    CHUNK,
    HARD_CAP,
    HEADER,
    VERSION,
    CallHead,
    Flag,
    Hello,
    Kind,
    Limits,
    More,
    ValueHead,
    frame,
)
from tests.adversary.frames import Hostile
from tests.adversary.lying_host import LyingHost

APP = """
from collections.abc import Iterator
import hashlib
from secgear import App

app = App("target", threads=3, memory=2 << 30)

@app.ecall
def echo(text: str) -> str:
    return text

@app.ecall
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)

@app.ecall
def upto(n: int) -> Iterator[int]:
    yield from range(n)

@app.ecall
def digest(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()

@app.ecall
def digests(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data).digest() for _ in range(20)]
"""

CASES = int(os.environ.get("SECGEAR_FUZZ_CASES", "200000"))
_encode = msgspec.msgpack.encode
# What rightly ends the enclave, or its reader's patience: an orderly end.
ENDING = frozenset({int(Kind.CLOSE)})


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Any:
    source = tmp_path_factory.mktemp("hostile") / "target.py"
    source.write_text(APP)
    return build(source)


@pytest.fixture
def host(image: Any) -> Iterator[LyingHost]:
    host = LyingHost(image)
    yield host
    host.stop()


def drain(host: LyingHost) -> None:
    """What the enclave says to hostile frames must be read, or it could not go on."""
    assert host.call("echo", text="still there") == "still there"


@pytest.mark.parametrize("seed", range(4))
def test_it_serves_on_through_hostile_frames(host: LyingHost, seed: int) -> None:
    hostile = Hostile(seed, ENDING)
    before = host.resident()
    for number, batch in enumerate(hostile.batches(CASES // 4 // 250, 250)):
        host.send(batch)
        answer = host.call("echo", text=f"round {number}")
        # Its calls may be used up by hostile ones that never end; then it says so.
        assert answer == f"round {number}" or "too many calls" in answer.text
    assert host.resident() - before < 250_000


def test_a_hostile_stream_of_calls_is_refused_at_the_limit(host: LyingHost) -> None:
    for id in range(1, 3000):
        head = CallHead("total", 0, (), (1,), msgspec.Raw(_encode({})))
        host.send(frame(Kind.CALL, id, _encode(head), flags=Flag.OURS))
    refused = host.call("echo", text="x")
    assert refused.code == "call.limit"
    for id in range(1, 3000):
        host.send(frame(Kind.CANCEL, id, flags=Flag.OURS))
    end = time.monotonic() + 20
    while host.call("echo", text="x") != "x":
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "sizes", [(1 << 40,), (1 << 30,) * 200, tuple([1] * 100_000), (-5,), ((1 << 64) - 1,)]
)
def test_declared_sizes_take_no_memory(host: LyingHost, sizes: tuple[int, ...]) -> None:
    before = host.resident()
    for id in range(1, 40):
        head = [b"".decode(), 0, sizes, (), {}]
        head[0] = "digest"
        host.send(frame(Kind.CALL, id, _encode(head), flags=Flag.OURS))
    drain(host)
    assert host.resident() - before < 100_000


def test_attachments_that_never_come_hold_a_bounded_amount(host: LyingHost) -> None:
    for id in range(1, 200):
        head = CallHead("digest", 0, (100 << 20,), (), msgspec.Raw(_encode({"data": 0})))
        host.send(frame(Kind.CALL, id, _encode(head), flags=Flag.OURS))
    drain(host)
    assert host.resident() < 2_000_000


@pytest.mark.parametrize("change", ["chunk", "size", "longer", "unknown"])
def test_forged_chunks_are_skipped(host: LyingHost, change: str) -> None:
    head = CallHead("digest", 0, (1000,), (), msgspec.Raw(_encode({"data": 0})))
    host.send(frame(Kind.CALL, 5, _encode(head), flags=Flag.OURS))
    payload = {
        "chunk": CHUNK.pack(1 << 20, 1000),
        "size": CHUNK.pack(0, 1 << 30),
        "longer": CHUNK.pack(0, 1001),
        "unknown": CHUNK.pack(0, 1000)[:5],
    }[change]
    host.send(frame(Kind.DATA, 5, payload, flags=Flag.OURS, index=ARGUMENTS))
    drain(host)


def test_memory_that_changes_while_it_is_read_gives_one_consistent_answer(
    host: LyingHost,
) -> None:
    """However often the app looks at its argument, it sees the same bytes."""
    import threading

    fd = host.running.shared_fd
    assert fd is not None
    arena = Arena(fd, host=True)
    stop = threading.Event()

    def scribble() -> None:
        while not stop.is_set():
            for value in (b"\x00", b"\xff"):
                arena._out[:CHUNK_SIZE] = value * CHUNK_SIZE

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for id in range(1, 60):
            host.begin(id, "digests", {"data": 0}, (CHUNK_SIZE,))
            data = frame(Kind.DATA, id, CHUNK.pack(0, CHUNK_SIZE), flags=Flag.OURS, index=ARGUMENTS)
            host.send(data)
            answer = host.until(lambda entry: entry.kind is Kind.RESULT)
            assert answer.id == id
            value = msgspec.msgpack.decode(answer.payload, type=ValueHead).value
            assert len(set(msgspec.msgpack.decode(value))) == 1
    finally:
        stop.set()
        thread.join()
        arena.close()
    drain(host)


def test_a_stream_is_not_granted_more_than_its_window(host: LyingHost) -> None:
    head = CallHead("upto", 0, (), (), msgspec.Raw(_encode({"n": 10**9})))
    host.send(frame(Kind.CALL, 1, _encode(head), flags=Flag.OURS))
    for grant in (1, 16, 1 << 40, 0, -1):
        host.send(frame(Kind.MORE, 1, _encode(More(grant)), flags=Flag.OURS))
    drain(host)
    host.send(frame(Kind.STOP, 1, flags=Flag.OURS))
    drain(host)


def test_a_flood_of_items_is_cut_at_the_window(host: LyingHost) -> None:
    head = CallHead("total", 0, (), (1,), msgspec.Raw(_encode({})))
    host.send(frame(Kind.CALL, 1, _encode(head), flags=Flag.OURS))
    item = frame(
        Kind.ITEM,
        1,
        _encode(ValueHead((), msgspec.Raw(_encode("no int")))),
        flags=Flag.OURS,
        index=1,
    )
    host.send(item * 5000)
    drain(host)


def test_nothing_can_be_called_before_hello(image: Any) -> None:
    host = LyingHost(image, meet=False)
    hellos = [
        Hello(VERSION, bytes(48), Limits()),
        Hello(VERSION + 1, image.interface.digest(), Limits()),
    ]
    try:
        for number, hello in enumerate(hellos, 1):
            host.begin(number, "echo", {"text": "x"})
            assert host.fault(number) == "call.unknown"
            host.send(frame(Kind.HELLO, 0, _encode(hello)))
            assert host.fault(0) == "interface.mismatch"
    finally:
        host.stop()


def test_lost_framing_ends_the_enclave_cleanly(host: LyingHost) -> None:
    host.send(HEADER.pack(HARD_CAP + 1, Kind.CALL, 0, 0, 1))
    with pytest.raises(EOFError):
        host.until(lambda _: False)
    end = time.monotonic() + 10
    while not host.running.diagnose():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "status 0" in host.running.diagnose()


def test_a_host_that_goes_away_in_the_middle_of_a_frame_ends_it(image: Any) -> None:
    host = LyingHost(image)
    host.send(frame(Kind.CALL, 1, b"x" * 100, flags=Flag.OURS)[:50])
    host.running.stream.close()
    host.running.stop(10)
    assert "status 0" in host.running.diagnose()
