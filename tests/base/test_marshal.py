"""Values under their declared types, both ways, and what a hostile peer makes of them."""

from __future__ import annotations

import contextlib
import datetime
import math
import threading
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.marshal import ArgumentsCodec, Packed, ValueCodec
from secgear.errors import ArgumentError, LimitExceeded


def travel(codec: ValueCodec, value: Any) -> Any:
    packed = codec.encode(value)
    return codec.decode(packed.body, [bytearray(view) for view in packed.attachments])


def same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


class Person(msgspec.Struct):
    name: str
    born: datetime.date | None = None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2**63),
        (str, "grüß"),
        (dict[str, list[float]], {"a": [1.5, math.inf]}),
        (tuple[int, str], (1, "x")),
        (set[int], {1, 2}),
        (Person, Person("Ada", datetime.date(1815, 12, 10))),
        (list[Person] | None, None),
        (bytes, b"inline"),
    ],
)
def test_plain_values_travel(annotation: Any, value: Any) -> None:
    assert travel(ValueCodec("f", annotation), value) == value


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 5, 64 << 10, (64 << 10) + 1, 300_000])
def test_buffers_travel_as_declared(kind: Any, size: int) -> None:
    codec = ValueCodec("f", kind, blob=True)
    packed = codec.encode(bytes(size))
    assert len(packed.attachments) == (size > 64 << 10)
    value = travel(codec, kind(bytes(size)))
    assert type(value) is kind
    assert bytes(value) == bytes(size)


def test_an_optional_buffer_may_be_none() -> None:
    codec = ValueCodec("f", bytes | None, blob=True)
    assert travel(codec, None) is None
    assert travel(codec, b"x" * 100_000) == b"x" * 100_000


@pytest.mark.parametrize("dtype", ["f8", "<i2", ">u4", "?", "c16", "M8[ns]", "S7", "U3"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0, 2), (2, 3, 4)])
def test_arrays_travel_with_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, dtype)
    result = travel(ValueCodec("f", np.ndarray), array)
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert (result == array).all()


def test_arrays_nest_and_need_not_be_contiguous() -> None:
    codec = ValueCodec("f", dict[str, list[npt.NDArray[np.float64]]])
    array = np.arange(12.0).reshape(3, 4)[:, ::2]
    result = travel(codec, {"a": [array, array.T]})
    assert (result["a"][0] == array).all()
    assert (result["a"][1] == array.T).all()


def test_the_declared_dtype_is_checked() -> None:
    with pytest.raises(ArgumentError, match="expected an array of float64, got int64"):
        travel(ValueCodec("f", npt.NDArray[np.float64]), np.arange(3))


def test_object_arrays_do_not_cross() -> None:
    with pytest.raises(ArgumentError, match="dtype object"):
        ValueCodec("f", np.ndarray).encode(np.array([object()]))


def test_numpy_scalars_become_numbers() -> None:
    assert travel(ValueCodec("f", dict[str, float]), {"a": np.float64(1.5)}) == {"a": 1.5}


