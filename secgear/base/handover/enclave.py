"""The enclave's half: takes connections, checks that they are that, gives them to the app.

Descriptors are taken from the door only, one with each message. What clients send along with
their bytes never arrives: a plain read makes the kernel drop it.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, final

from secgear.base.faults import Refused
from secgear.base.handover import MARK, SLOT, SLOTS, Door
from secgear.errors import HandOverRefused, InterfaceError

Handler = Callable[["Connection", bytes], None]

_ARRIVAL: Final = 10.0  # seconds until a descriptor that was announced must have come
_UNCLAIMED: Final = 64  # descriptors that came and were not announced
_FAMILIES: Final = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
# Room for exactly one descriptor: with CMSG_SPACE, which is padded, the kernel would install two.
_ROOM: Final = socket.CMSG_LEN(array.array("i").itemsize)


@final
class Connection:
    """A client's connection, for the app to serve.

    reader, writer: descriptors that do not block, for `os.read`, `os.write` and epoll; the same
    one, unless the host carries the bytes. mark: bytes that the host can still read when this
    enclave has died, for what the next one has to know. They are no secret and no memory: the
    host can change them.
    """

    __slots__ = ("_end", "_over", "mark", "reader", "writer")

    def __init__(
        self,
        reader: int,
        writer: int,
        mark: memoryview,
        end: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.mark = mark
        self._end = end
        self._over: Callable[[], None] | None = over

    def __repr__(self) -> str:
        return f"<Connection {self.reader}{'' if self._over else ', closed'}>"

    def end(self) -> None:
        """Hear no more than has arrived: whoever waits to read it is told that it has ended.

        The descriptors stay what they are, so another thread may be about to use them.
        """
        with contextlib.suppress(OSError):
            self._end()

    def close(self) -> None:
        """End it and give the descriptors up, when no thread uses them any more. Idempotent."""
        over, self._over = self._over, None
        if over is not None:
            self.end()
            over()


@final
class _Service:
    """A handler of connections, and how many it has."""

    def __init__(self, handler: Handler, limit: int) -> None:
        self.handler = handler
        self.limit = limit
        self.count = 0


@final
class Connections:
    """How an app takes connections."""

    def __init__(self) -> None:
        self._services: dict[str, _Service] = {}
        self._lock = threading.Lock()
        self._open: set[int] = set()

    def add(self, name: str, handler: Handler, limit: int) -> None:
        """Declare a handler. Raises InterfaceError."""
        if name in self._services:
            raise InterfaceError(f"two handlers of connections are called {name!r}")
        if not 1 <= limit <= SLOTS:
            raise InterfaceError(f"an app has 1 to {SLOTS} connections at once, not {limit!r}")
        self._services[name] = _Service(handler, limit)

    def take(self, slot: int, name: str, note: bytes) -> None:
        """The host announces the descriptor that it has sent for `slot`. Raises Refused."""
        inbox = _inbox()
        sock = inbox.claim(slot)  # in any case: a descriptor that nobody wants is closed
        try:
            with self._lock:
                if slot in self._open:
                    raise _refused("this slot is in use")
                service = self._admit(name)
                self._open.add(slot)
        except BaseException:
            sock.close()
            raise

        # The host is told of the end of what it was told is taken; else its call fails.
        told = [False, False]  # whether it was taken, whether it is over

        def step(which: int) -> None:
            with self._lock:
                told[which] = True
                done = all(told)
            if done:
                inbox.done(slot)

        def over() -> None:
            sock.close()
            with self._lock:
                self._open.discard(slot)
                service.count -= 1
            step(1)

        mark = inbox.mark(slot)
        mark[:] = bytes(MARK)
        number = sock.fileno()
        end = partial(sock.shutdown, socket.SHUT_RDWR)
        _give(service, Connection(number, number, mark, end, over), note)
        step(0)

    def pumped(self, name: str, note: bytes, inbound: Iterator[bytes]) -> Iterator[bytes]:
        """A connection whose bytes the host carries. Its first piece is empty: it was taken.

        Raises Refused.
        """
        with self._lock:
            service = self._admit(name)
        heard, write = os.pipe()
        read, said = os.pipe()
        for number in (heard, said):
            os.set_blocking(number, False)

        def over() -> None:
            os.close(heard)
            os.close(said)
            with self._lock:
                service.count -= 1

        end: Callable[[], None] = getattr(inbound, "close", lambda: None)
        connection = Connection(heard, said, memoryview(bytearray(MARK)), end, over)
        threading.Thread(target=_fill, args=(inbound, write), name="pump", daemon=True).start()
        outgoing = _Outgoing(read, end)
        _give(service, connection, note)
        return outgoing

    def _admit(self, name: str) -> _Service:
        service = self._services.get(name)
        if service is None:
            raise _refused("nothing here takes such connections")
        if service.count >= service.limit:
            raise _refused(f"{service.limit} connections are open, which is the limit")
        service.count += 1
        return service


def _give(service: _Service, connection: Connection, note: bytes) -> None:
    try:
        service.handler(connection, note)
    except BaseException:
        connection.close()
        raise


def check(number: int) -> socket.socket:
    """A connected stream socket, if the descriptor is one; it is closed if not. Raises Refused."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise _refused("this descriptor is no socket")
        found = socket.socket(fileno=number)
    except BaseException:
        os.close(number)
        raise
    try:
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if found.family not in _FAMILIES or found.type != socket.SOCK_STREAM or listens:
            raise _refused("this descriptor is no connection")
        found.setblocking(False)
    except BaseException:
        found.close()
        raise
    return found


