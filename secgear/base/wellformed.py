"""Whether a description makes sense, before anything is made of it.

Descriptions are read from images, so they are hostile until this has looked at them: names are
identifiers that are safe to make attributes, classes and source text of; sizes, counts and depth
have limits; references lead somewhere.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from secgear.base import typedesc as td

if TYPE_CHECKING:
    from secgear.base.interface import Function, Interface

MAX_NAME = 128
"""Characters of an identifier."""
MAX_TEXT = 1000
"""Characters of any other string."""
MAX_ITEMS = 1000
"""Functions, named types, parameters, fields, members of an enum, parts of a type."""
MAX_DEPTH = 32
"""Levels of types inside types."""

POSITIONAL, EITHER, KEYWORD = "positional", "either", "keyword"
_KINDS = (POSITIONAL, EITHER, KEYWORD)
_INT64 = (-(2**63), 2**63 - 1)
_ENUM_VALUES: dict[str, set[type]] = {"IntFlag": {int}, "IntEnum": {int}, "StrEnum": {str}}
_NUMERIC_LIMITS = frozenset({"gt", "ge", "lt", "le", "multiple_of"})


def check(interface: Interface) -> None:
    """Raise ValueError, naming what is wrong, unless the whole interface makes sense."""
    for label in (interface.name, interface.version):
        _text(label)
        if not label.isprintable():
            raise ValueError(f"{label!r} holds characters that can't be printed")
    if not interface.name:
        raise ValueError("the app has no name")
    for entries in (interface.ecalls, interface.ocalls, interface.types):
        _count(entries)
    for name, definition in interface.types.items():
        identifier(name)
        if name in td.BASIC:
            raise ValueError(f"the name {name} belongs to a built-in type")
        _definition(name, definition, interface.types)
    bases: dict[str, str] = {}
    for functions in (interface.ecalls, interface.ocalls):
        for key, function in functions.items():
            if key != function.name:
                raise ValueError(f"{key[:MAX_NAME]!r} is called {function.name[:MAX_NAME]!r}")
            _function(function, interface.types)
            if functions is interface.ocalls and any(
                td.has_shared(param.type) for param in function.params
            ):
                raise ValueError(f"{key}: an OCALL can't take a shared buffer")
            for error in function.raises:
                if bases.setdefault(error.name, error.base) != error.base:
                    raise ValueError(f"two different exceptions are called {error.name}")
    _apart(interface.ecalls, interface.ocalls, "both an ECALL and an OCALL")
    _apart(bases, interface.types, "both a type and an exception")


def _apart(one: Mapping[str, Any], other: Mapping[str, Any], what: str) -> None:
    if both := sorted(one.keys() & other.keys()):
        raise ValueError(f"{both[0]} is {what}")


def identifier(name: str) -> None:
    """Raise ValueError unless `name` can name a function, parameter, field or class anywhere."""
    if not (name.isascii() and name.isidentifier()) or len(name) > MAX_NAME:
        raise ValueError(f"{name[:MAX_NAME]!r} can't be a name: use plain ASCII identifiers")
    if keyword.iskeyword(name):
        raise ValueError(f"{name!r} can't be a name: it is a keyword of Python")
    if name.startswith("__"):
        raise ValueError(f"{name!r} can't be a name: names that begin with __ are Python's own")


def _function(function: Function, types: Mapping[str, td.TypeDef]) -> None:
    identifier(function.name)
    _text(function.doc)
    if not function.doc.isprintable():
        raise ValueError(f"{function.name}: its documentation can't be printed")
    _count(function.params)
    _count(function.raises)
    _distinct(function.name, [param.name for param in function.params])
    _distinct(function.name, [error.name for error in function.raises])
    before, optional = POSITIONAL, False
    for param in function.params:
        identifier(param.name)
        if param.kind not in _KINDS or _KINDS.index(param.kind) < _KINDS.index(before):
            raise ValueError(f"{function.name}: parameter {param.name} is out of order")
        before = param.kind
        if param.required and optional and param.kind != KEYWORD:
            raise ValueError(f"{function.name}: {param.name} must have a default, as one before it")
        optional = optional or not param.required
        if param.stream and not param.required:
            raise ValueError(f"{function.name}: the stream {param.name} can't have a default")
        _type(param.type, types)
        if td.has_shared(param.type) and (
            param.type != td.SHARED or param.stream or function.result_stream
        ):
            raise ValueError(
                f"{function.name}: {param.name}: a shared buffer is a whole parameter, of a "
                "function that returns no iterator"
            )
    _type(function.result, types)
    if td.has_shared(function.result):
        raise ValueError(f"{function.name}: a shared buffer can't be a result")
    for error in function.raises:
        identifier(error.name)
        identifier(error.base)


def _definition(name: str, definition: td.TypeDef, types: Mapping[str, td.TypeDef]) -> None:
    if isinstance(definition, td.EnumDef):
        _enum(name, definition)
        return
    fields = definition.fields
    _count(fields)
    _distinct(name, [field.name for field in fields])
    _distinct(name, [field.key or field.name for field in fields])
    positional = isinstance(definition, td.TupleDef) or (
        isinstance(definition, td.StructDef) and definition.array_like
    )
    optional = False
    for field in fields:
        identifier(field.name)
        _text(field.key)
        _type(field.type, types)
        if td.has_shared(field.type):
            raise ValueError(f"{name}: {field.name}: a shared buffer can't be part of a value")
        _default(name, field, types)
        if isinstance(definition, td.DictDef | td.TupleDef) and field.key:
            raise ValueError(f"{name}: only fields of a struct can have another key")
        if isinstance(definition, td.TupleDef) and (
            field.name.startswith("_") or (field.required and optional)
        ):
            raise ValueError(f"{name}: a tuple can't have the field {field.name} there")
        if positional and field.open:
            raise ValueError(f"{name}: {field.name} has a place, it can't be left out")
        if isinstance(definition, td.DictDef) and not (field.required or field.open):
            raise ValueError(f"{name}: {field.name} can't have a default")
        optional = optional or not field.required
    if isinstance(definition, td.StructDef):
        _text(definition.tag_field or "")
        _literal(definition.tag)
        if (definition.tag is None) != (definition.tag_field is None):
            raise ValueError(f"{name}: tag and tag_field go together")


def _enum(name: str, definition: td.EnumDef) -> None:
    if definition.kind not in td.ENUMS or not definition.members:
        raise ValueError(f"{name}: malformed enum")
    _count(definition.members)
    _distinct(name, [member for member, _ in definition.members])
    kinds = {type(value) for _, value in definition.members}
    if kinds - _ENUM_VALUES.get(definition.kind, {str, int}) or len(kinds) != 1:
        raise ValueError(f"{name}: values of an {definition.kind} can't be these")
    for member, value in definition.members:
        identifier(member)
        _literal(value)
        if member.startswith("_") or member == "mro":
            raise ValueError(f"{name}: a member of an enum can't be called {member}")


def _default(name: str, field: td.FieldDesc, types: Mapping[str, td.TypeDef]) -> None:
    given = bool(field.member) + bool(field.factory) + (field.default is not msgspec.UNSET)
    if given > (not field.required) or field.factory not in {"", *td.FACTORIES}:
        raise ValueError(f"{name}: {field.name} has a malformed default")
    if isinstance(field.default, str):
        _text(field.default)
    elif isinstance(field.default, int | float):
        _number(field.default)
    if field.member:
        identifier(field.member)
        td.enum_of(field, types)


def _type(desc: td.TypeDesc, types: Mapping[str, td.TypeDef], depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ValueError("types are nested too deeply")
    match desc:
        case td.Basic(name) if name not in td.BASIC:
            raise ValueError(f"unknown type {name[:MAX_NAME]!r}")
        case td.Named(name) if name not in types:
            raise ValueError(f"undefined type {name[:MAX_NAME]!r}")
        case td.Sequence(kind, _) if kind not in td.SEQUENCES:
            raise ValueError(f"unknown sequence {kind[:MAX_NAME]!r}")
        case td.Arrow(kind) if kind not in {"Table", "RecordBatch"}:
            raise ValueError(f"unknown Arrow type {kind[:MAX_NAME]!r}")
        case td.NDArray(dtype) if dtype is not None and dtype not in td.DTYPES:
            raise ValueError(f"unknown dtype {dtype[:MAX_NAME]!r}")
        case td.Limited(_, limits):
            _limits(limits)
        case td.Either(of) if len(of) < 2 or any(isinstance(part, td.Either) for part in of):
            raise ValueError("a union of fewer than two types, or of unions")
        case td.Exactly(values):
            if not values:
                raise ValueError("a literal without values")
            _count(values)
            for value in values:
                _literal(value)
    inside = td.parts(desc)
    _count(inside)
    for part in inside:
        _type(part, types, depth + 1)


def _limits(limits: Mapping[str, Any]) -> None:
    if not limits or not set(limits) <= set(td.LIMITS):
        raise ValueError("unknown constraint")
    for name, value in limits.items():
        if name in _NUMERIC_LIMITS:
            fits = type(value) in (int, float)
        elif name == "pattern":
            fits = type(value) is str
        elif name == "tz":
            fits = type(value) is bool
        else:
            fits = type(value) is int and value >= 0
        if not fits:
            raise ValueError(f"the constraint {name} can't be {str(value)[:MAX_NAME]!r}")
        if isinstance(value, str):
            _text(value)
        else:
            _number(value)


def _literal(value: object) -> None:
    """Only what msgspec takes as a literal, a tag or a value of an enum."""
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, int) and not _INT64[0] <= value <= _INT64[1]:
        raise ValueError(f"{value:.4g} does not fit into 64 bits")


def _number(value: float) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("a number that does not fit into 64 bits")


def _text(text: str) -> None:
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text)} characters; {MAX_TEXT} are allowed")
    text.encode()  # raises for half a surrogate pair, which no message can hold


def _count(items: Any) -> None:
    if len(items) > MAX_ITEMS:
        raise ValueError(f"{len(items)} of a kind; {MAX_ITEMS} are allowed")


def _distinct(where: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ValueError(f"{where}: two of its parts have the same name")
