"""A host that lies on a lane: each lie is answered by an error or ends that lane, nothing else."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.base.build import build
from secgear.base.image import Image
from secgear.base.switchless.messages import (
    BEGIN,
    FAST,
    FAULT,
    NESTED,
    OCALL,
    PART,
    PING,
    WHOLE,
)
from secgear.base.transport.geometry import Geometry
from secgear.base.wire import Abandon, ErrorBody, Flag, Hello, Kind, Limits, frame
from tests.adversary.lying_host import LyingHost

GEOMETRY = Geometry(3, 64, 1 << 20, 1 << 16, 99)
FUNCTIONS = [
    "add",
    "array",
    "ask",
    "ask_and_tell",
    "ask_large",
    "ask_stream",
    "call_id",
    "cleanings",
    "descriptors",
    "double",
    "echo",
]
ADD, ASK, ECHO = (FUNCTIONS.index(name) for name in ("add", "ask", "echo"))
ANSWER = 0
encode = msgspec.msgpack.encode


@pytest.fixture(scope="module")
def image(source: Path) -> Image:
    image = build(source, debug=True)
    assert sorted(image.interface.ecalls)[: len(FUNCTIONS)] == FUNCTIONS
    assert sorted(image.interface.ocalls)[ANSWER] == "answer"
    return image


@pytest.fixture
def host(image: Image) -> Iterator[LyingHost]:
    host = LyingHost(image, geometry=GEOMETRY)
    assert host.lanes == 3
    yield host
    host.stop()


def ask(lane: Any, id: int, tag: int, payload: bytes) -> tuple[int, Any]:
    """Kind of the answer, and what it holds."""
    answer = lane.call(id, tag, payload, 20)
    assert answer is not None, "no answer"
    assert answer[0] == id
    kind = answer[1] & (0x3F << 24)
    if kind == FAULT:
        return kind, msgspec.msgpack.decode(answer[2], type=ErrorBody).code
    return kind, answer[2]


def call_on(lane: Any, id: int) -> None:
    """Calls, until the enclave has noticed."""
    for later in range(id, 1000):
        assert lane.call(later, FAST | ADD, encode((1, 2)), 20) is not None


def serves(lane: Any, id: int) -> None:
    assert ask(lane, id, FAST | ADD, encode((1, 2))) == (FAST, encode(3))


# --- calls ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "payload", "code"),
    [
        (FAST | ADD, b"", "call.argument"),
        (FAST | ADD, b"\xc1", "call.argument"),
        (FAST | ADD, encode(()), "call.argument"),
        (FAST | ADD, encode((1, 2, 3)), "call.argument"),
        (FAST | ADD, encode(("1", 2)), "call.argument"),
        (FAST | ADD, encode((1, 2)) + b"x", "call.argument"),
        (FAST | ADD, b"\x92" + b"\x91" * 20, "call.argument"),
        (FAST | ADD, b"\x92\x01" + bytes(1000), "call.argument"),
        (FAST | 500, encode((1, 2)), "wire.protocol"),
        (FAST | 0xFFFFFF, b"", "wire.protocol"),
        (FAST | FUNCTIONS.index("ask_stream"), b"", "call.argument"),
        (FAST | FUNCTIONS.index("array"), b"\xff", "call.argument"),
        (WHOLE | ADD, b"", "wire.protocol"),
        (WHOLE | ADD, b"\xc1", "wire.protocol"),
        (WHOLE | ADD, encode((b"\xc1", [])), "call.argument"),
        (WHOLE | ADD, encode((encode({"a": 1}), [b"x"])), "call.argument"),
        (WHOLE | ADD, encode((encode({"b": 1}), [])), "call.argument"),
        (WHOLE | ADD, encode((encode({"a": 1, "c": 1}), [])), "call.argument"),
        (WHOLE | ADD, encode((b"\x91" * 20 + b"\xc0", [])), "call.argument"),
        (WHOLE | ADD, encode((bytes(200), [])), "call.argument"),
        (WHOLE | ECHO, encode((encode({"data": 0}), [])), "call.argument"),
        (WHOLE | ECHO, encode((encode({"data": 0}), [b""] * 300)), "call.limit"),
        (BEGIN | ECHO, b"", "wire.protocol"),
        (BEGIN | ECHO, encode((-1, [])), "wire.protocol"),
        (BEGIN | ECHO, encode((5, [-1])), "wire.protocol"),
        (BEGIN | ECHO, encode((5, [1 << 62])), "call.limit"),
        (BEGIN | ECHO, encode((1 << 40, [])), "call.limit"),
        (BEGIN | ADD, encode((5000, [])), "call.argument"),
    ],
)
def test_a_broken_call_is_an_error_and_the_lane_serves_on(
    shared_host: LyingHost, lane: Any, tag: int, payload: bytes, code: str
) -> None:
    global ids
    ids += 10
    assert ask(lane, ids, tag, payload) == (FAULT, code)
    if tag & BEGIN == BEGIN:
        lane.send(ids, PART | tag & 0xFFFFFF, bytes(1000))  # its parts come all the same
    serves(lane, ids + 1)


ids = 0


@pytest.fixture(scope="module")
def shared_host(image: Image) -> Iterator[LyingHost]:
    host = LyingHost(image, geometry=GEOMETRY)
    yield host
    host.stop()


@pytest.fixture(scope="module")
def lane(shared_host: LyingHost) -> Any:
    return shared_host.lane(0)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from([FAST, WHOLE, PING]),
    number=st.integers(0, 40),
    payload=st.one_of(
        st.binary(max_size=300),
        st.builds(encode, st.lists(st.one_of(st.integers(0, 2**63), st.text(), st.none()))),
        st.builds(
            lambda body, attachments: encode((body, attachments)),
            st.one_of(
                st.binary(max_size=50),
                st.builds(encode, st.dictionaries(st.sampled_from("ab"), st.integers(0, 9))),
            ),
            st.lists(st.binary(max_size=20), max_size=3),
        ),
    ),
)
def test_whatever_comes_is_answered(
    shared_host: LyingHost, lane: Any, kind: int, number: int, payload: bytes
) -> None:
    global ids
    ids += 10
    slow = {"ask", "ask_and_tell", "ask_large", "ask_stream", "meet", "patient", "recurse"}
    names = sorted(shared_host_functions(shared_host))
    if number < len(names) and (names[number] in slow or names[number].startswith("recurse")):
        return
    if number < len(names) and names[number] == "array":
        return  # of any size, which is the app's own fault
    answer = lane.call(ids, kind | number, payload, 20)
    assert answer is not None
    assert answer[0] == ids
    serves(lane, ids + 1)


def shared_host_functions(host: LyingHost) -> list[str]:
    return list(host.image.interface.ecalls)


@pytest.mark.parametrize(
    "tag",
    [
        PART | ADD,
        FAULT | ADD,
        0,
        NESTED | PART | ADD,
        NESTED | (9 << 24) | ADD,
        (9 << 24) | ADD,
        (0x3F << 24) | ADD,
    ],
)
def test_a_message_that_nothing_led_to_ends_its_lane_only(host: LyingHost, tag: int) -> None:
    lane = host.lane(0)
    serves(lane, 1)
    lane.send(2, tag, b"x")
    with pytest.raises(ConnectionError):
        call_on(lane, 3)
    serves(host.lane(1), 1)
    assert host.call("add", a=1, b=2) == 3


@pytest.mark.parametrize("kind", [FAST, WHOLE, BEGIN])
def test_a_call_nested_in_nothing_is_refused(host: LyingHost, kind: int) -> None:
    """An honest host sends one when it has not heard yet that the call around it is over."""
    lane = host.lane(0)
    assert ask(lane, 1, NESTED | kind | ADD, encode((1, 2))) == (FAULT, "call.cancelled")
    if kind == BEGIN:
        lane.send(1, NESTED | PART | ADD, b"x")
    serves(lane, 2)


def test_answers_to_ocalls_that_were_not_made_are_dropped(host: LyingHost) -> None:
    lane = host.lane(0)
    for kind in (FAST, WHOLE, BEGIN, FAULT, PART, PING):
        lane.send(7, OCALL | kind, b"\xc1")
    serves(lane, 1)


def test_a_value_that_was_cut_short_does_not_swallow_the_ping_behind_it(
    host: LyingHost,
) -> None:
    """Who was interrupted in the middle of a large value asks whether the lane is free again."""
    lane = host.lane(0)
    lane.send(1, BEGIN | ECHO, encode((10, [2 * GEOMETRY.piece])))
    lane.send(1, PART | ECHO, bytes(10))
    lane.send(1, PART | ECHO, bytes(GEOMETRY.piece))
    fault = lane.call(2, PING, b"", 20)
    assert fault[:2] == (1, FAULT | ECHO)
    assert lane.recv(20) == (2, PING, b"")
    serves(lane, 3)


# --- answers to OCALLs ---------------------------------------------------------------------------


def begin_ocall(lane: Any) -> tuple[int, int]:
    """The id and tag of the OCALL that the call 1 makes."""
    asked = lane.call(1, FAST | ASK, encode((5,)), 20)
    assert asked is not None
    assert asked[1] == OCALL | FAST | ANSWER
    assert asked[2] == encode((5,))
    return asked[0], asked[1]


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        (FAST, b"\xc1", "ArgumentError"),
        (FAST, b"", "ArgumentError"),
        (FAST, encode("text"), "ArgumentError"),
        (WHOLE, encode((encode("text"), [])), "ArgumentError"),
        (WHOLE, encode((b"", [])), "ArgumentError"),
        (WHOLE, encode((encode(5), [b"x"])), "ArgumentError"),
        (FAULT, encode(["enclave.declared", "gone", "KeyError"]), "KeyError"),
        (FAULT, encode(["enclave.declared", "x", "Fake"]), "ProtocolError"),
        (FAULT, encode(["nonsense", "x"]), "ProtocolError"),
        (FAULT, b"\xc1", "ProtocolError"),
        (BEGIN, encode((1 << 40, [])), "LimitExceeded"),
    ],
)
def test_a_broken_answer_fails_its_call_and_the_lane_serves_on(
    host: LyingHost, kind: int, payload: bytes, text: str
) -> None:
    lane = host.lane(0)
    id, _ = begin_ocall(lane)
    answer = lane.call(id, OCALL | kind | ANSWER, payload, 20)
    assert answer is not None
    assert answer[:2] == (1, FAULT | ASK)
    assert text in msgspec.msgpack.decode(answer[2], type=ErrorBody).text
    serves(lane, 2)


@pytest.mark.parametrize(
    ("shift", "tag"),
    [
        (1, OCALL | FAST | ANSWER),
        (1 << 40, OCALL | FAST | ANSWER),
        (0, OCALL | FAST | (ANSWER + 1)),
        (0, OCALL | ANSWER),
        (0, OCALL | (9 << 24) | ANSWER),
        (0, OCALL | WHOLE | ANSWER),
        (0, OCALL | BEGIN | ANSWER),
        (0, FAULT | ASK),
        (0, PART | ASK),
    ],
)
def test_a_forged_answer_ends_its_lane_only(host: LyingHost, shift: int, tag: int) -> None:
    lane = host.lane(0)
    id, _ = begin_ocall(lane)
    lane.send(id + shift, tag, b"\xc1")
    with pytest.raises(ConnectionError):
        call_on(lane, 2)
    serves(host.lane(1), 1)
    assert host.call("add", a=1, b=2) == 3


def test_replayed_answers_are_dropped(host: LyingHost) -> None:
    lane = host.lane(0)
    for call in range(1, 50):
        asked = lane.call(call, FAST | ASK, encode((call,)), 20)
        for old in range(1, asked[0]):  # the answers to all OCALLs before, with other content
            lane.send(old, OCALL | FAST | ANSWER, encode(666))
        assert lane.call(asked[0], asked[1], encode(call), 20) == (
            call,
            FAST | ASK,
            encode(call),
        )


def test_calls_that_pile_up_behind_an_ocall_are_served_later(host: LyingHost) -> None:
    lane = host.lane(0)
    id, tag = begin_ocall(lane)
    for call in range(2, 500):
        lane.send(call, FAST | ADD, encode((call, 0)))
    answers = [lane.call(id, tag, encode(6), 20)]
    answers += [lane.recv(20) for _ in range(2, 500)]
    assert answers[0] == (1, FAST | ASK, encode(6))
    assert [answer[2] for answer in answers[1:]] == [encode(call) for call in range(2, 500)]


def test_calls_may_not_pile_up_for_ever(host: LyingHost) -> None:
    lane = host.lane(0)
    begin_ocall(lane)
    before = host.resident()

    def pile_up() -> None:
        for call in range(2, 100_000):
            lane.send(call, FAST | ECHO, bytes(GEOMETRY.piece), 20)

    with pytest.raises(ConnectionError):
        pile_up()
    assert host.resident() - before < 200 << 10
    assert host.call("add", a=1, b=2) == 3


def test_nesting_is_limited_on_a_lane(host: LyingHost) -> None:
    lane = host.lane(0)
    message = lane.call(1, FAST | ASK, encode((5,)), 20)
    depth = 0
    while message[1] & OCALL:
        depth += 1
        message = lane.call(1 + depth, NESTED | FAST | ASK, encode((5,)), 20)
    assert message[1] == FAULT | ASK
    assert msgspec.msgpack.decode(message[2], type=ErrorBody).code == "call.limit"
    assert depth == Limits().depth + 1


# --- the stream about lanes ----------------------------------------------------------------------


def test_lanes_are_opened_once_and_within_bounds(host: LyingHost) -> None:
    host.lane(0)
    for number in (0, 3, 64, 1 << 40, (1 << 64) - 1):
        host.send(frame(Kind.LANE, number))
    for payload in (
        b"",
        b"\xc1",
        encode(Abandon(5, 1, 1)),
        encode(Abandon(-1, 1, 1)),
        encode(Abandon(0, 5, 1)),
        encode(Abandon(0, 0, 1)),
        encode(Abandon(0, 1, 1 << 60)),
        encode(Abandon(2, 1, 1)),
    ):
        host.send(frame(Kind.ABANDON, 0, payload))
    host.send(frame(Kind.LANE, 1, flags=Flag.OURS))
    host.send(frame(Kind.LANE, 1, b"x"))
    assert host.call("add", a=1, b=2) == 3


def test_endless_abandoning_costs_nothing(host: LyingHost) -> None:
    lane = host.lane(0)
    before = host.resident()
    for number in range(1, 20_000):
        host.send(frame(Kind.ABANDON, 0, encode(Abandon(0, 1 << 30, (1 << 30) + number))))
    assert host.call("add", a=1, b=2) == 3
    serves(lane, 1)
    assert host.resident() - before < 20 << 10


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(3, 64, 1 << 20, 1 << 17, 1),
        Geometry(4, 64, 1 << 20, 1 << 16, 1),
        Geometry(3, 63, 1 << 20, 1 << 16, 1),
        Geometry(3, 64, 1 << 40, 1 << 16, 1),
        Geometry(-1, 64, 1 << 20, 1 << 16, 1),
        Geometry(1 << 40, 64, 1 << 20, 1 << 16, 1),
        Geometry(3, 0, 1 << 20, 1 << 16, 1),
        Geometry(0, 64, 1 << 20, GEOMETRY.size + 1, 1),
    ],
)
def test_a_geometry_that_does_not_fit_the_memory_is_refused(
    image: Image, geometry: Geometry
) -> None:
    host = LyingHost(image, meet=False, geometry=GEOMETRY)
    try:
        from secgear.base.wire import VERSION

        host.send(frame(Kind.HELLO, 0, encode(Hello(VERSION, host.digest, Limits(), geometry))))
        host.send(frame(Kind.HELLO, 0, encode(Hello(VERSION, host.digest, Limits(), GEOMETRY))))
        assert host.until(lambda entry: entry.kind is Kind.READY)
        serves(host.lane(0), 1)
    finally:
        host.stop()


def test_a_geometry_without_memory_is_refused(image: Image) -> None:
    from secgear.base.wire import VERSION

    host = LyingHost(image, meet=False)
    try:
        host.send(frame(Kind.HELLO, 0, encode(Hello(VERSION, host.digest, Limits(), GEOMETRY))))
        host.send(frame(Kind.HELLO, 0, encode(Hello(VERSION, host.digest, Limits()))))
        assert host.until(lambda entry: entry.kind is Kind.READY)
        assert host.call("add", a=1, b=2) == 3
    finally:
        host.stop()


# --- scribbles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_scribbles_in_the_shared_memory_never_harm_the_enclave(image: Image, seed: int) -> None:
    """Each call has the right answer, an error or none; the stream serves on."""
    pick = random.Random(seed)
    host = LyingHost(image, geometry=GEOMETRY)
    assert host.memory is not None
    try:
        for number in range(3):
            lane = host.lane(number)
            start = number * GEOMETRY.lane_size
            try:
                for id in range(1, 3000):
                    lane.send(id, FAST | ADD, encode((id, 1)), 1)
                    for _ in range(pick.choice((0, 0, 1, 3))):
                        at = start + pick.choice(
                            (pick.randrange(GEOMETRY.lane_size - 8), 8 * pick.randrange(1000))
                        )
                        value = pick.choice((0, 1, 2**32 - 1, 2**64 - 1, pick.getrandbits(64)))
                        struct.pack_into("<Q", host.memory, at, value)
                    answer = lane.recv(0.05)
                    if answer is not None and answer[0] == id and answer[1] == FAST | ADD:
                        pass  # what came over memory that was scribbled on may be anything
            except (ConnectionError, TimeoutError):
                pass
            lane.close()
            assert host.call("add", a=1, b=2) == 3
        assert host.running.diagnose() == ""
    finally:
        host.stop()
