"""The witness: for each holder, authentic both ways, durable, over a real connection."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.errors import SealingError
from secgear.middleware.sealing import RemoteCounter, Standing, Witness, WitnessClient
from secgear.middleware.sealing.counters import MAX_VALUE, NO_MARK
from secgear.middleware.sealing.witness import witness_key


def mark(number: int) -> bytes:
    return bytes([number % 256]) * 32


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with Witness(tmp_path / "witness", Ed25519PrivateKey.generate()) as made:
        yield made


Exchange = Callable[[bytes], bytes]


def remote(
    witness: Witness, exchange: Exchange | None = None, seed: bytes = b"m" * 32
) -> RemoteCounter:
    return RemoteCounter(seed, witness.public_key, exchange or witness.answer)


def test_witness_counts_for_each_holder(witness: Witness) -> None:
    mine, other = remote(witness), remote(witness, seed=b"o" * 32)
    assert mine.read() == (0, NO_MARK)
    assert [mine.advance(1, mark(1)), mine.advance(2, mark(2))] == [(1, mark(1)), (2, mark(2))]
    assert other.read() == (0, NO_MARK)
    assert remote(witness).read() == (2, mark(2))
    assert mine.identity != other.identity


def test_only_the_next_step_is_taken_and_only_once(witness: Witness) -> None:
    counter = remote(witness)
    counter.advance(1, mark(1))
    for value, other in ((1, mark(1)), (1, mark(9)), (3, mark(3)), (MAX_VALUE, mark(3))):
        assert counter.advance(value, other) == (1, mark(1))


def test_witness_survives_its_restart(tmp_path: Path) -> None:
    with Witness(tmp_path / "w", witness_key(tmp_path / "w")) as first:
        remote(first).advance(1, mark(1))
    with Witness(tmp_path / "w", witness_key(tmp_path / "w")) as second:
        assert second.public_key == first.public_key
        assert remote(second).read() == (1, mark(1))


# --- a host that lies ----------------------------------------------------------------------------


def test_answers_that_are_not_the_witnesses_own(witness: Witness, tmp_path: Path) -> None:
    kept: list[bytes] = []

    def keep(message: bytes) -> bytes:
        kept.append(witness.answer(message))
        return kept[-1]

    remote(witness, keep).advance(1, mark(1))
    other = Witness(tmp_path / "other", Ed25519PrivateKey.generate())
    for lie in (
        lambda _: kept[0],  # replayed
        other.answer,  # of another witness
        lambda _: b"",
        lambda _: kept[-1] + b"\0",
        lambda _: bytes(5000),
    ):
        for ask in (
            remote(witness, lie).read,
            lambda lie=lie: remote(witness, lie).advance(2, mark(2)),
        ):
            with pytest.raises(SealingError):
                ask()
    other.close()


def test_every_changed_byte_of_an_answer_is_refused(witness: Witness) -> None:
    remote(witness).advance(1, mark(1))
    size = len(witness.answer(_message(witness, 0, NO_MARK)))
    for position in range(size):

        def change(message: bytes, position: int = position) -> bytes:
            answer = bytearray(witness.answer(message))
            answer[position] ^= 1
            return bytes(answer)

        with pytest.raises(SealingError):
            remote(witness, change).read()


def test_nobody_else_moves_a_counter_nor_reads_it(witness: Witness, tmp_path: Path) -> None:
    counter = remote(witness)
    counter.advance(1, mark(1))
    for value, given_mark in ((0, NO_MARK), (2, mark(2))):
        message = cbor2.loads(_message(witness, value, given_mark))
        for change in (
            {"value": value + 1, "mark": mark(3)},
            {"nonce": bytes(32)},
            {"holder": bytes(32)},
            {"signature": bytes(64)},
            {"signature": b""},
        ):
            with pytest.raises(SealingError, match="not signed by the counter's holder"):
                witness.answer(cbor2.dumps(message | change, canonical=True))
    message = _message(witness, 2, mark(2))
    with (
        Witness(tmp_path / "other", Ed25519PrivateKey.generate()) as other,
        pytest.raises(SealingError, match="not signed"),
    ):
        other.answer(message)  # which was not made for that other witness
    assert counter.read() == (1, mark(1))


def test_replayed_requests_move_nothing(witness: Witness) -> None:
    sent: list[bytes] = []

    def carry(message: bytes) -> bytes:
        sent.append(message)
        return witness.answer(message)

    counter = remote(witness, carry)
    for value in (1, 2, 3):
        counter.advance(value, mark(value))
    for message in sent * 2:
        witness.answer(message)
    assert counter.read() == (3, mark(3))


def test_two_users_of_one_counter_are_told_apart(witness: Witness) -> None:
    def late(message: bytes) -> bytes:
        remote(witness).advance(1, mark(1))
        return witness.answer(message)

    assert remote(witness, late).advance(1, mark(2)) == (1, mark(1))


# --- what it refuses -----------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(message=st.binary(max_size=300))
def test_witness_refuses_any_bytes(witness: Witness, message: bytes) -> None:
    with pytest.raises(SealingError):
        witness.answer(message)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_requests_are_refused(witness: Witness, data: st.DataObject) -> None:
    genuine = _message(witness, 1, mark(1))
    message = bytearray(genuine)
    at = data.draw(st.integers(0, len(message) - 1))
    match data.draw(st.integers(0, 2)):
        case 0:
            del message[at : at + data.draw(st.integers(1, 40))]
        case 1:
            message[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        case _:
            message[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealingError):
        witness.answer(bytes(message))
    assert remote(witness).read() == (0, NO_MARK)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"value": -1},
        {"value": 2**64},
        {"mark": bytes(31)},
        {"nonce": bytes(16)},
        {"holder": b""},
        {"value": 0},
        {"more": 1},
    ],
    ids=repr,
)
def test_impossible_requests_are_malformed(witness: Witness, change: dict[str, object]) -> None:
    message = cbor2.loads(_message(witness, 1, mark(1)))
    with pytest.raises(SealingError):
        witness.answer(cbor2.dumps(message | change, canonical=True))


def test_encoding_that_is_not_deterministic_is_refused(witness: Witness) -> None:
    shuffled = dict(reversed(cbor2.loads(_message(witness, 1, mark(1))).items()))
    with pytest.raises(SealingError, match="deterministic"):
        witness.answer(cbor2.dumps(shuffled))


def test_counters_are_limited_in_number_and_to_named_holders(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    with Witness(tmp_path / "full", key, most=1) as full:
        remote(full).advance(1, mark(1))
        assert remote(full, seed=b"o" * 32).read() == (0, NO_MARK)  # which takes no room
        with pytest.raises(SealingError, match="takes no more"):
            remote(full, seed=b"o" * 32).advance(1, mark(1))
        remote(full).advance(2, mark(2))
    with Witness(tmp_path / "named", key, holders=[remote(full).identity]) as named:
        remote(named).advance(1, mark(1))
        with pytest.raises(SealingError, match="no counter for that holder"):
            remote(named, seed=b"o" * 32).read()


def test_places_that_others_can_write_to_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    witness_key(folder)
    assert (folder / "witness.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "witness.key").chmod(0o644)
    with pytest.raises(SealingError, match="others may read"):
        witness_key(folder)
    folder.chmod(0o777)
    for use in (lambda: witness_key(folder), lambda: Witness(folder, Ed25519PrivateKey.generate())):
        with pytest.raises(SealingError, match="others may write"):
            use()


def test_damaged_store_and_key_are_errors_and_no_zero(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    with Witness(folder, witness_key(folder)) as witness:
        remote(witness).advance(1, mark(1))
    (folder / "witness.sqlite").write_bytes(b"x" * 8192)
    with pytest.raises(SealingError, match="store"):
        Witness(folder, witness_key(folder))
    (folder / "witness.key").write_bytes(b"nonsense")
    with pytest.raises(SealingError, match="no Ed25519 key"):
        witness_key(folder)


def test_seed_is_not_shown_nor_pickled() -> None:
    import pickle

    counter = RemoteCounter(b"CANARYCANARYCANARYCANARYCANARY!!", bytes(32), lambda _: b"")
    assert "CANARY" not in repr(counter)
    with pytest.raises(TypeError):
        pickle.dumps(counter)
    with pytest.raises(SealingError, match="32 bytes"):
        RemoteCounter(b"short", bytes(32), lambda _: b"")


# --- over a connection ---------------------------------------------------------------------------


@contextmanager
def serving(folder: Path, address: str) -> Iterator[tuple[subprocess.Popen[str], str, bytes]]:
    """`secgear serve witness` as a user starts it; its process, address and public key."""
    command = [sys.executable, "-m", "secgear.cli", "serve", "witness", "--directory", str(folder)]
    with subprocess.Popen(
        [*command, "--listen", address], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline().split()
            assert line[:2] == ["witness", "at"], line
            yield process, line[2], bytes.fromhex(line[-1])
        finally:
            process.kill()


def test_several_users_over_tcp_and_unix(tmp_path: Path) -> None:
    for address in ("tcp://127.0.0.1:0", f"unix:{tmp_path / 'socket'}"):
        with serving(tmp_path / "w", address) as (_, at, key):

            def count(seed: int, at: str = at, key: bytes = key) -> Standing:
                with WitnessClient(at) as client:
                    counter = RemoteCounter(bytes([seed]) * 32, key, client.exchange)
                    for _ in range(10):
                        value = counter.read().value + 1
                        assert counter.advance(value, mark(value)) == (value, mark(value))
                    return counter.read()

            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(count, range(4)))
            assert len({standing.value for standing in found}) == 1
            assert found[0].value in (10, 20)  # it is one witness, whatever its address


def test_killed_witness_has_everything_that_it_acknowledged(tmp_path: Path) -> None:
    folder, address = tmp_path / "w", f"unix:{tmp_path / 'socket'}"
    acknowledged = [0] * 3
    for _ in range(3):
        with serving(folder, address) as (process, at, key):
            enough = threading.Event()

            def count(
                seed: int, at: str = at, key: bytes = key, enough: threading.Event = enough
            ) -> None:
                with WitnessClient(at) as client:
                    counter = RemoteCounter(bytes([seed]) * 32, key, client.exchange)
                    try:
                        value = counter.read().value
                        assert value >= acknowledged[seed]
                        acknowledged[seed] = value  # one more may have counted unheard
                        while True:
                            value += 1
                            assert counter.advance(value, mark(value)) == (value, mark(value))
                            acknowledged[seed] = value
                            if value % 7 == 0:
                                enough.set()
                    except SealingError:
                        return

            with ThreadPoolExecutor(3) as pool:
                done = [pool.submit(count, seed) for seed in range(3)]
                assert enough.wait(60)
                os.kill(process.pid, signal.SIGKILL)
                for future in done:
                    future.result(60)
        (tmp_path / "socket").unlink()
    with Witness(folder, witness_key(folder)) as witness:
        for seed, value in enumerate(acknowledged):
            found = remote(witness, seed=bytes([seed]) * 32).read()
            assert value <= found.value <= value + 1
            assert found.mark == mark(found.value)


def test_service_goes_on_after_nonsense_and_the_client_connects_again(tmp_path: Path) -> None:
    with serving(tmp_path / "w", f"unix:{tmp_path / 'socket'}") as (_, at, key):
        for nonsense in (b"", b"\0\0", b"\xff\xff" + bytes(70_000), b"\0\5hello", b"\0\7half"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(at.removeprefix("unix:"))
                connection.sendall(nonsense)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(100) in (b"", b"\0\0")
        client = WitnessClient(at)
        with pytest.raises(SealingError, match="refuses the request"):
            client.exchange(b"nonsense")
        counter = RemoteCounter(b"m" * 32, key, client.exchange)
        counter.advance(1, mark(1))
        assert client._connection is not None
        client._connection.shutdown(socket.SHUT_RDWR)  # the network has had enough
        assert counter.read() == (1, mark(1))
        client.close()
    with pytest.raises(SealingError, match="the witness at"):
        client.exchange(b"anybody there?")
    with pytest.raises(SealingError, match="address"):
        WitnessClient("http://example")


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    first, second = (Witness(folder, witness_key(folder)) for _ in range(2))
    remote(first).advance(1, mark(1))
    assert remote(second).advance(1, mark(2)) == (1, mark(1))
    with sqlite3.connect(folder / "witness.sqlite", isolation_level=None) as outside:
        outside.execute("BEGIN IMMEDIATE")  # a holder of the lock that dies gives it up
    outside.close()
    assert remote(second).advance(2, mark(2)) == (2, mark(2))
    first.close()
    second.close()


def _message(witness: Witness, value: int, given_mark: bytes) -> bytes:
    """A request of the holder, as it is sent."""
    sent: list[bytes] = []

    def keep(message: bytes) -> bytes:
        sent.append(message)
        raise SealingError("kept")

    counter = remote(witness, keep)
    with pytest.raises(SealingError, match="kept"):
        counter.advance(value, given_mark) if value else counter.read()
    return sent[0]
