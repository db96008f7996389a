"""Messages on a lane: what they are, and how a value with attachments crosses in them.

A lane carries (id, tag, payload). The id is the call's, the tag says what the message is:

    bit 31      about an OCALL
    bit 30      CALL and its kin: nested in the call whose OCALL is being waited for
    bits 24-29  kind
    bits 0-23   number of the function, in the order of the interface's sorted names

A call whose arguments have a fast form (see `forms`) and fit in one message is one `FAST` message,
and its result comes back under the same tag. Everything else has a marshalled body and maybe
attachments; what does not fit in one message is announced by `BEGIN` and follows in `PART`s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, final

import msgspec

from secgear.base.marshal import Packed
from secgear.base.wire import ErrorBody, Limits
from secgear.errors import ArgumentError, LimitExceeded, ProtocolError

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring

OCALL = 1 << 31
NESTED = 1 << 30
_KIND = 0x3F << 24
_INDEX = (1 << 24) - 1

FAST = 1 << 24
"""Arguments, or the result, in the function's fast form."""
WHOLE = 2 << 24
"""Body and attachments in one message."""
BEGIN = 3 << 24
"""Sizes of a body and attachments that follow in parts."""
PART = 4 << 24
FAULT = 5 << 24
"""The call ended without a result."""
PING = 6 << 24
"""Answered at once by whoever serves, behind all that was sent before."""

_GROW = 16 << 20
"""Bytes set aside for what was announced and has not come."""

_LOOK = 0.02
"""Seconds after which a wait looks whether it was given up."""

encode = msgspec.msgpack.Encoder().encode


class Whole(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of WHOLE."""

    body: bytes
    attachments: list[bytearray] = []


class Begin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of BEGIN. body, sizes: bytes of the body and of each attachment."""

    body: int
    sizes: tuple[int, ...] = ()


_whole = msgspec.msgpack.Decoder(Whole)
_begin = msgspec.msgpack.Decoder(Begin)
_fault = msgspec.msgpack.Decoder(ErrorBody)

Message = tuple[int, int, bytes]


class Arrived(NamedTuple):
    """A value with its attachments, in private memory."""

    body: bytes | bytearray
    attachments: list[bytearray]


def kind(tag: int) -> int:
    """Which kind of message it is."""
    return tag & _KIND


def index(tag: int) -> int:
    """Number of the function."""
    return tag & _INDEX


def fault(payload: bytes) -> ErrorBody:
    """Payload of FAULT. Raises ProtocolError."""
    try:
        return _fault.decode(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"malformed fault: {error}") from error


@final
class CutShort(ProtocolError):
    """A value whose sender was interrupted in the middle of it. ping: what came instead."""

    def __init__(self, ping: Message) -> None:
        super().__init__("a value that was cut short")
        self.ping = ping


@final
class Courier:
    """Moves values with attachments over one ring, from this side's point of view.

    piece: bytes of one message at the most. limits: what this side accepts.
    """

    def __init__(self, ring: Ring, piece: int, limits: Limits) -> None:
        self._ring = ring
        self._piece = piece
        self._limits = limits

    def send(self, id: int, tag: int, packed: Packed, deadline: float | None = None) -> None:
        """Send a value under `tag`, whose kind is filled in here.

        deadline: on the clock of `time.monotonic`. Raises TimeoutError when it passed; the lane is
        out of step then.
        """
        ring, piece = self._ring, self._piece
        if packed.size + 16 * (1 + len(packed.attachments)) <= piece:
            message = encode((packed.body, packed.attachments))
            ring.send(id, tag | WHOLE, message, left(deadline))
            return
        sizes = tuple(len(view) for view in packed.attachments)
        ring.send(id, tag | BEGIN, encode((len(packed.body), sizes)), left(deadline))
        for data in (memoryview(packed.body), *packed.attachments):
            for start in range(0, len(data), piece):
                ring.send(id, tag | PART, data[start : start + piece], left(deadline))

    def receive(
        self,
        message: Message,
        most: int,
        deadline: float | None = None,
        *,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Arrived:
        """The value that `message`, a WHOLE or BEGIN, holds or announces.

        most: bytes of a body that its types allow. given_up: asked when a wait was cut short.
        Raises LimitExceeded or ArgumentError for what is too large, whose parts come all the same;
        ProtocolError for what is malformed, CutShort if a PING comes in the middle; TimeoutError
        when the deadline passed or it was given up.
        """
        id, tag, payload = message
        try:
            if kind(tag) == WHOLE:
                whole = _whole.decode(payload)
                self._admit(len(whole.body), list(map(len, whole.attachments)), most)
                return Arrived(whole.body, whole.attachments)
            begin = _begin.decode(payload)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"malformed message: {error}") from error
        sizes = [begin.body, *begin.sizes]
        if min(sizes) < 0:
            raise ProtocolError("an attachment of less than nothing")
        self._admit(begin.body, begin.sizes, most)
        part = (tag & ~_KIND) | PART
        values = [self._collect(id, part, size, deadline, given_up) for size in sizes]
        return Arrived(values[0], values[1:])

    def _admit(self, body: int, sizes: tuple[int, ...] | list[int], most: int) -> None:
        limits = self._limits
        if body > limits.message:
            raise LimitExceeded(f"a message of {body} bytes is over the limit of {limits.message}")
        if body > most:
            raise ArgumentError(
                f"arguments of {body} bytes, where their types allow {most} at the most"
            )
        total = sum(sizes)
        if len(sizes) > limits.attachments or total > limits.attached:
            raise LimitExceeded(f"{len(sizes)} attachments of {total} bytes are over the limit")

    def _collect(
        self,
        id: int,
        tag: int,
        size: int,
        deadline: float | None,
        given_up: Callable[[], bool],
    ) -> bytearray:
        """`size` bytes that come in parts, each as large as a piece but the last."""
        target = bytearray(min(size, _GROW))
        filled = 0
        while filled < size:
            expected = min(self._piece, size - filled)
            if len(target) < filled + expected:  # memory follows what has come
                target += bytes(min(size - len(target), _GROW))
            while (
                got := self._ring.recv(
                    _LOOK if deadline is None else min(_LOOK, left(deadline) or 0)
                )
            ) is None:
                if given_up() or (deadline is not None and time.monotonic() >= deadline):
                    raise TimeoutError
            if kind(got[1]) == PING and not got[1] & (OCALL | NESTED):
                raise CutShort(got)
            if got[:2] != (id, tag) or len(got[2]) != expected:
                raise ProtocolError("a part that does not belong to its message")
            target[filled : filled + expected] = got[2]
            filled += expected
        return target


def left(deadline: float | None) -> float | None:
    """Seconds until `deadline`, for a ring's timeout; None for no limit."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
