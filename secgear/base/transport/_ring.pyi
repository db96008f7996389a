"""The native ring; import `secgear.base.transport.ring`, which also works without it."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, final

from _typeshed import ReadableBuffer, WriteableBuffer

INLINE: int
SLOT: int

class RingBroken(ConnectionError):
    """The peer wrote what the protocol does not allow. The ring is closed."""

def lane_size(slots: int, arena: int, /) -> int:
    """Bytes of a lane, a multiple of 4096. Raises ValueError unless both are powers of two."""

Answer: TypeAlias = ReadableBuffer | tuple[int, ReadableBuffer] | None
Handler: TypeAlias = Callable[[int, int, bytes], Answer]

@final
class Ring:
    """One side of one lane: messages of an id (64 bits), a tag (32 bits) and bytes, in order.

    memory: writable, `lane_size(slots, arena)` bytes, zero when both sides begin; released by
    `close`. host: which side this is. slots: messages under way in a direction, a power of two.
    arena: bytes under way in a direction, a power of two from 4096. limit: bytes of one message,
    sent or received. spin: microseconds of busy waiting at most, before a thread sleeps.
    bell: (descriptor to wait on, descriptor to ring) for peers that share no futex: eventfds or
    streams, non-blocking, owned by the caller; None is a futex in `memory`.

    One thread at a time in a direction, else RuntimeError. All methods that wait drop the GIL,
    handle signals, and raise ConnectionError once either side has closed or died with its bell's
    stream, RingBroken when the peer breaks the protocol. timeout: seconds for all the waiting of
    the call; None is for ever. Unusable in a forked child.
    """

    def __new__(
        cls,
        memory: WriteableBuffer,
        *,
        host: bool,
        slots: int,
        arena: int,
        limit: int,
        spin: int = 200,
        bell: tuple[int, int] | None = None,
    ) -> Ring: ...
    def send(
        self, id: int, tag: int, payload: ReadableBuffer, timeout: float | None = None, /
    ) -> None:
        """Copy a message in; waits for room.

        Raises ValueError above the limit, TimeoutError; if a part has gone out by then, or a
        signal's handler raises, the ring is closed.
        """
    def recv(self, timeout: float | None = None, /) -> tuple[int, int, bytes] | None:
        """The next message, in private memory. None: timed out."""
    def call(
        self, id: int, tag: int, payload: ReadableBuffer, timeout: float | None = None, /
    ) -> tuple[int, int, bytes] | None:
        """`send`, then `recv`: whichever message comes next. None: timed out receiving."""
    def serve(self, handler: Handler, /) -> None:
        """Answer messages until the ring is closed, by whichever side.

        handler: gets id, tag and payload. Its answer goes out under the same id: a buffer with
        the same tag, or (tag, buffer), or None for nothing. It may use the ring itself. What it
        raises ends serving; nothing is sent then, and the ring stays usable.
        """
    def call_many(
        self,
        tag: int,
        payloads: Sequence[ReadableBuffer],
        first_id: int,
        window: int,
        timeout: float | None = None,
        other: Handler | None = None,
        /,
    ) -> list[tuple[int, bytes]]:
        """Send all payloads, `window` of them under way at most (1 to slots); their answers.

        Ids count up from `first_id`. Returns (tag, payload) in the order of `payloads`, whatever
        the order they came in. other: answers messages whose id is none of these, as in `serve`.
        Raises TimeoutError; then answers to what was sent may still arrive.
        """
    def close(self) -> None:
        """End the ring, from any thread: all who wait, on either side, have ConnectionError.

        Messages that the peer has not received yet stay readable to it. Idempotent.
        """
    def stats(self) -> dict[str, int]:
        """Counters since the beginning.

        sent, received: messages. spins: waits that ended while spinning. pauses: rounds of
        spinning. parks: times a thread went to sleep. wakes: doorbells rung. rejected: breaches
        of the protocol by the peer.
        """