@final
class Inbox:
    """The enclave's end of the door."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._reading = threading.Lock()
        self._arrived: dict[int, int | None] = {}
        self._telling = threading.Lock()
        self._done: deque[int] = deque()

    def mark(self, slot: int) -> memoryview:
        """See `Door.mark`."""
        return self._door.mark(slot)

    def claim(self, slot: int) -> socket.socket:
        """The connection that came for `slot`. Raises Refused."""
        if not 0 <= slot < SLOTS:
            raise _refused("there is no such slot")
        until = time.monotonic() + _ARRIVAL
        with self._reading:
            while slot not in self._arrived:
                self._receive(max(0.0, until - time.monotonic()))
            number = self._arrived.pop(slot)
        if number is None:
            raise _refused("not exactly one descriptor came with it, or there is no room for it")
        return check(number)

    def _receive(self, timeout: float) -> None:
        """Take one message from the door. Raises Refused."""
        poll = select.poll()
        poll.register(self._door.socket, select.POLLIN)
        if not poll.poll(1000 * timeout):
            raise _refused("its descriptor did not come")
        data, ancillary, flags, _ = self._door.socket.recvmsg(
            SLOT.size + 1, _ROOM, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        )
        numbers = [
            number
            for level, kind, payload in ancillary
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for number in array.array("i", payload[: len(payload) & ~3])
        ]
        whole = len(numbers) == 1 and not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
        known = len(data) == SLOT.size
        slot = SLOT.unpack(data)[0] if known else -1
        if not known or slot in self._arrived or len(self._arrived) >= _UNCLAIMED:
            for number in numbers:
                os.close(number)
            raise _refused("what came through the door is no connection")
        if whole:
            self._arrived[slot] = numbers[0]
            return
        for number in numbers:
            os.close(number)
        self._arrived[slot] = None

    def done(self, slot: int) -> None:
        """Tell the host that the slot is free; a host that does not read is told later."""
        with self._telling:
            self._done.append(slot)
            with contextlib.suppress(OSError):
                while self._done:
                    self._door.socket.send(SLOT.pack(self._done[0]), socket.MSG_DONTWAIT)
                    self._done.popleft()


@final
class _Outgoing:
    """What the app writes to a pipe, as an iterator for the boundary that holds no thread of it."""

    def __init__(self, read: int, stopped: Callable[[], None]) -> None:
        self._read = read
        self._stopped = stopped
        self._first = True
        self._lock = threading.Lock()
        self._asked: deque[Callable[[], None]] = deque()
        self._bell = threading.Semaphore(0)
        threading.Thread(target=self._watch, name="pump", daemon=True).start()

    def poll(self, wake: Callable[[], None]) -> bool:
        """See `secgear.base.flow.Pollable`."""
        if self._first or self._ready(0):
            return True
        self._asked.append(wake)
        self._bell.release()
        return False

    def _ready(self, timeout: int | None) -> bool:
        with self._lock:
            number = self._read
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(timeout))

    def _watch(self) -> None:
        while self._read >= 0:
            self._bell.acquire()
            while self._asked:
                while not self._ready(500):
                    pass
                self._asked.popleft()()

    def __iter__(self) -> _Outgoing:
        return self

    def __next__(self) -> bytes:
        if self._first:
            self._first = False
            return b""
        data = os.read(self._read, PIECE) if self._read >= 0 else b""
        if not data:
            self.close()
            raise StopIteration
        return data

    def close(self) -> None:
        """The host takes no more, or there is no more. Idempotent."""
        with self._lock:
            number, self._read = self._read, -1
        self._bell.release()
        if number >= 0:
            os.close(number)
            self._stopped()


PIECE: Final = 64 << 10
"""Bytes of a pumped connection that cross the boundary in one piece."""


def _fill(inbound: Iterator[bytes], number: int) -> None:
    """What the client says, into the pipe that the app reads."""
    try:
        for piece in inbound:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(number, rest) :]
    except Exception:  # noqa: BLE001, S110  (the app or the host has left: that is its end)
        pass
    finally:
        os.close(number)


def _refused(why: str) -> Refused:
    return Refused(HandOverRefused(why))


class _Installed:
    inbox: Inbox | None = None


def install(door: Door) -> None:
    """Called once by the TEE, before the app is given its first call."""
    _Installed.inbox = Inbox(door)


def _inbox() -> Inbox:
    if _Installed.inbox is None:
        raise _refused("this enclave has no door for connections")
    return _Installed.inbox


def ecalls(connections: Connections) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two ECALLs by which a host hands connections over."""

    def secgear_connection(slot: int, name: str, note: bytes) -> None:
        """What the descriptor that went through the door is for."""
        connections.take(slot, name, note)

    def secgear_pumped(name: str, note: bytes, inbound: Iterator[bytes]) -> Iterator[bytes]:
        """A connection, byte for byte, where descriptors can't be passed."""
        return connections.pumped(name, note, inbound)

    return secgear_connection, secgear_pumped
