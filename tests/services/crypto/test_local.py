"""Clients with connections of their own: nobody holds up anybody, and nothing is kept for ever."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.handover.enclave import Connection
from secgear.services.crypto import local
from secgear.services.crypto.local import Clients
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.frames import HEADER, MAX_BODY, build_frame, parse_header
from secgear.services.crypto.rpc.marks import Standing, read_mark

QUICK = BY_NAME["C_GetInfo"].id.to_bytes(4, "big")
MEDIUM = BY_NAME["C_Sign"].id.to_bytes(4, "big")
LONG = BY_NAME["C_GenerateKeyPair"].id.to_bytes(4, "big")
HOLD, LARGE = b"hold", b"large"
BULK = MEDIUM + HOLD + bytes(local._LARGE)


class Program:
    """What answers: an echo that can be held, and that can say much."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.held = threading.Semaphore(0)

    def answer(self, body: bytes, version: int) -> bytes:
        if body[4:8] == HOLD:
            self.held.release()
            assert self.go.wait(60)
        if body.endswith(LARGE):
            return bytes(1 << 20)
        return bytes((version,)) + body


class Peer:
    """A client, and what the program inside sees of it."""

    def __init__(self, clients: Clients, program: Program, version: int | None = None) -> None:
        self.end, inside = socket.socketpair()
        self.end.settimeout(60)
        inside.setblocking(False)
        self.mark = memoryview(bytearray(64))
        self.left = threading.Event()
        self.closed = threading.Event()

        def over() -> None:
            inside.close()
            self.closed.set()

        def end() -> None:
            inside.shutdown(socket.SHUT_RDWR)

        number = inside.fileno()
        connection = Connection(number, number, self.mark, end, over)
        clients.take(connection, version, program.answer, self.left.set)
        self.file = self.end.makefile("rb")
        if version is None:
            self.end.sendall(bytes((OWN,)))
            assert self.file.read(1) == bytes((OWN,))

    def send(self, code: int, body: bytes) -> None:
        self.end.sendall(build_frame(code, body, b"client"))

    def hear(self) -> tuple[int, bytes]:
        header = parse_header(self.file.read(HEADER.size))
        return header.code, self.file.read(header.body)

    def ask(self, body: bytes, code: int = 1) -> bytes:
        self.send(code, body)
        answered, answer = self.hear()
        assert answered == code
        return answer

    def close(self) -> None:
        self.file.close()
        self.end.close()


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.go.set()


@pytest.fixture(scope="module")
def clients() -> Clients:
    return Clients()


@pytest.fixture
def join(clients: Clients, program: Program) -> Iterator[Callable[..., Peer]]:
    joined: list[Peer] = []

    def one(version: int | None = None) -> Peer:
        joined.append(Peer(clients, program, version))
        return joined[-1]

    yield one
    program.go.set()
    for peer in joined:
        peer.close()
    for peer in joined:
        assert peer.closed.wait(60)
        assert peer.left.wait(60)


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came true")


@pytest.mark.parametrize("kind", [QUICK, MEDIUM, LONG, b"", b"\xff" * 4])
def test_every_call_is_answered_under_its_code(join: Callable[..., Peer], kind: bytes) -> None:
    peer = join()
    for code in range(50):
        assert peer.ask(kind + b"%d" % code, code) == bytes((OWN,)) + kind + b"%d" % code


def test_a_client_that_was_here_before_names_no_version(join: Callable[..., Peer]) -> None:
    peer = join(2)
    assert peer.ask(QUICK) == b"\2" + QUICK
    eventually(lambda: read_mark(bytes(peer.mark)) == Standing(2, ()))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_frames_in_any_pieces_are_all_answered(data: st.DataObject) -> None:
    program = Program()
    kinds = data.draw(st.lists(st.sampled_from([QUICK, MEDIUM, LONG, b""]), max_size=90))
    peer = Peer(_SHARED, program)
    stream = b"".join(build_frame(code, kind, b"client") for code, kind in enumerate(kinds))
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        peer.end.sendall(stream[:size])
        stream = stream[size:]
    answers = dict(peer.hear() for _ in kinds)
    assert answers == {code: bytes((OWN,)) + kind for code, kind in enumerate(kinds)}
    peer.close()
    assert peer.closed.wait(60)


