"""Interrupted, killed, forked, on one processor, from threads and tasks: nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear import Switchless, errors
from tests.base.switchless.conftest import until

# --- lanes left behind ---------------------------------------------------------------------------


def test_a_lane_that_was_left_is_used_again(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=1)) as enclave:
        for _ in range(5):
            with pytest.raises(errors.DeadlineExceeded):
                enclave.options(deadline=0.05).switchless.patient(60)
            assert enclave.options(deadline=20).switchless.add(1) == 2
        stats = enclave.switchless.stats
        assert (stats.abandoned, stats.lanes, stats.rejected) == (5, 1, 0)
        assert enclave.cleanings() == 5


def test_an_interrupted_call_leaves_its_lane(source: Path) -> None:
    class Alarm(Exception):
        pass

    def ring_alarm(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring_alarm)
    try:
        with secgear.launch(source, switchless=Switchless(workers=1)) as enclave:
            for _ in range(3):
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                with pytest.raises(Alarm):
                    enclave.switchless.patient(60)
                assert enclave.options(deadline=20).switchless.add(1) == 2
            assert enclave.cleanings() == 3
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_signals_that_interrupt_nothing_do_no_harm(enclave: Any) -> None:
    count = []
    before = signal.signal(signal.SIGALRM, lambda *_: count.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for number in range(20_000):
            assert enclave.switchless.add(number) == number + 1
        data = os.urandom(3_000_000)
        assert enclave.switchless.echo(data) == data
        assert enclave.switchless.patient(0.1) == "done"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert count


# --- life ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["computing", "in an OCALL", "in a batch"])
def test_kill_9_ends_every_call_at_once(source: Path, state: str) -> None:
    let_go = threading.Event()
    outcomes: list[BaseException] = []
    with secgear.launch(
        source,
        switchless=Switchless(workers=3),
        ocalls={"answer": lambda number: (let_go.wait(1) and number) or number},
    ) as enclave:
        work = {
            "computing": lambda: enclave.switchless.patient(60),
            "in an OCALL": lambda: [enclave.switchless.ask(1) for _ in range(100_000)],
            "in a batch": lambda: enclave.switchless.map.patient([60] * 100),
        }[state]

        def run() -> None:
            try:
                work()
            except BaseException as error:
                outcomes.append(error)

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: enclave.switchless.stats.busy == 3)
        future = enclave.switchless.submit.patient(60)
        assert enclave.pid is not None
        os.kill(enclave.pid, signal.SIGKILL)
        start = time.monotonic()
        let_go.set()
        for thread in threads:
            thread.join(20)
        with pytest.raises(errors.EnclaveLost):
            future.result(20)
        assert time.monotonic() - start < 10
        assert len(outcomes) == 6
        assert all(isinstance(error, errors.EnclaveLost) for error in outcomes), outcomes
        with pytest.raises(errors.EnclaveLost, match="SIGKILL"):
            enclave.switchless.add(1)


_HOST = """
import os, sys, threading, time
import secgear
from secgear import Switchless

{setup}
if __name__ == "__main__":
    enclave = secgear.launch({source!r}, switchless=Switchless(workers=2), ocalls={{"answer": int}})
    {body}
