"""The host's socket for p11-kit's clients: frames in, frames out, their contents unread.

A connection has a thread. As long as a client has one call under way at a time, the thread carries
it into the enclave itself, which costs the least; as soon as calls overlap, they go side by side
and are answered as they are done. When the enclave dies, calls under way fail and the connection
stays: the next call finds a new enclave, where sessions and logins have to be made again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import struct
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Self, final

from secgear.base.enclave import Enclave
from secgear.errors import CryptoModuleError, EnclaveLost, SecGearError
from secgear.services.crypto.host import Supervisor
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.buffer import MalformedMessage
from secgear.services.crypto.rpc.frames import HEADER, build_frame, negotiate, parse_header
from secgear.services.crypto.rpc.messages import build_error

LIMIT: Final = 1024  # connections
_OVERLAPPING: Final = 64  # calls that go side by side once two have overlapped
_UNDER_WAY: Final = 32  # calls of one connection
_CREDENTIALS = struct.Struct("iII")  # struct ucred, unix(7)
_logger = logging.getLogger(__name__)


@final
class Listener:
    """Listens on a Unix socket. A context manager; leaving it ends all connections.

    mode: the socket's permissions, which are what decides who may connect.
    Raises CryptoModuleError when the address can't be had.
    """

    def __init__(
        self, supervisor: Supervisor, path: Path, *, mode: int = 0o600, limit: int = LIMIT
    ) -> None:
        self._supervisor = supervisor
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._closed = False
        self._socket = _bind(path, mode)
        self._thread = threading.Thread(target=self._accept, name="pkcs11", daemon=True)
        self._thread.start()

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
            connections = list(self._connections)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept, which close() does not
        self._socket.close()
        self._path.unlink(missing_ok=True)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

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
            with self._lock:
                full = self._closed or len(self._connections) >= self._limit
                if not full:
                    self._connections.add(connection)
            if full:
                connection.close()
                continue
            try:
                threading.Thread(
                    target=self._serve, args=(connection,), name="pkcs11-client", daemon=True
                ).start()
            except RuntimeError:  # the system gives us no more threads
                self._leave(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            Connection(self._supervisor, connection).run()
        except (OSError, MalformedMessage, EOFError):
            pass  # the client is gone, or speaks something else
        except SecGearError as error:
            _logger.warning("a connection ended: %s", error)
        finally:
            self._leave(connection)

    def _leave(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)
        connection.close()


@final
class Connection:
    """One client of the socket."""

    def __init__(self, supervisor: Supervisor, connection: socket.socket) -> None:
        self._supervisor = supervisor
        self._socket = connection
        self._file = connection.makefile("rb")
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self._actor = f"uid {uid} pid {pid}"
        self._version = 0
        self._generation = 0
        self._number = 0
        self._enclave: Enclave | None = None
        self._sending = threading.Lock()
        self._room = threading.BoundedSemaphore(_UNDER_WAY)

    def run(self) -> None:
        """Serve until the client leaves. Raises OSError, EOFError, MalformedMessage."""
        offered = self._read(1)[0]
        self._version = negotiate(offered)
        self._socket.sendall(bytes((self._version,)))
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        overlapping = 0
        try:
            while True:
                code, body = self._frame()
                if overlapping:
                    overlapping -= 1
                    self._submit(code, body)
                    continue
                self._reply(code, self._exchange(body))
                if poll.poll(0):
                    overlapping = _OVERLAPPING
        finally:
            self._disconnect()

    def _frame(self) -> tuple[int, bytes]:
        header = parse_header(self._read(HEADER.size))
        self._read(header.options)
        return header.code, self._read(header.body)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def _exchange(self, body: bytes) -> bytes:
        try:
            enclave = self._connected()
            answer: bytes = enclave.switchless.exchange(self._number, self._version, body)
        except SecGearError as error:
            return _failure(error)
        return answer

    def _submit(self, code: int, body: bytes) -> None:
        """The same without waiting for it."""
        self._room.acquire()
        try:
            future = self._connected().submit.exchange(self._number, self._version, body)
        except SecGearError as error:
            self._room.release()
            self._reply(code, _failure(error))
            return

        def done(future: Future[bytes]) -> None:
            self._room.release()
            error = future.exception()
            answer = future.result() if error is None else _failure(error)
            with contextlib.suppress(OSError):
                self._reply(code, answer)

        future.add_done_callback(done)

    def _reply(self, code: int, answer: bytes) -> None:
        with self._sending:
            self._socket.sendall(build_frame(code, answer))

    def _connected(self) -> Enclave:
        """The enclave, where this client has a connection."""
        enclave = self._enclave
        if enclave is not None and enclave.alive:
            return enclave
        enclave, generation = self._supervisor.current()
        if generation != self._generation:
            self._number = enclave.connect(self._actor, bool(self._generation))
            self._generation = generation
        self._enclave = enclave
        return enclave

    def _disconnect(self) -> None:
        self._file.close()
        if self._enclave is not None:
            with contextlib.suppress(SecGearError):
                self._enclave.disconnect(self._number)


def _failure(error: BaseException) -> bytes:
    """What a client hears when its call got no answer from the enclave."""
    lost = isinstance(error, EnclaveLost)
    return build_error(Rv.DEVICE_REMOVED if lost else Rv.DEVICE_ERROR)


def _bind(path: Path, mode: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(path)
        before = os.umask(0o177)  # nobody connects before the mode is what it is to be
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        path.chmod(mode)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise CryptoModuleError(f"{path}: {error.strerror or error}") from error
    return listener


def _remove_stale(path: Path) -> None:
    """A socket that nobody listens on any more is in the way. Raises OSError."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CryptoModuleError(f"{path}: is there already, and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise CryptoModuleError(f"{path}: somebody listens there already")
