"""Arguments of an ECALL as one types them: JSON where it fits the declared type, else text.

A bytes-like parameter takes the text as it is; bytes inside other values are base64, as they are
in results. An array is a list of numbers, a table a list of rows. ``@FILE`` takes the data of a
file: bytes, a table by the file's ending, JSON for everything else, one line an item for a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, get_args, get_origin

import msgspec

from secgear.base import typedesc as td
from secgear.cli.output import UsageError, open_data, read
from secgear.errors import ArgumentError

if TYPE_CHECKING:
    from secgear.base.interface import Function, Param
    from secgear.base.schema import HostTypes

_PIECE: Final = 1 << 20
"""Bytes in one item of a stream of bytes from a file."""
_RANKS: Final = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 3}
"""Kinds of numpy's numbers; those of one rank are numbers of the next, not the other way."""
_FAMILIES: Final = {
    "integer": "int64",
    "signedinteger": "int64",
    "unsignedinteger": "uint64",
    "inexact": "float64",
    "floating": "float64",
    "complexfloating": "complex128",
}
"""Abstract scalar types of numpy, and what a list of numbers becomes where one is declared."""


def parse(
    function: Function, types: HostTypes, texts: Iterable[str]
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by position and by name, as their types want them.

    Raises ArgumentError for text that fits no declared type, UsageError for files.
    """
    params = {param.name: param for param in function.params}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if equals and name in params:
            if name in named:
                raise ArgumentError(f"{function.name}: {name} is given twice")
            named[name] = _value(function, params[name], types, rest)
        elif len(positional) < len(function.params):
            param = function.params[len(positional)]
            positional.append(_value(function, param, types, text))
        else:
            positional.append(text)  # one too many, which `bind` will say
    return positional, named


def _value(function: Function, param: Param, types: HostTypes, text: str) -> Any:
    kind = param.type
    label = f"{function.name}: {param.name}"
    annotation = types.annotation(kind)
    if text.startswith("@"):
        path = Path(text[1:])
        if param.stream:
            return _stream(label, kind, annotation, path)
        if td.top_level_bytes(kind):
            return read(path)
        arrow = _arrow(kind)
        if arrow:
            return _as_arrow(_table(path), arrow)
        content = _text(path)
        # A text is the file as it is, even if it happens to be JSON.
        return content if _is_text(kind) else _fit(label, annotation, content.strip())
    if td.top_level_bytes(kind) and not param.stream:
        nothing = text == "null" and isinstance(kind, td.Either)
        return None if nothing else text.encode("utf-8", "surrogateescape")
    return _fit(
        label, types.annotation(td.Sequence("list", kind)) if param.stream else annotation, text
    )


def _fit(label: str, annotation: Any, text: str) -> Any:
    """What `text` means as JSON; as it stands where JSON does not fit."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        value = text
    problem: Exception | None = None
    for candidate in (value, text):
        try:
            return msgspec.convert(candidate, annotation, dec_hook=_from_json, str_keys=True)
        except (msgspec.ValidationError, OverflowError) as error:
            problem = problem or error
    raise ArgumentError(f"{label}: {problem}")


# --- arrays and tables ---------------------------------------------------------------------------


def _from_json(expected: Any, value: Any) -> Any:
    """Arrays and tables, which msgspec does not know, from lists."""
    kind = (get_origin(expected) or expected).__name__
    if not isinstance(value, list):
        raise ValueError(f"expected a list{' of rows' if kind != 'ndarray' else ''}")
    if kind == "ndarray":
        return _array(expected, value)
    import pyarrow as pa

    try:
        return _as_arrow(pa.Table.from_pylist(value), kind)
    except (pa.ArrowException, AttributeError, TypeError) as error:
        raise ValueError(f"expected a list of rows: {error}") from error


def _array(expected: Any, value: list[Any]) -> Any:
    """An array of the declared dtype, or of the one that suits the values."""
    import numpy as np

    parameters = get_args(expected)
    name = get_args(parameters[1])[0].__name__ if parameters else "number"
    try:
        array = np.asarray(value)
        if name != "number":
            wanted = np.dtype(_FAMILIES.get(name, name.rstrip("_")))
            if array.size and _RANKS.get(array.dtype.kind, 0) > _RANKS.get(wanted.kind, 0):
                raise ValueError(f"these are no numbers of type {wanted}")
            array = np.asarray(value, wanted)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected an array: {error}") from error
    if array.dtype.kind == "O":
        raise ValueError("expected an array of numbers or texts")
    return array


def _arrow(kind: td.TypeDesc) -> str:
    """Table or RecordBatch if the type is that, or that or None; else empty."""
    parts = kind.of if isinstance(kind, td.Either) else (kind,)
    return next((part.kind for part in parts if isinstance(part, td.Arrow)), "")


def _as_arrow(table: Any, kind: str) -> Any:
    if kind == "Table":
        return table
    import pyarrow as pa

    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


# --- files ---------------------------------------------------------------------------------------


def _is_text(kind: td.TypeDesc) -> bool:
    if isinstance(kind, td.Limited):
        return _is_text(kind.of)
    return kind == td.Basic("str") or (isinstance(kind, td.Either) and any(map(_is_text, kind.of)))


def _text(path: Path) -> str:
    try:
        return read(path).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text in UTF-8: {error}") from error


def _stream(label: str, kind: td.TypeDesc, annotation: Any, path: Path) -> Iterator[Any]:
    """The items that a file holds; it is opened now and, where it may be large, read later."""
    if isinstance(kind, td.Arrow):
        table = _table(path)
        return iter([table] if kind.kind == "Table" else table.to_batches())
    if td.top_level_bytes(kind):
        return _pieces(open_data(path))
    lines = _text(path).splitlines()
    return iter([_fit(label, annotation, line) for line in lines if line.strip()])


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE):
            yield piece


def _table(path: Path) -> Any:
    """A table from a Parquet, CSV or Arrow file, by its ending."""
    readers = {".parquet": _parquet, ".csv": _csv, ".arrow": _feather, ".feather": _feather}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path}: tables are read from .parquet, .csv and .arrow files")
    open_data(path).close()  # for one kind of message, and because a device may never end
    import pyarrow as pa

    try:
        return reader(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path}: can't be read as a table: {error}") from error


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


def _csv(path: Path) -> Any:
    from pyarrow import csv

    return csv.read_csv(path)


def _feather(path: Path) -> Any:
    from pyarrow import feather

    return feather.read_table(path)
