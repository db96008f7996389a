"""Limits alone: buckets with a clock of their own, and the queue in front of the threads."""

from __future__ import annotations

import asyncio
import threading

import pytest

from secgear.errors import ServiceError
from secgear.middleware.attestation.service import limits
from secgear.middleware.attestation.service.limits import Buckets, Space, Threads
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.service.settings import Rate


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def taken(buckets: Buckets, client: str, tries: int = 100) -> int:
    """How many of so many requests get through."""
    count = 0
    for _ in range(tries):
        try:
            buckets.take(client)
        except Problem:
            continue
        count += 1
    return count


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    buckets = Buckets(Rate(2, 5), clock=clock)
    assert taken(buckets, "192.0.2.1") == 5
    clock.now = 1.0
    assert taken(buckets, "192.0.2.1") == 2
    clock.now = 1_000.0
    assert taken(buckets, "192.0.2.1") == 5  # never more than the burst


def test_the_wait_that_is_told_is_enough() -> None:
    clock = Clock()
    buckets = Buckets(Rate(0.1, 1), clock=clock)
    buckets.take("192.0.2.1")
    with pytest.raises(Problem) as caught:
        buckets.take("192.0.2.1")
    assert (caught.value.status, caught.value.code) == (429, "rate.limited")
    clock.now = int(caught.value.headers["Retry-After"])
    buckets.take("192.0.2.1")


def test_looking_takes_nothing_and_refuses_who_has_none() -> None:
    buckets = Buckets(Rate(0.1, 1), clock=Clock())
    for _ in range(5):
        buckets.take("192.0.2.1", 0)
    buckets.take("192.0.2.1")
    with pytest.raises(Problem):
        buckets.take("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("unknown", "unknown", True),
    ],
)
def test_who_counts_as_one_client(one: str, other: str, same: bool) -> None:
    buckets = Buckets(Rate(0.001, 3), clock=Clock())
    assert taken(buckets, one) == 3
    assert taken(buckets, other) == (0 if same else 3)


def test_addresses_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CLIENTS", 10)
    buckets = Buckets(Rate(0.001, 1), clock=Clock())
    for number in range(1000):
        buckets.take(f"198.51.{number // 250}.{number % 250}")
    assert len(buckets._levels) == 10


@pytest.mark.parametrize("rate", [(0, 1), (-1, 1), (1, 0), (float("nan"), 1), (float("inf"), 1)])
def test_rates_that_make_no_sense_are_refused(rate: tuple[float, int]) -> None:
    with pytest.raises(ServiceError, match="rate"):
        Rate(*rate)


def test_room_is_for_one_address_and_for_all_and_given_back() -> None:
    space = Space(10, 25)

    def refused(client: str, amount: int) -> int:
        with space.use(client) as take:
            try:
                take(amount)
            except Problem as problem:
                return problem.status
            return 0

    with space.use("192.0.2.1") as one, space.use("2001:db8::1") as two:
        one(4)
        one(6)
        assert refused("192.0.2.1", 1) == 429
        assert refused("::ffff:192.0.2.1", 1) == 429  # the same address
        two(10)
        assert refused("2001:db8::2", 1) == 429  # the same network
        assert refused("192.0.2.2", 5) == 0
        assert refused("192.0.2.2", 6) == 503
        assert refused("192.0.2.2", 5) == 0  # what was refused takes no room
    assert refused("192.0.2.1", 10) == 0

    def fail() -> None:
        with space.use("192.0.2.1") as take:
            take(10)
            raise KeyError("the work itself")

    with pytest.raises(KeyError):
        fail()
    assert refused("192.0.2.1", 10) == 0
    assert not space._held


def test_of_a_burst_exactly_so_many_wait_and_their_places_are_given_back() -> None:
    go = threading.Event()

    async def many() -> tuple[list[int], list[int]]:
        threads = Threads(2, 3)

        async def one(number: int) -> int:
            try:
                return await threads.run(lambda: go.wait(2) and number)
            except Problem as problem:
                go.set()  # the last one is refused before any other ends
                return -problem.status

        return await asyncio.gather(*map(one, range(6))), await asyncio.gather(*map(one, range(5)))

    first, second = asyncio.run(many())
    assert first == [0, 1, 2, 3, 4, -503]
    assert second == [0, 1, 2, 3, 4]


def test_work_that_fails_gives_its_place_back() -> None:
    def fail() -> None:
        raise KeyError("the work itself")

    async def often() -> None:
        threads = Threads(1, 1)
        for _ in range(10):
            with pytest.raises(KeyError):
                await threads.run(fail)

    asyncio.run(often())
