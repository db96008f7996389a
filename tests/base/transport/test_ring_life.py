"""The ring among processes: death, fork, signals, interpreter exit, one CPU, idleness."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest

from secgear.base.transport import ring

from .conftest import SMALL, Lane

pytestmark = pytest.mark.skipif(not ring.available(), reason=ring.reason())


def until(condition: Callable[[], object]) -> None:
    """Wait; the time-out of the test ends it."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)


def test_the_death_of_the_peer_ends_a_call_as_soon_as_somebody_closes_the_ring(lane: Lane) -> None:
    """As the layer does: whoever reads the stream sees its end, and closes the ring."""
    child = lane.child("deaf")
    host = lane.open(host=True, spin=0)
    assert child.stdout is not None

    def watch() -> None:
        child.wait()
        host.close()

    lane.thread(watch)

    def kill() -> None:
        while "taken" not in child.stdout.readline():  # type: ignore[union-attr]
            pass
        until(lambda: host.stats()["parks"])
        os.kill(child.pid, signal.SIGKILL)

    lane.thread(kill)
    with pytest.raises(ConnectionError, match="closed"):
        host.call(1, 1, b"")


def test_a_peer_killed_in_the_middle_of_a_message_leaves_nothing_half_delivered(lane: Lane) -> None:
    child = lane.child("flood")
    host = lane.open(host=True)
    payload = bytes(100_000)
    for _ in range(3):
        assert host.recv(60) == (1, 1, payload)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    message = host.recv(0)
    while message is not None:  # what was complete
        assert message == (1, 1, payload)
        message = host.recv(0)
    host.close()


def test_after_a_fork_the_child_can_not_use_the_ring_and_the_parent_can(lane: Lane) -> None:
    host, enclave = lane.pair()
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: host.send(1, 1, b""), lambda: host.recv(0)):
            try:
                use()
            except ConnectionError as error:
                refused += "before the fork" in str(error)
        host.close()
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    host.send(1, 1, b"still mine")
    assert enclave.recv(0) == (1, 1, b"still mine")


def test_a_child_forked_while_a_thread_sleeps_ends_and_so_does_the_thread(lane: Lane) -> None:
    host, enclave = lane.pair(spin=0)
    got: list[object] = []
    waiting = lane.thread(lambda: got.append(enclave.recv()))
    until(lambda: enclave.stats()["parks"])
    child = os.fork()
    if child == 0:
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    host.send(1, 1, b"")
    waiting.join(20)
    assert got == [(1, 1, b"")]


