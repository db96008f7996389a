"""The boundary's protocol over a session: what `secgear.base` needs of a stream to an app."""

from __future__ import annotations

from typing import final

from secgear.errors import ChannelError
from secgear.middleware.channel.messages import PART
from secgear.middleware.channel.session import Session


@final
class CallStream:
    """`secgear.base.tee.Stream` over a session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rest = b""

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; empty when the session has ended, however it did."""
        try:
            data = self._rest or self._session.recv_calls()
        except ChannelError:
            return b""
        self._rest = data[size:]
        return data[:size]

    def send(self, buffers: list[bytes | bytearray | memoryview], *, block: bool = True) -> int:
        """Write `buffers`; 0 without `block`, since the session may have to wait."""
        if not block:
            return 0
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        view = memoryview(data)
        try:
            for start in range(0, len(view), PART):
                self._session.send_calls(view[start : start + PART])
        except ChannelError as error:
            raise ConnectionError(str(error)) from error
        return len(view)

    def close(self) -> None:
        """End the session."""
        self._session.abort()
