"""Calls at the edges of what a frame can hold: a result or a typed error, never silence."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from secgear import errors
from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.wire import (
    ARGUMENTS,
    Flag,
    Kind,
    Limits,
    ValueHead,
    frame,
)
from tests.adversary.lying_host import LyingHost
from tests.base.transports import TRANSPORTS, Launch, launcher

MEMORY = 512 << 20

APP = f"""
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from secgear import App

app = App("edges", requires=["numpy"], threads=3, memory={MEMORY})

@app.ecall(raises=[ValueError])
def refuse(text: str, half: bool = False) -> None:
    raise ValueError(text + ("\\ud800" if half else ""))

@app.ecall
def break_down(text: str) -> None:
    raise RuntimeError(text * 20_000)

@app.ecall
def echo(value: Any) -> Any:
    return value

@app.ecall
def nested(depth: int) -> Any:
    value = None
    for _ in range(depth):
        value = [value]
    return value

@app.ecall
def many(count: int) -> list[np.ndarray]:
    return [np.full(3, number) for number in range(count)]

@app.ecall
def add_up(arrays: list[np.ndarray]) -> int:
    return int(sum(array.sum() for array in arrays))

@app.ecall
def sizes(parts: Iterator[bytes]) -> list[int]:
    return [len(part) for part in parts]

@app.ecall
def parts(count: int, size: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number]) * size

@app.ecall
def odd_text() -> str:
    return "\\ud800"

@app.ecall
def asks(text: str) -> str:
    try:
        return ask(text)
    except Exception as error:
        return type(error).__name__

@app.ecall
def linger(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)

@app.ocall(raises=[KeyError])
def ask(text: str) -> str: ...
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edges") / "edges.py"
    path.write_text(APP)
    return path


@pytest.fixture(scope="module", params=TRANSPORTS)
def launch(request: pytest.FixtureRequest) -> Launch:
    """`secgear.launch` whose handle makes its calls over one of the transports."""
    return launcher(request.param)


@pytest.fixture(scope="module")
def enclave(source: Path, launch: Launch) -> Iterator[Any]:
    limits = Limits(attachments=2000)
    with launch(source, limits=limits, deadline=30, ocalls={"ask": str.upper}) as enclave:
        yield enclave


def check(enclave: Enclave) -> None:
    assert enclave.echo("still there") == "still there"


# --- text ----------------------------------------------------------------------------------------


def test_half_characters_in_an_error_do_not_silence_it(enclave: Any) -> None:
    with pytest.raises(ValueError, match=r"sorry\?"):
        enclave.refuse("sorry", half=True)
    check(enclave)


def test_half_characters_in_a_result_are_an_error(enclave: Any) -> None:
    with pytest.raises(errors.EnclaveInternalError):
        enclave.odd_text()
    check(enclave)


@pytest.mark.parametrize("text", ["x", "é", "\U0001f512"])
def test_endless_error_texts_fit_whatever_they_are_written_in(enclave: Any, text: str) -> None:
    with pytest.raises(errors.EnclaveInternalError):
        enclave.break_down(text)
    with pytest.raises(ValueError, match=text):
        enclave.refuse(text * 100_000)
    check(enclave)


# --- depth and number ----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [10, *range(860, 1010, 10), 5000])
def test_any_depth_of_nesting_is_a_value_or_a_limit(enclave: Any, depth: int) -> None:
    value: Any = None
    for _ in range(depth):
        value = [value]
    for call in (lambda: enclave.nested(depth), lambda: enclave.echo(value)):
        try:
            result = call()
        except (errors.LimitExceeded, errors.EnclaveInternalError):
            assert depth > 500
        else:
            for _ in range(depth):
                (result,) = result
            assert result is None
    check(enclave)


@pytest.mark.parametrize("count", [0, 1, 256, 500, 1500])
def test_many_small_arrays_come_in_one_result(enclave: Any, count: int) -> None:
    arrays = enclave.many(count)
    assert [int(array[0]) for array in arrays] == list(range(count))


def test_more_attachments_than_the_other_side_takes_are_refused_here(enclave: Any) -> None:
    with pytest.raises(errors.LimitExceeded, match="attachments"):
        enclave.add_up([np.ones(1, dtype=np.int64)] * 300)
    assert enclave.add_up([np.ones(1, dtype=np.int64)] * 256) == 256


@pytest.mark.parametrize("spare", [0, 1000, 1024, 2000, 5000])
def test_the_largest_message_arrives_or_is_refused_here(enclave: Any, spare: int) -> None:
    text = "x" * (Limits().message - spare)
    try:
        assert enclave.echo(text) == text
    except errors.LimitExceeded:
        assert spare < 2000
    check(enclave)


# --- streams of large items ----------------------------------------------------------------------


def test_a_stream_of_items_larger_than_memory_in_all(enclave: Any) -> None:
    """Sixteen of these, which is a window, would not fit into the enclave."""
    count, size = 12, 60 << 20
    assert count * size > MEMORY
    assert enclave.sizes(bytes(size) for _ in range(count)) == [size] * count


def test_a_stream_of_large_results_is_not_produced_ahead(enclave: Any) -> None:
    count, size = 12, 60 << 20
    stream = enclave.parts(count, size)
    time.sleep(0.3)
    for number in range(count):
        item = next(stream)
        assert (len(item), item[0], item[-1]) == (size, number, number)
    assert next(stream, None) is None


# --- a host that breaks its own calls ------------------------------------------------------------


