"""Calls that are given up while others are nested in them, or behind them, on the same lane."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear import Switchless, errors
from tests.base.switchless.conftest import until


def test_a_handler_that_outlives_its_call_harms_nobody(source: Path) -> None:
    """It makes a call nested in one that the enclave has ended already."""
    handle: list[Any] = []
    late = threading.Event()
    told: list[BaseException] = []

    def answer(number: int) -> int:
        late.wait(60)
        try:
            return handle[0].options(deadline=20).switchless.text("x" * number) and 1
        except BaseException as error:
            told.append(error)
            raise

    with secgear.launch(
        source, switchless=Switchless(workers=1), ocalls={"answer": answer}
    ) as enclave:
        handle.append(enclave)
        for size in (1, 6 << 20):
            late.clear()
            told.clear()
            failed = enclave.switchless.stats.failed
            with pytest.raises(errors.DeadlineExceeded):
                enclave.options(deadline=0.2).switchless.ask(size)
            assert enclave.switchless.stats.failed == failed + 1
            until(lambda: enclave.stats.ocalls >= 1)
            enclave.add(1)  # behind the news that the call was given up
            threading.Event().wait(0.2)  # the enclave looks for those now and then
            late.set()
            assert enclave.options(deadline=20).switchless.add(1) == 2
            until(lambda: bool(told))
            assert isinstance(told[0], errors.CallCancelled)
        assert enclave.alive


def test_a_late_call_is_cancelled_though_others_were_nested_in_it(tmp_path: Path) -> None:
    app = tmp_path / "nested.py"
    app.write_text(
        """
import time
from secgear import App

app = App("nested", threads=3)
cleaned = []

@app.ecall
def add(a: int) -> int:
    return a + 1

@app.ecall
def cleanings() -> int:
    return len(cleaned)

@app.ecall
def ask_and_stay(depth: int) -> int:
    answer(depth)
    if depth != 1:
        return 0
    end = time.monotonic() + 600
    try:
        while time.monotonic() < end:
            time.sleep(0.005)
    finally:
        cleaned.append(1)
    return 1

@app.ocall
def answer(depth: int) -> int: ...
"""
    )
    handle: list[Any] = []
    late: list[BaseException] = []

    def answer(depth: int) -> int:
        enclave = handle[0]
        if depth == 2:
            try:
                enclave.options(deadline=0.3).switchless.ask_and_stay(1)
            except errors.DeadlineExceeded as error:
                late.append(error)
            return int(enclave.switchless.add(depth))
        return int(enclave.switchless.add(depth))

    with secgear.launch(
        app, switchless=Switchless(workers=1), ocalls={"answer": answer}
    ) as enclave:
        handle.append(enclave)
        with pytest.raises(errors.DeadlineExceeded):
            enclave.options(deadline=0.3).switchless.ask_and_stay(1)
        assert enclave.options(deadline=20).switchless.add(1) == 2  # the worker is free again
        assert enclave.cleanings() == 1
        assert enclave.switchless.ask_and_stay(2) == 0  # the late one is nested itself
        assert len(late) == 1
        assert enclave.cleanings() == 2


def test_a_batch_that_fails_gives_up_all_its_calls(source: Path) -> None:
    """Of a new worker too, whose first call is the batch's own."""

    def seconds() -> Iterator[float]:
        yield 600.0
        yield 0.0
        raise LookupError("no more")

    with secgear.launch(source, switchless=Switchless(workers=1)) as enclave:
        with pytest.raises(LookupError):
            enclave.switchless.map.patient(seconds())
        assert enclave.options(deadline=20).switchless.add(1) == 2


def test_an_interrupt_while_a_handler_runs_waits_for_it_before_the_worker_is_used(
    source: Path,
) -> None:
    """With a deadline the handler has a thread of its own, which an interrupt does not end."""
    let_go = threading.Event()
    begun = threading.Event()

    def answer(number: int) -> int:
        begun.set()
        let_go.wait(60)
        return number

    def interrupt() -> None:
        begun.wait(60)
        signal.pthread_kill(main, signal.SIGUSR1)

    def strike(*_: object) -> None:
        raise KeyboardInterrupt

    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGUSR1, strike)
    try:
        with secgear.launch(
            source, switchless=Switchless(workers=1), ocalls={"answer": answer}
        ) as enclave:
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                enclave.options(deadline=60).switchless.ask(1)
            thread.join()
            with pytest.raises(errors.DeadlineExceeded):
                enclave.options(deadline=0.5).switchless.add(1)
            let_go.set()
            assert enclave.options(deadline=20).switchless.add(1) == 2
            assert enclave.alive
    finally:
        signal.signal(signal.SIGUSR1, before)
