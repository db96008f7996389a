"""Connections that are handed over: served in the enclave, and nothing else comes that way."""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import secgear
from secgear.base import launch as launching
from secgear.base.enclave import Enclave
from secgear.base.handover import MARK, SLOT, SLOTS, Door
from secgear.base.handover.host import HandedOver
from secgear.base.tee import Availability, LaunchConfig, Running, Tee
from secgear.base.tees.process import ProcessTee
from secgear.errors import EnclaveLost, HandOverRefused, InterfaceError

APP = '''
import contextlib
import os
import select
import socket
import threading

from secgear import App

app = App("doorman", threads=8)
kept = []


@app.connection(name="shout", limit=5)
def shout(connection, note):
    connection.mark[:4] = b"mine"
    threading.Thread(target=serve, args=(connection, note), daemon=True).start()


def serve(connection, note):
    try:
        os.write(connection.writer, note)
        poll = select.poll()
        poll.register(connection.reader, select.POLLIN)
        while True:
            poll.poll()
            data = os.read(connection.reader, 1 << 16)
            if not data:
                return
            connection.mark[4:8] = b"busy"
            rest = memoryview(data.upper())
            full = select.poll()
            full.register(connection.writer, select.POLLOUT)
            while rest:
                full.poll()
                rest = rest[os.write(connection.writer, rest):]
            connection.mark[4:8] = b"idle"
    except OSError:
        pass
    finally:
        connection.close()


@app.connection(name="keep")
def keep(connection, note):
    kept.append(connection)


@app.connection(name="fail")
def fail(connection, note):
    raise RuntimeError("the reason, which stays inside")


@app.ecall
def sockets() -> int:
    """Sockets that this enclave holds."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return found


@app.ecall
def attempt(code: str) -> str:
    """Run Python code; the name of the exception it raised."""
    try:
        exec(code, {"os": os, "socket": socket, "kept": kept})
    except BaseException as error:
        return type(error).__name__
    return "worked"
'''


class Doorless(Tee):
    """The process TEE, if it could not pass descriptors."""

    name, protects, strength, simulated = "doorless", "nobody", 1, True

    def probe(self) -> Availability:
        return Availability(True, "")

    def launch(self, image: Any, config: LaunchConfig) -> Running:
        return ProcessTee().launch(image, LaunchConfig(timeout=config.timeout))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doorman") / "doorman.py"
    path.write_text(textwrap.dedent(APP))
    return path


@pytest.fixture
def enclave(program: Path) -> Iterator[Enclave]:
    with secgear.launch(program) as running:
        yield running


@pytest.fixture(params=["door", "no door"])
def either(
    program: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Enclave]:
    """An enclave that takes descriptors, and one for which the host carries the bytes."""
    if request.param == "no door":
        monkeypatch.setattr(launching, "choose", lambda _: (Doorless(), None))
    with secgear.launch(program) as running:
        yield running


class Client:
    """A client's end of a connection that an enclave has."""

    def __init__(self, enclave: Enclave, name: str = "shout", note: bytes = b"hello") -> None:
        self.end, self.hosts = socket.socketpair()
        self.end.settimeout(60)
        self.over = threading.Event()
        try:
            self.handed = enclave.hand_over(self.hosts, name, note, when_over=self._over)
        except BaseException:
            self.close()
            raise

    def _over(self, _: HandedOver) -> None:
        self.hosts.close()
        self.over.set()

    def close(self) -> None:
        self.end.close()
        self.hosts.close()

    def hear(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self.end.recv(size - len(data))):
            data += piece
        return data

    def gone(self) -> bool:
        """Whether the other side has hung up."""
        with contextlib.suppress(ConnectionResetError):
            while self.end.recv(4096):
                pass
        return True


def door(enclave: Enclave) -> Door:
    found = enclave._connection.running.door
    assert found is not None
    return found


