"""A function of the interface: what it takes, gives and raises, and how arguments meet it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from secgear.base import typedesc as td
from secgear.base.wellformed import EITHER, KEYWORD, POSITIONAL
from secgear.errors import ArgumentError


class Param(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A parameter.

    kind: how it may be passed: ``positional`` only, ``either`` way, by ``keyword`` only.
    required: whether it has no default; a default itself stays where the function is.
    stream: whether it is an iterator; `type` is that of its items then.
    """

    name: str
    type: td.TypeDesc
    kind: str = EITHER
    required: bool = True
    stream: bool = False


class ErrorDesc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A declared exception. base: the nearest built-in class that it is one of."""

    name: str
    base: str


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An ECALL or OCALL.

    result_stream: whether it returns an iterator; `result` is the type of its items then.
    doc: first paragraph of its docstring, in one line.
    switchless: whether calls go through shared memory where there is some; a preference of the
    app's, which both sides need not share.
    """

    name: str
    params: tuple[Param, ...]
    result: td.TypeDesc
    result_stream: bool = False
    raises: tuple[ErrorDesc, ...] = ()
    doc: str = ""
    switchless: bool = False


class Described(NamedTuple):
    """A Python function as the interface sees it.

    types: Python type of each parameter by name, and of the result under ``return``; of the items
    where it is a stream. definitions: the named types it uses.
    """

    function: Function
    types: Mapping[str, Any]
    definitions: Mapping[str, td.TypeDef]


def bind(function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, as Python would bind them; an argument of `msgspec.UNSET` was not given.

    Raises ArgumentError naming what is missing, unknown or too much.
    """
    values: dict[str, Any] = {}
    given = len(args)
    position = taken = 0
    for param in function.params:
        name = param.name
        value = msgspec.UNSET
        if param.kind != KEYWORD and position < given:
            value = args[position]
            position += 1
            if name in kwargs and param.kind != POSITIONAL:
                raise ArgumentError(
                    f"{function.name}: {name} is given twice; {signature(function)}"
                )
        elif name in kwargs and param.kind != POSITIONAL:
            value = kwargs[name]
            taken += 1
        if value is not msgspec.UNSET:
            values[name] = value
        elif param.required:
            raise ArgumentError(f"{function.name}: {name} is missing; {signature(function)}")
    if position < given:
        raise ArgumentError(
            f"{function.name}: {given} arguments by position are too many; {signature(function)}"
        )
    if taken < len(kwargs):
        known = {param.name for param in function.params if param.kind != POSITIONAL}
        unknown = ", ".join(sorted(str(name) for name in kwargs if name not in known))
        raise ArgumentError(f"{function.name}: no parameter {unknown}; {signature(function)}")
    return values


def spread(function: Function, values: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The inverse of `bind`: what to call a Python function with, ``f(*args, **kwargs)``.

    By position as far as possible, so that any callable of the right arity will do (`print`,
    ``list.append``); by name from the first parameter on that was left out.
    Raises ArgumentError when one that goes by position only comes after that.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    gap = ""
    for param in function.params:
        name = param.name
        if name not in values:
            gap = gap or name
        elif param.kind == KEYWORD or (gap and param.kind == EITHER):
            kwargs[name] = values[name]
        elif gap:
            raise ArgumentError(
                f"{function.name}: {name} goes by position, so {gap} must be given as well"
            )
        else:
            args.append(values[name])
    return args, kwargs


def signature(function: Function) -> str:
    """The function in one line, as one would declare it."""
    pieces = []
    before = None
    for param in function.params:
        if before == POSITIONAL and param.kind != POSITIONAL:
            pieces.append("/")
        if param.kind == KEYWORD and before != KEYWORD:
            pieces.append("*")
        before = param.kind
        kind = f"Iterator[{td.render(param.type)}]" if param.stream else td.render(param.type)
        pieces.append(f"{param.name}: {kind}{'' if param.required else ' = ...'}")
    if before == POSITIONAL:
        pieces.append("/")
    result = td.render(function.result)
    result = f"Iterator[{result}]" if function.result_stream else result
    return f"{function.name}({', '.join(pieces)}) -> {result}"


def signature_and_errors(function: Function) -> str:
    """The function in one line with all that both sides must agree on."""
    raises = ", ".join(
        entry.name if entry.name == entry.base else f"{entry.name}({entry.base})"
        for entry in function.raises
    )
    return signature(function) + (f" raises {raises}" if raises else "")
