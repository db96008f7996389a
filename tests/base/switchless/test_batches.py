"""Batches: many calls of one kind in one go, in order, with their errors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear import Switchless, errors


def test_a_batch_is_served_in_order(enclave: Any) -> None:
    enclave.noted()
    assert enclave.switchless.map.note(range(5000)) == list(range(5000))
    assert enclave.noted() == list(range(5000))


def test_a_batch_of_nothing(enclave: Any) -> None:
    assert enclave.switchless.map.note([]) == []


def test_the_first_exception_of_a_batch_is_raised_when_all_is_done(enclave: Any) -> None:
    with pytest.raises(ValueError, match="3 is no good"):
        enclave.switchless.map.picky([1, 2, 3, 4, 5, 6])
    results = enclave.switchless.map.picky([1, 2, 3, 4, 6], return_exceptions=True)
    assert [str(result) for result in results] == ["1", "2", "3 is no good", "4", "6 is no good"]


def test_arguments_of_a_batch_are_checked_one_by_one(enclave: Any) -> None:
    results = enclave.switchless.map.add([1, "x", object(), 4], return_exceptions=True)
    assert (results[0], results[3]) == (2, 5)
    assert all(isinstance(result, errors.ArgumentError) for result in results[1:3])
    with pytest.raises(ValueError, match="shorter"):
        enclave.switchless.map.add([1, 2], [3])


def test_a_batch_mixes_small_and_large(enclave: Any) -> None:
    sizes = [10, 300_000, 0, 200_000, 5_000_000, 5, *[250_000] * 20, 70_000, 4_500_000, 1]
    assert [len(data) for data in enclave.switchless.map.echo(map(bytes, sizes))] == sizes


@pytest.mark.parametrize(
    "options",
    [
        {"slots": 8, "window": 4, "arena": 64 << 10},
        {"slots": 8, "window": 4, "arena": 16 << 20},
        {"slots": 64, "window": 32, "arena": 64 << 20},
        {"slots": 4096, "window": 2048, "arena": 64 << 10},
    ],
)
def test_batches_never_fill_both_directions(source: Path, options: dict[str, int]) -> None:
    """An enclave that waits for room to answer would wait for ever for a host that sends."""
    chosen = Switchless(workers=1, shared=0, **options)
    with secgear.launch(source, switchless=chosen, deadline=60) as enclave:
        for sizes in ([300_000] * 60, [20_000] * 300, [100] * 5000, [5, 70_000, 1_000_000] * 20):
            assert [len(data) for data in enclave.switchless.map.echo(map(bytes, sizes))] == sizes


def test_ocalls_in_the_middle_of_a_batch(enclave: Any) -> None:
    """Calls behind one that makes an OCALL wait; they are not nested in it."""
    numbers = list(range(500))
    assert enclave.switchless.map.ask(numbers) == [number + 1 for number in numbers]
    assert enclave.switchless.map.ask_large([10, 400_000, 20]) == [10, 400_000, 20]


def test_a_batch_keeps_its_deadline(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=1)) as enclave:
        start = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            enclave.options(deadline=0.3).switchless.map.patient([0.1] * 1000)
        assert time.monotonic() - start < 5
        assert enclave.options(deadline=20).switchless.add(1) == 2
        done = enclave.cleanings()
        assert done < 20  # those that were sent ahead never ran
        assert enclave.switchless.stats.abandoned == 1


def test_a_batch_whose_arguments_fail_leaves_the_lane_usable(enclave: Any) -> None:
    def arguments() -> Iterator[int]:
        yield from range(10)
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        enclave.switchless.map.note(arguments())
    assert enclave.switchless.map.add(range(100)) == list(range(1, 101))


def test_arguments_are_taken_as_they_are_sent(enclave: Any) -> None:
    """So that whoever makes them works while the enclave does."""
    ahead = []

    def arguments() -> Iterator[int]:
        for number in range(1000):
            ahead.append(number)
            yield number

    class Stop(Exception):
        pass

    def stop() -> Iterator[int]:
        for number in arguments():
            if number == 500:
                assert enclave.add(1) == 2
            yield number

    assert len(enclave.switchless.map.note(stop())) == 1000
