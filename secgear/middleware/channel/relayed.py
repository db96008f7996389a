"""The enclave's end of a relayed connection: bytes that the host carries over the boundary."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Self, final

from secgear.base.flow import Consumer
from secgear.errors import ChannelClosed, ChannelError

MAX_PIECE: Final = 256 << 10
"""Bytes that cross the boundary in one piece, either way."""
_AHEAD = 1 << 20
"""Bytes that wait for the host to take them before a sender waits, too."""


@final
class Outflow:
    """What the enclave says to one client: an iterator for the boundary, fed by `put`.

    ended: told when the host takes no more. used: time at which the host took the last piece.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self.used = time.monotonic()
        self._condition = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._closed = False
        self._wake: Callable[[], None] | None = None
        self._ended = ended

    def put(self, data: bytes) -> None:
        """Hand `data` on, once there is room. Raises ChannelClosed."""
        for start in range(0, len(data), MAX_PIECE):
            with self._condition:
                while self._held >= _AHEAD and not self._closed:
                    self._condition.wait()
                if self._closed:
                    raise ChannelClosed("the connection is closed")
                piece = data[start : start + MAX_PIECE]
                self._pieces.append(piece)
                self._held += len(piece)
                self._condition.notify_all()
            self._tell()

    def finish(self) -> None:
        """No more will come; what is there still goes out. Idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._tell()

    def poll(self, wake: Callable[[], None]) -> bool:
        """See `secgear.base.flow.Pollable`."""
        with self._condition:
            self._wake = wake
            return bool(self._pieces) or self._closed

    def close(self) -> None:
        """The host takes no more."""
        with self._condition:
            self._pieces.clear()
        self.finish()
        self._ended()

    def _tell(self) -> None:
        with self._condition:
            wake, self._wake = self._wake, None
        if wake is not None:
            wake()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._condition:
            while not self._pieces and not self._closed:
                self._condition.wait()
            if not self._pieces:
                raise StopIteration
            piece = self._pieces.popleft()
            self._held -= len(piece)
            self.used = time.monotonic()
            self._condition.notify_all()
            return piece


@final
class RelayedBytes:
    """`session.ByteStream` over what the host carries."""

    def __init__(self, inbound: Consumer) -> None:
        self._inbound = inbound
        self._rest = b""
        self.outflow = Outflow(self.close)
        self._used = time.monotonic()

    @property
    def used(self) -> float:
        """When the last bytes went, either way, on the clock of `time.monotonic`."""
        return max(self._used, self.outflow.used)

    def recv(self, size: int, timeout: float | None) -> bytes:
        """See `ByteStream.recv`."""
        until = None if timeout is None else time.monotonic() + timeout
        data = self._rest
        while not data:
            if until is not None and not self._inbound.until(until):
                raise TimeoutError("nothing has arrived in time")
            try:
                data = next(self._inbound)
            except StopIteration:
                return b""
            except Exception as error:
                raise ChannelError("the host has dropped the connection") from error
            if len(data) > MAX_PIECE:
                raise ChannelError(f"the host hands in {len(data)} bytes in one piece")
            self._used = time.monotonic()
        self._rest = data[size:]
        return data[:size]

    def send(self, data: bytes) -> None:
        """See `ByteStream.send`."""
        self.outflow.put(data)

    def close(self) -> None:
        """See `ByteStream.close`."""
        self.outflow.finish()
        self._inbound.close()
