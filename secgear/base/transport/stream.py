"""A stream over a connected socket."""

from __future__ import annotations

import contextlib
import socket
from typing import final


@final
class SocketStream:
    """`secgear.base.tee.Stream` over a connected stream socket; owns the socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._socket = sock

    def fileno(self) -> int:
        """Descriptor of the socket, -1 once closed."""
        return self._socket.fileno()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; empty when the peer has closed or died."""
        try:
            return self._socket.recv(size)
        except (ConnectionError, OSError):
            return b""

    def send(self, buffers: list[bytes | bytearray | memoryview], *, block: bool = True) -> int:
        """Write the front of `buffers`; 0 if that would block. Raises OSError on a dead peer."""
        flags = socket.MSG_NOSIGNAL | (0 if block else socket.MSG_DONTWAIT)
        try:
            return self._socket.sendmsg(buffers, [], flags)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Shut down both directions, which wakes a thread that reads, then close."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
