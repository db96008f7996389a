"""The one way by which log records leave an enclave."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

import secgear
from secgear.base.build import build
from secgear.base.enclave import Enclave
from secgear.base.image import LaunchPolicy
from secgear.base.wire import LOG_BURST as BURST

APP = """
import logging
from secgear import App

app = App("talker", log={level!r})
log = logging.getLogger("inside")

@app.ecall
def say(level: int, text: str, times: int = 1) -> None:
    for _ in range(times):
        log.log(level, "%s", text)

@app.ecall
def stumble() -> None:
    try:
        raise RuntimeError("the secret cause")
    except RuntimeError:
        log.exception("something failed")

@app.ecall
def shout(text: str) -> None:
    print(text)
"""


def start(tmp_path: Path, level: str) -> Enclave:
    source = tmp_path / "talker.py"
    source.write_text(APP.format(level=level))
    return secgear.launch(build(source), policy=LaunchPolicy(unsigned=True))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "enclave" in record.name]


def settle(enclave: Enclave) -> None:
    enclave.say(0, "")  # answered after everything that was logged before it
    time.sleep(0.1)


def test_a_closed_channel_lets_nothing_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), start(tmp_path, "off") as enclave:
        enclave.say(logging.CRITICAL, "hello")
        enclave.shout("hello")
        settle(enclave)
    assert lines(caplog) == []


def test_only_the_declared_level_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), start(tmp_path, "warning") as enclave:
        enclave.say(logging.INFO, "too quiet")
        enclave.say(logging.WARNING, "loud enough")
        enclave.shout("printed")
        settle(enclave)
    assert lines(caplog) == ["inside: loud enough"]


def test_tracebacks_stay_inside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), start(tmp_path, "error") as enclave:
        enclave.stumble()
        settle(enclave)
    assert lines(caplog) == ["inside: something failed"]


def test_a_flood_is_cut_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), start(tmp_path, "debug") as enclave:
        enclave.say(logging.INFO, "x", BURST * 4)
        time.sleep(0.2)
        enclave.say(logging.INFO, "after")
        settle(enclave)
    said = lines(caplog)
    assert BURST <= len(said) < BURST * 3
    assert any("records before this one were dropped" in line for line in said)


def test_long_and_odd_records_are_clipped_and_cleaned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), start(tmp_path, "debug") as enclave:
        enclave.say(logging.INFO, "\x1b]0;title\x07" + "y" * 100_000)
        settle(enclave)
    (line,) = [line for line in lines(caplog) if "title" in line]
    assert len(line) < 5000
    assert line.isprintable()
