"""Open sessions without an enclave: two cores that have met, over a socket in between."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from secgear.middleware.channel.aio import AsyncSession
from secgear.middleware.channel.core import Core
from secgear.middleware.channel.messages import Kind, Opened, header
from secgear.middleware.channel.session import Session
from secgear.middleware.channel.streams import SocketBytes
from secgear.middleware.channel.trust import Remote
from tests.middleware.channel.pairs import opened

PATIENCE = 20  # seconds; what hangs is found out, what is slow is not punished


class Ends:
    """A client's and a server's session. The server's handler is whoever holds `server`."""

    def __init__(self, *, answered: bool = True, **given: Any) -> None:
        pair = opened()
        self.client_core, self.server_core = pair.client, pair.server
        self.near, self.far = socket.socketpair()
        self.client = Session(
            pair.client, SocketBytes(self.near), Remote(), lifetime=given.pop("lifetime", 60)
        )
        self.server = Session(pair.server, SocketBytes(self.far), Remote(), lifetime=60)
        if answered:
            answer(self.server)

    def close(self) -> None:
        """Whatever is left."""
        self.client.abort()
        self.server.abort()


class Raw:
    """The server's side of a session, spoken by hand: any frame, at any time."""

    def __init__(self, core: Core, sock: socket.socket) -> None:
        self._core = core
        self._socket = sock

    def say(self, *frames: bytes) -> None:
        """Send what is no message of an honest side."""
        for frame in frames:
            self._core._tls.write(frame)
            self._socket.sendall(self._core.outgoing())

    def close(self) -> None:
        """Goodbye, and no more."""
        self._core.close()
        self._socket.sendall(self._core.outgoing())
        self._socket.close()


def answer(server: Session) -> threading.Thread:
    """Answer OPEN when it comes."""

    def run() -> None:
        with contextlib.suppress(Exception):
            server.await_open()
            server.opened(Opened())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def spoken(*, lifetime: float = 60) -> tuple[Session, Raw]:
    """A client's session, and a server that says what the test says."""
    pair = opened()
    near, far = socket.socketpair()
    client = Session(pair.client, SocketBytes(near), Remote(), lifetime=lifetime)
    return client, Raw(pair.server, far)


async def spoken_async(*, lifetime: float = 60) -> tuple[AsyncSession, Raw]:
    """The same for asyncio."""
    pair = opened()
    near, far = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=near)
    client = AsyncSession(
        pair.client, reader, writer, Remote(), service="", events=(), lifetime=lifetime
    )
    return client, Raw(pair.server, far)


def part(data: bytes) -> bytes:
    """A frame of a message that goes on."""
    return header(Kind.PART, len(data)) + data


def last(data: bytes) -> bytes:
    """A frame that ends a message."""
    return header(Kind.LAST, len(data)) + data


def in_thread(task: Callable[[], object]) -> Callable[[], object]:
    """Begin `task` on another thread; the result waits for it: its value, or what it raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(task())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> object:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it hangs"
        return outcome[0]

    return wait
