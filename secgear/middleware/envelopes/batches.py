"""Arrow record batches as the data of an envelope: an Arrow IPC stream, as every Arrow reads it."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterable, Iterator
from typing import Any, Final

from secgear.base import arrow
from secgear.errors import EnvelopeMalformed
from secgear.middleware.envelopes.format import DEFAULT_CHUNK, Buffer
from secgear.middleware.envelopes.keypair import EnclaveKeyPair
from secgear.middleware.envelopes.ledger import ReplayLedger
from secgear.middleware.envelopes.opener import Opener
from secgear.middleware.envelopes.sealer import Sealer
from secgear.middleware.envelopes.trust import TrustedKey

MAX_MESSAGE: Final = 256 << 20  # bytes of one batch that are read


def seal_batches(
    recipient: TrustedKey,
    batches: Iterable[Any],
    *,
    purpose: str,
    associated: bytes = b"",
    schema: Any = None,
    chunk: int = DEFAULT_CHUNK,
    at: datetime.datetime | None = None,
) -> Iterator[bytes | bytearray]:
    """An envelope of `pyarrow.RecordBatch`es, in pieces; holds one batch at a time.

    batches: all of one schema; a RecordBatchReader, too, or what `Table.to_batches` gives.
    schema: needed only where there may be no batch. The rest as of `Sealer`.
    Raises ValueError without batch and schema, and when a batch has another schema.
    """
    sealer = Sealer(recipient, purpose=purpose, associated=associated, chunk=chunk, at=at)
    return sealer.stream(_encoded(batches, schema))


def open_batches(
    keypair: EnclaveKeyPair,
    pieces: Iterable[Buffer],
    *,
    purpose: str,
    associated: bytes = b"",
    ledger: ReplayLedger | None = None,
    max_message: int = MAX_MESSAGE,
    at: datetime.datetime | None = None,
) -> Iterator[Any]:
    """The record batches of an envelope that comes in pieces, each validated in full.

    That no batch is missing shows only when the iterator ends without an error. max_message: bytes
    of one batch, which is the memory that a hostile sealer can ask for. The rest as of `Opener`.
    Raises EnvelopeMalformed for data that is no acceptable Arrow stream, besides what `Opener`
    raises.
    """
    opener = Opener(keypair, purpose=purpose, associated=associated, ledger=ledger, at=at)
    source = _Source(opener.stream(pieces), max_message)
    return _decoded(source, max_message)


def _encoded(batches: Iterable[Any], schema: Any) -> Iterator[bytes]:
    import pyarrow as pa

    source = iter(batches)
    if schema is None:
        schema = getattr(batches, "schema", None)
    first = None
    if schema is None:
        first = next(source, None)
        if first is None:
            raise ValueError("no batch tells the schema; give schema=")
        schema = first.schema
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        if first is not None:
            writer.write_batch(first)
            yield _drained(sink)
        for batch in source:
            writer.write_batch(batch)
            yield _drained(sink)
    yield _drained(sink)


def _drained(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data


def _decoded(source: _Source, max_message: int) -> Iterator[Any]:
    import pyarrow as pa

    checked = _Source(_messages(source), max_message)
    try:
        with pa.ipc.open_stream(pa.PythonFile(checked, mode="r")) as reader:
            for batch in reader:
                batch.validate(full=True)
                yield batch
        source.expect_end()
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise EnvelopeMalformed(
            f"the envelope holds no acceptable Arrow stream: {type(error).__name__}"
        ) from None


def _messages(source: _Source) -> Iterator[bytes]:
    """The stream's messages, once Arrow has verified their form and none is compressed."""
    import pyarrow as pa

    for message in pa.ipc.MessageReader.open_stream(pa.PythonFile(source, mode="r")):
        arrow.check_metadata(memoryview(message.metadata))
        yield message.serialize().to_pybytes()


class _Source(io.RawIOBase):
    """Pieces of bytes as a file for Arrow, which can't be talked into long reads by the data."""

    def __init__(self, pieces: Iterator[bytes], max_read: int) -> None:
        super().__init__()
        self._pieces = pieces
        self._max_read = max_read
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        if not 0 <= size <= self._max_read:
            raise ValueError("a message that is larger than allowed")
        parts: list[memoryview] = []
        missing = size
        while missing:
            if not self._rest:
                self._rest = self._next()
                if not self._rest:
                    break
            part = self._rest[:missing]
            self._rest = self._rest[len(part) :]
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def expect_end(self) -> None:
        """Read to the end of the envelope, where it shows whether that is complete."""
        if self._rest or self._next():
            raise ValueError("data after the end of the stream")

    def _next(self) -> memoryview:
        """The next piece; empty at the end."""
        for piece in self._pieces:
            return memoryview(piece)
        return memoryview(b"")