def test_tables_and_batches_travel() -> None:
    table = pa.table({"a": [1, None, 3], "b": ["x", "y", None], "c": [[1], [], None]})
    dictionary = pa.table({"d": pa.array(["u", "v", "u"]).dictionary_encode()})
    for value in (table, dictionary, table.slice(1, 1), table.schema.empty_table()):
        assert travel(ValueCodec("f", pa.Table), value).equals(value)
    batch = pa.record_batch({"a": [1.5, 2.5]})
    assert travel(ValueCodec("f", pa.RecordBatch), batch).equals(batch)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_compressed_arrow_is_refused(codec: str, dictionary: bool) -> None:
    column = pa.array(["x" * 100] * 1000)
    table = pa.table({"a": column.dictionary_encode() if dictionary else column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)
    ) as writer:
        writer.write(table)
    hostile = bytearray(sink.getvalue())
    with pytest.raises(ArgumentError, match="compressed"):
        ValueCodec("f", pa.Table).decode(msgspec.msgpack.encode(0), [hostile])


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_a_damaged_table_is_an_error_or_a_valid_table(data: st.DataObject) -> None:
    table = pa.table({"a": [1, 2, 3], "s": ["x", None, "zz"], "l": [[1], [2, 3], []]})
    packed = ValueCodec("f", pa.Table).encode(table)
    hostile = bytearray(packed.attachments[0])
    for _ in range(data.draw(st.integers(1, 4))):
        hostile[data.draw(st.integers(0, len(hostile) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = ValueCodec("f", pa.Table).decode(packed.body, [hostile])
    except ArgumentError:
        return
    result.validate(full=True)
    result.to_pylist()


@pytest.mark.parametrize(
    "body",
    [
        [0, "<f8", [-1]],
        [0, "<f8", [2**40, 2**40]],
        [0, "<f8", [5]],
        [0, "O", [1]],
        [0, "V8", [1]],
        [0, "f8,O", [1]],
        [0, "<f8", [1] * 33],
        [0, "x" * 100, [1]],
        [1, "<f8", [1]],
        [-1, "<f8", [1]],
        [True, "<f8", [1]],
        [0, "<f8"],
        "array",
        [0, "<f8", [1.0]],
    ],
)
def test_forged_arrays_are_refused(body: Any) -> None:
    with pytest.raises(ArgumentError):
        ValueCodec("f", np.ndarray).decode(msgspec.msgpack.encode(body), [bytearray(8)])


def test_an_attachment_is_used_exactly_once() -> None:
    codec = ValueCodec("f", list[np.ndarray])
    reference = [0, "|u1", [4]]
    with pytest.raises(ArgumentError, match="twice"):
        codec.decode(msgspec.msgpack.encode([reference, reference]), [bytearray(4)])
    with pytest.raises(ArgumentError, match="nothing refers to"):
        codec.decode(msgspec.msgpack.encode([]), [bytearray(4)])


def test_arguments_go_by_name_and_unknown_ones_are_refused() -> None:
    codec = ArgumentsCodec("f", {"a": int, "b": bytes}, frozenset({"a"}), frozenset({"b"}))
    packed = codec.encode({"a": 1, "b": b"x"})
    assert codec.decode(packed.body, []) == {"a": 1, "b": b"x"}
    assert codec.decode(codec.encode({"a": 1}).body, []) == {"a": 1}
    for hostile in ({"a": 1, "c": 2}, {"b": b"x"}, {"a": "1"}, [1], None):
        with pytest.raises(ArgumentError):
            codec.decode(msgspec.msgpack.encode(hostile), [])


def test_a_value_that_can_not_cross_is_named() -> None:
    codec = ValueCodec("f", Any)
    with pytest.raises(ArgumentError, match="f: a value of type lock can't cross"):
        codec.encode({"a": threading.Lock()})


def test_deep_nesting_is_a_limit_not_a_crash() -> None:
    with pytest.raises(LimitExceeded):
        ValueCodec("f", Any).decode(b"\x91" * 100_000 + b"\xc0", [])
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(LimitExceeded):
        ValueCodec("f", Any).encode(deep)


HOSTILE_TYPES = [
    Any,
    int,
    str,
    list[int],
    dict[str, Person],
    np.ndarray,
    pa.Table,
    pa.RecordBatch,
    tuple[npt.NDArray[np.float32], pa.Table],
]


@settings(max_examples=2000, deadline=None)
@given(
    annotation=st.sampled_from(HOSTILE_TYPES),
    body=st.binary(max_size=200),
    attachments=st.lists(st.binary(max_size=300), max_size=3),
)
def test_noise_is_a_typed_error_or_a_value_of_the_type(
    annotation: Any, body: bytes, attachments: list[bytes]
) -> None:
    codec = ValueCodec("f", annotation)
    with contextlib.suppress(ArgumentError, LimitExceeded):
        codec.decode(body, [bytearray(data) for data in attachments])


def test_packed_names_its_parts() -> None:
    assert Packed(b"x", []).body == b"x"
