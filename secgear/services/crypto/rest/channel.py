"""An attested channel that carries several connections of HTTP: see `rpc.streams`.

One thread reads the channel, one more serves each connection. What one connection does not take is
kept up to a limit, and then nobody's is read: they are all of the same client.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol, final

from secgear.errors import ChannelClosed, ChannelError
from secgear.services.crypto.rpc.buffer import MalformedMessage
from secgear.services.crypto.rpc.streams import LARGEST, PIECE, pack, unpack

MAX_STREAMS: Final = 64  # of one channel
_AHEAD: Final = 256 << 10  # bytes of a stream that nobody has taken yet
_STALLED: Final = 60.0  # seconds that a stream's bytes may wait for room
_NONE: Final = "a client of REST does not keep to the protocol"
_logger = logging.getLogger(__name__)
_LOOK: Final = 5.0  # seconds after which `idle` is called where nothing comes


class Session(Protocol):
    """The part of a channel's session that is needed."""

    def recv_stream(self, timeout: float | None = None) -> Iterator[bytes]:
        """The next message in parts."""
        ...

    def send(self, message: bytes) -> None:
        """One message."""
        ...


@final
class Stream:
    """One connection, as `connection.serve` takes it."""

    def __init__(self, number: int, send: Callable[[bytes], None]) -> None:
        self._number = number
        self._send = send
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False

    def recv(self, timeout: float) -> bytes:
        """See `connection.Peer`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._pieces or self._ended, timeout):
                raise TimeoutError
            if not self._pieces:
                return b""
            piece = self._pieces.popleft()
            self._size -= len(piece)
            self._changed.notify_all()
            return piece

    def send(self, data: bytes) -> None:
        """See `connection.Peer`."""
        for at in range(0, len(data), PIECE):
            self._send(pack(self._number, data[at : at + PIECE]))

    def put(self, piece: bytes) -> None:
        """What came; nothing is the end. Waits for room, and ends a stream that makes none."""
        if not piece:
            self.end()
            return
        with self._changed:
            if not self._changed.wait_for(self._has_room, _STALLED):
                self._ended = True
            if not self._ended:
                self._pieces.append(piece)
                self._size += len(piece)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._ended or self._size < _AHEAD


@final
class Channel:
    """The connections of one channel. handle: serves one, on a thread of its own.

    room: for connections of all channels.
    """

    def __init__(
        self,
        session: Session,
        handle: Callable[[Stream], None],
        room: threading.BoundedSemaphore,
    ) -> None:
        self._session = session
        self._handle = handle
        self._room = room
        self._lock = threading.Lock()
        self._streams: dict[int, tuple[Stream, threading.Thread]] = {}
        self._last = 0

    def serve(self, idle: Callable[[], None]) -> None:
        """Serve until the client leaves. idle: called now and then. Raises ChannelError."""
        looked = time.monotonic()
        try:
            while True:
                message = _message(self._session)
                if message is None or time.monotonic() - looked >= _LOOK:
                    looked = time.monotonic()
                    idle()
                if message is not None:
                    self._take(*_unpacked(message))
        except ChannelClosed:
            return
        finally:
            with self._lock:
                left = list(self._streams.values())
            for stream, thread in left:
                stream.end()
                thread.join()

    def _take(self, number: int, piece: bytes) -> None:
        with self._lock:
            entry = self._streams.get(number)
        if entry is not None:
            entry[0].put(piece)
        elif number > self._last and piece:  # else it is the rest of one that has ended
            self._last = number
            self._begin(number, piece)

    def _begin(self, number: int, piece: bytes) -> None:
        stream = Stream(number, self._session.send)
        thread = threading.Thread(target=self._run, args=(number, stream), name="rest", daemon=True)
        stream.put(piece)
        with self._lock:
            if len(self._streams) < MAX_STREAMS and self._room.acquire(blocking=False):
                self._streams[number] = (stream, thread)
                try:
                    thread.start()
                    return
                except RuntimeError:  # the system gives us no more threads
                    del self._streams[number]
                    self._room.release()
        self._session.send(pack(number, b""))

    def _run(self, number: int, stream: Stream) -> None:
        try:
            with contextlib.suppress(ChannelError):
                try:
                    self._handle(stream)
                except Exception as error:
                    if isinstance(error, ChannelError):
                        raise
                    # Its kind only: the text may hold what a client has sent.
                    _logger.error("a connection failed: %s", type(error).__name__)
                self._session.send(pack(number, b""))
        finally:
            self._room.release()
            with self._lock:
                self._streams.pop(number, None)


def _unpacked(message: bytes) -> tuple[int, bytes]:
    try:
        return unpack(message)
    except MalformedMessage:
        raise ChannelError(_NONE) from None


def _message(session: Session) -> bytes | None:
    """The next message, None when none has begun for a while. Raises ChannelError."""
    parts: list[bytes] = []
    size = 0
    try:
        for part in session.recv_stream(_LOOK):
            size += len(part)
            if size > LARGEST:
                raise ChannelError(_NONE)
            parts.append(part)
    except TimeoutError:
        if parts:  # half a message; what follows could not be told from the next one
            raise ChannelError("a client of REST stopped within a message") from None
        return None
    return b"".join(parts)
