"""A door on the client's machine: plain HTTP in front, an attested channel to the enclave behind.

The data owner's side of the boundary. There is no channel without the enclave having been verified;
all connections go through one, so that they reach the same enclave, which knows who has logged in.
What goes through the door is not looked at. In front of it everything is in clear, so it opens on
this machine only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Self, final

import msgspec

from secgear.errors import ChannelClosed, ChannelError, CryptoModuleError, SecGearError
from secgear.middleware.channel.addresses import Address, parse
from secgear.services.crypto.rpc.buffer import MalformedMessage
from secgear.services.crypto.rpc.streams import PIECE, pack, unpack

if TYPE_CHECKING:
    from secgear.middleware.channel import Session

HTTP_SERVICE: Final = "http"
"""The enclave's handler of attested channels for REST, for `secgear.connect`."""
LIMIT: Final = 64  # connections; the enclave takes no more of one channel
_UNREAD: Final = 32 << 20  # bytes that a client has not taken
_LINGER: Final = 5.0  # seconds that a client may go on speaking after its answer
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
        self._limit = threading.BoundedSemaphore(limit)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._opening = threading.Lock()
        self._passage: _Passage | None = None
        self._closed = False
        try:
            self._socket = place.listen()
        except OSError as error:
            raise CryptoModuleError(f"{place}: {error.strerror or error}") from error
        if place.kind == "tcp":
            place = msgspec.structs.replace(place, port=self._socket.getsockname()[1])
        self.address = str(place)
        self._thread = threading.Thread(target=self._accept, name="door", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end all connections. Idempotent."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(_CLOSING)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        with self._opening:
            if self._passage is not None:
                self._passage.close()

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
            if not self._limit.acquire(blocking=False):
                with connection, contextlib.suppress(OSError):
                    connection.sendall(_answer("503 Service Unavailable", "too many connections"))
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # the system gives us no more threads
                connection.close()
                self._limit.release()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with self._lock:
                self._connections.add(connection)
            with connection, contextlib.suppress(OSError, ChannelError):
                if connection.family != socket.AF_UNIX:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    passage = self._through()
                except SecGearError as error:
                    _logger.warning("no channel: %s %s", error.code, error)
                    text = f"no channel to the module's enclave: {error.code}"
                    connection.sendall(_answer("502 Bad Gateway", text))
                    return
                passage.carry(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            self._limit.release()

    def _through(self) -> _Passage:
        """The channel that is open, or a new one. Raises SecGearError."""
        with self._opening:
            if self._closed:
                raise ChannelClosed("the door is closed")
            if self._passage is None or not self._passage.open:
                self._passage = _Passage(self._open())
            return self._passage


@final
class _Passage:
    """A channel with the connections in it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._beginning = threading.Lock()  # streams begin in the order of their numbers
        self._outgoing: dict[int, _Outgoing] = {}
        self._threads: set[threading.Thread] = set()
        self._last = 0
        self.open = True
        self._thread = threading.Thread(target=self._receive, name="passage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End all connections, and wait: no thread may be in OpenSSL at a process's end."""
        self._session.abort()
        self._thread.join(_CLOSING)
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(_CLOSING)

    def carry(self, connection: socket.socket) -> None:
        """Carry a connection, both ways, until one of the two sides ends it."""
        outgoing = _Outgoing(connection)
        writer = threading.Thread(target=outgoing.run, daemon=True)
        writer.start()
        number = 0
        try:
            data = connection.recv(PIECE)
            if data:
                number = self._begin(outgoing, data)
                while data := connection.recv(PIECE):
                    self._session.send(pack(number, data))
                self._session.send(pack(number, b""))
                outgoing.silent.set()
                outgoing.ended.wait()
        finally:
            outgoing.silent.set()
            outgoing.stop()
            writer.join()
            with self._lock:
                self._outgoing.pop(number, None)
                self._threads.discard(threading.current_thread())

    def _begin(self, outgoing: _Outgoing, data: bytes) -> int:
        """Begin a stream with its first bytes. Raises ChannelError."""
        with self._beginning:
            with self._lock:
                if not self.open:
                    raise ChannelClosed("the channel is closed")
                self._last += 1
                number = self._last
                self._outgoing[number] = outgoing
                self._threads.add(threading.current_thread())
            self._session.send(pack(number, data))
        return number

    def _receive(self) -> None:
        try:
            for message in self._session:
                number, piece = unpack(message)
                with self._lock:
                    outgoing = self._outgoing.get(number)
                if outgoing is not None:
                    outgoing.put(piece)
        except (ChannelError, MalformedMessage) as error:
            _logger.info("a channel ended: %s", error)
        finally:
            with self._lock:
                self.open = False
                left = list(self._outgoing.values())
            for outgoing in left:
                outgoing.put(b"")
            self._session.close()


@final
class _Outgoing:
    """What goes to one client, on a thread of its own: a slow one holds up nobody."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._over = False
        self.ended = threading.Event()
        self.silent = threading.Event()  # the client says nothing more

    def put(self, piece: bytes) -> None:
        """A piece; nothing is the end, after what is there. Too much of it is one as well."""
        with self._changed:
            self._size += len(piece)
            if self._size > _UNREAD:
                self._pieces.clear()
            if not piece or self._size > _UNREAD:
                self._over = True
            else:
                self._pieces.append(piece)
            self._changed.notify()

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._pieces.clear()
            self._over = True
            self._changed.notify()

    def run(self) -> None:
        """Send until the end. Wakes who waits for the client then."""
        try:
            while piece := self._next():
                self._connection.sendall(piece)
        except OSError:
            pass  # the client is gone
        finally:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            self.ended.set()
            # Closed while the client still speaks, its kernel would throw the answer away.
            self.silent.wait(_LINGER)
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RD)

    def _next(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._over)
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            self._size -= len(piece)
            return piece


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


def _answer(status: str, text: str) -> bytes:
    """The door's own answer, where nobody behind it gives one."""
    body = msgspec.json.encode({"errors": [text]})
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
