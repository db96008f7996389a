"""What is particular to switchless calls: which they are, their values, workers, counters.

That they mean the same as calls over the stream is shown by the suites for both: test_enclave,
test_calls.
"""

from __future__ import annotations

import asyncio
import os
import signal
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


# --- counters ----------------------------------------------------------------------------------


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
