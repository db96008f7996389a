"""Sealed frames: bulk that is encrypted on one side and decrypted on the other at the same time.

A stream of bytes becomes frames that can be authenticated one by one, in their order and number;
the last one says so, so a stream that was cut short is told from one that has ended. This is the
STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015) over AES-256-GCM: nonce = prefix, frame number, last.

    offset  size  field
    0       1     1 for the last frame, else 0
    1       n     ciphertext
    n+1     16    tag

Both sides work in private memory. Ciphertext must not be made in shared memory either: GCM reads
what it has written to compute the tag, and whoever changes it in between gets a tag for bytes of
his own.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.errors import SealedFrameError

PREFIX = 7
OVERHEAD = 17
"""Bytes that a sealed frame has more than what is in it."""
_MOST = 1 << 32

Buffer = bytes | bytearray | memoryview


@final
class Sealer:
    """Seals one stream.

    key: 32 bytes, the same for the `Opener`. prefix: 7 bytes that were never used with this key;
    random ones if not given, to be told to the opener. aad: what the stream is for; not sent.
    frame: bytes of a sealed frame at the most. Of 256 KiB, two are under way in an arena of 1 MiB.
    """

    def __init__(
        self, key: Buffer, prefix: bytes | None = None, *, aad: bytes = b"", frame: int = 256 << 10
    ) -> None:
        self.prefix = secrets.token_bytes(PREFIX) if prefix is None else prefix
        if len(self.prefix) != PREFIX:
            raise ValueError(f"the prefix has {PREFIX} bytes, not {len(self.prefix)}")
        if frame <= OVERHEAD:
            raise ValueError(f"a sealed frame has more than {OVERHEAD} bytes, not {frame}")
        self._cipher = _cipher(key)
        self._aad = aad or None
        self._room = frame - OVERHEAD
        self._count = 0
        self._done = False
        # One is filled while the other is still being sent.
        self._buffers = (bytearray(frame), bytearray(frame))

    def __repr__(self) -> str:
        return f"<Sealer, {self._count} frames>"

    def frames(self, data: Buffer) -> Iterator[memoryview]:
        """All of a stream: the sealed frames of `data`, the last one marked as such.

        Each is good until the next but one is asked for.
        """
        view = memoryview(data).cast("B")
        for start in range(0, len(view) or 1, self._room):
            end = start + self._room
            yield self.seal(view[start:end], last=end >= len(view))

    def seal(self, data: Buffer, *, last: bool = False) -> memoryview:
        """The next frame, of at most the frame's size less `OVERHEAD`; good for one frame more.

        Raises SealedFrameError for one that is too large, and after the last.
        """
        size = len(data)
        if size > self._room:
            raise SealedFrameError(f"{size} bytes do not fit in a frame, which takes {self._room}")
        if self._done or self._count == _MOST:
            raise SealedFrameError("this stream has ended")
        buffer = self._buffers[self._count & 1]
        sealed = memoryview(buffer)[: size + OVERHEAD]
        sealed[0] = last
        nonce = _nonce(self.prefix, self._count, last=last)
        self._cipher.encrypt_into(nonce, data, self._aad, sealed[1:])
        self._count += 1
        self._done = last
        return sealed


@final
class Opener:
    """Opens one stream, frame by frame in their order. Parameters as of `Sealer`.

    A frame that was changed, repeated, left out or moved ends the stream: what was opened before
    it is good, nothing after it is looked at.
    """

    def __init__(
        self, key: Buffer, prefix: bytes, *, aad: bytes = b"", frame: int = 256 << 10
    ) -> None:
        if len(prefix) != PREFIX:
            raise ValueError(f"the prefix has {PREFIX} bytes, not {len(prefix)}")
        self._cipher = _cipher(key)
        self._prefix = prefix
        self._aad = aad or None
        self._frame = frame
        self._count = 0
        self._finished = False
        self._broken = False
        self._buffer = bytearray(max(0, frame - OVERHEAD))

    def __repr__(self) -> str:
        return f"<Opener, {self._count} frames{', finished' if self._finished else ''}>"

    @property
    def finished(self) -> bool:
        """Whether the last frame was opened; before that, the stream may have been cut short."""
        return self._finished

    def open(self, sealed: Buffer) -> memoryview:
        """What is in the next frame; good until the next call. Raises SealedFrameError."""
        size = self.open_into(sealed, self._buffer)
        return memoryview(self._buffer)[:size]

    def open_into(self, sealed: Buffer, target: bytearray | memoryview) -> int:
        """As `open`, into `target`; returns how many bytes."""
        frame = memoryview(sealed).cast("B")
        if self._finished or self._broken or self._count == _MOST:
            raise SealedFrameError("this stream has ended")
        size = len(frame) - OVERHEAD
        if not 0 <= size <= self._frame - OVERHEAD or frame[0] > 1:
            raise self._break()
        last = frame[0] == 1
        with memoryview(target)[:size] as room:
            if len(room) < size:
                raise ValueError(f"{size} bytes need more room than {len(room)}")
            try:
                nonce = _nonce(self._prefix, self._count, last=last)
                self._cipher.decrypt_into(nonce, frame[1:], self._aad, room)
            except InvalidTag:
                raise self._break() from None
        self._count += 1
        self._finished = last
        return size

    def _break(self) -> SealedFrameError:
        self._broken = True
        return SealedFrameError(f"frame {self._count} is not the one that was sealed")


def _cipher(key: Buffer) -> AESGCM:
    if len(key) != 32:
        raise ValueError(f"the key has 32 bytes, not {len(key)}")
    return AESGCM(key)


def _nonce(prefix: bytes, number: int, *, last: bool) -> bytes:
    return prefix + number.to_bytes(4, "big") + bytes([last])
