"""Arrow batches in envelopes: tables come out as they went in, and hostile streams do not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import EnvelopeMalformed, EnvelopeRefused, Replayed
from secgear.middleware.envelopes import (
    EnclaveKeyPair,
    MemoryLedger,
    Sealer,
    TrustedKey,
    open_batches,
    seal,
    seal_batches,
)

pa = pytest.importorskip("pyarrow")


def table(rows: int = 1000) -> Any:
    words = pa.array([f"word {n % 7}" for n in range(rows)])
    return pa.table({"n": pa.array(range(rows)), "word": words, "coded": words.dictionary_encode()})


def opened(pair: EnclaveKeyPair, pieces: Any, **given: Any) -> Any:
    return pa.Table.from_batches(list(open_batches(pair, pieces, **({"purpose": "p"} | given))))


def stream_of(value: Any, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, value.schema, **options) as writer:
        writer.write(value)
    return sink.getvalue()


def test_batches_come_out_as_they_went_in(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    batches = table(10_000).to_batches(max_chunksize=900)
    pieces = seal_batches(recipient, batches, purpose="p", associated=b"a", chunk=4096)
    assert list(open_batches(pair, pieces, purpose="p", associated=b"a")) == batches


def test_reader_and_generator_are_batches_too(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    whole = table()
    for source in (whole.to_reader(100), (batch for batch in whole.to_batches(100))):
        assert opened(pair, seal_batches(recipient, source, purpose="p")) == whole


def test_no_batch_needs_a_schema(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    with pytest.raises(ValueError, match="schema="):
        list(seal_batches(recipient, [], purpose="p"))
    pieces = list(seal_batches(recipient, [], purpose="p", schema=table().schema))
    assert list(open_batches(pair, pieces, purpose="p")) == []


def test_batch_of_another_schema_is_refused_at_sealing(recipient: TrustedKey) -> None:
    other = pa.record_batch({"x": [1]})
    with pytest.raises(ValueError, match="schema"):
        list(seal_batches(recipient, [table().to_batches()[0], other], purpose="p"))


def test_what_is_inside_is_a_plain_arrow_stream(pair: EnclaveKeyPair, recipient: Any) -> None:
    from secgear.middleware import envelopes

    envelope = b"".join(seal_batches(recipient, table().to_batches(), purpose="p"))
    data = envelopes.open(pair, envelope, purpose="p")
    assert pa.ipc.open_stream(data).read_all() == table()
    assert opened(pair, [seal(recipient, stream_of(table()), purpose="p")]) == table()


def test_batches_of_a_truncated_envelope_end_in_an_error(
    pair: EnclaveKeyPair, recipient: TrustedKey
) -> None:
    batches = table(10_000).to_batches(max_chunksize=900)
    pieces = list(seal_batches(recipient, batches, purpose="p", chunk=4096))
    received: list[Any] = []

    def take(source: Iterator[Any]) -> None:
        received.extend(source)

    with pytest.raises(EnvelopeRefused, match="truncated"):
        take(open_batches(pair, pieces[:-2], purpose="p"))
    assert 0 < len(received) < len(batches)
    with pytest.raises(EnvelopeRefused):
        take(open_batches(pair, pieces, purpose="other"))


def test_batches_are_not_replayed(pair: EnclaveKeyPair, recipient: TrustedKey) -> None:
    ledger = MemoryLedger()
    pieces = list(seal_batches(recipient, table().to_batches(), purpose="p"))
    assert opened(pair, pieces, ledger=ledger) == table()
    with pytest.raises(Replayed):
        opened(pair, pieces, ledger=ledger)


def invalid_utf8() -> Any:
    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
    return pa.record_batch([pa.Array.from_buffers(pa.utf8(), 1, [None, offsets, data])], ["s"])


def offsets_outside() -> bytes:
    data = stream_of(pa.record_batch({"s": ["x" * 77]}))
    before, offsets, after = data.rpartition(b"\0\0\0\0\x4d\0\0\0")
    assert offsets  # in the body; the length of the text stands in the metadata, too
    return before + b"\0\0\0\0\xff\xff\xff\x7f" + after


def compressed() -> bytes:
    return stream_of(table(), options=pa.ipc.IpcWriteOptions(compression="zstd"))


HOSTILE = {
    "nothing": lambda: b"",
    "no stream": lambda: b"this is no Arrow stream, however long it is",
    "text that is no UTF-8": lambda: stream_of(invalid_utf8()),
    "offsets outside": offsets_outside,
    "compressed": compressed,
    "data after the end": lambda: stream_of(table()) + b"more",
    "a stream after the end": lambda: stream_of(table()) * 2,
    "cut in a message": lambda: stream_of(table())[:-100],
    "huge metadata": lambda: b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100),
    "negative metadata": lambda: b"\xff\xff\xff\xff\xff\xff\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_stream_of_a_hostile_sealer_is_malformed(
    pair: EnclaveKeyPair, recipient: TrustedKey, make: Any
) -> None:
    envelope = seal(recipient, make(), purpose="p")
    with pytest.raises(EnvelopeMalformed, match="Arrow"):
        opened(pair, [envelope])


def test_batch_that_is_larger_than_allowed_is_malformed(
    pair: EnclaveKeyPair, recipient: TrustedKey
) -> None:
    pieces = list(seal_batches(recipient, table(100_000).to_batches(), purpose="p"))
    assert opened(pair, pieces) == table(100_000)
    with pytest.raises(EnvelopeMalformed, match="Arrow"):
        opened(pair, pieces, max_message=100_000)


FLIPS = st.tuples(st.integers(0, 1 << 30), st.integers(1, 255))


@given(flips=st.lists(FLIPS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_damaged_stream_is_malformed_or_valid(
    pair: EnclaveKeyPair, recipient: TrustedKey, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(stream_of(table(20)))
    for at, value in flips:
        data[at % len(data)] ^= value
    sealer = Sealer(recipient, purpose="p")
    try:
        batches = list(open_batches(pair, [sealer.whole(data)], purpose="p"))
    except EnvelopeMalformed:
        return
    for batch in batches:
        batch.validate(full=True)
