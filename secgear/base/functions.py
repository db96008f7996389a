"""Functions of the interface, compiled: their codecs, ready for either side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from secgear.base.interface import Function, top_level_bytes
from secgear.base.marshal import ArgumentsCodec, ValueCodec


class Compiled(NamedTuple):
    """One function as calls use it.

    streams: parameters that are iterators, by stream index (from 1, in order of declaration).
    stream_names: the same, name to index. errors: declared exception classes by name.
    types: Python type of each parameter by name, and of the result under ``return``.
    """

    description: Function
    arguments: ArgumentsCodec
    result: ValueCodec
    streams: Mapping[int, ValueCodec]
    stream_names: Mapping[str, int]
    errors: Mapping[str, type[Exception]]
    types: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.description.name


class Served(NamedTuple):
    """A function that this side serves.

    invoke: runs it with the arguments by name. raises: exceptions whose text may cross.
    largest: bytes that its marshalled arguments can have by their types, None for any number.
    """

    compiled: Compiled
    invoke: Callable[[dict[str, Any]], Any]
    raises: tuple[type[Exception], ...]
    largest: int | None = None


def compile_function(
    description: Function,
    types: Mapping[str, Any],
    errors: Mapping[str, type[Exception]],
) -> Compiled:
    """Codecs for a function.

    types: Python type of each parameter by name and of the result under ``return``; for a stream,
    the type of its items.
    """
    name = description.name
    plain = [param for param in description.params if not param.stream]
    streams = [param for param in description.params if param.stream]
    return Compiled(
        description=description,
        arguments=ArgumentsCodec(
            name,
            {param.name: types[param.name] for param in plain},
            frozenset(param.name for param in plain if param.required),
            frozenset(param.name for param in plain if top_level_bytes(param.type)),
        ),
        result=ValueCodec(
            f"{name}: result", types["return"], blob=top_level_bytes(description.result)
        ),
        streams={
            index: ValueCodec(
                f"{name}: item of {param.name}", types[param.name], blob=top_level_bytes(param.type)
            )
            for index, param in enumerate(streams, 1)
        },
        stream_names={param.name: index for index, param in enumerate(streams, 1)},
        errors=errors,
        types=types,
    )
