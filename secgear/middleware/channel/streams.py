"""Byte streams that a channel runs over, for threads that wait."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import final

from secgear.errors import ChannelClosed, ChannelError


@final
class SocketBytes:
    """`session.ByteStream` over a connected stream socket, which it owns.

    One thread may send while another receives. stall: seconds to wait for a peer that takes
    nothing, None for ever. deadline: until when all is to be sent, on `time.monotonic`; counts
    instead of `stall` while it is set. stalled: whether the peer took nothing for too long.
    """

    def __init__(self, sock: socket.socket, *, stall: float | None = None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._stall = stall
        self._closed = False
        self.deadline: float | None = None
        self.stalled = False

    def recv(self, size: int, timeout: float | None) -> bytes:
        """See `ByteStream.recv`."""
        while True:
            try:
                return self._socket.recv(size)
            except BlockingIOError:
                if not self._wait(select.POLLIN, timeout):
                    raise TimeoutError("nothing has arrived in time") from None
            except OSError as error:
                return self._gone(error)

    def send(self, data: bytes) -> None:
        """See `ByteStream.send`."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                if not self._wait(select.POLLOUT, self._patience()):
                    self.stalled = True
                    raise ChannelError("the peer has taken nothing for too long") from None
            except OSError as error:
                self._gone(error)
                raise ChannelError(f"sending failed: {error.strerror}") from None

    def close(self) -> None:
        """See `ByteStream.close`."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _patience(self) -> float | None:
        return self._stall if self.deadline is None else self.deadline - time.monotonic()

    def _wait(self, event: int, timeout: float | None) -> bool:
        poll = select.poll()
        with contextlib.suppress(ValueError, OSError):
            poll.register(self._socket, event)
            return bool(poll.poll(None if timeout is None else max(0, timeout) * 1000))
        return True  # closed meanwhile, which the next attempt finds out

    def _gone(self, error: OSError) -> bytes:
        if self._closed:
            raise ChannelClosed("the session is closed") from error
        return b""
