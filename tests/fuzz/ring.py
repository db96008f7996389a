"""A host that scribbles on the shared memory of a lane while calls run.

    python tests/fuzz/ring.py [still | running | honest]...

still: between the operations of one thread, so that a seed says everything. running: from a process
of its own, while an enclave in another one serves; the enclave must serve on, on a new lane.
honest: as running, but not on what a message consists of: then every answer under the id of its
question is right.
FUZZ_SCRIBBLES: how many in each way, a million by default. FUZZ_SECONDS: end earlier, then.
FUZZ_SEED: begin here. Ends with status 1 at the first wrong answer, hang or untyped error; a crash
has a status of its own.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from secgear.base.transport import ring
from tests.adversary.scribbler import Scribbler

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring

GEOMETRY = ring.Geometry(slots=8, arena=1 << 12, limit=1 << 14)
SIZES = (0, 8, 40, 232, 233, 1024, 5000)
TOLERATED = (ConnectionError, TimeoutError)
HANG = 60
"""Seconds without progress that are a hang; an operation waits 50 ms at most."""


def main() -> int:
    """0 when nothing was found."""
    names = sys.argv[1:] or ["still", "running", "honest"]
    scribbles = int(os.environ.get("FUZZ_SCRIBBLES", "1000000"))
    end = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", "1e9")) / len(names)
    seed = int(os.environ.get("FUZZ_SEED", secrets.randbits(32)))
    for name in names:
        print(f"{name}: seed {seed}", flush=True)
        done = {"still": still, "running": running, "honest": honest}[name](scribbles, end, seed)
        print(f"{name}: {done} scribbles, nothing found", flush=True)
    return 0


def still(scribbles: int, end: float, seed: int) -> int:
    """Both ends and the scribbler in one thread."""
    done, outcomes = 0, 0
    while done < scribbles and time.monotonic() < end:
        memory = memoryview(mmap.mmap(-1, GEOMETRY.size))
        ends = [ring.open_lane(memory, GEOMETRY, host=host, spin=0) for host in (True, False)]
        scribbler = Scribbler(memory, *GEOMETRY[:2], seed=seed + done, ends=True)
        for step in range(200):
            try:
                use = ends[step % 2]
                use.send(step, step, bytes(SIZES[step % len(SIZES)]), 0)
                scribbler.scribble()
                done += 1
                ends[(step + 1) % 2].recv(0)
                outcomes += 1
            except TOLERATED:
                outcomes += 1
            if all(_dead(one) for one in ends):
                break
        for one in ends:
            one.close()
    _expect(outcomes > 0, "no operation was tried")
    return done


def _dead(end: Ring) -> bool:
    try:
        end.recv(0)
    except TOLERATED:
        return True
    return False


def running(scribbles: int, end: float, seed: int) -> int:
    """Anything, anywhere: what comes back is the peer's affair, that something does is ours."""
    return _against_enclave(scribbles, end, seed, everywhere=True)


def honest(scribbles: int, end: float, seed: int) -> int:
    """Only what the protocol must see through."""
    return _against_enclave(scribbles, end, seed, everywhere=False)


def _against_enclave(scribbles: int, end: float, seed: int, *, everywhere: bool) -> int:
    """An enclave in one process, a scribbler in another, the calls here; a new lane a round."""
    memory = mmap.mmap(-1, GEOMETRY.size)
    state = mmap.mmap(-1, 4096)
    counters = memoryview(state).cast("Q")  # round, scribbles, the enclave's, the scribbler's
    children = [
        _child(lambda: _enclave(memory, counters)),
        _child(lambda: _scribble(memory, counters, seed, everywhere=everywhere)),
    ]
    try:
        number = answers = 0
        while counters[1] < scribbles and time.monotonic() < end:
            number += 1
            answers += _round(memory, counters, number, everywhere=everywhere)
            for child in children:
                _expect(os.waitpid(child, os.WNOHANG) == (0, 0), "a process died")
        _expect(answers > 0, "no call was answered")
        return counters[1]
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _round(memory: mmap.mmap, counters: memoryview, number: int, *, everywhere: bool) -> int:
    memory[:] = bytes(len(memory))
    counters[0] = number
    host = ring.open_lane(memory, GEOMETRY, host=True)
    _until(lambda: counters[2] == number, "the enclave does not serve on")
    answers = 0
    for step in range(60):
        payload = bytes([step]) * SIZES[step % len(SIZES)]
        id = number << 32 | step + 1  # never 0, which is what empty memory says
        try:
            answer = host.call(id, number, payload, 0.05)
        except TOLERATED:
            break
        if answer is None:
            break
        if not everywhere and answer[0] != id:
            break  # an old message under a forged number: its id tells
        _expect(everywhere or answer == (id, number, payload), "a wrong answer")
        answers += 1
    host.close()
    counters[0] = 0
    _until(lambda: counters[2] == 0, "the enclave hangs")
    _until(lambda: counters[3] == 0, "the scribbler hangs")
    return answers


def _enclave(memory: mmap.mmap, counters: memoryview) -> None:
    while True:
        _until(lambda: counters[0] != 0, "the host is gone")
        number = counters[0]
        enclave = ring.open_lane(memory, GEOMETRY, host=False)
        counters[2] = number

        def closer(enclave: Ring = enclave) -> None:
            # As the layer does when the stream says that the call is over.
            _until(lambda: counters[0] == 0, "the host is gone")
            enclave.close()

        closing = threading.Thread(target=closer)
        closing.start()
        with contextlib.suppress(*TOLERATED):
            enclave.serve(lambda id, tag, payload: payload)
        closing.join()
        enclave.close()
        counters[2] = 0


def _scribble(memory: mmap.mmap, counters: memoryview, seed: int, *, everywhere: bool) -> None:
    view = memoryview(memory)
    while True:
        _until(lambda: counters[0] != 0 and counters[2] == counters[0], "the host is gone")
        counters[3] = 1
        scribbler = Scribbler(
            view, *GEOMETRY[:2], seed=seed + counters[1], ends=counters[0] % 8 == 0
        )
        while counters[0] != 0:
            if everywhere:
                scribbler.scribble()
            else:
                scribbler.control()
            counters[1] += 1
            time.sleep(0.00002)
        counters[3] = 0


def _child(main: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            main()
        except BaseException as error:
            print(f"child: {error!r}", flush=True)
        finally:
            os._exit(1)
    return child


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + HANG
    while not condition():
        _expect(time.monotonic() < end, what)
        time.sleep(0)


def _expect(good: bool, what: str) -> None:
    if not good:
        raise SystemExit(f"found: {what}")


if __name__ == "__main__":
    sys.exit(main())
