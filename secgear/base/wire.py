"""Frames: what crosses the boundary, as bytes.

Both directions use the same frames, so one parser guards both sides. A frame is a 16-byte header
and a payload:

    offset  size  field
    0       4     length of the payload, little endian
    4       1     kind
    5       1     flags
    6       2     index: which stream of the call (0 is the result), or what DATA belongs to
    8       8     id of the call

`Decoder` is sans-I/O: it is fed bytes and yields frames. What it can't accept but can skip it
yields as a `Violation` and goes on behind it; a length over the hard cap means that framing is
lost, and raises.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from secgear.base.transport.geometry import Geometry
from secgear.errors import ProtocolError

HEADER = struct.Struct("<IBBHQ")
VERSION = 1
HARD_CAP = 64 << 20
"""No payload is ever longer; a header that says so is garbage and the stream is lost."""

CHUNK = struct.Struct("<II")
"""Payload of a DATA frame that names shared memory: chunk number, bytes used."""


class Kind(enum.IntEnum):
    """What a frame is for."""

    HELLO = 1  # host to enclave: version, interface digest, limits
    READY = 2  # enclave to host: the app has started
    CALL = 3  # ECALL or OCALL
    RESULT = 4
    ERROR = 5  # a call or a stream ended without a result
    CANCEL = 6  # the caller gave up
    DATA = 7  # bytes of an attachment, inline or in shared memory
    CREDIT = 8  # a chunk of shared memory may be used again
    ITEM = 9  # one item of a stream
    MORE = 10  # the consumer of a stream takes so many items more
    END = 11  # the stream is complete
    STOP = 12  # the consumer wants no more items
    LOG = 13  # enclave to host: a log record
    PLATFORM = 14  # guest to its TEE
    ANSWER = 15  # TEE to its guest
    CLOSE = 16  # host to enclave: stop in good order
    BYE = 17  # enclave to host: stopped
    LANE = 18  # host to enclave: serve switchless calls on the lane with this number (the id)
    ABANDON = 19  # host to enclave: the caller of these switchless calls gave up


class Flag(enum.IntFlag):
    """Bits of the flags byte."""

    OURS = 1  # the id was given by the sender of this frame
    STREAM = 2  # RESULT: items follow instead of a value
    INLINE = 4  # DATA: the payload is the bytes themselves


ARGUMENTS = 0xFFFF
"""Index of DATA that belongs to the arguments of a call."""
VALUE = 0xFFFE
"""Index of DATA that belongs to the result of a call."""
MAX_STREAMS = 255
PLATFORM_REQUESTS = 8
"""Requests that an enclave has with its platform at once; further threads wait for their turn."""
LOG_RATE = 200.0
"""Log records a second that leave an enclave in the long run; a host takes no more."""
LOG_BURST = 1000
"""Log records that may leave at once after a quiet time."""

_KINDS = {int(kind): kind for kind in Kind}
_FLAGS = {
    Kind.CALL: Flag.OURS,
    Kind.RESULT: Flag.STREAM,
    Kind.ERROR: Flag.OURS,
    Kind.CANCEL: Flag.OURS,
    Kind.DATA: Flag.OURS | Flag.INLINE,
    Kind.ITEM: Flag.OURS,
    Kind.MORE: Flag.OURS,
    Kind.END: Flag.OURS,
    Kind.STOP: Flag.OURS,
}
_SMALL = 64 << 10
_MESSAGES = frozenset({Kind.CALL, Kind.RESULT, Kind.ITEM})
_EMPTY = frozenset({Kind.CANCEL, Kind.END, Kind.STOP, Kind.CLOSE, Kind.BYE, Kind.LANE})


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one side accepts from the other. The defaults suit both.

    message: bytes of one marshalled message, without its attachments.
    attachments: attachments of one message. attached: their bytes together.
    assembling: bytes of all messages that are still arriving, or wait for their turn.
    calls: calls in flight. depth: OCALLs and ECALLs nested in each other.
    window: items of a stream sent ahead of their consumer.
    """

    message: int = 8 << 20
    attachments: int = 256
    attached: int = 4 << 30
    assembling: int = 8 << 30
    calls: int = 1024
    depth: int = 16
    window: int = 16

    def __post_init__(self) -> None:
        if not 1024 <= self.message <= HARD_CAP:
            raise ValueError(f"message: from 1024 to {HARD_CAP} bytes, not {self.message}")
        for name in ("attachments", "attached", "assembling", "calls", "depth", "window"):
            if not 1 <= getattr(self, name) < 1 << 48:
                raise ValueError(f"{name}: a positive number, not {getattr(self, name)}")


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame; the payload is private memory of the receiver."""

    kind: Kind
    flags: int
    index: int
    id: int
    payload: bytes


class Violation(NamedTuple):
    """A frame that was skipped, and why. `frame_kind` and `id` are as the peer wrote them."""

    reason: str
    frame_kind: int
    id: int


class CallHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of CALL. sizes: bytes of each attachment. streams: indices of stream parameters."""

    function: str
    parent: int
    sizes: tuple[int, ...]
    streams: tuple[int, ...]
    arguments: msgspec.Raw


