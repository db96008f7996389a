"""A door on the client's machine: plain HTTP in front, an attested channel to the enclave behind.

The data owner's side of the boundary. Every connection gets a channel of its own, and none without
the enclave having been verified first. What goes through the door is not looked at. In front of it
everything is in clear, so it opens on this machine only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self, final

import msgspec

from secgear.errors import ChannelError, CryptoModuleError, SecGearError
from secgear.middleware.channel.addresses import Address, parse

if TYPE_CHECKING:
    from secgear.middleware.channel import Session

HTTP_SERVICE: Final = "http"
"""The enclave's handler of attested channels for REST, for `secgear.connect`."""
LIMIT: Final = 128  # connections
_PIECE: Final = 64 << 10
_CLOSING: Final = 10.0  # seconds that connections have to end when the door is closed
_logger = logging.getLogger(__name__)


@final
class Door:
    """Carries connections to an enclave. A context manager; leaving it ends all of them.

    open: a new session with the enclave's `HTTP_SERVICE`. listen: 127.0.0.1:8200, or unix:/path.
    Raises CryptoModuleError for an address that others reach, or that can't be had.
    """

    def __init__(self, open: Callable[[], Session], listen: str, *, limit: int = LIMIT) -> None:  # noqa: A002
        place = _local(listen)
        self._open = open
        self._limit = limit
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._sessions: set[Session] = set()
        self._closed = False
        try:
            self._socket = place.listen()
        except OSError as error:
            raise CryptoModuleError(f"{place}: {error.strerror or error}") from error
        if place.kind == "tcp":
            place = msgspec.structs.replace(place, port=self._socket.getsockname()[1])
        self.address = str(place)
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end all connections. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            connections = dict(self._connections)
            sessions = list(self._sessions)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for session in sessions:
            session.abort()
        until = time.monotonic() + _CLOSING  # a process that ends must not leave threads in OpenSSL
        for thread in connections.values():
            thread.join(max(0.0, until - time.monotonic()))

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if self._closed:
                    return
                _logger.warning("accepting a connection failed: %s", error.strerror)
                threading.Event().wait(0.1)
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                if self._closed or len(self._connections) >= self._limit:
                    connection.close()
                    continue
                self._connections[connection] = thread
                try:
                    thread.start()
                except RuntimeError:  # the system gives us no more threads
                    del self._connections[connection]
                    connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                session = self._open()
            except SecGearError as error:
                _logger.warning("no channel: %s %s", error.code, error)
                connection.sendall(_unavailable(error))
                return
            with self._lock:
                self._sessions.add(session)
                closed = self._closed
            try:
                if not closed:
                    _carry(connection, session)
            finally:
                session.close()
                with self._lock:
                    self._sessions.discard(session)
        except (OSError, ChannelError):
            pass  # one of the two is gone
        finally:
            self._leave(connection)

    def _leave(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.pop(connection, None)
        connection.close()


def _carry(connection: socket.socket, session: Session) -> None:
    """Both directions, until the enclave or the client ends."""
    inward = threading.Thread(target=_inward, args=(connection, session), daemon=True)
    inward.start()
    try:
        for message in session:
            connection.sendall(message)
    finally:
        # Wakes the other direction, which waits for the client.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        inward.join()


def _inward(connection: socket.socket, session: Session) -> None:
    """What the client says; an empty message is the end of it."""
    with contextlib.suppress(OSError, ChannelError):
        while data := connection.recv(_PIECE):
            session.send(data)
        session.send(b"")


def _local(listen: str) -> Address:
    """The address, if nobody from elsewhere can reach it."""
    try:
        place = parse(listen)
    except ValueError as error:
        raise CryptoModuleError(str(error)) from None
    if place.kind == "unix" or place.host == "localhost":
        return place
    try:
        local = place.kind == "tcp" and ipaddress.ip_address(place.host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise CryptoModuleError(
            f"{place}: the door speaks in clear: listen on 127.0.0.1 or on a Unix socket"
        )
    return place


def _unavailable(error: SecGearError) -> bytes:
    """The door's own answer, where there is nobody behind it."""
    text = f"no channel to the module's enclave: {error.code}"
    body = msgspec.json.encode({"errors": [text]})
    head = (
        f"HTTP/1.1 502 Bad Gateway\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
