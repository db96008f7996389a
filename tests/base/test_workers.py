"""Threads that serve calls: as many as allowed, never stuck on calls nested in their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from secgear.base import workers as module
from secgear.base.workers import Inbox, Workers


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def threads(name: str) -> int:
    return sum(thread.name.startswith(f"{name}-") for thread in threading.enumerate())


def test_every_task_runs_once() -> None:
    pool = Workers(4, "once", elastic=True)
    done: list[int] = []
    for number in range(2000):
        assert pool.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    until(lambda: len(done) == 2000)
    assert sorted(done) == list(range(2000))
    pool.close()


def test_there_are_never_more_threads_than_allowed() -> None:
    pool = Workers(3, "most", elastic=True)
    gate = threading.Event()
    for _ in range(20):
        pool.submit(lambda: gate.wait(10) and None)  # type: ignore[func-returns-value]
    time.sleep(0.1)
    assert threads("most") == 3
    gate.set()
    pool.close()
    until(lambda: threads("most") == 0)


def test_a_free_thread_is_used_again() -> None:
    pool = Workers(8, "again", elastic=True)
    for _ in range(50):
        over = threading.Event()
        pool.submit(over.set)
        assert over.wait(5)
        time.sleep(0.001)
    assert threads("again") <= 2
    pool.close()


def test_idle_threads_of_an_elastic_pool_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.05)
    elastic, lasting = Workers(4, "elastic", elastic=True), Workers(4, "lasting", elastic=False)
    for pool in (elastic, lasting):
        over = threading.Event()
        pool.submit(over.set)
        assert over.wait(5)
    until(lambda: threads("elastic") == 0)
    assert threads("lasting") == 1
    over = threading.Event()
    elastic.submit(over.set)
    assert over.wait(5)
    elastic.close()
    lasting.close()
    until(lambda: threads("lasting") == 0)


def test_work_that_comes_while_threads_leave_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE", 0.001)
    pool = Workers(2, "leaving", elastic=True)
    for _ in range(500):
        over = threading.Event()
        pool.submit(over.set)
        assert over.wait(5), "a task fell between a thread that left and none that came"
        time.sleep(0.001)
    pool.close()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, KeyboardInterrupt])
def test_a_task_that_raises_does_not_cost_a_thread(error: type[BaseException]) -> None:
    pool = Workers(1, "raises", elastic=False)

    def bad() -> None:
        raise error

    for _ in range(5):
        pool.submit(bad)
    over = threading.Event()
    pool.submit(over.set)
    assert over.wait(5)
    pool.close()


def test_a_closed_pool_takes_nothing_and_finishes_what_it_has() -> None:
    pool = Workers(1, "closed", elastic=False)
    done: list[int] = []
    gate = threading.Event()
    pool.submit(lambda: gate.wait(5) and None)  # type: ignore[func-returns-value]
    pool.submit(lambda: done.append(1))
    pool.close()
    assert not pool.submit(lambda: done.append(2))
    gate.set()
    until(lambda: threads("closed") == 0)
    assert done == [1]


def test_a_system_without_threads_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Workers(2, "none", elastic=False)
    done = threading.Event()
    with monkeypatch.context() as patch:

        def no_thread(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", no_thread)
        assert not pool.submit(done.set)
    assert pool.submit(done.set)
    assert done.wait(5)
    pool.close()


# --- nesting -------------------------------------------------------------------------------------


def nest(pool: Workers, depth: int, call: int, over: Callable[[], None]) -> None:
    """A task of `call` that waits for a nested one, which waits for a nested one, and so on."""
    if depth == 0:
        over()
        return
    inbox = Inbox()
    finished: list[int] = []

    def inner() -> None:
        nest(pool, depth - 1, call + 1, lambda: finished.append(1))
        inbox.wake()

    # Somebody else (the other side) submits it, at any moment from now on.
    threading.Thread(target=lambda: pool.submit(inner, call)).start()
    pool.wait(call, inbox, lambda: bool(finished))
    over()


@pytest.mark.parametrize("maximum", [1, 2, 3])
@pytest.mark.parametrize("depth", [1, 2, 10])
def test_nested_tasks_run_on_the_threads_that_wait_for_them(maximum: int, depth: int) -> None:
    pool = Workers(maximum, f"nest{maximum}{depth}", elastic=False)
    for _ in range(20):
        over = threading.Event()
        pool.submit(lambda over=over: nest(pool, depth, 1, over.set))  # type: ignore[misc]
        assert over.wait(10), "deadlock"
    pool.close()


def test_many_nested_calls_on_few_threads() -> None:
    pool = Workers(2, "crowd", elastic=False)
    left = threading.Semaphore(0)
    for number in range(60):
        pool.submit(
            lambda number=number: nest(pool, 3, 1000 * (number + 1), left.release)  # type: ignore[misc]
        )
    for _ in range(60):
        assert left.acquire(timeout=20), "deadlock"
    pool.close()


def test_tasks_that_come_too_late_for_a_waiting_thread_run_elsewhere() -> None:
    pool = Workers(1, "late", elastic=False)
    for _ in range(200):
        ran, over = threading.Event(), threading.Event()

        def outer(ran: threading.Event = ran, over: threading.Event = over) -> None:
            inbox = Inbox()
            finished: list[int] = []

            def other_side() -> None:
                finished.append(1)
                inbox.wake()
                pool.submit(ran.set, 7)

            threading.Thread(target=other_side).start()
            pool.wait(7, inbox, lambda: bool(finished))
            over.set()

        pool.submit(outer)
        assert over.wait(5)
        assert ran.wait(5), "a task was left in the inbox of a thread that has gone"
    pool.close()


def test_a_stranger_is_not_served_by_a_thread_that_waits() -> None:
    """Its work would sit on top of the waiting call's, which could not go on before it ends."""
    pool = Workers(1, "stranger", elastic=False)
    inbox = Inbox()
    finished: list[int] = []
    served: list[str] = []
    pool.submit(lambda: pool.wait(1, inbox, lambda: bool(finished)))
    time.sleep(0.05)
    pool.submit(lambda: served.append("stranger"), 2)
    pool.submit(lambda: served.append("nested"), 1)
    until(lambda: served == ["nested"])
    time.sleep(0.05)
    assert served == ["nested"]
    finished.append(1)
    inbox.wake()
    until(lambda: served == ["nested", "stranger"])
    pool.close()


def test_waiting_for_a_call_ends_at_the_deadline() -> None:
    pool = Workers(1, "late", elastic=False)
    inbox = Inbox()
    assert not pool.wait(1, inbox, lambda: False, time.monotonic() + 0.05)
    ran: list[int] = []
    pool.submit(lambda: ran.append(1), 1)  # nobody waits on behalf of it any more
    until(lambda: ran == [1])
    pool.close()


def test_waiting_ends_at_the_deadline() -> None:
    inbox = Inbox()
    start = time.monotonic()
    assert not inbox.serve_until(lambda: False, start + 0.1)
    assert 0.05 < time.monotonic() - start < 2
    inbox.wake()
    assert inbox.serve_until(lambda: True, start)