"""


def host(
    tmp_path: Path, source: Path, body: str, setup: str = ""
) -> subprocess.CompletedProcess[str]:
    """A host program of its own, which must come to an end."""
    path = tmp_path / "host.py"
    body = textwrap.indent(textwrap.dedent(body), "    ").lstrip()
    path.write_text(_HOST.format(source=str(source), body=body, setup=textwrap.dedent(setup)))
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, timeout=120, check=False
    )


def test_an_enclave_ends_with_a_host_that_was_killed(tmp_path: Path, source: Path) -> None:
    done = host(
        tmp_path,
        source,
        """
        threading.Thread(target=lambda: enclave.switchless.patient(600), daemon=True).start()
        time.sleep(0.3)
        print(enclave.pid, flush=True)
        os.kill(os.getpid(), 9)
        """,
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone)


def test_an_interpreter_may_end_in_the_middle_of_calls(tmp_path: Path, source: Path) -> None:
    done = host(
        tmp_path,
        source,
        """
        def forever():
            while True:
                enclave.switchless.add(1)
        for target in (forever, lambda: enclave.switchless.patient(600), forever):
            threading.Thread(target=target, daemon=True).start()
        enclave.switchless.submit.patient(600)
        time.sleep(0.3)
        print("end", flush=True)
        """,
    )
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr


def test_a_forked_child_may_not_call_and_does_no_harm(tmp_path: Path, source: Path) -> None:
    done = host(
        tmp_path,
        source,
        """
        add = enclave.switchless.add
        add(1)
        for end in ("exit", "os._exit"):
            child = os.fork()
            if not child:
                for call in (add, enclave.switchless.submit.add, enclave.switchless.map.add):
                    try:
                        call([1] if "Map" in call.__qualname__ else 1)
                    except secgear.errors.EnclaveLost:
                        print("refused", flush=True)
                    except TypeError:
                        pass
                os._exit(0) if end == "os._exit" else sys.exit(0)
            os.waitpid(child, 0)
            assert [add(number) for number in range(1000)] == list(range(1, 1001))
        print("ok")
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ok"
    assert done.stdout.count("refused") >= 4


def test_a_fork_while_other_threads_call(tmp_path: Path, source: Path) -> None:
    done = host(
        tmp_path,
        source,
        """
        import warnings; warnings.simplefilter("ignore")
        stop, made = threading.Event(), []
        def work():
            while not stop.is_set():
                assert enclave.switchless.add(1) == 2
                made.append(1)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        for _ in range(10):
            child = os.fork()
            if not child:
                os._exit(0)
            os.waitpid(child, 0)
        stop.set()
        for thread in threads: thread.join()
        enclave.close()
        print("ok", len(made) > 10)
        """,
    )
    assert done.stdout == "ok True\n", done.stderr


def test_both_sides_on_one_processor(tmp_path: Path, source: Path) -> None:
    done = host(
        tmp_path,
        source,
        """
        for number in range(2000):
            assert enclave.switchless.add(number) == number + 1
        assert enclave.switchless.map.add(range(20000)) == list(range(1, 20001))
        assert enclave.switchless.ask(7) == 7
        futures = [enclave.switchless.submit.add(number) for number in range(200)]
        assert [future.result(60) for future in futures] == list(range(1, 201))
        enclave.close()
        print("ok")
        """,
        setup="os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    )
    assert done.stdout == "ok\n", done.stderr


def test_threads_and_asyncio_call_at_once(enclave: Any) -> None:
    wrong: list[Any] = []

    def work(start: int) -> None:
        for number in range(start, start + 300):
            if enclave.switchless.add(number) != number + 1:
                wrong.append(number)
        if enclave.switchless.map.add(range(start, start + 300)) != list(
            range(start + 1, start + 301)
        ):
            wrong.append(start)

    async def main(start: int) -> None:
        calls = [enclave.switchless.aio.add(number) for number in range(start, start + 300)]
        results = await asyncio.gather(*calls)
        if results != list(range(start + 1, start + 301)):
            wrong.append(("async", start))

    threads = [threading.Thread(target=work, args=(1000 * at,)) for at in range(5)]
    threads += [
        threading.Thread(target=lambda at=at: asyncio.run(main(10_000 * at)))  # type: ignore[misc]
        for at in range(1, 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


def test_awaited_calls_leave_room_for_other_tasks(enclave: Any) -> None:
    async def main() -> int:
        ticks = 0
        done = False

        async def tick() -> None:
            nonlocal ticks
            while not done:
                ticks += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(tick())
        for number in range(5000):
            assert await enclave.switchless.aio.add(number) == number + 1
        done = True
        await task
        return ticks

    assert asyncio.run(main()) > 10
