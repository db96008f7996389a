"""What is particular to switchless calls: workers, batches, fallbacks, counters, lanes left behind.

That they mean the same as calls over the stream is shown by the suites for both: test_enclave,
test_calls.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secgear
from secgear import Switchless, errors
from secgear.base.transport import ring
from tests.base.switchless.conftest import until

# --- which calls ---------------------------------------------------------------------------------


def test_functions_declared_switchless_are_by_default(source: Path) -> None:
    with secgear.launch(source) as enclave:  # the app declares one, so there is memory for it
        assert enclave.double(4) == 8
        assert enclave.submit.double(5).result(10) == 10
        assert asyncio.run(enclave.aio.double(6)) == 12
        assert enclave.switchless.stats.calls == 3
        assert enclave.add(1) == 2
        assert enclave.options(deadline=9).double(7) == 14
        assert enclave.switchless.stats.calls == 4
        assert (enclave.stats.calls, enclave.stats.pending) == (5, 0)


def test_without_shared_memory_they_take_the_stream(source: Path) -> None:
    with secgear.launch(source, switchless=False) as enclave:
        assert enclave.double(4) == 8
        assert enclave.switchless.add(1, b=2) == 3
        assert enclave.switchless.submit.add(1).result(10) == 2
        assert asyncio.run(enclave.switchless.aio.add(1)) == 2
        assert enclave.switchless.map.add([1, 2], [3, 4]) == [4, 6]
        stats = enclave.switchless.stats
        assert (stats.calls, stats.fallbacks, stats.lanes) == (0, 5, 0)
        assert stats.unavailable == "not asked for when it was launched"


def test_without_the_extension_they_take_the_stream(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "_REASON", "the native ring was not built")
    with secgear.launch(source, switchless=True) as enclave:
        assert enclave.switchless.add(1) == 2
        assert enclave.double(1) == 2
        with enclave.shared(10) as buffer:  # which needs no rings
            assert buffer.place is not None
        assert enclave.switchless.stats.unavailable == "the native ring was not built"
        assert enclave.switchless.stats.fallbacks == 1


def test_an_app_with_one_thread_is_not_made_to_run_two(source: Path, tmp_path: Path) -> None:
    single = tmp_path / "single.py"
    single.write_text(source.read_text().replace("threads=4", "threads=1"))
    with secgear.launch(single, switchless=True) as enclave:
        assert enclave.switchless.add(1) == 2
        assert "threads=1" in enclave.switchless.stats.unavailable


def test_streams_take_the_stream(enclave: Any) -> None:
    before = enclave.switchless.stats
    assert list(enclave.switchless.upto(5)) == [0, 1, 2, 3, 4]
    after = enclave.switchless.stats
    assert (after.calls, after.fallbacks) == (before.calls, before.fallbacks + 1)


def test_a_stream_is_not_declared_switchless() -> None:
    app = secgear.App("a")
    with pytest.raises(errors.InterfaceError, match="iterator"):

        @app.ecall(switchless=True)
        def items() -> Iterator[int]:
            yield 1


@pytest.mark.parametrize(
    "options",
    [
        {"workers": 0},
        {"workers": 65},
        {"slots": 100},
        {"slots": 4},
        {"arena": 100_000},
        {"shared": -1},
        {"window": 33},
        {"when_busy": "panic"},
        {"eager": 2.0},
        {"workers": "4"},
    ],
)
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(errors.ArgumentError, match=name):
        Switchless(**options)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 200, 70_000, 1 << 20, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, 20_000_000]
)
def test_values_of_any_size_cross_in_one_piece_or_many(enclave: Any, size: int) -> None:
    data = os.urandom(min(size, 4096)) * (size // 4096 or 1)
    assert enclave.switchless.echo(data) == data
    text = "ü" * (min(size, 4_000_000) // 2)
    assert enclave.switchless.text(text) == text
    assert enclave.switchless.stats.fallbacks == enclave.switchless.stats.fallbacks


def test_futures_of_any_size_cross(source: Path) -> None:
    """Also of those that take longer than anybody waits eagerly."""
    with secgear.launch(source, switchless=Switchless(workers=1, eager=1e-6)) as enclave:
        for size in (100, 300_000, 3_000_000, 10_000_000):
            data = os.urandom(1000) * (size // 1000 or 1)
            assert enclave.switchless.submit.echo(data).result(30) == data
        assert enclave.switchless.stats.abandoned == 0


def test_futures_that_wait_for_a_worker_do_not_hold_up_those_that_have_it(source: Path) -> None:
    """Some are answered at once, some under way, some still without a worker, all mixed up."""
    for eager in (0.0, 1e-6, 50e-6):
        options = Switchless(workers=1, eager=eager)
        with secgear.launch(source, switchless=options, deadline=100) as enclave:
            for _ in range(5):
                futures = [enclave.switchless.submit.add(number) for number in range(200)]
                assert [future.result(100) for future in futures] == list(range(1, 201))


def test_a_lane_that_was_cut_short_is_replaced_by_the_stream(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=1)) as enclave:
        assert enclave.switchless.add(1) == 2
        assert enclave.pid is not None
        os.kill(enclave.pid, signal.SIGSTOP)
        state = Path(f"/proc/{enclave.pid}/stat")
        # A signal takes its time, and an enclave that still reads makes room for another message.
        until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
        try:
            with pytest.raises(errors.DeadlineExceeded, match="echo"):
                enclave.options(deadline=0.2).switchless.echo(bytes(3_000_000))
        finally:
            os.kill(enclave.pid, signal.SIGCONT)
        until(lambda: enclave.switchless.stats.busy == 0)
        for number in range(3):
            assert enclave.options(deadline=20).switchless.add(number) == number + 1
        assert enclave.switchless.stats.fallbacks == 3


def test_arguments_that_fill_the_memory_are_refused(tmp_path: Path, source: Path) -> None:
    small = tmp_path / "small.py"
    small.write_text(source.read_text().replace("threads=4", "threads=4, memory=300 << 20"))
    with secgear.launch(small, switchless=Switchless(workers=1), deadline=60) as enclave:
        for face in (enclave, enclave.switchless):
            with pytest.raises(errors.CallError):
                face.echo(bytes(250 << 20))
            assert face.add(1) == 2


def test_arrays_cross(enclave: Any) -> None:
    for size in (0, 10, 1_000_000):
        assert np.array_equal(enclave.switchless.array(size), np.arange(size))


def test_arguments_larger_than_their_types_allow_are_refused(enclave: Any) -> None:
    for face in (enclave, enclave.switchless):
        assert face.short("x" * 10) == 10
        for size in (11, 100, 500_000):
            with pytest.raises(errors.ArgumentError, match="short"):
                face.short("x" * size)
        assert face.short("y") == 1


def test_a_call_knows_itself(enclave: Any) -> None:
    ids = {enclave.switchless.call_id() for _ in range(5)}
    assert len(ids) == 5


# --- workers -------------------------------------------------------------------------------------


def test_workers_come_as_calls_need_them(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=3)) as enclave:
        before = enclave.threads()
        for _ in range(100):
            enclave.switchless.add(1)
        assert enclave.switchless.stats.lanes == 1
        futures = [enclave.switchless.submit.meet(3) for _ in range(3)]
        assert [future.result(30) for future in futures] == [3, 3, 3]
        assert enclave.switchless.stats.lanes == 3
        assert enclave.threads() <= before + 3


def test_no_more_functions_run_at_once_than_the_app_allows(source: Path) -> None:
    """threads=4, three of them on lanes: one is left for the stream."""
    with secgear.launch(source, switchless=Switchless(workers=16), deadline=30) as enclave:
        futures = [enclave.switchless.submit.patient(0.5) for _ in range(8)]
        until(lambda: enclave.switchless.stats.lanes == 3)
        more = [enclave.submit.patient(0.2) for _ in range(3)]
        assert [future.result(30) for future in [*futures, *more]] == ["done"] * 11
        assert enclave.switchless.stats.lanes == 3


def test_an_enclave_keeps_the_mapping_and_nothing_else(source: Path) -> None:
    """The one descriptor that Python's mmap keeps; nothing executable, not a layer less."""
    seen = []
    for switchless in (False, True):
        with secgear.launch(source, switchless=switchless) as enclave:
            maps = enclave.writable_mappings()
            assert bool(maps) is switchless
            assert all(line.split()[1] == "rw-s" for line in maps)
            held = [layer for layer in enclave.layers if layer.holds]
            seen.append((enclave.descriptors() - switchless, held))
    assert seen[0] == seen[1]


