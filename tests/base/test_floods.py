"""Enclaves that flood their host, starve it, or promise what they never send.

The host's memory, threads and patience are bounded whatever an enclave does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from secgear import errors
from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import Image
from secgear.base.schema import HostTypes
from secgear.base.tee import LaunchConfig
from secgear.base.wire import (
    VALUE,
    CallHead,
    ErrorBody,
    Flag,
    Frame,
    Kind,
    Limits,
    ValueHead,
    frame,
)
from tests.adversary.lying_enclave import LyingEnclave, LyingTee, Script

APP = """
from collections.abc import Iterator
from secgear import App

app = App("flood")

@app.ecall
def echo(text: str) -> str: ...

@app.ecall
def blob(data: bytes = b"") -> bytes: ...

@app.ecall
def blobs() -> Iterator[bytes]: ...

@app.ecall
def feed(numbers: Iterator[int]) -> int: ...

@app.ocall
def ask(text: str) -> str: ...
"""

_encode = msgspec.msgpack.encode
Start = Callable[..., Enclave]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    source = tmp_path_factory.mktemp("flood") / "flood.py"
    source.write_text(APP)
    return build(source, debug=True)


@pytest.fixture
def start(image: Image) -> Iterator[Start]:
    started: list[Enclave] = []

    def start(
        script: Script, *, deadline: float = 20, limits: Limits | None = None, shared: bool = True
    ) -> Enclave:
        enclave = Enclave(
            LyingTee(script, shared=shared).launch(image, LaunchConfig()),
            image,
            "lying",
            types=HostTypes(image.interface),
            ocalls={"ask": lambda text: text},
            limits=limits or Limits(),
            deadline=deadline,
            timeout=10,
        )
        started.append(enclave)
        return enclave

    yield start
    for enclave in started:
        enclave.close(0)


def resident() -> int:
    """MiB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


def value(id: int, content: Any, sizes: tuple[int, ...] = (), flags: int = 0) -> bytes:
    return frame(
        Kind.RESULT, id, _encode(ValueHead(sizes, msgspec.Raw(_encode(content)))), flags=flags
    )


def on_call(answer: Callable[[LyingEnclave, int], None]) -> Script:
    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            answer(enclave, entry.id)

    return script


