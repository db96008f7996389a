"""Messages through shared memory: in order, whole, and with an end that everybody notices."""

from __future__ import annotations

import gc
import os
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.transport import ring

from .conftest import Lane

pytestmark = pytest.mark.skipif(not ring.available(), reason=ring.reason())

# Around every edge: a slot's own bytes, a piece of a small arena, the arena, several times it.
SIZES = [0, 1, 40, 231, 232, 233, 4095, 4096, 4097, 16383, 16384, 16385, 100_000, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_of_any_size_comes_back_from_another_process(lane: Lane, size: int) -> None:
    lane.child("echo")
    host = lane.open(host=True)
    payload = os.urandom(size)
    for id in range(3):
        assert host.call(id, 2**32 - 1, payload, 60) == (id, 2**32 - 1, payload)


def test_ids_and_tags_cross_whole(lane: Lane) -> None:
    host, enclave = lane.pair()
    host.send(2**64 - 1, 2**32 - 1, b"")
    assert enclave.recv(0) == (2**64 - 1, 2**32 - 1, b"")


@pytest.mark.parametrize(
    ("id", "tag", "payload", "error"),
    [
        (-1, 0, b"", OverflowError),
        (2**64, 0, b"", OverflowError),
        (0, -1, b"", OverflowError),
        (0, 2**32, b"", OverflowError),
        ("0", 0, b"", TypeError),
        (0, 0, "text", TypeError),
        (0, 0, None, TypeError),
        (0, 0, bytes((1 << 20) + 1), ValueError),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_sent(
    lane: Lane, id: int, tag: int, payload: bytes, error: type[Exception]
) -> None:
    host, enclave = lane.pair()
    with pytest.raises(error):
        host.send(id, tag, payload)
    assert enclave.recv(0) is None
    host.send(1, 2, b"next")
    assert enclave.recv(0) == (1, 2, b"next")


def test_messages_under_way_keep_their_order_in_both_directions(lane: Lane) -> None:
    host, enclave = lane.pair()
    for lap in range(5):
        for id in range(8):
            host.send(lap, id, bytes([id]))
            enclave.send(id, lap, bytes([lap]))
        for id in range(8):
            assert enclave.recv(0) == (lap, id, bytes([id]))
            assert host.recv(0) == (id, lap, bytes([lap]))


def test_a_full_ring_waits_for_room_and_says_when_none_came(lane: Lane) -> None:
    host, enclave = lane.pair()
    for id in range(8):
        host.send(id, 0, b"x", 0)
    with pytest.raises(TimeoutError):
        host.send(8, 0, b"x", 0.01)
    assert [enclave.recv(0) for _ in range(9)] == [*((id, 0, b"x") for id in range(8)), None]
    host.send(8, 0, b"x", 0)
    assert enclave.recv(0) == (8, 0, b"x")


def test_a_message_cut_short_by_a_timeout_ends_the_ring(lane: Lane) -> None:
    host, enclave = lane.pair()
    with pytest.raises(TimeoutError):
        host.send(1, 0, bytes(100_000), 0.01)
    for use in (lambda: host.send(2, 0, b""), lambda: enclave.recv(1)):
        with pytest.raises(ConnectionError):
            use()


def test_a_message_that_arrives_slowly_is_put_together_over_several_timeouts(lane: Lane) -> None:
    host, enclave = lane.pair()
    payload = os.urandom(1 << 20)
    sender = lane.thread(lambda: host.send(1, 2, payload, 60))
    got = None
    while got is None:
        got = enclave.recv(0)
    assert got == (1, 2, payload)
    sender.join(20)


def test_an_answer_may_have_another_tag_or_not_come(lane: Lane) -> None:
    def handler(id: int, tag: int, payload: bytes) -> tuple[int, bytes] | bytes | None:
        return {1: (99, payload + b"!"), 2: payload, 3: None}[tag]

    host = lane.echo(handler)
    assert host.call(7, 1, b"a", 60) == (7, 99, b"a!")
    assert host.call(8, 3, b"b", 0.01) is None
    assert host.call(9, 2, b"c", 60) == (9, 2, b"c")


def test_a_handler_calls_back_on_the_same_lane(lane: Lane) -> None:
    host, enclave = lane.pair()

    def handler(id: int, tag: int, payload: bytes) -> bytes:
        answer = enclave.call(id, tag + 1, payload + b"?", 60)
        assert answer is not None
        return answer[2]

    lane.thread(lambda: enclave.serve(handler))
    assert host.call(1, 3, b"question", 60) == (1, 4, b"question?")
    assert host.call(1, 4, b"answer", 60) == (1, 3, b"answer")


def test_what_a_handler_raises_ends_serving_but_not_the_ring(lane: Lane) -> None:
    host, enclave = lane.pair()
    host.send(1, 0, b"")
    with pytest.raises(ZeroDivisionError):
        enclave.serve(lambda id, tag, payload: bytes(1 // 0))
    host.send(2, 0, b"still here")
    assert enclave.recv(0) == (2, 0, b"still here")


@pytest.mark.parametrize("answer", ["text", (1, 2, 3), (1,), (2**32, b""), (1, "text"), 5])
def test_a_handler_that_answers_nonsense_is_told_so(lane: Lane, answer: object) -> None:
    host, enclave = lane.pair()
    host.send(1, 0, b"")
    with pytest.raises((TypeError, OverflowError)):
        enclave.serve(lambda id, tag, payload: answer)  # type: ignore[arg-type,return-value]
    assert host.recv(0) is None


@pytest.mark.parametrize("window", [1, 2, 7, 8])
@pytest.mark.parametrize("size", [0, 8, 232, 5000, 40_000])
def test_a_batch_is_answered_in_order_whatever_fits_at_once(
    lane: Lane, window: int, size: int
) -> None:
    host = lane.echo(lambda id, tag, payload: (int(id), payload))
    payloads = [bytes([n]) * size for n in range(50)]
    answers = host.call_many(5, payloads, 100, window, 60)
    assert answers == [(100 + n, payloads[n]) for n in range(50)]


def test_a_batch_answers_calls_of_the_other_side_meanwhile(lane: Lane) -> None:
    host, enclave = lane.pair()

    def handler(id: int, tag: int, payload: bytes) -> bytes:
        answer = enclave.call(1 << 63, 9, payload, 60)
        assert answer is not None
        return answer[2]

    lane.thread(lambda: enclave.serve(handler))
    asked: list[int] = []

    def other(id: int, tag: int, payload: bytes) -> bytes:
        asked.append(id)
        return payload * 2

    # One at a time: the enclave takes whatever comes next for its answer.
    assert host.call_many(1, [b"a", b"b"], 0, 1, 60, other) == [(1, b"aa"), (1, b"bb")]
    assert asked == [1 << 63] * 2


@pytest.mark.parametrize("id", [99, 104, 2**64 - 1])
def test_an_answer_to_no_question_breaks_the_ring(lane: Lane, id: int) -> None:
    host, enclave = lane.pair()
    enclave.send(id, 0, b"unasked")
    with pytest.raises(ring.broken(), match="broke the protocol"):
        host.call_many(0, [b""] * 4, 100, 4, 60)
    assert host.stats()["rejected"] == 1


def test_a_second_answer_to_one_question_breaks_the_ring(lane: Lane) -> None:
    host, enclave = lane.pair()
    enclave.send(100, 0, b"once")
    enclave.send(100, 0, b"twice")
    with pytest.raises(ring.broken()):
        host.call_many(0, [b""] * 4, 100, 4, 60)


@pytest.mark.parametrize("spin", [0, 200])
def test_closing_wakes_whoever_waits_on_either_side(lane: Lane, spin: int) -> None:
    host, _ = lane.pair(spin)
    for id in range(8):
        host.send(id, 0, b"")
    outcomes: list[str] = []

    def wait(use: object) -> None:
        try:
            use()  # type: ignore[operator]
        except ConnectionError:
            outcomes.append("closed")

    threads = [
        lane.thread(lambda: wait(lambda: host.send(9, 0, b""))),
        lane.thread(lambda: wait(host.recv)),
    ]
    while host.stats()["parks"] < 2:
        pass
    host.close()
    for thread in threads:
        thread.join(20)
    assert outcomes == ["closed", "closed"]


def test_what_was_sent_before_the_end_still_arrives(lane: Lane) -> None:
    host, enclave = lane.pair()
    host.send(1, 2, b"last words")
    host.close()
    assert enclave.recv(1) == (1, 2, b"last words")
    with pytest.raises(ConnectionError, match="closed"):
        enclave.recv(1)


def test_a_closed_ring_gives_its_memory_back(lane: Lane) -> None:
    host, enclave = lane.pair()
    with pytest.raises(BufferError):
        lane.memory.close()
    host.close()
    enclave.close()
    host.close()
    lane.memory.close()
    assert host.stats()["sent"] == 0


def test_two_threads_can_not_share_a_direction(lane: Lane) -> None:
    host, enclave = lane.pair(spin=0)
    waiting = lane.thread(lambda: enclave.serve(lambda id, tag, payload: None))
    while not enclave.stats()["parks"]:
        pass
    with pytest.raises(RuntimeError, match="another thread"):
        enclave.recv(0)
    enclave.send(1, 1, b"the other direction is free", 0)
    host.close()
    waiting.join(20)


def test_many_threads_with_a_lane_each_get_their_own_answers() -> None:
    lanes = [Lane() for _ in range(8)]
    failures: list[BaseException] = []

    def caller(number: int) -> None:
        try:
            host = lanes[number].echo()
            for n in range(300):
                payload = b"%d-%d" % (number, n)
                assert host.call(n, number, payload, 60) == (n, number, payload)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for lane in lanes:
        lane.close()
    assert not failures


@pytest.mark.parametrize(
    ("slots", "arena"), [(0, 4096), (1, 4096), (3, 4096), (1 << 17, 4096), (8, 2048), (8, 5000)]
)
def test_impossible_geometry_is_refused(slots: int, arena: int) -> None:
    with pytest.raises(ValueError, match="powers of two"):
        _ = ring.Geometry(slots, arena, 100).size


def test_memory_of_another_size_or_that_can_not_be_written_is_refused() -> None:
    size = ring.Geometry(8, 4096, 100).size
    for memory, error in (
        (bytearray(size - 1), ValueError),
        (bytearray(size + 4096), ValueError),
        (bytes(size), BufferError),
    ):
        with pytest.raises(error):
            ring.open_lane(memory, ring.Geometry(8, 4096, 100), host=True)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=6000)),
        max_size=30,
    )
)
def test_any_messages_arrive_as_they_were_sent(messages: list[tuple[int, int, bytes]]) -> None:
    lane = Lane()
    host, enclave = lane.pair()

    def sender() -> None:
        for id, tag, payload in messages:
            host.send(id, tag, payload, 60)

    lane.thread(sender)
    assert [enclave.recv(60) for _ in messages] == messages
    lane.close()


def test_messages_of_every_kind_leave_no_memory_behind(lane: Lane) -> None:
    def handler(id: int, tag: int, payload: bytes) -> tuple[int, bytes] | bytes | None:
        return {0: (tag + 1000, payload), 1: payload, 2: None}[tag % 3]

    host = lane.echo(handler)

    def use() -> None:
        for id in range(1 << 20, (1 << 20) + 300):  # not among the small integers that are kept
            host.call(id, 300 + id % 2, bytes(id % 500), 60)
            host.send(id, 302, b"unanswered", 60)
            with pytest.raises(ValueError, match="more than the ring takes"):
                host.send(id, 301, bytes((1 << 20) + 1))
        host.call_many(301, [bytes(300)] * 300, 1 << 40, 8, 60)

    use()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(3):
        use()
    gc.collect()
    assert sys.getallocatedblocks() - before < 300  # one leak in each round would be 900
