"""Switchless calls in the middle of others, in any mixture with the stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear import Switchless, errors
from tests.base.switchless.conftest import until


@pytest.fixture
def nesting(source: Path) -> Iterator[Any]:
    handle: list[Any] = []
    faces: list[Any] = []

    def answer(depth: int) -> int:
        return 1 + faces[0](handle[0]).recurse(depth - 1)

    def total(numbers: Iterator[int]) -> int:
        return 1 + faces[0](handle[0]).recurse_over_the_stream(sum(numbers) - 1)

    with secgear.launch(
        source,
        switchless=Switchless(workers=1),
        ocalls={"answer": answer, "total": total},
        deadline=30,
    ) as enclave:
        handle.append(enclave)
        enclave_faces = faces
        yield enclave, enclave_faces


@pytest.mark.parametrize("first", ["stream", "switchless"])
@pytest.mark.parametrize("then", ["stream", "switchless"])
def test_calls_nest_in_any_mixture(nesting: Any, first: str, then: str) -> None:
    enclave, faces = nesting
    faces[:] = [lambda handle: handle.switchless if then == "switchless" else handle]
    begin = enclave.switchless if first == "switchless" else enclave
    assert begin.recurse(10) == 10
    assert begin.recurse_over_the_stream(10) == 10
    for face in (enclave, enclave.switchless):
        assert face.recurse(3) == 3


def test_futures_and_batches_nest(source: Path) -> None:
    handle: list[Any] = []

    def answer(depth: int) -> int:
        calls = handle[0].switchless
        future = calls.submit.recurse(depth - 1)
        return 1 + calls.map.recurse([depth - 1])[0] + 0 * future.result(10)

    with secgear.launch(
        source, switchless=Switchless(workers=1), ocalls={"answer": answer}, deadline=30
    ) as enclave:
        handle.append(enclave)
        assert enclave.switchless.recurse(3) == 3
        assert enclave.switchless.submit.recurse(2).result(20) == 2


def test_a_call_is_itself_again_after_what_was_nested_in_it(source: Path) -> None:
    handle: list[Any] = []

    def answer(number: int) -> int:
        return int(handle[0].switchless.add(number))

    with secgear.launch(
        source, switchless=Switchless(workers=1), ocalls={"answer": answer}
    ) as enclave:
        handle.append(enclave)
        assert enclave.switchless.ask_and_tell(4) == (5, "ask_and_tell")


def test_a_nested_call_that_is_late_ends_alone(source: Path) -> None:
    handle: list[Any] = []

    def answer(number: int) -> int:
        with pytest.raises(errors.DeadlineExceeded):
            handle[0].options(deadline=0.2).switchless.patient(60)
        return handle[0].switchless.add(number)

    with secgear.launch(
        source, switchless=Switchless(workers=1), ocalls={"answer": answer}
    ) as enclave:
        handle.append(enclave)
        assert enclave.switchless.ask(5) == 6
        assert enclave.switchless.ask(6) == 7
        assert enclave.switchless.stats.lanes == 1


def test_ocalls_of_any_kind(enclave: Any) -> None:
    assert enclave.switchless.ask(4) == 5
    assert enclave.switchless.ask_large(2_000_000) == 2_000_000
    assert enclave.switchless.ask_stream(1000) == sum(range(1000))


def test_a_call_that_waits_for_an_ocall_can_be_cancelled(source: Path) -> None:
    let_go = threading.Event()

    def answer(_: int) -> int:
        let_go.wait(60)
        return 1

    with secgear.launch(
        source, switchless=Switchless(workers=1), ocalls={"answer": answer}
    ) as enclave:
        future = enclave.switchless.submit.ask(1)
        until(lambda: enclave.stats.ocalls == 1)
        assert future.cancel()
        let_go.set()
        assert enclave.options(deadline=20).switchless.add(1) == 2
