"""An enclave that lies on a lane: every lie ends in a typed error on the host, at once."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from secgear import Switchless, errors
from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import Image
from secgear.base.schema import HostTypes
from secgear.base.switchless.host_lane import HostLane
from secgear.base.switchless.messages import BEGIN, FAST, FAULT, NESTED, OCALL, PART, PING, WHOLE
from secgear.base.tee import LaunchConfig
from secgear.base.transport.geometry import Geometry
from secgear.base.wire import Limits
from tests.adversary.lying_enclave import LyingEnclave, LyingTee, quiet
from tests.base.switchless.conftest import until

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring

encode = msgspec.msgpack.encode
OPTIONS = Switchless(workers=2, shared=4096)
Lie = Callable[[Any, tuple[int, int, bytes]], None]


@pytest.fixture(scope="module")
def image(source: Path) -> Image:
    return build(source, debug=True)


@pytest.fixture
def launch(image: Image) -> Iterator[Callable[..., Enclave]]:
    """Starts an enclave that answers with `lie`."""
    running: list[Enclave] = []

    def start(lie: Any, **ocalls: Any) -> Enclave:
        tee = LyingTee(quiet, lane=lie)
        config = LaunchConfig(switchless_size=OPTIONS.geometry.size)
        enclave = Enclave(
            tee.launch(image, config),
            image,
            "lying",
            types=HostTypes(image.interface),
            ocalls=ocalls,
            limits=Limits(),
            deadline=20,
            timeout=20,
            switchless=OPTIONS,
        )
        running.append(enclave)
        return enclave

    yield start
    for enclave in running:
        enclave.close(0)


def answer(
    id: Callable[[int], int] = lambda id: id,
    tag: Callable[[int], int] = lambda tag: tag,
    payload: bytes = encode(3),
) -> Any:
    def lie(_: LyingEnclave, ring: Any, message: tuple[int, int, bytes]) -> None:
        if message[1] == PING:
            ring.send(message[0], PING, b"")
        else:
            ring.send(id(message[0]), tag(message[1]), payload)

    return lie


def of_kind(kind: int) -> Callable[[int], int]:
    return lambda tag: kind | tag & 0xFFFFFF


def test_the_simulator_can_tell_the_truth(launch: Any) -> None:
    enclave = launch(answer())
    assert enclave.switchless.add(1, 2) == 3
    assert enclave.switchless.submit.add(1, 2).result(20) == 3
    assert enclave.switchless.map.add([1, 1], [2, 2]) == [3, 3]


@pytest.mark.parametrize(
    "lie",
    [
        answer(id=lambda id: id + 1),
        answer(id=lambda id: id - 1),
        answer(id=lambda id: id | 1 << 63),
        answer(id=lambda _: 0),
        answer(tag=lambda tag: tag + 1),
        answer(tag=lambda tag: tag - 1),
        answer(tag=lambda tag: tag | NESTED),
        answer(tag=of_kind(0)),
        answer(tag=of_kind(PART)),
        answer(tag=of_kind(PING)),
        answer(tag=of_kind(9 << 24)),
        answer(tag=of_kind(WHOLE), payload=b"\xc1"),
        answer(tag=of_kind(WHOLE), payload=b""),
        answer(tag=of_kind(BEGIN), payload=b"\xc1"),
        answer(tag=of_kind(BEGIN), payload=encode((-1, []))),
        answer(tag=of_kind(FAULT), payload=b"\xc1"),
        answer(tag=of_kind(FAULT), payload=encode([1, 2])),
        answer(tag=lambda _: OCALL | FAST | 500),
        answer(tag=lambda _: OCALL | FAST, id=lambda _: 0),
        answer(tag=lambda _: OCALL | PART, id=lambda _: 1),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda enclave: enclave.switchless.add(1, 2),
        lambda enclave: enclave.switchless.submit.add(1, 2).result(20),
        lambda enclave: enclave.switchless.map.add([1] * 5, [2] * 5),
        lambda enclave: enclave.switchless.echo(bytes(5_000_000)),
    ],
    ids=["call", "submit", "map", "large"],
)
def test_a_forged_answer_ends_the_connection(
    launch: Any, lie: Any, call: Callable[[Any], Any]
) -> None:
    enclave = launch(lie, answer=lambda number: number)
    with pytest.raises(errors.EnclaveLost, match="broke the protocol"):
        call(enclave)
    assert not enclave.alive
    with pytest.raises(errors.EnclaveLost, match="broke the protocol"):
        enclave.switchless.add(1, 2)
    with pytest.raises(errors.EnclaveLost):
        enclave.add(1, 2)


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (answer(payload=encode("text")), errors.ArgumentError),
        (answer(payload=b"\xc1"), errors.ArgumentError),
        (answer(payload=b""), errors.ArgumentError),
        (answer(payload=b"\x91" * 5000), errors.SecGearError),
        (answer(tag=of_kind(WHOLE), payload=encode((encode("x"), []))), errors.ArgumentError),
        (answer(tag=of_kind(WHOLE), payload=encode((encode(1), [b"x"]))), errors.ArgumentError),
        (answer(tag=of_kind(WHOLE), payload=encode((b"", [b""] * 300))), errors.LimitExceeded),
        (answer(tag=of_kind(BEGIN), payload=encode((1 << 40, []))), errors.LimitExceeded),
        (answer(tag=of_kind(BEGIN), payload=encode((5, [1 << 60]))), errors.LimitExceeded),
        (
            answer(tag=of_kind(FAULT), payload=encode(["enclave.declared", "x", "Fake"])),
            errors.ProtocolError,
        ),
        (answer(tag=of_kind(FAULT), payload=encode(["made.up", "x"])), errors.ProtocolError),
        (
            answer(tag=of_kind(FAULT), payload=encode(["enclave.internal", "\x1b[31m", "", "id"])),
            errors.EnclaveInternalError,
        ),
    ],
)
def test_a_wrong_value_is_an_error_of_its_call(
    launch: Any, lie: Any, error: type[Exception]
) -> None:
    enclave = launch(lie)
    for call in (
        lambda: enclave.switchless.add(1, 2),
        lambda: enclave.switchless.submit.add(1, 2).result(20),
        lambda: enclave.switchless.map.add([1], [2]),
    ):
        with pytest.raises(error) as caught:
            call()
        assert "\x1b" not in str(caught.value)
    assert enclave.alive


def test_silence_is_a_deadline(launch: Any) -> None:
    enclave = launch(lambda *_: None)
    with pytest.raises(errors.DeadlineExceeded):
        enclave.options(deadline=0.1).switchless.add(1, 2)
    with pytest.raises(errors.DeadlineExceeded):
        enclave.options(deadline=0.1).switchless.submit.add(1, 2).result(20)
    with pytest.raises(errors.DeadlineExceeded):  # both lanes are left behind: nobody is free
        enclave.options(deadline=0.1).switchless.add(1, 2)
    assert enclave.switchless.stats.busy == 2


def test_parts_that_never_come_are_a_deadline(launch: Any) -> None:
    enclave = launch(answer(tag=of_kind(BEGIN), payload=encode((500_000, []))))
    with pytest.raises(errors.DeadlineExceeded):
        enclave.options(deadline=0.2).switchless.add(1, 2)


def test_late_answers_belong_to_nobody(launch: Any) -> None:
    """They come after their call was given up, one by one; the next call has its own."""
    late: dict[Any, list[int]] = {}  # by lane

    def lie(_: LyingEnclave, ring: Any, message: tuple[int, int, bytes]) -> None:
        id, tag, payload = message
        if tag == PING:
            for old in late.get(ring, ()):
                ring.send(old, FAST, encode(666))
                ring.send(old, PART, b"x")
            ring.send(id, PING, b"")
        elif payload == encode((0, 0)):
            late.setdefault(ring, []).append(id)
        else:
            ring.send(id, tag, encode(3))

    enclave = launch(lie)
    for _ in range(3):
        with pytest.raises(errors.DeadlineExceeded):
            enclave.options(deadline=0.1).switchless.add(0, 0)
        assert enclave.switchless.add(1, 2) == 3
    assert enclave.alive


def test_endless_late_answers_do_not_keep_a_caller_past_its_deadline(launch: Any) -> None:
    """They answer a nested call that was given up, and the ring always has another one."""

    class Flood:
        """Faster than this process could read: what a native enclave can be."""

        looks = 0

        def recv(self, timeout: float | None) -> tuple[int, int, bytes]:
            self.looks += 1
            assert self.looks < 10_000_000, "never ends"
            return 2, FAST, b""

        def call(self, *_: object) -> None:
            raise AssertionError

    enclave = launch(answer())
    assert enclave.switchless.add(1, 2) == 3
    lanes = enclave._connection.lanes
    function = lanes.function("add")
    lane = HostLane(
        0,
        cast("Ring", Flood()),
        1 << 20,
        lanes.link,
        handlers=[],
        serving={},
        workers=lanes.pool,
    )
    lane.forsaken.append(range(2, 3))
    outcome = lane.outcome(function, 1, (2, FAST, b""), time.monotonic() + 0.05)
    assert isinstance(outcome.error, errors.DeadlineExceeded)
    assert not outcome.in_step


def test_answers_from_the_future_end_a_recovery(launch: Any) -> None:
    def lie(_: LyingEnclave, ring: Any, message: tuple[int, int, bytes]) -> None:
        if message[1] == PING:
            ring.send(message[0] + 5, FAST, encode(666))

    enclave = launch(lie)
    with pytest.raises(errors.DeadlineExceeded):
        enclave.options(deadline=0.1).switchless.add(1, 2)
    until(lambda: not enclave.alive)
    with pytest.raises(errors.EnclaveLost, match="broke the protocol"):
        enclave.switchless.add(1, 2)


def test_ocalls_are_checked_like_any_other(launch: Any) -> None:
    told: list[bytes] = []
    asked = threading.Event()
    number = 0

    def lie(_: LyingEnclave, ring: Any, message: tuple[int, int, bytes]) -> None:
        nonlocal number
        id, tag, payload = message
        if tag & OCALL:
            told.append(payload)
            asked.set()
            return
        for kind, body in (
            (FAST, b"\xc1"),
            (FAST, encode(("text",))),
            (FAST, b""),
            (WHOLE, encode((encode({"number": "x"}), []))),
            (WHOLE, encode((b"", [b"x"]))),
            (0, b""),
            (PING, b""),
        ):
            number += 1
            ring.send(number, OCALL | kind, body)
        ring.send(id, tag, encode(3))

    enclave = launch(lie, answer=lambda number: number)
    assert enclave.switchless.add(1, 2) == 3
    assert asked.wait(20)
    codes = {msgspec.msgpack.decode(body)[0] for body in told}
    assert codes <= {"call.argument", "wire.protocol"}


def test_a_repeated_ocall_ends_the_connection(launch: Any) -> None:
    served = []

    def lie(_: LyingEnclave, ring: Any, message: tuple[int, int, bytes]) -> None:
        if not message[1] & OCALL:
            ring.send(5, OCALL | FAST, encode((1,)))
            ring.send(5, OCALL | FAST, encode((1,)))

    enclave = launch(lie, answer=lambda number: served.append(number) or number)
    with pytest.raises(errors.EnclaveLost, match="broke the protocol"):
        enclave.switchless.add(1, 2)
    assert served == [1]


def test_a_lane_that_closes_by_itself_ends_the_connection(launch: Any) -> None:
    enclave = launch(lambda _, ring, __: ring.close())
    with pytest.raises(errors.EnclaveLost):
        enclave.switchless.add(1, 2)
    assert not enclave.alive


def test_more_lanes_than_there_are_is_refused(image: Image, monkeypatch: Any) -> None:
    from tests.adversary import lying_enclave

    real = lying_enclave.Ready
    monkeypatch.setattr(
        lying_enclave,
        "Ready",
        lambda version, digest, limits, lanes: real(version, digest, limits, lanes + 1),
    )
    tee = LyingTee(quiet, lane=answer())
    with pytest.raises(errors.ProtocolError, match="lanes"):
        Enclave(
            tee.launch(image, LaunchConfig(switchless_size=OPTIONS.geometry.size)),
            image,
            "lying",
            types=HostTypes(image.interface),
            ocalls={},
            limits=Limits(),
            deadline=20,
            timeout=20,
            switchless=OPTIONS,
        )


@pytest.mark.parametrize("seed", range(4))
def test_scribbles_end_in_an_answer_or_an_error(launch: Any, seed: int) -> None:
    pick = random.Random(seed)

    def lie(enclave: LyingEnclave, ring: Any, message: tuple[int, int, bytes]) -> None:
        geometry: Geometry = OPTIONS.geometry
        assert enclave.memory is not None
        for _ in range(pick.choice((0, 0, 0, 1, 4))):
            at = pick.choice((pick.randrange(geometry.lane_size - 8), 8 * pick.randrange(1000)))
            value = pick.choice((0, 1, 2**32 - 1, 2**64 - 1, pick.getrandbits(64)))
            struct.pack_into("<Q", enclave.memory, at, value)
        if message[1] == PING:
            ring.send(message[0], PING, b"")
        else:
            ring.send(message[0], message[1], encode(3))

    enclave = launch(lie, answer=lambda number: number)
    calls = enclave.options(deadline=0.2).switchless
    for _ in range(500):
        try:
            calls.add(1, 2)
        except errors.SecGearError:
            if not enclave.alive:
                break


def test_an_enclave_that_answers_ahead_and_reads_no_more_ends_no_call_without_a_reason(
    launch: Any,
) -> None:
    ahead = 2000
    silent = threading.Event()

    def lie(_: LyingEnclave, ring: Ring, message: tuple[int, int, bytes]) -> None:
        for id in range(message[0], message[0] + ahead):
            ring.send(id, message[1], encode(3))
        silent.wait(30)

    enclave = launch(lie)

    def call_on_and_on() -> None:
        for _ in range(ahead):
            future = enclave.options(deadline=1).switchless.submit.add(1, 2)
            assert future.result(20) == 3

    try:
        with pytest.raises(errors.SecGearError):  # and no other: a TimeoutError says nothing
            call_on_and_on()
    finally:
        silent.set()
