"""Counters: in a file, behind OCALLs of a lying host, at a witness, in a real software TPM."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.errors import RolledBack, SealingError
from secgear.middleware.sealing import CallCounter, FileCounter, RemoteCounter, TpmCounter, Witness
from secgear.middleware.sealing.tpm_counter import FIRST_INDEX
from tests.adversary.vendors.tpm import running_swtpm

# --- in a file -----------------------------------------------------------------------------------


def test_file_counter_counts_and_remembers(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "counter")
    assert [counter.read(), counter.increment(), counter.increment()] == [0, 1, 2]
    again = FileCounter(tmp_path / "counter")
    assert again.read() == 2
    assert again.identity == counter.identity != FileCounter(tmp_path / "other").identity


def test_damaged_file_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "counter")
    counter.increment()
    whole = (tmp_path / "counter").read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", whole[:10] + b"\1" + whole[11:]):
        (tmp_path / "counter").write_bytes(damaged)
        with pytest.raises(SealingError, match="damaged"):
            counter.read()
        with pytest.raises(SealingError, match="damaged"):
            counter.increment()


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SealingError):
        FileCounter(tmp_path / "nowhere" / "counter").read()


def _increment_many(path: Path) -> None:
    for _ in range(50):
        FileCounter(path).increment()


def test_no_increment_is_lost_between_processes(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_increment_many, args=(tmp_path / "c",)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert FileCounter(tmp_path / "c").read() == 150


PROGRAM = """
import sys
from pathlib import Path
from secgear.middleware.sealing import FileCounter
counter = FileCounter(Path(sys.argv[1]))
while True:
    print(counter.increment(), flush=True)
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
        assert acknowledged <= FileCounter(path).read() <= acknowledged + 1


# --- behind OCALLs -------------------------------------------------------------------------------


def test_host_that_lies_about_its_counter_is_noticed() -> None:
    values = iter([5, 5, 6, 4])
    counter = CallCounter(b"c", lambda: next(values), lambda: next(values))
    assert counter.read() == 5
    assert counter.increment() == 6
    with pytest.raises(RolledBack, match="fell from 6 to 4"):
        counter.read()
    stuck = CallCounter(b"c", lambda: 5, lambda: 5)
    with pytest.raises(RolledBack, match="not to 6"):
        stuck.increment()
    for nonsense in (-1, 2**64, "5", None):
        with pytest.raises(SealingError):
            CallCounter(b"c", lambda: nonsense, lambda: 0).read()  # type: ignore[arg-type,return-value]  # noqa: B023


# --- at a witness --------------------------------------------------------------------------------


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness", Ed25519PrivateKey.generate())


def test_witness_counts_for_each_holder(witness: Witness) -> None:
    mine = RemoteCounter(b"m" * 32, witness.public_key, witness.answer)
    other = RemoteCounter(b"o" * 32, witness.public_key, witness.answer)
    assert [mine.read(), mine.increment(), mine.increment(), other.read()] == [0, 1, 2, 0]
    assert RemoteCounter(b"m" * 32, witness.public_key, witness.answer).read() == 2


def test_witness_survives_its_restart(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    first = Witness(tmp_path, key)
    counter = RemoteCounter(b"m" * 32, first.public_key, first.answer)
    counter.increment()
    second = Witness(tmp_path, key)
    assert RemoteCounter(b"m" * 32, second.public_key, second.answer).read() == 1


def test_answers_that_are_not_the_witnesses_own(witness: Witness, tmp_path: Path) -> None:
    kept: list[bytes] = []

    def keep(message: bytes) -> bytes:
        kept.append(witness.answer(message))
        return kept[-1]

    counter = RemoteCounter(b"m" * 32, witness.public_key, keep)
    counter.increment()
    other = Witness(tmp_path / "other", Ed25519PrivateKey.generate())
    for lie in (
        lambda _: kept[0],  # replayed
        other.answer,  # of another witness
        lambda _: b"",
        lambda _: kept[-1] + b"\0",
        lambda _: bytes(5000),
    ):
        with pytest.raises(SealingError):
            RemoteCounter(b"m" * 32, witness.public_key, lie).read()


def test_nobody_else_moves_a_counter(witness: Witness) -> None:
    sent: list[bytes] = []

    def carry(message: bytes) -> bytes:
        sent.append(message)
        return witness.answer(message)

    counter = RemoteCounter(b"m" * 32, witness.public_key, carry)
    counter.increment()
    step = cbor2.loads(sent[-1])
    with pytest.raises(SealingError, match="not signed by the counter's holder"):
        witness.answer(cbor2.dumps(step | {"value": 2}, canonical=True))
    witness.answer(sent[-1])  # again, and again no second step
    assert counter.read() == 1


def test_two_users_of_one_counter_are_noticed(witness: Witness) -> None:
    late: list[RemoteCounter] = []

    def carry(message: bytes) -> bytes:
        if cbor2.loads(message)["value"]:
            late[0].increment()
            late[0].increment()
        return witness.answer(message)

    late.append(RemoteCounter(b"m" * 32, witness.public_key, witness.answer))
    with pytest.raises(RolledBack, match="somebody else"):
        RemoteCounter(b"m" * 32, witness.public_key, carry).increment()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.binary(max_size=300))
def test_witness_refuses_any_bytes(witness: Witness, message: bytes) -> None:
    with pytest.raises(SealingError):
        witness.answer(message)


def test_seed_is_not_shown() -> None:
    counter = RemoteCounter(b"CANARYCANARYCANARYCANARYCANARY!!", bytes(32), lambda _: b"")
    assert "CANARY" not in repr(counter)


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
    assert counter.read() == first
    assert counter.increment() == first + 1
    assert TpmCounter(FIRST_INDEX + 7, password=b"ours", device=tpm).read() == first + 1
    with pytest.raises(SealingError, match="exists already"):
        counter.define()
    with pytest.raises(SealingError):
        TpmCounter(FIRST_INDEX + 7, password=b"guess", device=tpm).increment()
    counter.undefine()
    # A new counter in the same place goes on where the old one was, or rollback would be easy.
    assert counter.define() > first + 1


def test_no_tpm_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SealingError, match="tpm"):
        TpmCounter(FIRST_INDEX, device=str(tmp_path / "none")).read()
    with pytest.raises(SealingError, match="an index is from"):
        TpmCounter(1)
