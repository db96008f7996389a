"""Hostile frames: everything a peer could write, near the rules and far from them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from secgear.base.wire import (
    ARGUMENTS,
    CHUNK,
    HEADER,
    VALUE,
    CallHead,
    Flag,
    Kind,
    More,
    ValueHead,
    frame,
)

_encode = msgspec.msgpack.encode
_KINDS = [int(kind) for kind in Kind]
_FUNCTIONS = ["echo", "total", "upto", "nothing", "", "close", "__class__", "x" * 300]
_SIZES = [(), (0,), (1,), (5, 0, 7), (1 << 20,), (1 << 40,), (-1,), tuple(range(300))]


class Hostile:
    """An endless source of hostile frames, the same for the same seed.

    spare: kinds never to send, because they rightly end the connection.
    """

    def __init__(self, seed: int, spare: frozenset[int] = frozenset()) -> None:
        self._random = random.Random(seed)
        self._kinds = [kind for kind in _KINDS if kind not in spare]
        self._spare = spare

    def batch(self, count: int) -> bytes:
        """`count` frames, back to back."""
        return b"".join(self._one() for _ in range(count))

    def batches(self, count: int, size: int) -> Iterator[bytes]:
        """`count` batches of `size` frames."""
        for _ in range(count):
            yield self.batch(size)

    def _one(self) -> bytes:
        return self._random.choice(
            [
                self._call,
                self._call,
                self._value,
                self._data,
                self._small,
                self._noise,
                self._forged,
            ]
        )()

    def _id(self) -> int:
        return self._random.choice(
            [0, 1, 2, 3, self._random.randrange(1, 64), 1 << 63, (1 << 64) - 1]
        )

    def _index(self) -> int:
        return self._random.choice([0, 0, 1, 2, 255, 256, ARGUMENTS, VALUE, 1000])

    def _flags(self) -> int:
        return self._random.choice([0, Flag.OURS, Flag.OURS, Flag.STREAM, Flag.INLINE, 7, 255])

    def _bytes(self, most: int) -> bytes:
        return self._random.randbytes(self._random.randrange(most))

    def _body(self) -> bytes:
        pick = self._random
        value = pick.choice(
            [
                {},
                {"text": "x"},
                {"text": 5},
                {"text": None, "more": 1},
                {"numbers": [1]},
                {"n": 1 << 62},
                {"n": -1},
                [],
                None,
                {"text": "y" * pick.randrange(2000)},
            ]
        )
        body = bytearray(_encode(value))
        if pick.random() < 0.3:
            body[pick.randrange(len(body))] = pick.randrange(256)
        if pick.random() < 0.1:
            body = bytearray(b"\x91" * pick.randrange(3000))
        return bytes(body)

    def _call(self) -> bytes:
        pick = self._random
        head = CallHead(
            pick.choice(_FUNCTIONS),
            self._id(),
            pick.choice(_SIZES),
            pick.choice([(), (1,), (0,), (1, 1), (1, 2, 3)]),
            msgspec.Raw(self._body()),
        )
        flags = self._flags() if pick.random() < 0.2 else Flag.OURS
        return frame(Kind.CALL, self._id(), self._damage(_encode(head)), flags=flags & 0xFF)

    def _value(self) -> bytes:
        pick = self._random
        head = ValueHead(pick.choice(_SIZES), msgspec.Raw(self._body()))
        return frame(
            pick.choice([Kind.RESULT, Kind.ITEM]),
            self._id(),
            self._damage(_encode(head)),
            flags=self._flags(),
            index=self._index(),
        )

    def _data(self) -> bytes:
        pick = self._random
        if pick.random() < 0.5:
            payload = self._bytes(2000)
            flags = Flag.INLINE | pick.choice([0, Flag.OURS])
        else:
            chunk = pick.choice([0, 1, 7, 8, 1 << 31])
            payload = CHUNK.pack(chunk, pick.choice([0, 1, 100, 1 << 20, 1 << 31]))
            flags = pick.choice([0, Flag.OURS])
        return frame(Kind.DATA, self._id(), payload, flags=flags, index=self._index())

    def _small(self) -> bytes:
        pick = self._random
        kind = pick.choice([Kind.MORE, Kind.CANCEL, Kind.STOP, Kind.END, Kind.CREDIT, Kind.ERROR])
        payload = b""
        if kind is Kind.MORE:
            payload = _encode(More(pick.choice([0, 1, 16, 17, -1, 1 << 60])))
        elif kind is Kind.ERROR:
            payload = _encode(["code", "text", "name", "incident"])
        return frame(
            kind, self._id(), self._damage(payload), flags=self._flags(), index=self._index()
        )

    def _noise(self) -> bytes:
        kind = self._random.choice([*self._kinds, 0, 18, 255])
        return frame(
            kind,  # type: ignore[arg-type]  (that is the point)
            self._id(),
            self._bytes(500),
            flags=self._flags(),
            index=self._index(),
        )

    def _forged(self) -> bytes:
        """A frame that is too long for its kind, all of it sent."""
        length = self._random.choice([9, 300, 70_000])
        kind = self._random.choice(self._kinds)
        header = HEADER.pack(length, kind, self._flags(), self._index(), self._id())
        return header + bytes(length)

    def _damage(self, payload: bytes) -> bytes:
        pick = self._random
        if payload and pick.random() < 0.2:
            body = bytearray(payload)
            body[pick.randrange(len(body))] ^= 1 << pick.randrange(8)
            payload = bytes(body)
        if pick.random() < 0.05:
            payload = payload[: pick.randrange(len(payload) + 1)]
        return payload
