"""Arrow tables and record batches as attachments: the IPC stream format, read defensively.

A reader of hostile bytes must not be talked into large allocations, and compressed buffers name
their own uncompressed size. So this boundary knows uncompressed IPC only; every message's
metadata is checked for compression before Arrow decodes a body, and every batch is validated in
full before anybody computes with it.

Source: Apache Arrow columnar format, "IPC Streaming Format"; Message.fbs and Schema.fbs.
"""

from __future__ import annotations

import struct
from typing import Any

_HEADER_TYPE_DICTIONARY = 2
_HEADER_TYPE_BATCH = 3


def encode(value: Any) -> memoryview:
    """A `pyarrow.Table` or `RecordBatch` as an IPC stream in memory."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return memoryview(sink.getvalue()).cast("B")


def decode(private: bytearray | memoryview, *, batch: bool) -> Any:
    """The table (or, with `batch`, the one record batch) in `private`, fully validated.

    private: memory that nobody else can write to; the result keeps referring to it.
    Raises ValueError when the bytes are not an acceptable IPC stream.
    """
    import pyarrow as pa

    source = pa.py_buffer(private)
    try:
        for message in pa.ipc.MessageReader.open_stream(source):
            check_metadata(memoryview(message.metadata))
        with pa.ipc.open_stream(source) as reader:
            batches = list(reader)
            schema = reader.schema
        if batch:
            if len(batches) != 1:
                raise ValueError(f"expected one record batch, got {len(batches)}")
            batches[0].validate(full=True)
            return batches[0]
        table = pa.Table.from_batches(batches, schema)
        table.validate(full=True)
    except (pa.ArrowException, OSError, EOFError, StopIteration, UnicodeDecodeError) as error:
        raise ValueError(f"not a valid Arrow IPC stream: {type(error).__name__}") from error
    return table


def check_metadata(metadata: memoryview) -> None:
    """Raise ValueError unless an IPC message with this metadata may be decoded."""
    if _compressed(metadata):
        raise ValueError("compressed Arrow buffers are not accepted here")


def _compressed(metadata: memoryview) -> bool:
    """Whether an IPC message's flatbuffer asks for body compression.

    Arrow has verified the flatbuffer's structure; offsets are checked again all the same.
    Message: field 1 is the header's type, field 2 the header. RecordBatch: field 3 is the
    compression. DictionaryBatch: field 1 is a RecordBatch.
    """
    try:
        message = _follow(metadata, 0)
        kind = _field(metadata, message, 1)
        header = _field(metadata, message, 2)
        if kind is None or header is None:
            return False
        header_type = metadata[kind]
        table = _follow(metadata, header)
        if header_type == _HEADER_TYPE_DICTIONARY:
            data = _field(metadata, table, 1)
            if data is None:
                return False
            table = _follow(metadata, data)
        elif header_type != _HEADER_TYPE_BATCH:
            return False
        return _field(metadata, table, 3) is not None
    except (struct.error, IndexError) as error:
        raise ValueError("malformed Arrow message metadata") from error


def _follow(data: memoryview, at: int) -> int:
    """Position of the table that the offset at `at` refers to."""
    offset: int = struct.unpack_from("<I", data, at)[0]
    return at + offset


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Position of a table's field, None when absent (flatbuffers' vtable rules)."""
    back: int = struct.unpack_from("<i", data, table)[0]
    vtable = table - back
    if vtable < 0:
        raise IndexError("vtable before the buffer")
    size: int = struct.unpack_from("<H", data, vtable)[0]
    slot = 4 + 2 * number
    if slot + 2 > size:
        return None
    offset: int = struct.unpack_from("<H", data, vtable + slot)[0]
    return table + offset if offset else None
