"""What the tests of switchless calls share: an app, and an enclave of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear import Switchless
from secgear.base.transport import ring

APP = """
import os
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

import secgear
from secgear import App

app = App("lanes", requires=["numpy"], threads=4)
order = []
cleaned = []

@app.ecall
def add(a: int, b: int = 1) -> int:
    return a + b

@app.ecall(switchless=True)
def double(a: int) -> int:
    return 2 * a

@app.ecall
def echo(data: bytes) -> bytes:
    return data

@app.ecall
def text(value: str) -> str:
    return value

@app.ecall
def short(value: Annotated[str, msgspec.Meta(max_length=10)]) -> int:
    return len(value)

@app.ecall
def note(number: int) -> int:
    order.append(number)
    return number

@app.ecall
def noted() -> list[int]:
    result = order[:]
    order.clear()
    return result

@app.ecall(raises=[ValueError])
def picky(number: int) -> int:
    if number % 3 == 0:
        raise ValueError(f"{number} is no good")
    return number

@app.ecall
def array(size: int) -> np.ndarray:
    return np.arange(size)

@app.ecall
def upto(n: int) -> Iterator[int]:
    yield from range(n)

@app.ecall
def patient(seconds: float) -> str:
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(0.005)
    finally:
        cleaned.append(1)
    return "done"

@app.ecall
def cleanings() -> int:
    return len(cleaned)

@app.ecall
def meet(parties: int) -> int:
    waiting.append(1)
    end = time.monotonic() + 20
    while len(waiting) < parties and time.monotonic() < end:
        time.sleep(0.002)
    return len(waiting)

waiting = []

@app.ecall
def call_id() -> int:
    call = secgear.current_call()
    assert call.function == "call_id" and not call.cancelled
    return call.id

@app.ecall
def ask(number: int) -> int:
    return answer(number)

@app.ecall
def ask_and_tell(number: int) -> tuple[int, str]:
    return answer(number), secgear.current_call().function

@app.ecall
def ask_large(size: int) -> int:
    return len(fetch(size))

@app.ecall
def ask_stream(count: int) -> int:
    return sum(numbers(count))

@app.ecall
def recurse(depth: int) -> int:
    return answer(depth) if depth else 0

@app.ecall
def recurse_over_the_stream(depth: int) -> int:
    return total(iter([depth])) if depth else 0

@app.ecall
def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))

@app.ecall
def writable_mappings() -> list[str]:
    with open("/proc/self/maps") as maps:
        return [line for line in maps if "secgear-switchless" in line]

@app.ecall
def threads() -> int:
    return threading.active_count()

@app.ocall(raises=[KeyError])
def answer(number: int) -> int: ...

@app.ocall
def fetch(size: int) -> bytes: ...

@app.ocall
def numbers(count: int) -> Iterator[int]: ...

@app.ocall
def total(numbers: Iterator[int]) -> int: ...
"""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lanes") / "lanes.py"
    path.write_text(APP)
    return path


@pytest.fixture(autouse=True)
def _rings() -> None:
    if not ring.available():
        pytest.skip(ring.reason())


@pytest.fixture(scope="module")
def enclave(source: Path) -> Iterator[Any]:
    ocalls = {
        "answer": lambda number: number + 1,
        "fetch": bytes,
        "numbers": lambda count: iter(range(count)),
    }
    with secgear.launch(
        source, switchless=Switchless(workers=3), ocalls=ocalls, deadline=60
    ) as enclave:
        yield enclave


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)