_SHARED = Clients()


def test_long_calls_hold_up_neither_their_own_connection_nor_others(
    join: Callable[..., Peer], program: Program
) -> None:
    greedy, other = join(), join()
    for code in range(20):
        greedy.send(code, LONG + HOLD)
    for _ in range(2):
        assert program.held.acquire(timeout=60)
    assert other.ask(LONG) == bytes((OWN,)) + LONG  # threads are left for others' long calls
    for code in range(100, 200):
        assert greedy.ask(QUICK, code) == bytes((OWN,)) + QUICK
    program.go.set()
    assert {greedy.hear()[0] for _ in range(20)} == set(range(20))


def test_calls_with_much_data_run_side_by_side(join: Callable[..., Peer], program: Program) -> None:
    """As those of several threads of an application, over its one connection."""
    peer = join()
    for code in range(2):
        peer.send(code, BULK)
        assert program.held.acquire(timeout=60)
    assert peer.ask(QUICK, 9) == bytes((OWN,)) + QUICK
    program.go.set()
    assert {peer.hear()[0] for _ in range(2)} == {0, 1}


def test_calls_beyond_the_limit_wait_and_are_not_lost(
    join: Callable[..., Peer], program: Program
) -> None:
    peer = join()
    count = 3 * local._UNDER_WAY
    sender = threading.Thread(
        target=lambda: [peer.send(code, LONG + HOLD) for code in range(count)]
    )
    sender.start()
    assert program.held.acquire(timeout=60)
    eventually(lambda: read_mark(bytes(peer.mark)) is None)  # more than a mark has room for
    program.go.set()
    assert {peer.hear()[0] for _ in range(count)} == set(range(count))
    sender.join()
    eventually(lambda: read_mark(bytes(peer.mark)) == Standing(OWN, ()))


def test_a_client_that_reads_no_answers_is_not_read_and_holds_up_nobody(
    join: Callable[..., Peer],
) -> None:
    slow, other = join(), join()
    count = 40
    sender = threading.Thread(
        target=lambda: [slow.send(code, QUICK + LARGE) for code in range(count)]
    )
    sender.start()
    for code in range(50):
        assert other.ask(MEDIUM, code) == bytes((OWN,)) + MEDIUM
    got = [slow.hear() for _ in range(count)]
    assert [code for code, _ in got] == list(range(count))
    assert all(len(body) == 1 << 20 for _, body in got)
    sender.join()


