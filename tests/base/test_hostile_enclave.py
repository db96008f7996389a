"""An enclave that lies to its host: each lie ends in a typed error, and nothing else suffers."""

from __future__ import annotations

import contextlib
import gc
import logging
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
    CHUNK,
    HARD_CAP,
    HEADER,
    VALUE,
    VERSION,
    CallHead,
    ErrorBody,
    Flag,
    Frame,
    Kind,
    Limits,
    LogRecord,
    Ready,
    ValueHead,
    frame,
)
from tests.adversary.frames import Hostile
from tests.adversary.lying_enclave import LyingEnclave, LyingTee, Script, quiet

APP = """
from collections.abc import Iterator
import msgspec
from secgear import App

app = App("liar")

class Person(msgspec.Struct):
    name: str

@app.ecall
def echo(text: str) -> str: ...

@app.ecall(raises=[ValueError])
def person() -> Person: ...

@app.ecall
def blob() -> bytes: ...

@app.ecall
def upto(n: int) -> Iterator[int]: ...

@app.ocall
def ask(text: str) -> str: ...
"""

_encode = msgspec.msgpack.encode
CASES = int(os.environ.get("SECGEAR_FUZZ_CASES", "200000"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    source = tmp_path_factory.mktemp("liar") / "liar.py"
    source.write_text(APP)
    return build(source, debug=True)


Start = Callable[..., Enclave]


@pytest.fixture
def start(image: Image) -> Iterator[Start]:
    started: list[Enclave] = []

    def start(script: Script, *, ocalls: Any = None, deadline: float = 10) -> Enclave:
        enclave = Enclave(
            LyingTee(script).launch(image, LaunchConfig()),
            image,
            "lying",
            types=HostTypes(image.interface),
            ocalls=ocalls or {},
            limits=Limits(),
            deadline=deadline,
            timeout=10,
        )
        started.append(enclave)
        return enclave

    yield start
    for enclave in started:
        enclave.close(0)


def answering(make: Callable[[int], bytes]) -> Script:
    """Answers each CALL with what `make` says."""

    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            enclave.say(make(entry.id))

    return script


def value(id: int, content: Any, sizes: tuple[int, ...] = (), flags: int = 0) -> bytes:
    head = ValueHead(sizes, msgspec.Raw(_encode(content)))
    return frame(Kind.RESULT, id, _encode(head), flags=flags)


def fault(id: int, *fields: str) -> bytes:
    return frame(Kind.ERROR, id, _encode(ErrorBody(*fields)))


def test_an_honest_answer_arrives(start: Start) -> None:
    assert start(answering(lambda id: value(id, "hello"))).echo("x") == "hello"


# --- results that do not fit: an error for that call, the connection lives ------------------------


@pytest.mark.parametrize(
    ("call", "make"),
    [
        ("echo", lambda id: value(id, 5)),
        ("echo", lambda id: value(id, {"a": "b"})),
        ("person", lambda id: value(id, {"name": 5})),
        ("person", lambda id: value(id, {})),
        ("blob", lambda id: value(id, "text")),
        ("blob", lambda id: value(id, 7, (0,))),
        ("echo", lambda id: value(id, "x", (0,))),
    ],
)
def test_a_result_of_the_wrong_type_is_an_argument_error(
    start: Start, call: str, make: Callable[[int], bytes]
) -> None:
    enclave = start(answering(make))
    with pytest.raises(errors.ArgumentError, match="result"):
        enclave.call(call, *(["x"] if call == "echo" else []))
    assert enclave.alive


@pytest.mark.parametrize("sizes", [(1 << 40,), (1 << 62,), (1,) * 1000])
def test_a_result_that_claims_to_be_huge_is_a_limit(start: Start, sizes: tuple[int, ...]) -> None:
    enclave = start(answering(lambda id: value(id, 0, sizes)))
    with pytest.raises(errors.LimitExceeded):
        enclave.blob()
    assert enclave.alive


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        (("enclave.declared", "x", "KeyError"), errors.ProtocolError, "undeclared"),
        (("enclave.declared", "x", "SystemExit"), errors.ProtocolError, "undeclared"),
        (("no.such.code", "x"), errors.ProtocolError, "unknown error code"),
        (("call.limit", "x"), errors.LimitExceeded, "x"),
        (("enclave.internal", "", "", "1234"), errors.EnclaveInternalError, "1234"),
        (("enclave.declared", "told", "ValueError"), ValueError, "told"),
    ],
)
def test_errors_are_only_what_the_interface_allows(
    start: Start, fields: tuple[str, ...], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        start(answering(lambda id: fault(id, *fields))).person()


def test_text_from_the_enclave_is_clipped(start: Start) -> None:
    with pytest.raises(errors.SecGearError) as caught:
        start(answering(lambda id: fault(id, "x" * 20_000, "y" * 20_000, "z" * 20_000))).person()
    assert len(str(caught.value)) < 20_000


# --- lies about the protocol: the connection ends -------------------------------------------------


def _stream(id: int) -> bytes:
    return value(id, None, flags=Flag.STREAM)


LIES: dict[str, Callable[[int], bytes]] = {
    "result of a call never made": lambda id: value(id + 1000, "x"),
    "error of a call never made": lambda id: fault(id + 1000, "call.limit", "x"),
    "stream where a value is declared": _stream,
    "unknown kind": lambda id: frame(99, id),  # type: ignore[arg-type]
    "kind that only hosts send": lambda id: frame(Kind.HELLO, 0, b"x"),
    "no msgpack": lambda id: frame(Kind.RESULT, id, b"\xc1\xc1"),
    "no utf-8": lambda id: frame(Kind.ERROR, id, b"\x92\xa1\xff\xa1\xff"),
    "too long": lambda id: frame(Kind.LOG, 0, bytes(100_000)),
    "framing lost": lambda id: HEADER.pack(HARD_CAP + 1, Kind.LOG, 0, 0, 0),
    "ready twice": lambda id: frame(Kind.READY, 0, _encode(Ready(VERSION, bytes(48), Limits()))),
    "credit it does not hold": lambda id: frame(Kind.CREDIT, 0),
    "chunk outside": lambda id: frame(Kind.DATA, id, CHUNK.pack(99, 10), index=VALUE),
    "too much data": lambda id: (
        value(id, 0, (10,)) + frame(Kind.DATA, id, bytes(11), flags=Flag.INLINE, index=VALUE)
    ),
    "item of no stream's call": lambda id: frame(Kind.ITEM, id + 1000, b"x"),
    "end of no stream": lambda id: frame(Kind.END, id),
    "ocall with an id of ours": lambda id: frame(Kind.CALL, id, b"x"),
    "bad log": lambda id: frame(Kind.LOG, 0, _encode(["level", "x", "y", 0])),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_connection_with_an_explanation(start: Start, lie: str) -> None:
    enclave = start(answering(LIES[lie]))
    with pytest.raises(errors.EnclaveLost):
        enclave.echo("x")
    end = time.monotonic() + 5
    while enclave.alive:
        assert time.monotonic() < end
    with pytest.raises(errors.EnclaveLost, match="protocol"):
        enclave.echo("again")


@pytest.mark.parametrize(
    "ready",
    [
        Ready(VERSION, bytes(48), Limits()),
        Ready(VERSION + 1, b"", Limits()),
    ],
)
def test_another_interface_than_promised_is_refused(image: Image, ready: Ready) -> None:
    running = LyingEnclave(b"", quiet)
    running._digest = ready.digest
    with pytest.raises(errors.SecGearError, match=r"interface|protocol"):
        Enclave(
            running,
            image,
            "lying",
            types=HostTypes(image.interface),
            ocalls={},
            limits=Limits(),
            deadline=5,
            timeout=5,
        )


def test_items_beyond_the_window_end_the_connection(start: Start) -> None:
    item = _encode(ValueHead((), msgspec.Raw(_encode(1))))

    def make(id: int) -> bytes:
        return _stream(id) + frame(Kind.ITEM, id, item) * 1000

    enclave = start(answering(make))
    with pytest.raises(errors.EnclaveLost):
        list(enclave.upto(5))


def test_a_silent_enclave_is_given_up_at_the_deadline(start: Start) -> None:
    with pytest.raises(errors.DeadlineExceeded):
        start(quiet, deadline=0.3).echo("x")


def test_a_late_answer_is_forgotten(start: Start) -> None:
    late: list[int] = []

    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            late.append(entry.id)
        elif entry.kind is Kind.CANCEL:
            enclave.say(value(late[0], "too late"))
        if len(late) == 2:
            enclave.say(value(late.pop(), "in time"))

    enclave = start(script, deadline=0.3)
    with pytest.raises(errors.DeadlineExceeded):
        enclave.echo("x")
    assert enclave.options(deadline=10).echo("y") == "in time"


# --- floods ---------------------------------------------------------------------------------------


def test_ocalls_it_does_not_declare_are_refused_one_by_one(start: Start) -> None:
    refusals: list[str] = []
    done = threading.Event()

    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            for number, name in enumerate(["ask", "open", "__import__", "close", "ask"], 1):
                head = CallHead(name, 0, (), (), msgspec.Raw(_encode({"text": 5})))
                enclave.say(frame(Kind.CALL, number, _encode(head), flags=Flag.OURS))
        elif entry.kind is Kind.ERROR:
            refusals.append(msgspec.msgpack.decode(entry.payload, type=ErrorBody).code)
            if len(refusals) == 5:
                done.set()

    asked: list[str] = []
    enclave = start(script, ocalls={"ask": asked.append}, deadline=1)
    with pytest.raises(errors.DeadlineExceeded):
        enclave.echo("x")
    assert done.wait(10)
    assert sorted(refusals) == [*["call.argument"] * 2, *["call.unknown"] * 3]
    assert asked == []


def test_a_flood_of_ocalls_is_bounded(start: Start) -> None:
    release = threading.Event()
    running = 0
    most = 0
    lock = threading.Lock()

    def ask(_: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        release.wait(20)
        with lock:
            running -= 1
        return ""

    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.HELLO:
            head = CallHead("ask", 0, (), (), msgspec.Raw(_encode({"text": "x"})))
            for id in range(1, 3000):
                enclave.say(frame(Kind.CALL, id, _encode(head), flags=Flag.OURS))
        elif entry.kind is Kind.CALL:
            enclave.say(value(entry.id, "ok"))

    enclave = start(script, ocalls={"ask": ask})
    assert enclave.echo("x") == "ok"
    assert most <= 256
    release.set()


def test_a_flood_of_log_records_is_data_and_nothing_more(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    record = LogRecord(20, "\x1b[2Jname", "\x1b]0;owned\x07\nfake line", 0)

    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            enclave.say(frame(Kind.LOG, 0, _encode(record)) * 2000)
            enclave.say(value(entry.id, "ok"))

    with caplog.at_level(logging.INFO):
        assert start(script).echo("x") == "ok"
    messages = [entry.getMessage() for entry in caplog.records if "enclave" in entry.name]
    assert messages
    assert all(message.isprintable() for message in messages)


def test_a_flood_of_platform_requests_ends_the_connection(start: Start) -> None:
    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.HELLO:
            release = threading.Event()
            enclave.platform = lambda _: str(release.wait(3)).encode()  # type: ignore[method-assign]
        elif entry.kind is Kind.CALL:
            enclave.say(frame(Kind.PLATFORM, 1, bytes(60_000)) * 500)
            enclave.say(value(entry.id, "ok"))

    with pytest.raises(errors.EnclaveLost, match="platform"):
        start(script).echo("x")


@pytest.mark.parametrize("seed", range(4))
def test_hostile_frames_never_crash_hang_or_fool_the_host(
    start: Start, image: Image, seed: int
) -> None:
    """Each connection ends at its first violation, so there are many, with few frames each."""
    hostile = Hostile(seed)
    # Frames that would be answers are made for low ids, which our calls have.
    share = CASES // 4
    size = 50
    script_lock = threading.Lock()

    def script(enclave: LyingEnclave, entry: Frame) -> None:
        if entry.kind is Kind.CALL:
            with script_lock:
                enclave.say(hostile.batch(size))
            enclave.hang_up()

    connections = min(share // size, 300)
    for _ in range(connections):
        enclave = start(script, ocalls={"ask": lambda text: text}, deadline=5)
        outcome: Any = None
        with contextlib.suppress(errors.CallError):
            outcome = enclave.echo("x")
        assert outcome is None or isinstance(outcome, str)
        enclave.close(0)


def test_nothing_is_left_of_lying_enclaves(start: Start) -> None:
    def one() -> None:
        enclave = start(answering(LIES["no msgpack"]))
        with pytest.raises(errors.EnclaveLost):
            enclave.echo("x")
        enclave.close(0)

    one()
    gc.collect()
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(20):
        one()
    gc.collect()
    end = time.monotonic() + 10
    while sum(1 for _ in Path("/proc/self/fd").iterdir()) > before:
        assert time.monotonic() < end
        time.sleep(0.05)