SCRIPT = """
import mmap, os, signal, sys, threading
from secgear.base.transport import ring
geometry = ring.Geometry(8, 1 << 14, 1 << 20)
memory = mmap.mmap(-1, geometry.size)
host, enclave = (ring.open_lane(memory, geometry, host=side, spin=0) for side in (True, False))
def asleep(end):
    while not end.stats()["parks"]:
        pass
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "use",
    ["host.recv()", "host.call(1, 1, b'')", "host.serve(print)", "host.call_many(1, [b''], 1, 1)"],
)
def test_a_signal_handler_that_raises_ends_a_wait(use: str) -> None:
    done = python(f"""
        def interrupt():
            asleep(host)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            {use}
        except KeyboardInterrupt:
            enclave.send(1, 1, b"next")
            print(host.recv(0))
    """)
    assert done.stdout == "(1, 1, b'next')\n", done.stderr


def test_a_signal_handler_that_returns_does_not_end_a_wait() -> None:
    done = python("""
        signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
        def interrupt():
            asleep(host)
            os.kill(os.getpid(), signal.SIGUSR1)
            enclave.send(1, 1, b"message")
        threading.Thread(target=interrupt).start()
        print(host.recv())
    """)
    assert sorted(done.stdout.splitlines()) == ["(1, 1, b'message')", "handled"], done.stderr


def test_a_busy_server_handles_signals_too() -> None:
    done = python("""
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        def feed():
            try:
                while True:
                    host.send(1, 1, b"")
            except ConnectionError:
                print("closed")
        feeding = threading.Thread(target=feed)
        feeding.start()
        try:
            enclave.serve(lambda id, tag, payload: None)
        except KeyboardInterrupt:
            enclave.close()
            feeding.join()
    """)
    assert done.stdout == "closed\n", done.stderr


def test_the_interpreter_ends_while_a_thread_sleeps_in_the_ring() -> None:
    done = python("""
        for target in (host.recv, lambda: enclave.serve(print)):
            threading.Thread(target=target, daemon=True).start()
        asleep(host); asleep(enclave)
        print("end")
    """)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_the_last_reference_gone_is_the_end_for_the_peer() -> None:
    done = python("""
        waiting = threading.Thread(target=lambda: print(enclave.serve(print)))
        waiting.start()
        asleep(enclave)
        del host
        waiting.join()
    """)
    assert done.stdout == "None\n", done.stderr


def test_on_one_cpu_both_sides_give_way_to_each_other(lane: Lane) -> None:
    """Spinning would keep the peer from running: it must stop by itself."""
    cpus = os.sched_getaffinity(0)
    lane.child("echo", cpu=min(cpus))
    host = lane.open(host=True)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        for id in range(100):  # learning
            assert host.call(id, 0, b"x", 60) is not None
        before = host.stats()
        for id in range(400):
            assert host.call(id, 0, b"x", 60) == (id, 0, b"x")
        after = host.stats()
    finally:
        os.sched_setaffinity(0, cpus)
    # With the full budget each would have thousands; programs beside us cause some, too.
    assert after["pauses"] - before["pauses"] < 400 * 1000


def test_an_idle_ring_sleeps_and_does_not_spin(lane: Lane) -> None:
    host, enclave = lane.pair()
    lane.thread(lambda: enclave.serve(lambda id, tag, payload: payload))
    assert host.call(1, 1, b"x", 60) == (1, 1, b"x")
    until(lambda: enclave.stats()["parks"] >= 2)  # asleep, and has looked again by itself
    before = enclave.stats()
    until(lambda: enclave.stats()["parks"] >= before["parks"] + 3)
    assert enclave.stats()["pauses"] == before["pauses"]
    assert host.call(2, 1, b"y", 60) == (2, 1, b"y")


def test_a_wait_that_spinning_does_not_end_stops_spinning(lane: Lane) -> None:
    host, _ = lane.pair()
    for _ in range(40):
        assert host.recv(0.002) is None
    before = host.stats()["pauses"]
    for _ in range(20):
        assert host.recv(0.002) is None
    assert host.stats()["pauses"] == before


# --- doorbells -------------------------------------------------------------------------------


def eventfds() -> tuple[tuple[int, int], tuple[int, int]]:
    one, two = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
    return (one, two), (two, one)


def stream() -> tuple[tuple[int, int], tuple[int, int]]:
    one, two = (end.detach() for end in socket.socketpair())
    return (one, one), (two, two)


@pytest.fixture(params=[eventfds, stream])  # asked for before the lane, so closed after it
def bells(request: pytest.FixtureRequest) -> object:
    made = request.param()
    yield made
    for fd in {fd for pair in made for fd in pair}:
        os.close(fd)


def test_descriptors_ring_instead_of_a_futex(
    bells: tuple[tuple[int, int], ...], lane: Lane
) -> None:
    host, enclave = (
        lane.open(host=side, spin=0, bell=bell)
        for side, bell in zip((True, False), bells, strict=True)
    )
    lane.thread(lambda: enclave.serve(lambda id, tag, payload: payload))
    payload = os.urandom(100_000)
    for id in range(200):
        assert host.call(id, 1, payload[: id * 500], 60) == (id, 1, payload[: id * 500])
    stats = host.stats()
    assert stats["wakes"]
    assert stats["parks"]


def test_two_threads_of_a_side_share_one_descriptor(
    bells: tuple[tuple[int, int], ...], lane: Lane
) -> None:
    """One polls, the other waits for its turn; no ringing is lost between them."""
    host, enclave = (
        lane.open(host=side, spin=0, bell=bell)
        for side, bell in zip((True, False), bells, strict=True)
    )
    count, got = 2000, []

    def send(end: object) -> None:
        for id in range(count):
            end.send(id, 0, b"", 60)  # type: ignore[attr-defined]

    threads = [lane.thread(lambda end=end: send(end)) for end in (host, enclave)]
    reading = lane.thread(lambda: got.extend(enclave.recv(60) for _ in range(count)))
    assert [host.recv(60) for _ in range(count)] == [(id, 0, b"") for id in range(count)]
    for thread in (*threads, reading):
        thread.join(60)
    assert got == [(id, 0, b"") for id in range(count)]


def test_a_bell_whose_peer_has_died_ends_the_wait_at_once(lane: Lane) -> None:
    ours, theirs = socket.socketpair()
    host = lane.open(host=True, spin=0, bell=(ours.fileno(), ours.fileno()))
    outcomes: list[object] = []

    def wait() -> None:
        try:
            host.recv()
        except ConnectionError:
            outcomes.append("closed")

    waiting = lane.thread(wait)
    until(lambda: host.stats()["parks"])
    theirs.close()
    waiting.join(20)
    assert outcomes == ["closed"]
    ours.close()


def test_closing_wakes_a_thread_that_waits_for_a_descriptor(
    bells: tuple[tuple[int, int], ...], lane: Lane
) -> None:
    host = lane.open(host=True, spin=0, bell=bells[0])
    waiting = lane.thread(lambda: host.serve(print))
    until(lambda: host.stats()["parks"])
    host.close()
    waiting.join(20)
    assert not waiting.is_alive()


def test_a_bell_that_could_block_is_refused(lane: Lane) -> None:
    one, two = os.pipe()
    with pytest.raises(ValueError, match="non-blocking"):
        lane.open(host=True, bell=(one, two))
    os.close(one)
    os.close(two)
    with pytest.raises(OSError, match="descriptor"):
        lane.open(host=True, bell=(one, two))
    for wrong in (5, (1,), ("a", "b")):
        with pytest.raises(TypeError):
            lane.open(host=True, bell=wrong)  # type: ignore[arg-type]


def test_a_lane_is_of_the_size_that_both_sides_compute() -> None:
    assert SMALL.size % 4096 == 0
    assert ring.Geometry().size == 2 * (3 * 128 + 64 * 256 + (1 << 20)) // 4096 * 4096 + 4096
