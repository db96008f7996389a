"""What has arrived on an open channel and was not taken yet; without I/O, for either driver."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import final

from secgear.errors import ChannelClosed, ChannelError, ChannelTruncated
from secgear.middleware.channel.core import Core, Event, Finished, Received, State
from secgear.middleware.channel.messages import Failed, Kind, Open, Opened, decode, reason

MAX_MESSAGE = 64 << 20
"""Bytes of a message that `Arrivals.message` puts together; longer ones come in parts."""
MAX_PARTS = 64 << 10
"""Parts of such a message; each costs some memory of its own."""


@final
class Arrivals:
    """Frames in their order, and then how the channel ended, again and again.

    A message is taken whole or in parts. Whoever gives up waiting for the rest of it finds what
    has come so far when he asks again: half a message is never taken for one.

    events: those that came right behind the handshake.
    """

    def __init__(self, core: Core, events: Iterable[Event] = ()) -> None:
        self._core = core
        self._events: deque[Event] = deque(events)
        self._end: ChannelError | None = None
        self._parts: list[bytes] = []  # of a message that is to be taken whole
        self._size = 0
        self._streaming = False  # part of a message was taken, and its rest was not
        self._inside = False  # of a message, as far as it was taken from the events

    def feed(self, data: bytes) -> None:
        """Bytes from the network, empty at its end. What is wrong with them, `take` raises."""
        try:
            self._events.extend(self._core.receive(data))
        except ChannelError as error:
            self._end = self._end or error

    def take(self) -> tuple[Kind, bytes] | None:
        """The next frame, None if more has to be fed.

        Raises ChannelClosed after an end in good order, ChannelTruncated after another, and
        ChannelError for what the peer did wrong, or has done wrong according to its own words.
        """
        if not self._events:
            if self._end is not None:
                raise type(self._end)(*self._end.args)  # one each: raising writes into it
            if self._core.state is State.CLOSED:
                raise ChannelClosed("the session is closed")
            return None
        event = self._events.popleft()
        if isinstance(event, Finished):
            if self._inside:
                raise self.end(ChannelTruncated("the peer closed in the middle of a message"))
            raise self.end(ChannelClosed("the peer has closed the session"))
        if not isinstance(event, Received):
            raise self.broken("the attestation begins again")
        if event.kind is Kind.FAILED:
            message = decode(event.kind, event.payload)
            words = reason(message) if isinstance(message, Failed) else ""
            raise self.end(ChannelError(f"the other side ended the session: {words}"))
        return event.kind, event.payload

    def message(self) -> bytes | None:
        """The next message, whole; else as `take`.

        Raises ChannelError for one over `MAX_MESSAGE` or `MAX_PARTS`, and for the rest of one whose
        beginning was taken by `part`.
        """
        if self._streaming:
            raise self.end(ChannelError("a message in parts was not taken to its end"))
        while (entry := self._piece()) is not None:
            piece, last = entry
            self._size += len(piece)
            if self._size > MAX_MESSAGE or len(self._parts) >= MAX_PARTS:
                raise self.end(
                    ChannelError(
                        f"a message of over {MAX_MESSAGE} bytes or {MAX_PARTS} parts: "
                        "use recv_stream()"
                    )
                )
            self._parts.append(piece)
            if last:
                return self._joined()
        return None

    def part(self) -> tuple[bytes, bool] | None:
        """The next piece of a message and whether it is the last; else as `take`."""
        entry = (self._joined(), False) if self._parts else self._piece()
        if entry is not None:
            self._streaming = not entry[1]
        return entry

    def _joined(self) -> bytes:
        parts, self._parts, self._size = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self) -> tuple[bytes, bool] | None:
        entry = self.take()
        if entry is None:
            return None
        kind, payload = entry
        if kind not in (Kind.PART, Kind.LAST):
            raise self.broken(f"{kind.name} in a session for messages")
        self._inside = kind is Kind.PART
        return payload, not self._inside

    def control(self, expected: Kind) -> Open | Opened | None:
        """The next frame, which has to be OPEN or OPENED as `expected`; else as `take`."""
        entry = self.take()
        if entry is None:
            return None
        kind, payload = entry
        message = decode(kind, payload) if kind is expected else None
        if not isinstance(message, Open | Opened):
            raise self.broken(f"{kind.name} instead of {expected.name}")
        return message

    def broken(self, what: str) -> ChannelError:
        """The error to raise for a peer that does not keep to the protocol; nothing follows it."""
        return self.end(ChannelError(f"the peer broke the protocol: {what}"))

    def end(self, error: ChannelError) -> ChannelError:
        """Nothing more will be taken; `error` says why, unless another one did before."""
        self._end = self._end or error
        self._events.clear()
        self._parts.clear()
        return error
