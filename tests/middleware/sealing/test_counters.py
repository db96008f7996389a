"""Counters: in a file, behind OCALLs of a lying host, in a real software TPM."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from secgear.errors import RolledBack, SealingError
from secgear.middleware.sealing import CallCounter, FileCounter, Standing, TpmCounter
from secgear.middleware.sealing.counters import MAX_VALUE, NO_MARK
from secgear.middleware.sealing.tpm_counter import FIRST_INDEX, LAST_INDEX
from tests.adversary.vendors.tpm import running_swtpm


def mark(number: int) -> bytes:
    return bytes([number % 256]) * 32


# --- in a file -----------------------------------------------------------------------------------


def test_file_counter_counts_and_remembers(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "counter")
    assert counter.read() == (0, NO_MARK)
    assert [counter.advance(1, mark(1)), counter.advance(2, mark(2))] == [
        (1, mark(1)),
        (2, mark(2)),
    ]
    again = FileCounter(tmp_path / "counter")
    assert again.read() == (2, mark(2))
    assert again.identity == counter.identity != FileCounter(tmp_path / "other").identity


def test_only_the_next_step_is_taken_and_only_once(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "counter")
    counter.advance(1, mark(1))
    for value, other in ((1, mark(1)), (1, mark(9)), (3, mark(3))):
        assert counter.advance(value, other) == (1, mark(1))
    for value, other in ((0, mark(1)), (MAX_VALUE + 1, mark(1)), (2, b"short")):
        with pytest.raises(SealingError, match="a counter goes to"):
            counter.advance(value, other)


def test_damaged_file_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "counter")
    counter.advance(1, mark(1))
    whole = (tmp_path / "counter").read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    for damaged in (b"", whole[:-1], whole + b"x", *flipped):
        (tmp_path / "counter").write_bytes(damaged)
        with pytest.raises(SealingError, match="damaged"):
            counter.read()
        with pytest.raises(SealingError, match="damaged"):
            counter.advance(2, mark(2))


def test_place_that_can_not_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SealingError, match="No such file"):
        FileCounter(tmp_path / "nowhere" / "counter").read()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SealingError, match="directory"):
        FileCounter(tmp_path / "folder").read()
    (tmp_path / "link.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SealingError):
        FileCounter(tmp_path / "link").read()
    assert not (tmp_path / "elsewhere").exists()


def test_full_disk_leaves_the_counter_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = FileCounter(tmp_path / "counter")
    counter.advance(1, mark(1))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(SealingError, match="No space left"):
            counter.advance(2, mark(2))
    assert counter.read() == (1, mark(1))
    assert counter.advance(2, mark(3)) == (2, mark(3))


def _race(path: Path, own: int, wins: str) -> None:
    won = 0
    for value in range(1, 101):
        won += FileCounter(path).advance(value, mark(own)) == (value, mark(own))
    Path(wins).write_text(str(won))


def test_each_step_has_one_winner_between_processes(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    wins = [tmp_path / f"wins{number}" for number in range(3)]
    workers = [
        spawn.Process(target=_race, args=(tmp_path / "c", number + 1, str(path)))
        for number, path in enumerate(wins)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert FileCounter(tmp_path / "c").read().value == 100
    # Whoever comes late to a step loses it; so never more wins than steps.
    assert 0 < sum(int(path.read_text()) for path in wins) <= 100


PROGRAM = """
import sys
from pathlib import Path
from secgear.middleware.sealing import FileCounter
counter = FileCounter(Path(sys.argv[1]))
value = counter.read().value
while True:
    value += 1
    counter.advance(value, bytes([value % 256]) * 32)
    print(value, flush=True)
