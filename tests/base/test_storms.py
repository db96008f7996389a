"""Everything at once, with a real enclave: answers stay right, nothing waits for ever.

Cancellations at any moment, both sides flooding each other, deadlines, streams that are left, an
enclave that is killed in the middle of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear import errors
from secgear.base.enclave import Enclave

THREADS = 4
SECONDS = float(os.environ.get("SECGEAR_STORM_SECONDS", "8"))

APP = f"""
import hashlib
import logging
import threading
import time
from collections.abc import Iterator

import secgear
from secgear import App

app = App("storm", threads={THREADS}, memory=1 << 30)
log = logging.getLogger("storm")
barrier = threading.Barrier({THREADS})
plain, condition = threading.Lock(), threading.Condition()
tidied = [0, 0]

@app.ecall
def add(a: int, b: int) -> int:
    return a + b

@app.ecall
def together() -> int:
    barrier.wait(20)
    return threading.get_ident()

@app.ecall
def hashed(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

@app.ecall
def mirror(data: bytes) -> bytes:
    return data

@app.ecall
def compute() -> int:
    n = 0
    while True:
        n += 1

@app.ecall
def calls_out() -> None:
    n = 0
    while True:
        if echo(n) != n:
            note("wrong")
        n += 1

@app.ecall
def talks() -> None:
    while True:
        log.warning("still at it")
        logging.getLogger("storm.child").info("%s", "x")

@app.ecall
def locks() -> None:
    while True:
        with condition:
            condition.notify_all()
        with plain:
            pass
        threading.Event().wait(0.0001)

@app.ecall
def tidies() -> None:
    try:
        tidied[0] += 1
        while True:
            pass
    finally:
        log.info("cleaning up")
        tidied[1] += 1

@app.ecall
def tidiness() -> list[int]:
    return tidied

@app.ecall
def stubborn() -> int:
    for n in range(30):
        try:
            for _ in range(20_000):
                pass
        except BaseException:
            pass
    return n

@app.ecall
def deep(n: int) -> int:
    try:
        echo(n)
        return deep(n + 1)
    except RecursionError:
        return n

@app.ecall
def upto(n: int, size: int = 0) -> Iterator[bytes]:
    for number in range(n):
        yield number.to_bytes(4, "big") + bytes(size)

@app.ecall
def total(numbers: Iterator[int]) -> int:
    return sum(numbers)

@app.ecall
def back_and_forth(n: int) -> int:
    return bounce(n - 1) + 1 if n else 0

@app.ecall
def bulk_out(size: int) -> bytes:
    data = bytes([size % 251]) * size
    return taken(data)

@app.ocall
def echo(n: int) -> int: ...

@app.ocall
def note(text: str) -> None: ...

@app.ocall
def bounce(n: int) -> int: ...

@app.ocall
def taken(data: bytes) -> bytes: ...
"""

Make = Callable[[], Enclave]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("storm") / "storm.py"
    path.write_text(APP)
    return path


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def make(source: Path, notes: list[str]) -> Iterator[Make]:
    made: list[Enclave] = []
    logging.getLogger("secgear.enclave").setLevel(logging.CRITICAL)

    def start() -> Enclave:
        handle: list[Enclave] = []
        enclave = secgear.launch(
            source,
            ocalls={
                "echo": lambda n: n,
                "note": notes.append,
                "bounce": lambda n: handle[0].back_and_forth(n),
                "taken": lambda data: hashlib.sha256(data).digest(),
            },
        )
        handle.append(enclave)
        made.append(enclave)
        return enclave

    yield start
    for enclave in made:
        enclave.close(1)
    logging.getLogger("secgear.enclave").setLevel(logging.NOTSET)


def check_serving(enclave: Enclave) -> None:
    """Each worker thread is alive, free, and the same as at the beginning."""
    enclave = enclave.options(deadline=30)  # type: ignore[assignment]
    for _ in range(3):
        futures = [enclave.submit.together() for _ in range(THREADS)]
        assert len({future.result(30) for future in futures}) == THREADS
    assert enclave.add(2, 3) == 5
    assert (
        enclave.bulk_out(3_000_000) == hashlib.sha256(bytes([3_000_000 % 251]) * 3_000_000).digest()
    )


def settled(enclave: Enclave) -> None:
    end = time.monotonic() + 20
    while enclave.stats.pending or enclave.stats.ocalls:
        assert time.monotonic() < end, enclave.stats
        time.sleep(0.01)


# --- cancellation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", ["compute", "calls_out", "talks", "locks", "tidies", "stubborn"]
)
def test_hundreds_of_cancellations_leave_every_thread_serving(
    make: Make, notes: list[str], function: str
) -> None:
    enclave = make()
    chance = random.Random(function)
    for _ in range(400):
        future: Future[Any] = getattr(enclave.submit, function)()
        time.sleep(chance.choice([0, 0.0002, 0.001, 0.003, 0.006]))
        future.cancel()
        assert enclave.options(deadline=30).add(1, 1) == 2
    check_serving(enclave)
    settled(enclave)
    assert notes == []
    if function == "tidies":
        began, ended = enclave.tidiness()
        assert began == ended > 0


def test_cancelled_streams_leave_every_thread_serving(make: Make) -> None:
    enclave = make()
    chance = random.Random(7)
    for _ in range(150):
        stream = enclave.upto(10**9, chance.choice([0, 10, 100_000, 300_000]))
        for number in range(chance.randint(0, 40)):
            assert next(stream)[:4] == number.to_bytes(4, "big")
        stream.close()

        def forever() -> Iterator[int]:
            while True:
                yield 1

        future = enclave.submit.total(forever())
        time.sleep(chance.choice([0, 0.001, 0.003]))
        future.cancel()
    check_serving(enclave)
    settled(enclave)


def test_cancelled_bulk_leaves_no_chunk_and_no_memory_behind(make: Make) -> None:
    enclave = make()
    chance = random.Random(8)
    data = os.urandom(20_000_000)
    for _ in range(60):
        late = enclave.options(deadline=chance.choice([0.0001, 0.001, 0.005, 0.02]))
        with contextlib.suppress(errors.DeadlineExceeded):
            assert late.mirror(data) == data
    assert enclave.mirror(data) == data
    # More than the enclave could hold if anything of the above were still there.
    large = bytes(200_000_000)
    assert enclave.hashed(large) == hashlib.sha256(large).digest()
    check_serving(enclave)
    settled(enclave)


def test_recursion_to_the_end_leaves_every_thread_serving(make: Make) -> None:
    """The limit is hit at any depth of our own code."""
    enclave = make()
    for start in range(12):
        assert enclave.options(deadline=60).deep(start) > 50
    check_serving(enclave)


# --- floods --------------------------------------------------------------------------------------


def test_both_sides_flood_each_other(make: Make) -> None:
    """Large values in both directions from all threads: a reader that waits would stop it all."""
    enclave = make()
    wrong: list[str] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        fast = enclave.options(deadline=60)
        for _ in range(12):
            data = chance.randbytes(chance.choice([10, 70_000, 400_000, 3_000_000]))
            if chance.random() < 0.5:
                if fast.mirror(data) != data:
                    wrong.append("mirror")
            elif (
                fast.bulk_out(len(data))
                != hashlib.sha256(bytes([len(data) % 251]) * len(data)).digest()
            ):
                wrong.append("bulk")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "deadlock"
    assert not wrong
    check_serving(enclave)


class Storm:
    """Many threads that call in every style and check every answer."""

    def __init__(self, enclave: Enclave) -> None:
        self.enclave = enclave
        self.end = time.monotonic() + SECONDS
        self.wrong: list[str] = []
        self.lost = 0
        self.done = 0
        self._threads = [threading.Thread(target=self._work, args=(seed,)) for seed in range(64)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(max(0.1, self.end + 60 - time.monotonic()))
            assert not thread.is_alive(), "a call waits for ever"

    def _work(self, seed: int) -> None:
        chance = random.Random(seed)
        kinds = [self._sync, self._future, self._stream, self._input, self._nested, self._dropped]
        while time.monotonic() < self.end:
            try:
                chance.choice(kinds)(chance)
                self.done += 1
            except errors.EnclaveLost:
                self.lost += 1
                return
            except (errors.DeadlineExceeded, errors.LimitExceeded):
                pass
            except BaseException as error:
                self.wrong.append(repr(error))
                return

    def _sync(self, chance: random.Random) -> None:
        data = chance.randbytes(chance.choice([0, 100, 70_000, 300_000]))
        late = self.enclave.options(deadline=chance.choice([0.001, 0.05, 30]))
        if late.mirror(data) != data:
            self.wrong.append("mirror")

    def _future(self, chance: random.Random) -> None:
        numbers = [chance.randint(0, 1 << 40) for _ in range(10)]
        futures = [self.enclave.submit.add(number, 1) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            if chance.random() < 0.2:
                future.cancel()
            else:
                with contextlib.suppress(CancelledError):
                    if future.result(60) != number + 1:
                        self.wrong.append("add")

    def _stream(self, chance: random.Random) -> None:
        count = chance.randint(0, 60)
        stop = chance.randint(0, 80)
        stream = self.enclave.upto(count, chance.choice([0, 0, 100_000]))
        got = 0
        for item in stream:
            if item[:4] != got.to_bytes(4, "big"):
                self.wrong.append("stream")
            got += 1
            if got == stop:
                stream.close()
        if got != min(count, stop or count):
            self.wrong.append(f"stream of {count}, left at {stop}, had {got}")

    def _input(self, chance: random.Random) -> None:
        count = chance.randint(0, 100)
        if self.enclave.options(deadline=30).total(iter(range(count))) != sum(range(count)):
            self.wrong.append("total")

    def _nested(self, chance: random.Random) -> None:
        depth = chance.randint(0, 5)
        if self.enclave.options(deadline=30).back_and_forth(depth) != depth:
            self.wrong.append("nested")

    def _dropped(self, chance: random.Random) -> None:
        kind = chance.choice(["compute", "calls_out", "talks", "locks"])
        future = getattr(self.enclave.submit, kind)()
        time.sleep(chance.random() / 50)
        future.cancel()


def test_a_storm_of_calls_gets_right_answers(make: Make, notes: list[str]) -> None:
    enclave = make()
    storm = Storm(enclave)
    storm.run()
    storm.join()
    assert storm.wrong == []
    assert storm.lost == 0
    assert storm.done > 100
    assert notes == []
    settled(enclave)
    check_serving(enclave)


@pytest.mark.parametrize("delay", [0.05, 0.7])
def test_an_enclave_killed_in_a_storm_fails_every_call_at_once(make: Make, delay: float) -> None:
    enclave = make()
    storm = Storm(enclave)
    storm.end = time.monotonic() + 15
    storm.run()
    time.sleep(delay)
    assert enclave.pid is not None
    os.kill(enclave.pid, signal.SIGKILL)
    start = time.monotonic()
    storm.join()
    assert time.monotonic() - start < 10
    assert storm.wrong == []
    assert storm.lost == 64
    settled(enclave)
