"""The host's socket for p11-kit's clients: who connects is handed over to the enclave.

The host looks at who a client is, and has nothing more to do with it: the enclave reads and writes
the connection. When the enclave dies, calls under way are answered with CKR_DEVICE_REMOVED, and the
next enclave gets the connection, where sessions and logins have to be made again. A connection that
the enclave has died in the middle of reading or writing is closed: nobody knows where it stands.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import stat
import struct
import threading
from functools import partial
from pathlib import Path
from typing import Final, Self, final

from secgear.base.handover.host import HandedOver
from secgear.errors import CryptoModuleError, EnclaveClosed, EnclaveLost, SecGearError
from secgear.services.crypto.host import Supervisor
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.frames import build_frame
from secgear.services.crypto.rpc.marks import Introduction, Standing, introduce, read_mark
from secgear.services.crypto.rpc.messages import build_error

LIMIT: Final = 1024  # connections
SERVICE: Final = "pkcs11"
"""The enclave's handler of connections."""
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
        self._clients: set[_Client] = set()
        self._closed = False
        # Clients whose enclave has died, and how they stand; None at the end.
        self._left: queue.SimpleQueue[tuple[_Client, Standing] | None] = queue.SimpleQueue()
        self._socket = _bind(path, mode)
        self._threads = [
            threading.Thread(target=target, name="pkcs11", daemon=True)
            for target in (self._accept, self._take_over)
        ]
        for thread in self._threads:
            thread.start()

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
            clients = list(self._clients)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept, which close() does not
        self._socket.close()
        self._path.unlink(missing_ok=True)
        for client in clients:
            client.end()
        self._left.put(None)
        for thread in self._threads:
            thread.join(5)

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
            client = _Client(connection)
            with self._lock:
                full = self._closed or len(self._clients) >= self._limit
                if not full:
                    self._clients.add(client)
            if full:
                connection.close()
            else:
                self._hand_over(client, None)

    def _hand_over(self, client: _Client, version: int | None) -> None:
        """Give a client to an enclave. version: what it spoke with the one before."""
        note = introduce(Introduction(client.actor, version))
        while True:
            try:
                enclave, _ = self._supervisor.current()
                enclave.hand_over(
                    client.socket, SERVICE, note, when_over=partial(self._over, client)
                )
            except SecGearError as error:
                if isinstance(error, EnclaveLost) and not isinstance(error, EnclaveClosed):
                    continue  # it has died this moment; the next one, or that there is none
                _logger.warning("a connection ended: %s", error)
                self._leave(client)
            return

    def _over(self, client: _Client, handed: HandedOver) -> None:
        """An enclave has a client no more."""
        standing = read_mark(handed.mark) if handed.lost else None
        if standing is None or self._closed or not client.answer(standing.codes):
            self._leave(client)
        else:
            self._left.put((client, standing))

    def _take_over(self) -> None:
        """Hand those who were left to the next enclave."""
        while (item := self._left.get()) is not None:
            client, standing = item
            self._hand_over(client, standing.version)

    def _leave(self, client: _Client) -> None:
        with self._lock:
            self._clients.discard(client)
        client.end()
        client.socket.close()


@final
class _Client:
    """One client of the socket. actor: who it is, as the kernel tells."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        self.actor = f"uid {uid} pid {pid}"

    def answer(self, codes: tuple[int, ...]) -> bool:
        """Answer calls that died with their enclave; whether that went."""
        if not codes:
            return True
        said = b"".join(build_frame(code, build_error(Rv.DEVICE_REMOVED)) for code in codes)
        try:
            return self.socket.send(said, socket.MSG_DONTWAIT) == len(said)
        except OSError:
            return False

    def end(self) -> None:
        """Nothing more goes over it, whoever has it open."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


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
