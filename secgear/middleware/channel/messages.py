"""What the two sides say to each other inside TLS: frames, and the messages of the attestation.

A frame is a byte for its kind, three bytes for the length of its payload (big endian), and the
payload. Payloads of the attestation are maps in deterministic CBOR; anything else is refused.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, final

import cbor2
import msgspec

from secgear.base.tee import Evidence
from secgear.errors import ChannelError, EvidenceMalformed, HandshakeFailed, VersionUnknown
from secgear.middleware.attestation import cbor, envelope
from secgear.middleware.attestation.reader import UNREADABLE

VERSION: Final = 1
NONCE_SIZE: Final = 32  # bytes
HEADER_SIZE: Final = 4  # bytes
MAX_PART: Final = 256 << 10
"""Bytes that one frame of a message carries at most."""
RECORD: Final = 16 << 10
"""Bytes of plaintext in a full TLS record (RFC 8446, section 5.1)."""
PART: Final = 7 * RECORD - HEADER_SIZE
"""Bytes that this side puts into one frame: with the header just full records, and below the
128 KiB from which on malloc may map each buffer anew, which costs more than encrypting it."""

_SMALL = 4 << 10
_MERGED = 64 << 10
_MAX_OFFERED = 4096
_MAX_NAME = 64
_MAX_TEXT = 512


class Kind(enum.IntEnum):
    """What a frame is for."""

    CHALLENGE = 1  # client: its nonce
    EVIDENCE = 2  # server: its nonce, evidence, what it demands; client: evidence
    ACCEPT = 3  # client, then server: the other one's evidence was found good
    REFUSE = 4  # instead of any of them
    OPEN = 16  # client: what the session is for
    OPENED = 17  # server
    PART = 18  # of a message that goes on
    LAST = 19  # the message's end, or all of it
    CALLS = 20  # bytes of the boundary's protocol, for sessions that make calls
    FAILED = 21  # server: instead of OPENED, or when its handler has failed


ATTESTATION: Final = frozenset({Kind.CHALLENGE, Kind.EVIDENCE, Kind.ACCEPT, Kind.REFUSE})
_KINDS = {int(kind): kind for kind in Kind}
_LIMITS = {
    Kind.CHALLENGE: _SMALL,
    Kind.EVIDENCE: 4 << 20,  # composite evidence of eight GPUs is some 100 KiB
    Kind.ACCEPT: _SMALL,
    Kind.REFUSE: _SMALL,
    Kind.OPEN: _SMALL,
    Kind.OPENED: 4 << 20,  # the description of an interface
    Kind.PART: MAX_PART,
    Kind.LAST: MAX_PART,
    Kind.CALLS: MAX_PART,
    Kind.FAILED: _SMALL,
}


class Challenge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The client's first message. nonce: fresh, 32 bytes."""

    version: int
    nonce: bytes


