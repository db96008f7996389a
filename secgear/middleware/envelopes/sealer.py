"""Sealing: data becomes an envelope that one enclave can open, in memory that does not grow."""

from __future__ import annotations

import datetime
import io
import os
from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.errors import EnvelopeRefused
from secgear.middleware.envelopes.format import (
    DEFAULT_CHUNK,
    ENVELOPE_ID_SIZE,
    FINAL,
    KEY_SIZE,
    PREFIX_SIZE,
    TAG_SIZE,
    WORD,
    WORD_SIZE,
    Buffer,
    Header,
    check_chunk,
    check_purpose,
    check_room,
    final_associated,
    flat,
    header_digest,
    nonce,
    record_size,
)
from secgear.middleware.envelopes.suites import suite_named
from secgear.middleware.envelopes.trust import TrustedKey


class Sealer:
    """One envelope, made piece by piece: `header`, what `update` gives, what `finish` gives.

    Every record is new memory that belongs to the caller. One thread at a time.
    """

    def __init__(
        self,
        recipient: TrustedKey,
        *,
        purpose: str,
        associated: bytes = b"",
        chunk: int = DEFAULT_CHUNK,
        at: datetime.datetime | None = None,
    ) -> None:
        """Begin an envelope.

        purpose: what the data is for; the enclave opens it for that only. associated: bytes that
        are not sent and that the enclave has to know, for example the id of a query. chunk: bytes
        of data in a record, a power of two from 4 KiB to 16 MiB. at: now.
        Raises EnvelopeRefused when the key has expired or is for other purposes.
        """
        if not isinstance(recipient, TrustedKey):
            raise TypeError("data is sealed to a TrustedKey; verify_key() makes it from a document")
        check_purpose(purpose)
        check_chunk(chunk)
        now = at if at is not None else datetime.datetime.now(datetime.UTC)
        key = recipient.require(purpose, now)
        fixed = Header(suite_named(key.suite), chunk, os.urandom(PREFIX_SIZE), key.id)
        info = fixed.info(purpose, associated)
        wrapped, self._cipher, self.envelope_id = _new_content(fixed, key.public, info)
        self.header = fixed.to_bytes() + wrapped
        self._prefix = fixed.prefix
        self._digest = header_digest(self.header)
        self._chunk = chunk
        self._records = 0
        self._total = 0
        self._finished = False
        self._pending = bytearray()  # less than a chunk, waiting for the rest

    def __repr__(self) -> str:
        return f"Sealer({self._total} bytes in {self._records} records)"

    @property
    def total(self) -> int:
        """Bytes of data in the records made so far."""
        return self._total

    def update(self, data: Buffer) -> list[bytearray]:
        """The records that `data` completes; its rest waits. Holds as much memory as `data`."""
        self._check_open()
        view = flat(data)
        made: list[bytearray] = []
        if self._pending:
            missing = self._chunk - len(self._pending)
            self._pending += view[:missing]
            view = view[missing:]
            if len(self._pending) < self._chunk:
                return made
            made.append(self._record(memoryview(self._pending)))
            self._pending = bytearray()
        whole = len(view) - len(view) % self._chunk
        for start in range(0, whole, self._chunk):
            made.append(self._record(view[start : start + self._chunk]))
        self._pending += view[whole:]
        return made

    def finish(self) -> bytearray:
        """The final record. Without it nobody takes the envelope for complete."""
        self._check_open()
        record = self._record(memoryview(self._pending), final=True)
        self._pending = bytearray()
        self._finished = True
        return record

    def stream(self, pieces: Iterable[Buffer]) -> Iterator[bytes | bytearray]:
        """The whole envelope of `pieces`, header first. Holds a chunk, however long they are."""
        yield self.header
        for piece in pieces:
            view = flat(piece)
            for start in range(0, len(view), self._chunk):
                part = view[start : start + self._chunk]
                if self._pending or len(part) < self._chunk:
                    yield from self.update(part)
                else:  # where it is: the usual case
                    self._check_open()
                    yield self._record(part)
        yield self.finish()

    def whole(self, data: Buffer) -> bytes:
        """The whole envelope of `data`. Nothing else can be done with this sealer then."""
        self._check_open()
        if self._records or self._pending:
            raise EnvelopeRefused("this envelope is begun; make another Sealer")
        view = flat(data)
        size = len(self.header) + _body_size(len(view), self._chunk)
        made = io.BytesIO()
        made.seek(size - 1)
        made.write(b"\0")
        with made.getbuffer() as out:
            at = len(self.header)
            out[:at] = self.header
            for start in range(0, len(view) + 1, self._chunk):
                part = view[start : start + self._chunk]
                end = at + record_size(len(part))
                self._record_into(part, out[at:end], final=len(part) < self._chunk)
                at = end
        self._finished = True
        return made.getvalue()  # the memory itself, no copy of it

    def _record(self, data: memoryview, *, final: bool = False) -> bytearray:
        record = bytearray(record_size(len(data)))
        self._record_into(data, memoryview(record), final=final)
        return record

    def _record_into(self, data: memoryview, out: memoryview, *, final: bool) -> None:
        check_room(self._records + (1 if final else 2), self._total + len(data))  # an end has room
        number = self._records
        self._records += 1
        self._total += len(data)
        associated = self._digest
        if final:
            associated = final_associated(associated, self._records, self._total)
        WORD.pack_into(out, 0, len(data) | (FINAL if final else 0))
        self._cipher.encrypt_into(
            nonce(self._prefix, number, final), data, associated, out[WORD_SIZE:]
        )

    def _check_open(self) -> None:
        if self._finished:
            raise EnvelopeRefused("this envelope is finished; make another Sealer")


def seal(
    recipient: TrustedKey,
    data: Buffer,
    *,
    purpose: str,
    associated: bytes = b"",
    at: datetime.datetime | None = None,
) -> bytes:
    """An envelope of `data` that only the enclave behind `recipient` can open, for `purpose`.

    Arguments and errors as of `Sealer`, which is for data that is larger than memory.
    """
    sealer = Sealer(recipient, purpose=purpose, associated=associated, at=at)
    return sealer.whole(data)


def _new_content(header: Header, public: bytes, info: bytes) -> tuple[bytes, AESGCM, bytes]:
    """Fresh content, wrapped; its cipher; the envelope's id. The key itself is gone after this."""
    key, envelope_id = os.urandom(KEY_SIZE), os.urandom(ENVELOPE_ID_SIZE)
    return header.suite.wrap(key + envelope_id, public, info), AESGCM(key), envelope_id


def _body_size(size: int, chunk: int) -> int:
    """Bytes of the records for `size` bytes of data."""
    return size + (size // chunk + 1) * (WORD_SIZE + TAG_SIZE)
