"""Planted secrets: what an ECALL was given is in no error, log, repr or counter of the host."""

from __future__ import annotations

import gc
import io
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secgear
from secgear import errors
from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import LaunchPolicy

CANARY = "canary-7f3a91d2c4"

APP = """
import logging
import numpy as np
import secgear
from secgear import App

app = App("keeper", requires=["numpy"])
kept = []

class Refused(Exception):
    pass

@app.ecall(raises=[Refused])
def fail(how: str, secret: str) -> str:
    kept.append(secret)
    logging.getLogger("keeper").critical("saw %s", secret)
    print(secret)
    if how == "text":
        raise RuntimeError(secret)
    if how == "key":
        return {}[secret]
    if how == "chain":
        try:
            raise ValueError(secret)
        except ValueError as error:
            raise LookupError("outer " + secret) from error
    if how == "note":
        error = RuntimeError("x")
        error.add_note(secret)
        raise error
    if how == "class":
        raise type(secret, (Exception,), {})(secret)
    if how == "declared":
        raise Refused("this much may be said")
    if how == "result":
        return {secret: secret}
    if how == "exit":
        raise SystemExit(secret)
    if how == "deep":
        def descend(secret):
            return descend(secret)
        return descend(secret)
    return "fine"

@app.ecall
def pick(value: int, secret: str) -> int:
    return value

@app.ecall
def measure(values: np.ndarray, label: str) -> int:
    raise OSError(label)

@app.ecall
def store(data: bytes) -> None:
    raise MemoryError(data)
"""


@pytest.fixture(scope="module")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Enclave]:
    source = tmp_path_factory.mktemp("canary") / "keeper.py"
    source.write_text(APP)
    with secgear.launch(build(source), policy=LaunchPolicy(unsigned=True)) as enclave:
        yield enclave


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, at every level, in full."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def told(error: BaseException) -> str:
    """All that an error can tell: its text, its chain, its attributes and its notes.

    The frames of our own test hold the secret, of course; what frames hold is not asked.
    """
    pieces = ["".join(traceback.TracebackException.from_exception(error).format())]
    seen: BaseException | None = error
    while seen is not None:
        pieces += [repr(seen), str(seen), repr(seen.args), repr(vars(seen))]
        pieces += [repr(note) for note in getattr(seen, "__notes__", [])]
        seen = seen.__cause__ or seen.__context__
    return "\n".join(pieces)


@pytest.mark.parametrize(
    "how", ["text", "key", "chain", "note", "class", "declared", "result", "exit", "deep"]
)
def test_a_failing_call_tells_nothing_of_its_arguments(
    keeper: Enclave, log: io.StringIO, how: str
) -> None:
    with pytest.raises(errors.CallError) as caught:
        keeper.fail(how, CANARY)
    assert CANARY not in told(caught.value)
    assert CANARY not in log.getvalue()
    assert CANARY not in repr(keeper) + repr(keeper.stats) + repr(keeper.image)


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.pick(CANARY, "x"),
        lambda e: e.pick(1, [CANARY]),
        lambda e: e.pick(1, {CANARY: CANARY}),
        lambda e: e.fail("x", CANARY.encode()),
        lambda e: e.pick(1, CANARY, CANARY),
        lambda e: e.measure(np.array([CANARY]), CANARY),
        lambda e: e.measure(np.array([object()]), CANARY),
        lambda e: e.measure([CANARY], "x"),
        lambda e: e.measure({CANARY: object()}, "x"),
        lambda e: e.store(CANARY.encode()),
        lambda e: e.store(CANARY.encode() * 20_000),
        lambda e: e.store(CANARY),
        lambda e: e.pick("\ud800" + CANARY, "x"),
    ],
)
def test_arguments_that_do_not_fit_are_not_quoted(
    keeper: Enclave, log: io.StringIO, call: Any
) -> None:
    with pytest.raises(errors.CallError) as caught:
        call(keeper)
    text = told(caught.value)
    # The source line of this very test is part of the traceback; it names the constant only.
    assert CANARY not in text
    assert CANARY not in log.getvalue()


def test_futures_and_killed_calls_tell_nothing(keeper: Enclave) -> None:
    future = keeper.submit.fail("text", CANARY)
    error = future.exception(10)
    assert error is not None
    assert CANARY not in told(error) + repr(future)


def test_nothing_that_the_framework_keeps_holds_the_secret_afterwards(keeper: Enclave) -> None:
    secret = "".join(["transient-", "canary-", os.urandom(4).hex()])
    with pytest.raises(errors.CallError):
        keeper.fail("text", secret)
    gc.collect()
    holders = [
        referrer
        for referrer in gc.get_referrers(secret)
        if type(referrer).__module__.startswith("secgear")
        or (isinstance(referrer, dict) and referrer.get("__name__", "").startswith("secgear"))
    ]
    assert holders == []


def test_the_secret_leaves_in_no_file(tmp_path: Path, keeper: Enclave) -> None:
    with pytest.raises(errors.CallError):
        keeper.fail("text", CANARY)
    home = Path(os.environ["SECGEAR_HOME"])
    for file in [*home.rglob("*"), *tmp_path.rglob("*")]:
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes()