class Stalled:
    """Reads nothing after its first CALL, until it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            self.go_on.wait(30)


# --- an enclave that does not read ---------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_calls_to_an_enclave_that_reads_nothing_end_at_their_deadline(
    start: Start, shared: bool
) -> None:
    stalled = Stalled()
    enclave = start(stalled, deadline=0.3, shared=shared)
    began = time.monotonic()
    for size in (10, 1_000_000, 30_000_000, 10):
        with pytest.raises(errors.DeadlineExceeded):
            enclave.blob(bytes(size))
    with pytest.raises(errors.DeadlineExceeded):
        enclave.submit.blob(bytes(1_000_000)).result(10)
    assert time.monotonic() - began < 8
    stalled.go_on.set()


def test_closing_frees_those_who_wait_without_a_deadline(start: Start) -> None:
    stalled = Stalled()
    enclave = start(stalled).options(deadline=None)
    handle = start(stalled)
    failed: list[BaseException] = []

    def call(face: Any) -> None:
        try:
            face.blob(bytes(5_000_000))
        except errors.EnclaveLost as error:
            failed.append(error)

    face = handle.options(deadline=None)
    threads = [threading.Thread(target=call, args=(face,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    handle.close(0.2)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert len(failed) == 5
    assert enclave is not None
    stalled.go_on.set()


def test_an_enclave_that_asks_and_never_reads_answers_is_given_up(start: Start) -> None:
    """Each refusal would wait in our memory for ever."""
    head = CallHead("no such function", 0, (), (), msgspec.Raw(_encode({})))
    payload = _encode(head)

    def flood(enclave: LyingEnclave, id: int) -> None:
        for first in range(1, 400_000, 1000):
            enclave.say(
                b"".join(
                    frame(Kind.CALL, number, payload, flags=Flag.OURS)
                    for number in range(first, first + 1000)
                )
            )

    before = resident()
    enclave = start(on_call(flood))
    with pytest.raises(errors.EnclaveLost, match="reads no answers"):
        enclave.echo("x")
    assert resident() - before < 100


def test_errors_about_no_call_after_the_start_end_the_connection(start: Start) -> None:
    body = _encode(ErrorBody("enclave.internal", "x"))
    enclave = start(on_call(lambda enclave, id: enclave.say(frame(Kind.ERROR, 0, body) * 5)))
    with pytest.raises(errors.EnclaveLost, match="protocol"):
        enclave.echo("x")


# --- promises ------------------------------------------------------------------------------------


def test_a_promise_of_gigabytes_takes_no_memory(start: Start) -> None:
    limit = Limits().attached
    enclave = start(
        on_call(lambda enclave, id: enclave.say(value(id, 0, (limit // 2, limit // 2)))),
        deadline=1,
    )
    before = resident()
    most = 0
    future = enclave.submit.blob()
    for _ in range(20):
        most = max(most, resident() - before)
        time.sleep(0.05)
    with pytest.raises(errors.DeadlineExceeded):
        future.result(10)
    assert most < 150


def test_promises_count_together_and_are_forgotten_with_their_calls(start: Start) -> None:
    """What was promised to calls that were given up is no burden on those that come later."""
    limits = Limits(attached=1 << 20, assembling=3 << 20)
    honest = threading.Event()

    def answer(enclave: LyingEnclave, id: int) -> None:
        if honest.is_set():
            enclave.say(value(id, 0, (1000,)))
            data = frame(Kind.DATA, id, bytes(1000), flags=Flag.INLINE, index=VALUE)
            enclave.say(data)
        else:
            enclave.say(value(id, 0, (1 << 20,)))

    enclave = start(on_call(answer), deadline=0.2, limits=limits)
    outcomes = []
    for future in [enclave.submit.blob() for _ in range(8)]:
        outcomes.append(type(future.exception(10)))
    assert outcomes.count(errors.LimitExceeded) >= 5
    assert outcomes.count(errors.DeadlineExceeded) <= 3
    honest.set()
    assert enclave.options(deadline=10).blob() == bytes(1000)


def test_items_nobody_takes_are_bounded_in_bytes(start: Start) -> None:
    """A window of items says nothing about memory; the limit on what waits here does."""
    size = 1 << 20

    def answer(enclave: LyingEnclave, id: int) -> None:
        enclave.say(value(id, None, flags=Flag.STREAM))
        head = _encode(ValueHead((size,), msgspec.Raw(_encode(0))))
        for _ in range(16):
            enclave.say(frame(Kind.ITEM, id, head))
            for _ in range(4):
                enclave.say(frame(Kind.DATA, id, bytes(size // 4), flags=Flag.INLINE))

    limits = Limits(attached=4 << 20, assembling=5 * size)
    stream = start(on_call(answer), limits=limits).blobs()
    time.sleep(0.3)
    with pytest.raises(errors.LimitExceeded, match="item of a stream"):
        list(stream)


def test_grants_beyond_the_window_end_the_connection(start: Start) -> None:
    def answer(enclave: LyingEnclave, id: int) -> None:
        enclave.say(frame(Kind.MORE, id, _encode([1 << 40]), index=1))

    with pytest.raises(errors.EnclaveLost, match="window"):
        start(on_call(answer)).feed(iter(range(10)))


@pytest.mark.parametrize("deep", [900, 980, 2000, 100_000])
def test_a_deeply_nested_answer_fails_that_call_alone(start: Start, deep: int) -> None:
    def answer(enclave: LyingEnclave, id: int) -> None:
        body = b"\x91" * deep + b"\xc0"
        enclave.say(frame(Kind.RESULT, id, b"\x92\x90" + body))

    enclave = start(on_call(answer))
    with pytest.raises((errors.LimitExceeded, errors.ArgumentError)):
        enclave.echo("x")
    assert enclave.alive


# --- what is left --------------------------------------------------------------------------------


def test_threads_leave_with_their_enclave(start: Start) -> None:
    others = set(threading.enumerate())  # of enclaves that other tests keep

    def names() -> set[str]:
        return {
            thread.name
            for thread in set(threading.enumerate()) - others
            if thread.name.startswith(("secgear-read", "secgear-flush"))
        }

    stalled = Stalled()
    enclave = start(stalled, deadline=0.2, shared=False)
    with pytest.raises(errors.DeadlineExceeded):
        enclave.blob(bytes(5_000_000))
    assert any(name.startswith("secgear-flush") for name in names())
    enclave.close(0.1)
    stalled.go_on.set()
    end = time.monotonic() + 10
    while names():
        assert time.monotonic() < end, names()
        time.sleep(0.05)