class ValueHead(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of RESULT and ITEM."""

    sizes: tuple[int, ...]
    value: msgspec.Raw


class ErrorBody(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of ERROR. name: the declared exception class, empty for the framework's errors."""

    code: str
    text: str
    name: str = ""
    incident: str = ""


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of HELLO. digest: of the interface the host was built against.

    geometry: of the switchless memory, None without any.
    """

    version: int
    digest: bytes
    limits: Limits
    geometry: Geometry | None = None


class Ready(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of READY. digest: of the interface of the app that was loaded.

    lanes: how many of the host's lanes the enclave serves, 0 without switchless calls.
    """

    version: int
    digest: bytes
    limits: Limits
    lanes: int = 0


class LogRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of LOG. suppressed: records dropped by the rate limit since the last one."""

    level: int
    logger: str
    message: str
    suppressed: int


class Abandon(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of ABANDON: the calls `first` to `last` of a lane."""

    lane: int
    first: int
    last: int


class More(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Payload of MORE."""

    items: int


def frame(
    kind: Kind, id: int = 0, payload: bytes = b"", *, flags: int = 0, index: int = 0
) -> bytes:
    """The bytes of one frame."""
    return HEADER.pack(len(payload), kind, flags, index, id) + payload


class Decoder:
    """Frames out of a byte stream, with limits.

    Feed it what arrived; iterate over `frames()` until it needs more. Memory held is at most one
    payload within its limit plus what was last fed.
    """

    def __init__(self, limits: Limits) -> None:
        self._message = limits.message
        self._buffer = bytearray()
        self._skip = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        self._buffer += data

    def frames(self) -> Iterator[Frame | Violation]:
        """Complete frames so far. Raises ProtocolError when framing is lost."""
        buffer = self._buffer
        start = 0
        try:
            while len(buffer) - start >= HEADER.size:
                length, kind, flags, index, id = HEADER.unpack_from(buffer, start)
                if length > HARD_CAP:
                    raise ProtocolError(
                        f"a frame of {length} bytes is over the hard cap of {HARD_CAP}"
                    )
                body = start + HEADER.size
                reason = self._refuse(length, kind, flags, index)
                if reason:
                    rest = len(buffer) - body
                    self._skip = max(0, length - rest)
                    start = body + min(length, rest)
                    yield Violation(reason, kind, id)
                    continue
                if len(buffer) - body < length:
                    return
                payload = bytes(memoryview(buffer)[body : body + length])
                start = body + length
                yield Frame(_KINDS[kind], flags, index, id, payload)
        finally:
            del buffer[:start]

    def _refuse(self, length: int, kind: int, flags: int, index: int) -> str:
        known = _KINDS.get(kind)
        if known is None:
            return f"unknown frame kind {kind}"
        if flags & ~_FLAGS.get(known, 0):
            return f"{known.name}: unknown flags {flags:#x}"
        if known in _MESSAGES:
            limit = self._message
        elif known is Kind.DATA:
            limit = INLINE_MAX if flags & Flag.INLINE else CHUNK.size
        elif known in _EMPTY:
            limit = 0
        else:
            limit = _SMALL
        if length > limit:
            return f"{known.name}: {length} bytes are over the limit of {limit}"
        if index > MAX_STREAMS and not (known is Kind.DATA and index in (ARGUMENTS, VALUE)):
            return f"{known.name}: index {index} out of range"
        return ""


INLINE_MAX = 256 << 10
"""Bytes that one inline DATA frame carries at the most."""


def clip(text: str, size: int = 4096) -> str:
    """`text` cut to `size` characters, for error texts and log records.

    Half surrogates, which have no encoding, become question marks.
    """
    text = text if len(text) <= size else text[: size - 1] + "…"
    return text if text.isascii() else text.encode(errors="replace").decode()
