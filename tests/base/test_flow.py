"""Streams: in order, within their window, without a thread that waits."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.flow import AHEAD, Consumer, Producer
from secgear.base.marshal import Packed
from secgear.base.workers import Inbox, Workers
from secgear.errors import ProtocolError


def wait(inbox: Inbox, done: Callable[[], bool], deadline: float | None) -> bool:
    in_time = inbox.serve_until(done, deadline or time.monotonic() + 20)
    assert in_time or deadline, "nothing came in time"
    return in_time


def make_consumer(window: int, **given: Any) -> Consumer:
    options: dict[str, Any] = {
        "decode": lambda item: item,
        "more": lambda items: None,
        "stop": lambda: None,
        "wait": wait,
    }
    return Consumer(window, **{**options, **given})


class Line:
    """A producer whose tasks run when told to, and what it has sent."""

    def __init__(self, iterator: Iterator[Any], window: int = 4, size: int = 1) -> None:
        self.sent: list[Any] = []
        self.ended: list[BaseException | None] = []
        self.tasks: deque[Callable[[], None]] = deque()
        self.producer = Producer(
            iterator,
            window,
            pack=lambda item: Packed(b"", [memoryview(bytes(size))]),
            send=self.sent.append,
            finish=self.ended.append,
            schedule=self.tasks.append,
        )
        self.producer.start()

    def run(self) -> None:
        while self.tasks:
            self.tasks.popleft()()


# --- the producer --------------------------------------------------------------------------------


def test_a_producer_stays_within_its_window() -> None:
    line = Line(iter(range(100)), window=4)
    line.run()
    assert len(line.sent) == 4
    line.producer.more(3)
    line.run()
    assert len(line.sent) == 7
    assert not line.ended


def test_a_producer_that_waits_for_room_holds_no_thread() -> None:
    line = Line(iter(range(100)), window=4)
    line.run()
    assert not line.tasks  # nothing runs, nothing is scheduled
    line.producer.more(1)
    assert len(line.tasks) == 1


def test_large_items_go_one_by_one() -> None:
    line = Line(iter(range(100)), window=16, size=AHEAD)
    line.run()
    assert len(line.sent) == 1
    line.producer.more(1)
    line.run()
    assert len(line.sent) == 2


@pytest.mark.parametrize("grant", [0, -1, 1, 5, 1 << 40])
def test_a_grant_beyond_the_window_is_refused(grant: int) -> None:
    line = Line(iter(range(100)), window=4)
    with pytest.raises(ProtocolError):
        line.producer.more(grant)
    line.run()
    assert len(line.sent) == 4


def test_the_end_is_told_once() -> None:
    line = Line(iter(range(2)))
    line.run()
    line.producer.more(2)
    line.producer.stop()
    line.run()
    assert line.ended == [None]
    assert len(line.sent) == 2


def test_an_error_ends_the_stream_with_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("broken")

    line = Line(items())
    line.run()
    assert len(line.sent) == 1
    assert isinstance(line.ended[0], RuntimeError)


def test_a_stopped_generator_is_closed_where_it_runs() -> None:
    closed: list[int] = []

    def items() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(threading.get_ident())

    line = Line(items())
    line.run()
    thread = threading.Thread(target=line.producer.stop)
    thread.start()
    thread.join()
    assert not closed
    line.run()
    assert closed == [threading.get_ident()]
    assert line.ended == [None]


def test_stopping_at_any_moment_closes_exactly_once() -> None:
    """`stop` races the step of an item; whatever wins, the generator is closed and told of once."""
    workers = Workers(2, "flow", elastic=True)
    chance = random.Random(3)
    for _ in range(400):
        began, closed = threading.Event(), threading.Event()
        ended: list[BaseException | None] = []
        over = threading.Event()

        def items(
            began: threading.Event = began, closed: threading.Event = closed
        ) -> Iterator[int]:
            began.set()
            try:
                while True:
                    yield 1
            finally:
                closed.set()

        def finish(
            error: BaseException | None,
            ended: list[BaseException | None] = ended,
            over: threading.Event = over,
        ) -> None:
            ended.append(error)
            over.set()

        producer = Producer(
            items(),
            5,
            pack=lambda item: Packed(b"", []),
            send=lambda packed: None,
            finish=finish,
            schedule=workers.submit,
        )
        producer.start()
        for _ in range(chance.randint(0, 3)):
            try:
                producer.more(1)
            except ProtocolError:
                time.sleep(0)
        producer.stop()
        assert over.wait(5)
        assert closed.is_set() is began.is_set()
        assert ended == [None]
    workers.close()


# --- the consumer --------------------------------------------------------------------------------


def test_items_come_in_order_and_then_the_end() -> None:
    consumer = make_consumer(8)
    for number in range(5):
        consumer.push(number, 1)
    consumer.end(None)
    assert list(consumer) == list(range(5))
    assert list(consumer) == []


def test_the_error_comes_after_the_items_before_it() -> None:
    consumer = make_consumer(8)
    consumer.push(1, 1)
    consumer.end(RuntimeError("broken"))
    consumer.push(2, 1)
    assert next(consumer) == 1
    with pytest.raises(RuntimeError, match="broken"):
        next(consumer)


def test_an_overrun_window_is_a_violation() -> None:
    consumer = make_consumer(2)
    consumer.push(1, 1)
    consumer.push(2, 1)
    with pytest.raises(ProtocolError, match="overran"):
        consumer.push(3, 1)
    consumer.end(None)
    assert list(consumer) == [1, 2]


@pytest.mark.parametrize(("window", "size"), [(1, 1), (2, 1), (16, 1), (16, AHEAD)])
def test_grants_come_before_the_pipe_is_dry(window: int, size: int) -> None:
    grants: list[int] = []
    consumer = make_consumer(window, more=grants.append)
    for number in range(window):
        consumer.push(number, size)
    for number in range(window):
        assert next(consumer) == number
    assert sum(grants) == window
    assert bool(grants[1:]) is (size == AHEAD or window == 2 or window == 16)


def test_waiting_for_an_item_has_an_end_and_loses_nothing() -> None:
    consumer = make_consumer(4)
    assert not consumer.until(time.monotonic() + 0.02)
    threading.Timer(0.02, consumer.push, (7, 1)).start()
    assert consumer.until(time.monotonic() + 20)
    assert next(consumer) == 7
    consumer.end(None)
    assert consumer.until(time.monotonic() + 20)
    assert list(consumer) == []


def test_closing_tells_the_producer_once_and_wakes_who_waits() -> None:
    stops: list[int] = []
    consumer = make_consumer(4, stop=lambda: stops.append(1))
    got: list[list[int]] = []
    thread = threading.Thread(target=lambda: got.append(list(consumer)))
    thread.start()
    time.sleep(0.05)
    consumer.close()
    consumer.close()
    consumer.push(1, 1)
    thread.join(5)
    assert got == [[]]
    assert stops == [1]


def test_several_threads_share_a_stream_and_miss_nothing() -> None:
    """Who wakes up for an item that another took goes on waiting: that is not the end."""
    for _ in range(50):
        consumer = make_consumer(1000)
        taken: list[list[int]] = []

        def take(consumer: Consumer = consumer, taken: list[list[int]] = taken) -> None:
            taken.append(list(consumer))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(40):
            consumer.push(number, 1)
            if number % 8 == 0:
                time.sleep(0.0005)
        consumer.end(None)
        for thread in threads:
            thread.join(10)
        assert sorted(chain.from_iterable(taken)) == list(range(40))


# --- both ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    window=st.integers(1, 20),
    sizes=st.lists(
        st.sampled_from([1, 1000, AHEAD // 3, AHEAD // 2, AHEAD, 3 * AHEAD]), max_size=60
    ),
    take=st.integers(0, 61),
)
def test_neither_side_waits_for_the_other_for_ever(
    window: int, sizes: list[int], take: int
) -> None:
    """Whatever the window and the items' sizes, a consumer that takes gets them all."""
    workers = Workers(1, "flow", elastic=True)
    over = threading.Event()
    ahead: list[int] = []
    position = [0]

    class Sized(list[Any]):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

    def send(packed: Any) -> None:
        position[0] += 1
        ahead.append(sum(sizes[done[0] : position[0]]))
        consumer.push(packed, packed.size)

    producer = Producer(
        iter(sizes),
        window,
        pack=lambda size: Sized(size),  # type: ignore[arg-type, return-value]
        send=send,
        finish=lambda error: (consumer.end(error), over.set()),  # type: ignore[func-returns-value]
        schedule=workers.submit,
    )
    done = [0]
    consumer = make_consumer(window, more=producer.more, stop=producer.stop)
    producer.start()
    taken = []
    for item in consumer:
        taken.append(item.size)
        done[0] += 1
        if len(taken) == take:
            consumer.close()
    assert taken == sizes[: max(take, 0) or None] or (take == 0 and taken == sizes)
    assert over.wait(10)
    largest = max(sizes, default=0)
    assert all(bytes_ahead <= AHEAD + largest + AHEAD // 2 + largest for bytes_ahead in ahead)
    workers.close()
