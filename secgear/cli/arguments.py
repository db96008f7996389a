"""Arguments of an ECALL as one types them: JSON where it fits the declared type, else text.

A bytes-like parameter takes the text as it is; bytes inside other values are base64, as they are
in results. An array is a list of numbers, a table a list of rows. ``@FILE`` takes the data of a
file: bytes, a table by the file's ending, JSON for everything else, one line an item for a stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

import msgspec

from secgear.base import typedesc as td
from secgear.cli.output import UsageError, read
from secgear.errors import ArgumentError

if TYPE_CHECKING:
    from secgear.base.interface import Function, Param
    from secgear.base.schema import HostTypes

_PIECE: Final = 1 << 20
"""Bytes in one item of a stream of bytes from a file."""


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
    if text.startswith("@"):
        path = Path(text[1:])
        if param.stream:
            return _stream(label, kind, types, path)
        if td.top_level_bytes(kind):
            return read(path)
        arrow = _arrow(kind)
        if arrow is not None:
            return _as_arrow(_table(path), arrow)
        text = _text(path)
    elif td.top_level_bytes(kind) and not param.stream:
        nothing = text == "null" and isinstance(kind, td.Either)
        return None if nothing else text.encode("utf-8", "surrogateescape")
    annotation = types.annotation(kind)
    return _fit(label, list[annotation] if param.stream else annotation, text)


def _fit(label: str, annotation: Any, text: str) -> Any:
    """What `text` means as JSON; as it stands where JSON does not fit."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        value = text
    try:
        return msgspec.convert(value, annotation, dec_hook=_from_json)
    except (msgspec.ValidationError, OverflowError) as error:
        problem = error
    if value != text:
        try:
            return msgspec.convert(text, annotation, dec_hook=_from_json)
        except (msgspec.ValidationError, OverflowError):
            pass
    raise ArgumentError(f"{label}: {problem}")


def _from_json(expected: Any, value: Any) -> Any:
    """Arrays and tables from lists."""
    kind = get_origin(expected) or expected
    if kind.__name__ == "ndarray":
        return _array(expected, value)
    if not isinstance(value, list):
        raise ValueError("expected a list of rows")
    import pyarrow as pa

    try:
        table = pa.Table.from_pylist(value)
    except (pa.ArrowException, AttributeError, TypeError) as error:
        raise ValueError(f"expected a list of rows: {error}") from error
    return _as_arrow(table, kind.__name__)


def _array(expected: Any, value: Any) -> Any:
    import numpy as np

    parameters = get_args(expected)
    scalar = get_args(parameters[1])[0] if parameters else None
    try:
        # An abstract scalar such as np.floating names many dtypes; numpy finds one for the values.
        concrete = scalar is not None and scalar not in _ABSTRACT
        array = np.asarray(value, np.dtype(scalar) if concrete else None)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"expected an array: {error}") from error
    if array.dtype.kind == "O":
        raise ValueError("expected an array: its rows differ in length or kind")
    return array
