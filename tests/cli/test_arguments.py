"""What one types for an ECALL becomes what its types declare, or is refused."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from secgear.base.interface import Interface, describe_function
from secgear.base.schema import HostTypes
from secgear.cli.arguments import parse
from secgear.cli.output import UsageError
from secgear.errors import ArgumentError


class Color(enum.Enum):
    RED = "red"


class Item(msgspec.Struct):
    name: str
    when: datetime.date | None = None
    scores: NDArray[np.float64] | None = None


def takes(annotation: Any) -> Any:
    """Parse texts for a function with one parameter, called value, and one called more."""

    def function(value: Any, more: int = 0) -> None: ...

    function.__annotations__ = {"value": annotation, "more": int, "return": None}
    described = describe_function(function)
    interface = Interface.gather("a", "1", [described], [])
    types = HostTypes(interface)

    def given(*texts: str) -> Any:
        positional, named = parse(interface.ecalls["function"], types, texts)
        return positional[0] if positional else named["value"]

    return given


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "5", 5),
        (float, "5", 5.0),
        (bool, "true", True),
        (str, "5", "5"),
        (str, "null", "null"),
        (str, "a=b", "a=b"),
        (str, '"@home"', "@home"),
        (str | None, "null", None),
        (str | None, "5", "5"),
        (int | str, "5", 5),
        (int | str, "five", "five"),
        (bytes, "5", b"5"),
        (bytes, "\udcff", b"\xff"),
        (bytes | None, "null", None),
        (list[bytes], '["aGk="]', [b"hi"]),
        (dict[int, str], '{"1": "a"}', {1: "a"}),
        (set[int], "[1, 1]", {1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
        (datetime.date, '"2024-02-29"', datetime.date(2024, 2, 29)),
        (decimal.Decimal, '"0.10"', decimal.Decimal("0.10")),
        (Any, '{"a": [1]}', {"a": [1]}),
        (Any, "plain", "plain"),
        (Iterator[int], "[1, 2]", [1, 2]),
    ],
)
def test_text_becomes_what_the_type_says(annotation: Any, text: str, value: Any) -> None:
    found = takes(annotation)(text)
    assert found == value
    assert type(found) is type(value)
    assert takes(annotation)(f"value={text}") == value


def test_the_apps_own_types_are_built() -> None:
    assert takes(Color)("red").value == "red"
    item = takes(Item)('{"name": "tea", "when": "2024-01-02", "scores": [1, 2]}')
    assert (item.name, item.when) == ("tea", datetime.date(2024, 1, 2))
    assert item.scores.dtype == np.float64


@pytest.mark.parametrize(
    ("annotation", "text", "dtype"),
    [
        (np.ndarray, "[1, 2]", np.int64),
        (np.ndarray, "[[1.5], [2]]", np.float64),
        (NDArray[np.float32], "[1, 2.5]", np.float32),
        (NDArray[np.uint8], "[1, 255]", np.uint8),
        (NDArray[np.floating], "[1, 2]", np.float64),
        (NDArray[np.integer], "[]", np.int64),
        (NDArray[np.bool_], "[true]", np.bool_),
        (NDArray[np.datetime64], '["2024-01-01"]', np.datetime64),
    ],
)
def test_a_list_becomes_an_array_of_the_declared_kind(
    annotation: Any, text: str, dtype: Any
) -> None:
    array = takes(annotation)(text)
    assert np.issubdtype(array.dtype, dtype)
    np.testing.assert_array_equal(array, np.asarray(json.loads(text), array.dtype))


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "five"),
        (int, "1.5"),
        (bool, "1"),
        (datetime.date, "2024-02-30"),
        (Color, "green"),
        (Item, '{"when": null}'),
        (list[bytes], '["not base64!"]'),
        (np.ndarray, "5"),
        (np.ndarray, "text"),
        (np.ndarray, "[[1], [2, 3]]"),
        (np.ndarray, '[{"a": 1}]'),
        (NDArray[np.int32], "[1.5]"),
        (NDArray[np.uint8], "[256]"),
        (NDArray[np.uint8], "[-1]"),
        (NDArray[np.bool_], "[2]"),
        (pa.Table, "5"),
        (pa.Table, "[1, 2]"),
        (Iterator[int], "5"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(annotation: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match="function: value: "):
        takes(annotation)(text)


def test_rows_become_a_table() -> None:
    table = pa.table({"a": [1, 2]})
    assert takes(pa.Table)('[{"a": 1}, {"a": 2}]') == table
    assert takes(pa.Table | None)("null") is None
    assert takes(pa.RecordBatch)('[{"a": 1}, {"a": 2}]') == table.to_batches()[0]
    assert takes(pa.RecordBatch)("[]").num_rows == 0


@pytest.mark.parametrize("ending", ["csv", "parquet", "arrow", "feather", "PARQUET"])
def test_a_file_becomes_a_table(tmp_path: Path, ending: str) -> None:
    table = pa.table({"a": [1, 2, 3]})
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        path.write_text("a\n1\n2\n3\n")
    elif ending.lower() == "parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.feather.write_feather(table, path)
    assert takes(pa.Table)(f"@{path}") == table
    assert takes(pa.Table | None)(f"value=@{path}") == table
    assert takes(pa.RecordBatch)(f"@{path}") == table.to_batches()[0]
    assert sum(batch.num_rows for batch in takes(Iterator[pa.RecordBatch])(f"@{path}")) == 3


def test_a_file_becomes_what_its_type_says(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text('{"a": 1}\n')
    assert takes(bytes)(f"@{path}") == b'{"a": 1}\n'
    assert takes(str)(f"@{path}") == '{"a": 1}\n'
    assert takes(dict[str, int])(f"@{path}") == {"a": 1}
    assert takes(Any)(f"@{path}") == {"a": 1}
    path.write_text("1\n\n2\n")
    assert list(takes(Iterator[int])(f"@{path}")) == [1, 2]
    path.write_bytes(b"x" * ((1 << 20) + 1))
    assert [len(piece) for piece in takes(Iterator[bytes])(f"@{path}")] == [1 << 20, 1]


@pytest.mark.parametrize("annotation", [bytes, str, int, pa.Table, Iterator[int], Iterator[bytes]])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, annotation: Any) -> None:
    with pytest.raises(UsageError, match=r"missing\.csv: can't be read"):
        takes(annotation)(f"@{tmp_path}/missing.csv")
    with pytest.raises(UsageError):
        takes(annotation)(f"@{tmp_path}")


def test_a_device_that_never_ends_is_refused() -> None:
    with pytest.raises(UsageError, match="neither a file nor a pipe"):
        takes(bytes)("@/dev/zero")


def test_text_files_are_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes(b"\xe9")
    with pytest.raises(UsageError, match="UTF-8"):
        takes(str)(f"@{tmp_path}/latin1")


def test_an_argument_can_be_given_once() -> None:
    with pytest.raises(ArgumentError, match="value is given twice"):
        takes(int)("value=1", "value=2")


@given(st.text().filter(lambda text: not text.startswith("@") and "=" not in text))
def test_any_text_reaches_a_text_parameter(text: str) -> None:
    try:
        expected = json.loads(text)
    except ValueError:
        expected = text
    assert takes(str)(text) == (expected if isinstance(expected, str) else text)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_VALUES.filter(lambda value: value is None or isinstance(value, list | dict)))
def test_any_json_reaches_a_parameter_of_any_type(value: Any) -> None:
    assert takes(Any)(json.dumps(value)) == value


@given(st.text(), st.sampled_from([int, str, bytes, list[int], Item, np.ndarray, pa.Table, Color]))
def test_no_text_at_all_does_more_than_be_refused(text: str, annotation: Any) -> None:
    # KeyError: it was for `more`.
    with contextlib.suppress(ArgumentError, UsageError, KeyError):
        takes(annotation)(text)
