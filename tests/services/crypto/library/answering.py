"""Those who answer the library: a real token without its enclave, and a liar."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from secgear.services.crypto.pkcs11.calls import BY_NAME, Call
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.frames import HEADER, build_frame
from secgear.services.crypto.rpc.messages import build_answer
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.module import Module

Frame = tuple[int, bytes]
"""A frame's number and its body."""


class Answering:
    """Listens, until the block ends. connections: how many there were."""

    def __init__(self, path: Path, serve: Callable[[Peer], None]) -> None:
        self.address = f"unix:{path}"
        self.path = path
        self.connections = 0
        self._serve = serve
        self._open: list[socket.socket] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._serve(Peer(connection))
        # Not closed before the library has seen its end: it is told by shutdown.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def drop(self) -> None:
        """End the connections there are."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.drop()
        for connection in self._open:
            connection.close()
        self.path.unlink(missing_ok=True)


class Peer:
    """The library at the other end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._file = connection.makefile("rb")
        self._sending = threading.Lock()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def greet(self) -> int:
        """The library's first byte, answered. Returns it."""
        version = self.read(1)
        self.send(version)
        return version[0]

    def frame(self) -> Frame:
        number, options, body = HEADER.unpack(self.read(HEADER.size))
        self.read(options)
        return number, self.read(body)

    def send(self, data: bytes) -> None:
        with self._sending:
            self.socket.sendall(data)

    def reply(self, number: int, body: bytes) -> None:
        self.send(build_frame(number, body))


@contextlib.contextmanager
def answering(path: Path, serve: Callable[[Peer], None]) -> Iterator[Answering]:
    one = Answering(path, serve)
    try:
        yield one
    finally:
        one.close()


def honest(module: Module) -> Callable[[Peer], None]:
    """Serves the token, every call in a thread of its own: answers come in any order."""

    def serve(peer: Peer) -> None:
        assert peer.greet() == OWN
        app = Application(module, "test")

        def work(number: int, body: bytes) -> None:
            with contextlib.suppress(OSError):
                peer.reply(number, answer(app, body, OWN))

        try:
            while True:
                threading.Thread(target=work, args=peer.frame(), daemon=True).start()
        finally:
            app.leave()

    return serve


def lying(lie: Callable[[Peer, int, bytes], None]) -> Callable[[Peer], None]:
    """Answers C_Initialize and C_Finalize as it should, and everything else with `lie`."""

    def serve(peer: Peer) -> None:
        peer.greet()
        while True:
            number, body = peer.frame()
            call = called(body)
            if call.name in ("C_Initialize", "C_Finalize"):
                peer.reply(number, build_answer(call, (), OWN))
            else:
                lie(peer, number, body)

    return serve


def called(body: bytes) -> Call:
    """Which call a request is."""
    id = int.from_bytes(body[:4], "big")
    return next(call for call in BY_NAME.values() if call.id == id)