def test_callers_wait_for_a_worker(source: Path) -> None:
    let_go = threading.Event()
    with secgear.launch(
        source,
        switchless=Switchless(workers=1),
        ocalls={"answer": lambda number: let_go.wait(60) and number},
    ) as enclave:
        busy = enclave.switchless.submit.ask(7)
        until(lambda: enclave.stats.ocalls == 1)
        waiting = enclave.switchless.submit.add(1)
        threads = [threading.Thread(target=enclave.switchless.add, args=(1,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: enclave.switchless.stats.waits >= 3)
        assert not waiting.done()
        let_go.set()
        assert (busy.result(20), waiting.result(20)) == (7, 2)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        stats = enclave.switchless.stats
        assert (stats.calls, stats.fallbacks, stats.lanes) == (5, 0, 1)


def test_callers_that_wait_for_a_worker_keep_their_deadline(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=1)) as enclave:
        busy = enclave.switchless.submit.patient(600)
        with pytest.raises(errors.DeadlineExceeded):
            enclave.options(deadline=0.1).switchless.add(1)
        queued = enclave.options(deadline=0.1).switchless.submit.add(1)
        with pytest.raises(errors.DeadlineExceeded):
            queued.result(10)
        assert not busy.done()
        assert busy.cancel()
        assert enclave.options(deadline=20).switchless.add(1) == 2


def test_callers_may_take_the_stream_instead(source: Path) -> None:
    options = Switchless(workers=1, when_busy="stream")
    with secgear.launch(source, switchless=options) as enclave:
        busy = enclave.switchless.submit.patient(600)
        assert enclave.switchless.add(1) == 2
        assert enclave.switchless.map.add([1, 2]) == [2, 3]
        assert not busy.done()
        assert enclave.switchless.stats.fallbacks == 3
        assert busy.cancel()


def test_idle_workers_sleep(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=2)) as enclave:
        for _ in range(1000):
            enclave.switchless.add(1)
        time.sleep(0.2)  # they have gone to sleep by now
        before = _cpu_time(enclave.pid), time.process_time()
        time.sleep(1)
        assert _cpu_time(enclave.pid) - before[0] < 0.2
        assert time.process_time() - before[1] < 0.2
        assert enclave.switchless.add(1) == 2


def _cpu_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- batches -------------------------------------------------------------------------------------


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


# --- nested calls --------------------------------------------------------------------------------


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


def test_counters_tell_what_happened(source: Path) -> None:
    with secgear.launch(source, switchless=Switchless(workers=1)) as enclave:
        for _ in range(10):
            enclave.switchless.add(1)
        enclave.switchless.map.add([1, 2, 3])
        with pytest.raises(ValueError, match="3"):
            enclave.switchless.picky(3)
        stats = enclave.switchless.stats
        assert (stats.calls, stats.batches, stats.failed, stats.fallbacks) == (14, 1, 1, 0)
        assert (stats.sent, stats.received) == (14, 14)
        assert (stats.lanes, stats.busy, stats.rejected) == (1, 0, 0)
        assert (enclave.stats.calls, enclave.stats.failed, enclave.stats.pending) == (14, 1, 0)