def send(enclave: Enclave, data: bytes, *numbers: int) -> None:
    """Send something through the door, as a hostile host would."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))]
    door(enclave).socket.sendmsg([data], ancillary if numbers else [])


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came true")


# --- what it is for ------------------------------------------------------------------------------


def test_an_enclave_serves_a_connection_by_itself(either: Enclave) -> None:
    client = Client(either)
    assert client.hear(5) == b"hello"
    for size in (1, 1000, 1 << 20):
        sender = threading.Thread(target=client.end.sendall, args=(b"a" * size,))
        sender.start()
        assert client.hear(size) == b"A" * size
        sender.join()
    client.end.close()
    assert client.over.wait(60)
    assert not client.handed.lost


def test_what_the_client_has_said_before_it_left_is_answered(either: Enclave) -> None:
    client = Client(either, note=b"")
    client.end.sendall(b"last words")
    client.end.shutdown(socket.SHUT_WR)
    assert client.hear(100) == b"LAST WORDS"
    assert client.over.wait(60)


def test_connections_side_by_side_do_not_mix(either: Enclave) -> None:
    clients = [Client(either, note=b"%d" % number) for number in range(5)]
    for number, client in enumerate(clients):
        client.end.sendall(b"from %d" % number)
    for number, client in enumerate(clients):
        assert client.hear(7) == b"%dFROM %d" % (number, number)
        client.end.close()
    for client in clients:
        assert client.over.wait(60)


def test_a_place_is_free_again_when_its_connection_has_ended(either: Enclave) -> None:
    for _ in range(20):
        client = Client(either, note=b"x")
        assert client.hear(1) == b"x"
        client.end.close()
        assert client.over.wait(60)


# --- what is refused -----------------------------------------------------------------------------


def test_more_connections_than_the_app_takes_are_refused(either: Enclave) -> None:
    clients = [Client(either) for _ in range(5)]
    with pytest.raises(HandOverRefused, match="5 connections are open"):
        Client(either)
    clients[0].end.close()
    assert clients[0].over.wait(60)
    assert Client(either).hear(5) == b"hello"
    for client in clients:
        client.close()


def test_a_handler_that_is_not_there_is_refused(either: Enclave) -> None:
    with pytest.raises(HandOverRefused, match="nothing here takes"):
        Client(either, "other")
    assert Client(either).hear(5) == b"hello"


def test_a_handler_that_fails_closes_the_connection_and_tells_nothing(either: Enclave) -> None:
    end, hosts = socket.socketpair()
    end.settimeout(60)
    with end, hosts, pytest.raises(secgear.errors.EnclaveInternalError) as failed:
        either.hand_over(hosts, "fail")
    assert "Traceback" in str(failed.value)  # a debug image's; see test_faults for the other kind
    assert Client(either).hear(5) == b"hello"


def test_an_app_that_takes_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("from secgear import App\napp = App('none')\n")
    with secgear.launch(tmp_path / "none.py") as enclave:
        assert enclave._connection.running.door is None
        with pytest.raises(HandOverRefused, match="takes no connections"):
            Client(enclave)


def test_what_is_no_connection_is_refused(enclave: Enclave, tmp_path: Path) -> None:
    before = enclave.sockets()
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        packets, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.enter_context(packets)
        stack.enter_context(other)
        netlink = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
        for wrong in (listening, datagrams, packets, netlink):
            with pytest.raises(HandOverRefused, match="is no connection"):
                enclave.hand_over(wrong, "shout")
        read, write = os.pipe()
        stack.callback(os.close, read)
        stack.callback(os.close, write)
        folder = os.open(tmp_path, os.O_RDONLY)
        stack.callback(os.close, folder)
        for slot, number in enumerate((read, folder, enclave._connection.running.switchless_fd)):
            if number is None:
                continue
            send(enclave, SLOT.pack(slot), number)
            with pytest.raises(HandOverRefused, match="is no socket"):
                enclave.secgear_connection(slot, "shout", b"")
    assert enclave.sockets() == before
    assert Client(enclave).hear(5) == b"hello"


def test_exactly_one_descriptor_comes_with_a_message(enclave: Enclave) -> None:
    before = enclave.sockets()
    one, two = socket.socketpair()
    with one, two:
        send(enclave, SLOT.pack(7), one.fileno(), two.fileno())
        with pytest.raises(HandOverRefused, match="exactly one"):
            enclave.secgear_connection(7, "shout", b"")
        send(enclave, SLOT.pack(8), *[one.fileno()] * 200)
        with pytest.raises(HandOverRefused, match="exactly one"):
            enclave.secgear_connection(8, "shout", b"")
        send(enclave, SLOT.pack(9))
        with pytest.raises(HandOverRefused, match="exactly one"):
            enclave.secgear_connection(9, "shout", b"")
    assert enclave.sockets() == before
    assert Client(enclave).hear(5) == b"hello"


@pytest.mark.parametrize("said", [b"\0", b"\0" * 5, b"\0" * 4000])
def test_nonsense_at_the_door_is_refused_and_keeps_no_descriptor(
    enclave: Enclave, said: bytes
) -> None:
    before = enclave.sockets()
    one, two = socket.socketpair()
    with one, two:
        send(enclave, said, one.fileno())
        with pytest.raises(HandOverRefused, match="no connection"):
            enclave.secgear_connection(0, "shout", b"")
    assert enclave.sockets() == before
    assert Client(enclave).hear(5) == b"hello"


@pytest.mark.parametrize("slot", [-1, SLOTS, 1 << 40])
def test_slots_that_there_are_none_of_are_refused(enclave: Enclave, slot: int) -> None:
    with pytest.raises(HandOverRefused, match="no such slot"):
        enclave.secgear_connection(slot, "shout", b"")


def test_a_slot_in_use_is_not_given_to_another_connection(enclave: Enclave) -> None:
    client = Client(enclave)
    one, two = socket.socketpair()
    with one, two:
        one.settimeout(60)
        send(enclave, SLOT.pack(0), two.fileno())
        two.close()
        with pytest.raises(HandOverRefused, match="in use"):
            enclave.secgear_connection(0, "shout", b"")
        assert one.recv(1) == b""
    client.end.sendall(b"still")
    assert client.hear(10) == b"helloSTILL"


def test_descriptors_that_nobody_announces_are_limited(enclave: Enclave) -> None:
    before = enclave.sockets()
    one, two = socket.socketpair()
    with one, two:
        for slot in range(100):
            send(enclave, SLOT.pack(100 + slot), one.fileno())
        for _ in range(36):  # each takes from the door what is there, up to one too many
            with pytest.raises(HandOverRefused):
                enclave.secgear_connection(4000, "shout", b"")
            assert enclave.sockets() <= before + 64


def test_what_a_client_sends_along_does_not_arrive(enclave: Enclave) -> None:
    client = Client(enclave)
    assert client.hear(5) == b"hello"
    before = enclave.sockets()
    one, two = socket.socketpair()
    with one, two:
        two.settimeout(60)
        socket.send_fds(client.end, [b"with a gift"], [one.fileno()])
        one.close()
        assert client.hear(11) == b"WITH A GIFT"
        assert two.recv(1) == b""  # the kernel has closed the only copy
    assert enclave.sockets() == before


def test_descriptors_are_received_from_the_door_only(enclave: Enclave) -> None:
    client = Client(enclave, "keep")
    socket.send_fds(client.end, [b"x"], [client.end.fileno()])
    receive = (
        "one = socket.socket(fileno=os.dup(kept[-1].reader))\n"
        "one.recvmsg(10, 1000, socket.MSG_DONTWAIT)"
    )
    assert enclave.attempt(receive) == "PermissionError"


def test_a_sealed_enclave_makes_no_sockets_of_its_own(enclave: Enclave) -> None:
    for code in (
        "socket.socket()",
        "socket.socketpair()",
        "socket.socket(fileno=os.dup(kept[-1].reader)).accept()",
        "socket.socket(fileno=os.dup(kept[-1].reader)).connect('/x')",
        "socket.socket(fileno=os.dup(kept[-1].reader)).bind('/x')",
        "socket.socket(fileno=os.dup(kept[-1].reader)).sendto(b'', '/x')",
    ):
        client = Client(enclave, "keep")
        assert enclave.attempt(code) == "PermissionError", code
        client.close()


def test_declarations_that_make_no_sense_are_refused() -> None:
    app = secgear.App("x")
    app.connection(name="a")(lambda _, __: None)
    with pytest.raises(InterfaceError, match="two handlers"):
        app.connection(name="a")(lambda _, __: None)
    for limit in (0, SLOTS + 1):
        with pytest.raises(InterfaceError, match="at once"):
            app.connection(name="b", limit=limit)(lambda _, __: None)


# --- the end -------------------------------------------------------------------------------------


def test_a_killed_enclave_leaves_the_connection_and_its_mark_to_the_host(program: Path) -> None:
    with secgear.launch(program) as enclave, secgear.launch(program) as following:
        client = Client(enclave)
        assert client.hear(5) == b"hello"
        client.end.sendall(b"x")
        assert client.hear(1) == b"X"
        assert enclave.pid is not None
        over = threading.Event()
        client.handed._when_over = lambda _: over.set()
        eventually(lambda: bytes(door(enclave).mark(0)[4:8]) == b"idle")
        os.kill(enclave.pid, signal.SIGKILL)
        assert over.wait(60)
        assert not enclave.alive
        assert client.handed.lost
        assert client.handed.mark[:8] == b"mineidle"
        assert len(client.handed.mark) == MARK
        with pytest.raises(EnclaveLost, match="SIGKILL"):
            Client(enclave)
        client.end.sendall(b"meanwhile")
        following.hand_over(client.hosts, "shout", b"again")
        assert client.hear(14) == b"againMEANWHILE"


def test_without_a_door_a_killed_enclave_takes_its_connections_along(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "choose", lambda _: (Doorless(), None))
    with secgear.launch(program) as enclave:
        client = Client(enclave)
        assert client.hear(5) == b"hello"
        assert enclave.pid is not None
        os.kill(enclave.pid, signal.SIGKILL)
        assert client.over.wait(60)
        assert client.gone()


def test_closing_the_enclave_ends_what_it_has(either: Enclave) -> None:
    client = Client(either)
    assert client.hear(5) == b"hello"
    either.close()
    assert client.over.wait(60)
    client.hosts.close()
    assert client.gone()


def test_an_enclave_that_talks_nonsense_at_the_door_is_ended(enclave: Enclave) -> None:
    client = Client(enclave)
    assert client.hear(5) == b"hello"
    code = (
        "for number in os.listdir('/proc/self/fd'):\n"
        "    try:\n"
        "        one = socket.socket(fileno=int(number))\n"
        "    except OSError:\n"
        "        continue\n"
        "    if one.type == socket.SOCK_SEQPACKET:\n"
        "        one.send((3000).to_bytes(4, 'little'))\n"
        "    one.detach()\n"
    )
    with contextlib.suppress(EnclaveLost):
        enclave.attempt(code)
    assert client.over.wait(60)
    assert client.handed.lost
    assert not enclave.alive


def test_a_client_that_does_not_read_holds_only_itself(either: Enclave) -> None:
    slow, other = Client(either), Client(either)
    slow.end.setblocking(False)
    poll = select.poll()
    poll.register(slow.end, select.POLLOUT)
    while poll.poll(200):  # nobody takes the answers: at some point nothing goes any more
        with contextlib.suppress(BlockingIOError):
            slow.end.send(bytes(1 << 16))
    other.end.sendall(b"x")
    assert other.hear(6) == b"helloX"
    slow.close()
    other.close()
