"""From Python annotations to descriptions: where an app's interface comes from."""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import sys
import types
import typing
import uuid
from typing import Any

import msgspec

from secgear.base import typedesc as td
from secgear.errors import InterfaceError

_BASIC: dict[Any, str] = {
    None: "None",
    type(None): "None",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    bytearray: "bytearray",
    memoryview: "memoryview",
    datetime.datetime: "datetime",
    datetime.date: "date",
    datetime.time: "time",
    datetime.timedelta: "timedelta",
    decimal.Decimal: "Decimal",
    uuid.UUID: "UUID",
    Any: "Any",
}
_SEQUENCES: dict[Any, str] = {
    list: "list",
    set: "set",
    frozenset: "frozenset",
    collections.abc.Sequence: "list",
    collections.abc.Set: "set",
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
STREAMS = (collections.abc.Iterator, collections.abc.Iterable, collections.abc.Generator)
_SUPPORTED = (
    "supported are the types of msgspec (numbers, str, bytes, dates, list, dict, tuple, set, "
    "Literal, unions, enums, dataclasses, TypedDict, NamedTuple, msgspec.Struct), numpy.ndarray "
    "and NDArray[...], pyarrow.Table and RecordBatch"
)


class Describer:
    """Describes types and gathers the definitions of those that have names."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._classes: dict[str, type] = {}
        self.types: dict[str, td.TypeDef] = {}

    def describe(self, annotation: Any) -> td.TypeDesc:
        """Raises InterfaceError for a type that can't cross the boundary."""
        while isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        if _is_hashable(annotation) and annotation in _BASIC:
            return td.Basic(_BASIC[annotation])
        origin = typing.get_origin(annotation)
        arguments = typing.get_args(annotation)
        if origin is typing.Annotated:
            return self._limited(arguments)
        if origin is typing.Union or isinstance(annotation, types.UnionType):
            return td.Either(tuple(self.describe(part) for part in arguments))
        if origin is typing.Literal:
            return td.Exactly(tuple(arguments))
        plain = origin or annotation
        if plain in STREAMS:
            raise self._no(annotation, "a stream may only be a whole parameter or a whole result")
        if plain in _SEQUENCES:
            return td.Sequence(_SEQUENCES[plain], self._only(arguments))
        if plain is tuple:
            if len(arguments) == 2 and arguments[1] is Ellipsis:
                return td.Sequence("tuple", self.describe(arguments[0]))
            if not arguments and annotation is tuple:
                return td.Sequence("tuple", td.Basic("Any"))
            return td.Fixed(tuple(self.describe(part) for part in arguments))
        if plain in _MAPPINGS:
            key, value = arguments or (Any, Any)
            return td.Mapping(self.describe(key), self.describe(value))
        return self._class(annotation, plain, arguments)

    def _only(self, arguments: tuple[Any, ...]) -> td.TypeDesc:
        return self.describe(arguments[0]) if arguments else td.Basic("Any")

    def _limited(self, arguments: tuple[Any, ...]) -> td.TypeDesc:
        limits: dict[str, int | float | str] = {}
        for meta in arguments[1:]:
            if isinstance(meta, msgspec.Meta):
                for name in td.LIMITS:
                    value = getattr(meta, name)
                    if value is not None:
                        limits[name] = value
        inner = self.describe(arguments[0])
        return td.Limited(inner, limits) if limits else inner

    def _class(self, annotation: Any, plain: Any, arguments: tuple[Any, ...]) -> td.TypeDesc:
        module = str(getattr(plain, "__module__", "")).partition(".")[0]
        name = getattr(plain, "__name__", "")
        if module == "numpy":
            if name == "ndarray":
                return td.NDArray(self._dtype(annotation, arguments))
            raise self._no(annotation, "take a numpy scalar as int or float")
        if module == "pyarrow":
            if name in {"Table", "RecordBatch"}:
                return td.Arrow(name)
            raise self._no(annotation, "Arrow data crosses as pyarrow.Table or RecordBatch")
        if not isinstance(plain, type) and not typing.is_typeddict(plain):
            raise self._no(annotation)
        if arguments:
            raise self._no(annotation, "generic classes can't cross; write a concrete one")
        known = self._classes.get(name)
        if known is None:
            if not name.isidentifier() or name in td.BASIC:
                raise self._no(annotation, "its name can't be used here")
            self._classes[name] = plain
            definition = self._define(plain)
            if definition is None:
                raise self._no(annotation)
            self.types[name] = definition
        elif known is not plain:
            raise InterfaceError(f"{self._where}: two different types are called {name}")
        return td.Named(name)

    def _dtype(self, annotation: Any, arguments: tuple[Any, ...]) -> str | None:
        if len(arguments) != 2:
            return None
        scalar = typing.get_args(arguments[1])
        if not scalar or not isinstance(scalar[0], type):
            return None
        name = scalar[0].__name__
        name = {"bool_": "bool"}.get(name, name)
        if name not in td.DTYPES:
            raise self._no(annotation, f"an array of {name} can't cross")
        return None if name == "generic" else name

    def _define(self, plain: Any) -> td.TypeDef | None:
        if issubclass(plain, msgspec.Struct):
            return self._struct(plain)
        if issubclass(plain, enum.Enum):
            return self._enum(plain)
        if typing.is_typeddict(plain):
            hints = self._hints(plain)
            return td.DictDef(
                tuple(
                    td.FieldDesc(
                        name,
                        self.describe(_unwrap(hint)),
                        required=name in plain.__required_keys__,
                    )
                    for name, hint in hints.items()
                )
            )
        if issubclass(plain, tuple) and hasattr(plain, "_field_defaults"):
            hints = self._hints(plain)
            return td.TupleDef(
                tuple(
                    self._field(name, hints.get(name, Any), plain._field_defaults.get(name, _NONE))
                    for name in plain._fields
                )
            )
        if hasattr(plain, "__dataclass_fields__"):
            return self._dataclass(plain)
        return None

    def _struct(self, plain: Any) -> td.StructDef:
        config = plain.__struct_config__
        fields = []
        for field in msgspec.structs.fields(plain):
            default = field.default if field.default is not msgspec.NODEFAULT else _NONE
            entry = self._field(field.name, field.type, default, field.default_factory)
            if field.encode_name != field.name:
                entry = msgspec.structs.replace(entry, key=field.encode_name)
            fields.append(entry)
        return td.StructDef(
            tuple(fields),
            tag_field=config.tag_field,
            tag=config.tag,
            array_like=config.array_like,
            forbid_unknown=config.forbid_unknown_fields,
        )

    def _dataclass(self, plain: Any) -> td.StructDef:
        import dataclasses

        hints = self._hints(plain)
        return td.StructDef(
            tuple(
                self._field(
                    field.name,
                    hints[field.name],
                    _NONE if field.default is dataclasses.MISSING else field.default,
                    msgspec.NODEFAULT
                    if field.default_factory is dataclasses.MISSING
                    else field.default_factory,
                )
                for field in dataclasses.fields(plain)
                if field.init
            ),
            dataclass=True,
        )

    def _field(
        self, name: str, annotation: Any, default: Any, factory: Any = msgspec.NODEFAULT
    ) -> td.FieldDesc:
        desc = self.describe(annotation)
        made = factory.__name__ if factory in (list, dict, set) else ""
        if default is _NONE and factory is msgspec.NODEFAULT:
            return td.FieldDesc(name, desc)
        if default is None or type(default) in (str, int, float, bool):
            return td.FieldDesc(name, desc, required=False, default=default)
        return td.FieldDesc(name, desc, required=False, factory=made)

    def _enum(self, plain: Any) -> td.EnumDef:
        members = []
        for name, member in plain.__members__.items():
            if type(member.value) not in (str, int):
                raise self._no(plain, "members of an enum are str or int")
            members.append((name, member.value))
        kind = next(kind for kind in td.ENUMS if issubclass(plain, getattr(enum, kind)))
        return td.EnumDef(kind, tuple(members))

    def _hints(self, plain: Any) -> dict[str, Any]:
        try:
            return typing.get_type_hints(plain, include_extras=True)
        except NameError as error:
            raise InterfaceError(
                f"{self._where}: {plain.__name__}: {error}; define it at the top of its module"
            ) from error

    def _no(self, annotation: Any, why: str = _SUPPORTED) -> InterfaceError:
        name = getattr(annotation, "__qualname__", None) or str(annotation)
        return InterfaceError(f"{self._where}: the type {name} can't cross the boundary; {why}")


_NONE = object()


def _is_hashable(value: Any) -> bool:
    return type(value).__hash__ is not None and not isinstance(value, types.GenericAlias)


def _unwrap(hint: Any) -> Any:
    """Without TypedDict's Required and NotRequired."""
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    return hint


def hints_of(function: Any, where: str) -> dict[str, Any]:
    """A function's annotations, resolved. Raises InterfaceError naming what can't be."""
    try:
        return typing.get_type_hints(function, localns=_around(function), include_extras=True)
    except NameError as error:
        raise InterfaceError(
            f"{where}: {error}; annotations must name types that are defined where the function "
            "is, at run time too (not only under TYPE_CHECKING)"
        ) from error
    except TypeError as error:
        raise InterfaceError(f"{where}: {error}") from error


def _around(function: Any) -> dict[str, Any] | None:
    """Names of the function that `function` is being defined in, if it is inside one."""
    outer, inside, _ = function.__qualname__.rpartition(".<locals>.")
    frame = sys._getframe(1) if inside else None
    while frame is not None and frame.f_code.co_qualname != outer:
        frame = frame.f_back
    return dict(frame.f_locals) if frame is not None else None