def test_long_answers_that_nobody_reads_end_their_connection(
    join: Callable[..., Peer], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_UNSENT", 3 << 20)
    slow, other = join(), join()
    for code in range(local._UNDER_WAY - 1):
        slow.send(code, LONG + HOLD + LARGE)
    assert slow.ask(QUICK, 999) == bytes((OWN,)) + QUICK  # all of them were read
    program.go.set()
    assert slow.closed.wait(60)
    assert other.ask(QUICK) == bytes((OWN,)) + QUICK


def test_half_a_frame_holds_up_nobody(join: Callable[..., Peer]) -> None:
    halves = [join() for _ in range(20)]
    for half in halves:
        half.end.sendall(build_frame(1, QUICK)[:-1])
    other = join()
    for code in range(20):
        assert other.ask(MEDIUM, code) == bytes((OWN,)) + MEDIUM
    for half in halves:
        half.end.sendall(QUICK[-1:])
        assert half.hear() == (1, bytes((OWN,)) + QUICK)


def test_large_frames_count_for_all_clients_together(program: Program) -> None:
    clients = Clients()
    clients.budget = local.Budget(3 * MAX_BODY)
    greedy = [Peer(clients, program) for _ in range(4)]
    for peer in greedy:
        with contextlib.suppress(OSError):
            peer.end.sendall(HEADER.pack(1, 0, MAX_BODY) + QUICK)
            peer.end.sendall(bytes(1 << 16))
    eventually(lambda: any(peer.closed.is_set() for peer in greedy))
    kept = [peer for peer in greedy if not peer.closed.is_set()]
    assert len(kept) == 3
    for peer in greedy:
        peer.close()
    for peer in greedy:
        assert peer.closed.wait(60)
    whole = Peer(clients, program)  # and what they had is free again
    for _ in range(5):
        answer = whole.ask(QUICK + bytes(MAX_BODY - 5))
        assert len(answer) == MAX_BODY
    whole.close()


@pytest.mark.parametrize(
    "said", [HEADER.pack(1, 0, MAX_BODY + 1), HEADER.pack(1, 5000, 0), b"GET / HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_frame_ends_its_connection_only(join: Callable[..., Peer], said: bytes) -> None:
    bad, other = join(), join()
    bad.end.sendall(said)
    assert bad.closed.wait(60)
    assert bad.left.wait(60)
    assert other.ask(QUICK) == bytes((OWN,)) + QUICK


def test_a_client_may_leave_at_any_time(join: Callable[..., Peer], program: Program) -> None:
    for kind in (QUICK, BULK, LONG + HOLD):
        peer = join()
        peer.send(1, kind)
        if kind != QUICK:
            assert program.held.acquire(timeout=60)
        peer.close()
        assert peer.closed.wait(60)
    program.go.set()
    assert join().ask(QUICK) == bytes((OWN,)) + QUICK


def test_a_defect_ends_one_connection(clients: Clients, program: Program) -> None:
    def broken(body: bytes, version: int) -> bytes:
        raise ZeroDivisionError

    real, program.answer = program.answer, broken  # type: ignore[method-assign]
    for kind in (QUICK, MEDIUM, LONG):
        peer = Peer(clients, program)
        peer.send(1, kind)
        assert peer.closed.wait(60)
        peer.close()
    program.answer = real  # type: ignore[method-assign]
    peer = Peer(clients, program)
    assert peer.ask(QUICK) == bytes((OWN,)) + QUICK
    peer.close()


def test_the_mark_tells_what_is_under_way(join: Callable[..., Peer], program: Program) -> None:
    peer = join()
    eventually(lambda: read_mark(bytes(peer.mark)) == Standing(OWN, ()))
    peer.send(7, LONG + HOLD)
    assert program.held.acquire(timeout=60)
    peer.send(8, BULK)
    assert program.held.acquire(timeout=60)
    eventually(lambda: read_mark(bytes(peer.mark)) == Standing(OWN, (7, 8)))
    peer.end.sendall(b"\0\0")
    eventually(lambda: read_mark(bytes(peer.mark)) is None)  # half a frame was read
    peer.end.sendall(build_frame(9, QUICK)[2:])
    program.go.set()
    assert {peer.hear()[0] for _ in range(3)} == {7, 8, 9}
    eventually(lambda: read_mark(bytes(peer.mark)) == Standing(OWN, ()))


def test_many_clients_at_once_are_all_served(join: Callable[..., Peer]) -> None:
    peers = [join() for _ in range(64)]

    def work(peer: Peer) -> None:
        for code in range(20):
            kind = (QUICK, MEDIUM, LONG)[code % 3]
            assert peer.ask(kind + b"%d" % code, code) == bytes((OWN,)) + kind + b"%d" % code
        done.append(peer)

    done: list[Peer] = []
    threads = [threading.Thread(target=work, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 64


def test_a_connection_that_is_carried_over_pipes_is_served_the_same(program: Program) -> None:
    """Where descriptors can't be passed, reading and writing have one each."""
    heard, write = os.pipe()
    read, said = os.pipe()
    for number in (heard, said):
        os.set_blocking(number, False)
    closed = threading.Event()

    def over() -> None:
        os.close(heard)
        os.close(said)
        closed.set()

    connection = Connection(heard, said, memoryview(bytearray(64)), lambda: None, over)
    Clients().take(connection, None, program.answer, lambda: None)
    os.write(write, bytes((OWN,)))
    assert os.read(read, 1) == bytes((OWN,))
    sent = b"".join(build_frame(code, QUICK + LARGE) for code in range(3))
    os.write(write, sent)
    poll = select.poll()
    poll.register(read, select.POLLIN)
    size = 0
    while size < 3 * (HEADER.size + (1 << 20)):
        assert poll.poll(60_000)
        size += len(os.read(read, 1 << 16))
    os.close(write)
    assert closed.wait(60)
    os.close(read)