class Presented(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evidence.

    nonce: the server's, a client sends zeros. demand: the server wants evidence, too. client_key:
    the server has seen a certificate of the client, which is not asked for by every server and so
    not sent to every one; its key is in the binding then. A client sends false for both.
    """

    nonce: bytes
    evidence: bytes
    demand: bool
    client_key: bool


class Accept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The evidence was found good."""


class Refuse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No session. code: stable, for programs. text: for people; data from the other side."""

    code: str
    text: str = ""


class Failed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The session has ended badly. As in `Refuse`."""

    code: str
    text: str = ""


class Open(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the session is for: messages for the handler `service`, or calls."""

    service: str = ""
    calls: bool = False


class Opened(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The server is ready. For calls: the app's interface, and the names that clients may call."""

    interface: bytes = b""
    offered: tuple[str, ...] = ()


Message = Challenge | Presented | Accept | Refuse | Open | Opened | Failed
_TYPES: dict[Kind, type[msgspec.Struct]] = {
    Kind.CHALLENGE: Challenge,
    Kind.EVIDENCE: Presented,
    Kind.ACCEPT: Accept,
    Kind.REFUSE: Refuse,
    Kind.OPEN: Open,
    Kind.OPENED: Opened,
    Kind.FAILED: Failed,
}
_KIND_OF = {kind: number for number, kind in _TYPES.items()}
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = [msgspec.msgpack.Decoder(kind) for kind in _TYPES.values()]


def header(kind: Kind, size: int) -> bytes:
    """The head of a frame whose payload has `size` bytes."""
    return (int(kind) << 24 | size).to_bytes(HEADER_SIZE)


def encode(message: Message) -> bytes:
    """`message` as a frame."""
    payload = cbor2.dumps(
        msgspec.to_builtins(message, builtin_types=(bytes,)),
        canonical=True,
    )
    kind = _KIND_OF[type(message)]
    if len(payload) > _LIMITS[kind]:
        raise HandshakeFailed(f"{kind.name}: {len(payload)} bytes; at most {_LIMITS[kind]} go")
    return header(kind, len(payload)) + payload


ACCEPTED: Final = encode(Accept())
"""The frame of ACCEPT, which is always the same."""


def decode(kind: Kind, payload: bytes) -> Message:
    """Read the payload of a frame of `kind`. Raises HandshakeFailed, naming the kind."""
    if kind is Kind.ACCEPT and payload == ACCEPTED[HEADER_SIZE:]:
        return Accept()
    try:
        content = cbor.decode(payload, kind.name, max_size=_LIMITS[kind], max_depth=2)
        message: Any = msgspec.convert(content, _TYPES[kind], builtin_types=(bytes,))
    except EvidenceMalformed as error:
        raise HandshakeFailed(str(error).removeprefix("format: ")) from None
    except UNREADABLE as error:
        raise HandshakeFailed(f"{kind.name}: {error}") from None
    _check(kind, message)
    if encode(message)[HEADER_SIZE:] != payload:
        raise HandshakeFailed(f"{kind.name}: not in deterministic encoding")
    return message  # type: ignore[no-any-return]  # one of _TYPES


def read_evidence(presented: Presented) -> Evidence:
    """The evidence inside. Raises HandshakeFailed for what is none."""
    try:
        evidence = envelope.from_cbor(presented.evidence)
    except EvidenceMalformed as error:
        raise HandshakeFailed(f"EVIDENCE: {str(error).removeprefix('format: ')}") from None
    if envelope.to_cbor(evidence) != presented.evidence:
        raise HandshakeFailed("EVIDENCE: its envelope is not in deterministic encoding")
    return evidence


def _check(kind: Kind, message: Message) -> None:
    match message:
        case Challenge(version=version) if version != VERSION:
            raise VersionUnknown(
                f"the client speaks version {version} of the channel's protocol, this is {VERSION}"
            )
        case Challenge(nonce=nonce) | Presented(nonce=nonce) if len(nonce) != NONCE_SIZE:
            raise HandshakeFailed(f"{kind.name}: a nonce of {len(nonce)} bytes, not {NONCE_SIZE}")
        case Open(service=name) | Refuse(code=name) | Failed(code=name) if len(name) > _MAX_NAME:
            raise HandshakeFailed(f"{kind.name}: a name of over {_MAX_NAME} characters")
        case Refuse(text=text) | Failed(text=text) if len(text) > _MAX_TEXT:
            raise HandshakeFailed(f"{kind.name}: a text of over {_MAX_TEXT} characters")
        case Open(service=name, calls=True) if name:
            raise HandshakeFailed("OPEN: for calls and for a handler of messages")
        case Opened(offered=names) if len(names) > _MAX_OFFERED or list(names) != sorted(
            set(names)
        ):
            raise HandshakeFailed("OPENED: names that are too many or not each once, in order")


def clipped(kind: type[Refuse] | type[Failed], code: str, text: str) -> Refuse | Failed:
    """A REFUSE or FAILED that fits, whatever the reason says."""
    return kind(code[:_MAX_NAME], text[:_MAX_TEXT])


def reason(message: Refuse | Failed) -> str:
    """What the other side says, as one line that moves no terminal's cursor."""
    words = "".join(sign if sign.isprintable() else "?" for sign in f"{message.text}")
    code = "".join(sign if sign.isprintable() else "?" for sign in message.code)
    return f"{code}: {words}" if words else code


@final
class Frames:
    """Bytes in, frames out: `feed`, then iterate. Holds at most one frame that is not complete.

    expect: told the kind and size of each frame once its header is there, before anything is kept
    for it; raises ChannelError for one that must not come now.
    """

    def __init__(self, expect: Callable[[Kind, int], None]) -> None:
        self._expect = expect
        self._chunks: deque[bytes | bytearray | memoryview] = deque()
        self._held = 0
        self._head: tuple[Kind, int] | None = None

    def feed(self, pieces: Sequence[bytes]) -> None:
        """More of what arrived."""
        for piece in pieces:
            self._held += len(piece)
            if len(piece) >= _SMALL:
                self._chunks.append(piece)
                continue
            # A peer that makes records of a byte must not make us hold an object for each.
            last = self._chunks[-1] if self._chunks else None
            if type(last) is bytearray and len(last) < _MERGED:
                last += piece
            else:
                self._chunks.append(bytearray(piece))

    @property
    def pending(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return self._head is not None or self._held > 0

    def __iter__(self) -> Iterator[tuple[Kind, bytes]]:
        """The frames that are complete.

        Raises ChannelError for an unknown kind, a length over its limit, or what `expect` raises.
        """
        while True:
            if self._head is None:
                if self._held < HEADER_SIZE:
                    return
                self._head = _read_header(self._take(HEADER_SIZE))
                self._expect(*self._head)
            kind, size = self._head
            if self._held < size:
                return
            self._head = None
            yield kind, self._take(size)

    def _take(self, size: int) -> bytes:
        """The next `size` bytes, which are there, copied once."""
        self._held -= size
        chunks = self._chunks
        taken: list[bytes | bytearray | memoryview] = []
        while size:
            chunk = chunks.popleft()
            if len(chunk) > size:
                view = memoryview(chunk)
                chunks.appendleft(view[size:])
                chunk = view[:size]
            taken.append(chunk)
            size -= len(chunk)
        return b"".join(taken)


def _read_header(data: bytes) -> tuple[Kind, int]:
    kind = _KINDS.get(data[0])
    size = int.from_bytes(data[1:])
    if kind is None:
        raise ChannelError(f"a frame of the unknown kind {data[0]}")
    if size > _LIMITS[kind]:
        raise ChannelError(
            f"{kind.name}: {size} bytes announced, at most {_LIMITS[kind]} are taken"
        )
    return kind, size