@pytest.fixture(scope="module")
def raw(source: Path) -> Iterator[LyingHost]:
    host = LyingHost(build(source, debug=True))
    yield host
    host.stop()


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x95\xa4echo\x00\x90\x90" + b"\x91" * 5000 + b"\xc0", "call.limit"),
        (b"\x95\xa4echo\x00\x90\x90\x81\xa5value" + b"\x91" * 5000 + b"\xc0", "call.limit"),
        (b"\x95\xa2\xff\xff\x00\x90\x90\x80", "wire.protocol"),
        (b"\x95\xa4echo\x00\x90\x90\x81\xa5value\xa2\xff\xff", "call.argument"),
        (b"\x95\xa4echo\x00\x90\x90\x81\xa2\xff\xff\x01", "call.argument"),
        (b"\xc1", "wire.protocol"),
        (b"", "wire.protocol"),
        (bytes((8 << 20) + 1), "wire.protocol"),
    ],
)
def test_a_broken_call_is_answered_like_any_other(
    raw: LyingHost, payload: bytes, code: str
) -> None:
    raw.send(frame(Kind.CALL, 1000, payload, flags=Flag.OURS))
    answered = raw.fault(1000)
    assert answered == code or {answered, code} <= {"call.limit", "wire.protocol"}
    assert raw.call("echo", value="x") == "x"


def test_calls_cancelled_before_their_arguments_came_leave_nothing(raw: LyingHost) -> None:
    """Together these would be many times what the enclave accepts, and more calls than it does."""
    for id in range(2000, 5000):
        raw.begin(id, "echo", {"value": 0}, (MEMORY // 4,))
        raw.send(frame(Kind.DATA, id, b"x", flags=Flag.OURS | Flag.INLINE, index=ARGUMENTS))
        raw.send(frame(Kind.CANCEL, id, flags=Flag.OURS))
    assert raw.call("echo", value="x") == "x"


def test_forged_answers_to_an_ocall_fail_it_or_are_ignored(raw: LyingHost) -> None:
    encode = msgspec.msgpack.encode
    good = encode(ValueHead((), msgspec.Raw(encode("answer"))))
    forgeries: list[tuple[Any, str | None]] = [
        (lambda id: frame(Kind.RESULT, id, encode(ValueHead((), msgspec.Raw(encode(5))))), "Arg"),
        (lambda id: frame(Kind.RESULT, id, b"\x92\x90\xa2\xff\xff"), "Arg"),
        (lambda id: frame(Kind.RESULT, id, b"\x92\x90" + b"\x91" * 5000 + b"\xc0"), "Limit"),
        (lambda id: frame(Kind.RESULT, id, encode([[1 << 40], 0])), "Limit"),
        (lambda id: frame(Kind.RESULT, id, good, flags=Flag.STREAM), None),
        (lambda id: frame(Kind.RESULT, id + 1000, good), None),
        (lambda id: frame(Kind.RESULT, id, b"\xc1"), None),
        (lambda id: frame(Kind.END, id), None),
        (lambda id: frame(Kind.ITEM, id, good), None),
        (lambda id: frame(Kind.ERROR, id, encode(["enclave.declared", "x", "KeyError"])), "KeyE"),
        (lambda id: frame(Kind.ERROR, id, encode(["enclave.declared", "x", "Fake"])), "Protocol"),
        (lambda id: frame(Kind.ERROR, id, encode(["nonsense", "x"])), "Protocol"),
        (lambda id: frame(Kind.ERROR, id, b"\x92\xa1\xff\xa1\xff"), None),
        (lambda id: frame(Kind.CANCEL, id, flags=Flag.OURS), None),
    ]
    for number, (forge, error) in enumerate(forgeries):
        mine = 6000 + number
        raw.begin(mine, "asks", {"text": "x"})
        asked = raw.receive()
        assert asked.kind is Kind.CALL
        raw.send(forge(asked.id))
        if error is None:
            raw.send(frame(Kind.RESULT, asked.id, good))
        while (entry := raw.receive()).kind is Kind.CANCEL:
            pass
        assert (entry.kind, entry.id) == (Kind.RESULT, mine), (number, entry)
        head = msgspec.msgpack.decode(entry.payload, type=ValueHead)
        answer = msgspec.msgpack.decode(head.value)
        assert answer.startswith(error) if error else answer == "answer", (number, answer)


# --- a deadline in the middle ---------------------------------------------------------------------


def test_a_stopped_process_does_not_stop_its_host(source: Path, launch: Launch) -> None:
    import signal

    with launch(source, deadline=30) as enclave:
        assert enclave.pid is not None
        os.kill(enclave.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            late = enclave.options(deadline=0.2)
            for size in (10, 5_000_000, 50_000_000):
                with pytest.raises(errors.DeadlineExceeded):
                    late.echo("x" * min(size, 8_000_000))
                with pytest.raises(errors.DeadlineExceeded):
                    late.sizes(iter([bytes(size)]))
            assert time.monotonic() - began < 10
        finally:
            os.kill(enclave.pid, signal.SIGCONT)
        check(enclave)


def test_a_nested_call_keeps_its_deadline(source: Path, launch: Launch) -> None:
    def ask(text: str) -> str:
        with pytest.raises(errors.DeadlineExceeded):
            enclave.options(deadline=0.2).linger(20.0)
        return text.upper()

    with launch(source, deadline=60, ocalls={"ask": ask}) as enclave:
        began = time.monotonic()
        assert enclave.asks("late") == "LATE"
        assert time.monotonic() - began < 10
        check(enclave)


def test_threads_that_call_while_it_closes_all_come_back(source: Path, launch: Launch) -> None:
    opened = launch(source, deadline=30)
    enclave = opened.__enter__()
    outcomes: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                assert enclave.echo("x" * 100_000) == "x" * 100_000
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    enclave.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert len(outcomes) == 16
    assert all(isinstance(error, errors.EnclaveLost) for error in outcomes), outcomes
    opened.__exit__(None, None, None)
