"""Opening: bytes of an envelope go in, data comes out, and none that was not verified.

Runs inside the enclave. Sans I/O: bytes come in pieces of whatever size from whoever carries them,
who is hostile.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterable, Iterator
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.errors import EnvelopeMalformed, EnvelopeRefused
from secgear.middleware.envelopes.format import (
    FINAL,
    FIXED_SIZE,
    TAG_SIZE,
    WORD,
    WORD_SIZE,
    Buffer,
    Header,
    check_purpose,
    check_room,
    final_associated,
    flat,
    header_digest,
    nonce,
    read_header,
    record_size,
)
from secgear.middleware.envelopes.keypair import EnclaveKeyPair
from secgear.middleware.envelopes.ledger import ReplayLedger


class Opener:
    """Opens one envelope. Call `feed` with what arrives, and at the end `finish`.

    What `feed` gives is authentic and in order, yet that it is all of it shows only in `finish`:
    don't act on a part as if it were the whole. After an error nothing more can be fed. One thread
    at a time.
    """

    def __init__(
        self,
        keypair: EnclaveKeyPair,
        *,
        purpose: str,
        associated: bytes = b"",
        ledger: ReplayLedger | None = None,
        at: datetime.datetime | None = None,
    ) -> None:
        """Expect an envelope.

        purpose, associated: what it must have been sealed with. ledger: refuses what was opened
        before; the envelope counts as opened when the first data of it is given out. at: now.
        """
        check_purpose(purpose)
        self._keypair = keypair
        self._purpose = purpose
        self._associated = associated
        self._ledger = ledger
        self._at = at
        self._head = b""
        self._header: Header | None = None
        self._cipher: AESGCM | None = None
        self._digest = b""
        self._envelope_id = b""
        self._records = 0
        self._total = 0
        self._word: int | None = None  # of the record whose ciphertext is awaited
        self._complete = False
        self._failed = False
        self._need = FIXED_SIZE  # bytes of what comes next
        self._pending = bytearray(4096)  # holds what has come of it, at most `_need`
        self._filled = 0

    def __repr__(self) -> str:
        return f"Opener({self._total} bytes in {self._records} records)"

    @property
    def envelope_id(self) -> bytes:
        """16 bytes that the sealer knows as well; empty until the header has come."""
        return self._envelope_id

    @property
    def complete(self) -> bool:
        """Whether the final record has come."""
        return self._complete

    def feed(self, data: Buffer) -> list[bytes]:
        """The data of the records that `data` completes, in order.

        Raises EnvelopeMalformed or EnvelopeRefused, and Replayed by the ledger.
        """
        return list(self._feed(flat(data)))

    def finish(self) -> None:
        """Say that nothing more will come. Raises EnvelopeRefused if the end is missing."""
        self._check_usable()
        if not self._complete:
            self._fail()
            raise EnvelopeRefused("the envelope is truncated: its end is missing")

    def stream(self, pieces: Iterable[Buffer]) -> Iterator[bytes]:
        """The data of the envelope in `pieces`. Raises at the end if that is missing.

        Holds a chunk, however long they are.
        """
        for piece in pieces:
            yield from self._feed(flat(piece))
        self.finish()

    def whole(self, envelope: Buffer) -> bytes:
        """The data of a whole envelope, after all of it was verified.

        One that turns out to be damaged does not count as opened.
        """
        self._check_usable()
        if self._head or self._filled:
            raise EnvelopeRefused("this envelope is being opened; make another Opener")
        try:
            return self._open_whole(flat(envelope))
        except BaseException:
            self._fail()
            raise

    def _feed(self, view: memoryview) -> Iterator[bytes]:
        self._check_usable()
        at, size = 0, len(view)
        try:
            while at < size:
                if self._complete:
                    raise EnvelopeMalformed("bytes after the end of the envelope")
                need = self._need
                if not self._filled and size - at >= need:
                    unit = view[at : at + need]  # where it is: the usual case, no copy
                    at += need
                else:
                    come = view[at : at + need - self._filled]
                    self._pending[self._filled : self._filled + len(come)] = come
                    self._filled += len(come)
                    at += len(come)
                    if self._filled < need:
                        return
                    unit, self._filled = memoryview(self._pending)[:need], 0
                if self._word is None:
                    self._take(unit)
                elif data := self._open(unit, self._word):
                    yield data
        except BaseException:
            self._fail()
            raise

    def _take(self, unit: memoryview) -> None:
        """The next `_need` bytes, which have come: of the header, or a record's word."""
        if self._cipher is not None:
            self._word = WORD.unpack(unit)[0]
            self._need = self._size_of(self._word) + TAG_SIZE
        elif self._header is None:
            self._head = bytes(unit)
            self._header = read_header(self._head)
            self._need = self._header.wrapped_size
        else:
            self._unwrap(self._header, bytes(unit))
            self._pending = bytearray(record_size(self._header.chunk))
            self._need = WORD_SIZE

    def _open(self, sealed: memoryview, word: int) -> bytes:
        """The data of the record that began with `word`."""
        if self._cipher is None:
            raise EnvelopeRefused("no header was read")
        final = self._begin(word)
        try:
            data = self._cipher.decrypt(self._nonce(final), sealed, self._aad(final))
        except InvalidTag:
            self._wrong_record()
        if self._records == 1:
            self._remember()
        self._complete = final
        self._word = None
        self._need = WORD_SIZE
        return data

    def _open_whole(self, view: memoryview) -> bytes:
        """As `feed`, but straight into one piece of memory."""
        self._header = read_header(bytes(self._part(view, 0, FIXED_SIZE)))
        self._head = bytes(view[:FIXED_SIZE])
        at = FIXED_SIZE + self._header.wrapped_size
        self._unwrap(self._header, bytes(self._part(view, FIXED_SIZE, at)))
        made = io.BytesIO()
        whole, rest = divmod(len(view) - at, record_size(self._header.chunk))
        if rest < record_size(0):
            raise EnvelopeRefused("the envelope is truncated: its end is missing")
        size = whole * self._header.chunk + rest - record_size(0)
        if size:
            made.seek(size - 1)
            made.write(b"\0")
        with made.getbuffer() as out:
            try:
                self._open_into(view, at, out)
            except BaseException:
                out[:] = bytes(len(out))  # nothing stays of what did not verify as a whole
                raise
        self._remember()
        return made.getvalue()  # the memory itself, no copy of it

    def _open_into(self, view: memoryview, at: int, out: memoryview) -> None:
        cipher, done = self._cipher, 0
        if cipher is None:
            raise EnvelopeRefused("no header was read")
        while not self._complete:
            word: int = WORD.unpack(self._part(view, at, at + WORD_SIZE))[0]
            size = self._size_of(word)
            end = at + record_size(size)
            body = self._part(view, at + WORD_SIZE, end)
            final = self._begin(word)
            if done + size > len(out):
                raise EnvelopeMalformed("records that are longer than the envelope")
            try:
                cipher.decrypt_into(
                    self._nonce(final), body, self._aad(final), out[done : done + size]
                )
            except InvalidTag:
                self._wrong_record()
            at, done, self._complete = end, done + size, final
        if at != len(view):
            raise EnvelopeMalformed("bytes after the end of the envelope")

    def _unwrap(self, header: Header, wrapped: bytes) -> None:
        """The whole header has come."""
        key, self._envelope_id = self._keypair.unwrap(
            header, wrapped, purpose=self._purpose, associated=self._associated, at=self._at
        )
        self._cipher = AESGCM(key)
        self._digest = header_digest(self._head + wrapped)

    def _size_of(self, word: int) -> int:
        """Bytes of data in the record that begins with `word`."""
        chunk = self._header.chunk if self._header else 0
        size = word & ~FINAL
        if size >= chunk if word & FINAL else size != chunk:
            raise EnvelopeMalformed("a record of a length that no record has here")
        return size

    def _begin(self, word: int) -> bool:
        """Count a record, before it is decrypted. Returns whether it is the final one."""
        check_room(self._records + 1, self._total + (word & ~FINAL))
        self._records += 1
        self._total += word & ~FINAL
        return bool(word & FINAL)

    def _nonce(self, final: bool) -> bytes:
        return nonce(self._header.prefix if self._header else b"", self._records - 1, final)

    def _aad(self, final: bool) -> bytes:
        return final_associated(self._digest, self._records, self._total) if final else self._digest

    def _wrong_record(self) -> NoReturn:
        raise EnvelopeRefused(
            f"record {self._records} of the envelope was changed, is out of order or belongs to "
            "another envelope"
        ) from None

    def _remember(self) -> None:
        if self._ledger is not None:
            key = self._keypair.key
            now = self._at if self._at is not None else datetime.datetime.now(datetime.UTC)
            self._ledger.record(key.id, self._envelope_id, expires=key.expires, at=now)

    @staticmethod
    def _part(view: memoryview, start: int, end: int) -> memoryview:
        if end > len(view):
            raise EnvelopeRefused("the envelope is truncated: its end is missing")
        return view[start:end]

    def _check_usable(self) -> None:
        if self._failed:
            raise EnvelopeRefused("this envelope was refused already")

    def _fail(self) -> None:
        self._failed = True
        self._cipher = None
        self._pending = bytearray()


def open(  # noqa: A001  (as gzip.open and tarfile.open are: envelopes.open)
    keypair: EnclaveKeyPair,
    envelope: Buffer,
    *,
    purpose: str,
    associated: bytes = b"",
    ledger: ReplayLedger | None = None,
    at: datetime.datetime | None = None,
) -> bytes:
    """The data of an envelope, if all of it is genuine and was sealed for this key and purpose.

    Arguments as of `Opener`, which is for data that is larger than memory.
    Raises EnvelopeMalformed or EnvelopeRefused, and Replayed by the ledger.
    """
    opener = Opener(keypair, purpose=purpose, associated=associated, ledger=ledger, at=at)
    return opener.whole(envelope)