"""


def test_killed_at_any_moment_it_keeps_what_it_has_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    for pause in (0.02, 0.05, 0.11):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            said = [child.stdout.readline()]
            time.sleep(pause)
            os.kill(child.pid, signal.SIGKILL)
            said += child.stdout.readlines()
        acknowledged = max(int(line) for line in said if line.endswith("\n"))
        found = FileCounter(path).read()
        assert acknowledged <= found.value <= acknowledged + 1
        assert found.mark == mark(found.value)


# --- behind OCALLs -------------------------------------------------------------------------------


def test_host_that_lies_about_its_counter_is_noticed() -> None:
    answers = iter([(5, mark(5)), (6, mark(6)), (6, mark(7)), (4, mark(4))])
    counter = CallCounter(b"c", lambda: next(answers), lambda _value, _mark: next(answers))
    assert counter.read() == (5, mark(5))
    assert counter.advance(6, mark(6)) == (6, mark(6))
    with pytest.raises(RolledBack, match="at 6 still, but with another mark"):
        counter.read()
    with pytest.raises(RolledBack, match="fell from 6 to 4"):
        counter.read()


@pytest.mark.parametrize(
    "nonsense",
    [-1, 5, None, "5", (-1, NO_MARK), (2**64, NO_MARK), ("5", NO_MARK), (5, b"x"), (5,)],
    ids=repr,
)
def test_host_that_answers_nonsense_is_refused(nonsense: object) -> None:
    counter = CallCounter(b"c", lambda: nonsense, lambda _value, _mark: nonsense)  # type: ignore[arg-type,return-value]
    for ask in (counter.read, lambda: counter.advance(1, mark(1))):
        with pytest.raises(SealingError, match="no number of 64 bits"):
            ask()


# --- in a TPM ------------------------------------------------------------------------------------


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[str]:
    with running_swtpm(tmp_path) as device:
        yield device


def test_tpm_counter_counts_in_the_tpm(tpm: str) -> None:
    counter = TpmCounter(FIRST_INDEX + 7, password=b"ours", device=tpm)
    with pytest.raises(SealingError, match="nothing of that handle"):
        counter.read()
    first = counter.define()
    assert first.mark == NO_MARK
    assert counter.read() == first
    after = Standing(first.value + 1, mark(1))
    assert counter.advance(*after) == after
    assert counter.advance(after.value, mark(2)) == after  # that step was taken
    assert counter.advance(after.value + 2, mark(2)) == after  # and this is none
    assert TpmCounter(FIRST_INDEX + 7, password=b"ours", device=tpm).read() == after
    with pytest.raises(SealingError, match="exists already"):
        counter.define()
    with pytest.raises(SealingError):
        TpmCounter(FIRST_INDEX + 7, password=b"guess", device=tpm).advance(after.value + 1, mark(3))
    counter.undefine()
    # A new counter in the same place goes on where the old one was, or rollback would be easy.
    assert counter.define().value > after.value


def test_tpm_counter_survives_its_tpms_kill(tmp_path: Path) -> None:
    with running_swtpm(tmp_path) as device:  # which ends by SIGKILL
        counter = TpmCounter(FIRST_INDEX, device=device)
        value = counter.define().value
        counter.advance(value + 1, mark(1))
    with running_swtpm(tmp_path) as device:
        assert TpmCounter(FIRST_INDEX, device=device).read() == (value + 1, mark(1))


def test_tpm_counter_cut_short_fits_nothing_and_goes_on(
    tpm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its two commands there is neither the old mark nor the new one."""
    counter = TpmCounter(FIRST_INDEX, device=tpm)
    value = counter.define().value + 1
    counter.advance(value, mark(1))
    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(
            TpmCounter, "_increment", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        counter.advance(value + 1, mark(2))
    assert counter.read().value == value
    assert counter.read().mark not in (NO_MARK, mark(1), mark(2))
    assert counter.advance(value + 1, mark(3)) == (value + 1, mark(3))


def test_half_of_a_tpm_counter_is_not_left_behind(tpm: str) -> None:
    second = TpmCounter(FIRST_INDEX + 1, device=tpm)
    second.define()
    with pytest.raises(SealingError, match="exists already"):
        TpmCounter(FIRST_INDEX, device=tpm).define()
    second.undefine()
    TpmCounter(FIRST_INDEX, device=tpm).define()


def test_no_tpm_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SealingError, match="tpm"):
        TpmCounter(FIRST_INDEX, device=str(tmp_path / "none")).read()
    for index in (1, FIRST_INDEX - 1, LAST_INDEX):
        with pytest.raises(SealingError, match="an index is from"):
            TpmCounter(index)


def test_password_is_not_shown(tpm: str) -> None:
    counter = TpmCounter(FIRST_INDEX, password=b"CANARY", device=tpm)
    with pytest.raises(SealingError) as caught:
        counter.read()
    assert "CANARY" not in repr(counter) + str(caught.value)
