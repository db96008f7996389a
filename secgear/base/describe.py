"""From Python annotations to descriptions of types.

numpy and pyarrow are recognised by name, never imported: an enclave that does not use them does
not pay for them.
"""

from __future__ import annotations

import collections.abc
import datetime
import decimal
import enum
import math
import types
import typing
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from secgear.base import typedesc as td
from secgear.base.shared import Shared
from secgear.base.wellformed import MAX_TEXT
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
    Shared: "secgear.Shared",
}
_SEQUENCES: dict[Any, str] = {
    list: "list",
    set: "set",
    frozenset: "frozenset",
    collections.abc.Collection: "list",
    collections.abc.Sequence: "list",
    collections.abc.MutableSequence: "list",
    collections.abc.Set: "set",
    collections.abc.MutableSet: "set",
}
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_STREAMS = (collections.abc.Iterator, collections.abc.Iterable, collections.abc.Generator)
_ASYNCHRONOUS = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_EMPTY: tuple[Any, ...] = (list, dict, set, tuple, frozenset, bytes, bytearray)
_REQUIREMENTS = ("Required", "NotRequired", "ReadOnly")
_MISSING = object()
_SUPPORTED = (
    "supported are the types of msgspec (numbers, str, bytes, dates, UUID, Decimal, list, tuple, "
    "set, dict, Literal, unions, enums, dataclasses, TypedDict, NamedTuple, msgspec.Struct), "
    "numpy.ndarray and NDArray[...], pyarrow.Table and RecordBatch"
)


def streamed(where: str, annotation: Any) -> tuple[Any, bool]:
    """The type of the items and True for an iterator, else the annotation itself and False."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None and _is_in(annotation, _STREAMS):
        raise InterfaceError(f"{where}: a stream of what? Write Iterator[...] with the item's type")
    if not _is_in(origin, _STREAMS):
        return annotation, False
    if any(_BASIC.get(other) != "None" for other in arguments[1:]):
        raise InterfaceError(
            f"{where}: a generator that is sent values or returns one can't cross the boundary; "
            "write Iterator[...]"
        )
    return arguments[0], True


class Describer:
    """Describes types and gathers the definitions of those that have names.

    where: what the types belong to, for errors. types: the definitions by name.
    classes: the Python class of each.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.classes: dict[str, Any] = {}
        self.types: dict[str, td.TypeDef] = {}

    def describe(self, annotation: Any) -> td.TypeDesc:
        """Raises InterfaceError for a type that can't cross the boundary."""
        meant = _stands_for(annotation)
        if meant is not annotation:
            return self.describe(meant)
        if _is_in(annotation, _BASIC):
            return td.Basic(_BASIC[annotation])
        origin = typing.get_origin(annotation)
        arguments = typing.get_args(annotation)
        if origin is typing.Annotated:
            return self._limited(arguments)
        if origin is typing.Union or isinstance(annotation, types.UnionType):
            return td.either(map(self.describe, arguments))
        if origin is typing.Literal:
            return self._literal(annotation, arguments)
        plain = origin or annotation
        if _is_in(plain, _ASYNCHRONOUS):
            raise self._no(annotation, "write Iterator[...]; the host iterates it asynchronously")
        if _is_in(plain, _STREAMS):
            raise self._no(annotation, "a stream may only be a whole parameter or a whole result")
        if _is_in(plain, _SEQUENCES):
            kind = _SEQUENCES[plain]
            item = self.describe(arguments[0] if arguments else Any)
            if kind in {"set", "frozenset"}:
                self._hashable(annotation, item)
            return td.Sequence(kind, item)
        if plain is tuple:
            return self._tuple(annotation, arguments)
        if _is_in(plain, _MAPPINGS):
            key, value = arguments or (Any, Any)
            described = td.Dictionary(self.describe(key), self.describe(value))
            self._hashable(annotation, described.key)
            return described
        return self._class(annotation, plain, arguments)

    def _literal(self, annotation: Any, arguments: tuple[Any, ...]) -> td.TypeDesc:
        for value in arguments:
            if value is not None and type(value) not in (str, int, bool):
                raise self._no(annotation, "values of a Literal are str, int, bool or None")
        values = [value for value in arguments if value is not None]
        values.sort(key=lambda value: (type(value).__name__, value))
        described = [td.Exactly(tuple(values))] if values else []
        return td.either([*described, *[td.Basic("None")] * (None in arguments)])

    def _tuple(self, annotation: Any, arguments: tuple[Any, ...]) -> td.TypeDesc:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return td.Sequence("tuple", self.describe(arguments[0]))
        if not arguments and annotation in (tuple, typing.Tuple):  # noqa: UP006
            return td.Sequence("tuple", td.Basic("Any"))
        return td.Fixed(tuple(self.describe(part) for part in arguments))

    def _limited(self, arguments: tuple[Any, ...]) -> td.TypeDesc:
        limits: dict[str, int | float | str | bool] = {}
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
        if isinstance(annotation, typing.TypeVar):
            raise self._no(annotation, "a type variable stands for any type; write the one it is")
        if not isinstance(plain, type):
            raise self._no(annotation)
        if arguments:
            raise self._no(annotation, "generic classes can't cross; derive a concrete one from it")
        known = self.classes.get(name)
        if known is None:
            if name in td.BASIC:
                raise self._no(annotation, "it has the name of a built-in type; call it otherwise")
            self.classes[name] = plain
            definition = self._define(plain)
            if definition is None:
                raise self._no(annotation)
            self.types[name] = definition
        elif known is not plain:
            raise InterfaceError(f"{self._where}: two different types are called {name}")
        return td.Named(name)

    def _dtype(self, annotation: Any, arguments: tuple[Any, ...]) -> str | None:
        """Name of the scalar type in ``ndarray[shape, dtype[scalar]]``; None for any."""
        inner = typing.get_args(arguments[1]) if len(arguments) == 2 else ()
        if not inner or inner[0] is Any or isinstance(inner[0], typing.TypeVar):
            return None
        name = getattr(inner[0], "__name__", str(inner[0]))
        if name == "generic":
            return None
        name = "bool" if name == "bool_" else name
        if name not in td.DTYPES:
            raise self._no(annotation, f"an array of {name} can't cross; name one numeric type")
        return name

    def _hashable(self, annotation: Any, desc: td.TypeDesc) -> None:
        if not self._hashes(desc):
            raise self._no(
                annotation,
                f"{td.render(desc)} is not hashable, so it can't be in a set or be a key; use "
                "tuples, and classes that are frozen",
            )

    def _hashes(self, desc: td.TypeDesc, seen: frozenset[str] = frozenset()) -> bool:
        """seen: named types around it, which are hashable if everything else in them is."""
        match desc:
            case td.Basic(name):
                return name not in td.UNHASHABLE
            case td.Sequence("list" | "set", _) | td.Dictionary() | td.NDArray() | td.Arrow():
                return False
            case td.Named(name):
                if name in seen:
                    return True
                inside = seen | {name}
                definition = self.types.get(name)  # None: it is being described, so it is recursive
                match definition:
                    case td.StructDef(frozen=False) | td.DictDef():
                        return False
                    case td.StructDef(fields=fields) | td.TupleDef(fields):
                        return all(self._hashes(field.type, inside) for field in fields)
                    case _:
                        return definition is not None
        return all(self._hashes(part, seen) for part in td.parts(desc))

    def _define(self, plain: Any) -> td.TypeDef | None:
        if issubclass(plain, msgspec.Struct):
            return self._struct(plain)
        if issubclass(plain, enum.Enum):
            return self._enum(plain)
        if issubclass(plain, dict) and hasattr(plain, "__required_keys__"):
            return td.DictDef(tuple(self._key(plain, *entry) for entry in self._hints(plain)))
        if issubclass(plain, tuple) and hasattr(plain, "_field_defaults"):
            hints = dict(self._hints(plain))
            defaults = plain._field_defaults
            return td.TupleDef(
                _placed(
                    self._field(name, hints.get(name, Any), defaults.get(name, _MISSING))
                    for name in plain._fields
                )
            )
        if hasattr(plain, "__dataclass_fields__"):
            return self._dataclass(plain)
        return None

    def _struct(self, plain: Any) -> td.StructDef:
        config = plain.__struct_config__
        described = []
        for field in self._evaluate(plain, msgspec.structs.fields):
            default = _MISSING if field.default is msgspec.NODEFAULT else field.default
            entry = self._field(field.name, field.type, default, field.default_factory)
            if field.encode_name != field.name:
                entry = msgspec.structs.replace(entry, key=field.encode_name)
            described.append(entry)
        return td.StructDef(
            _placed(described) if config.array_like else tuple(described),
            tag_field=config.tag_field,
            tag=config.tag,
            array_like=config.array_like,
            forbid_unknown=config.forbid_unknown_fields,
            frozen=config.frozen and config.eq,
        )

    def _dataclass(self, plain: Any) -> td.StructDef:
        import dataclasses

        hints = dict(self._hints(plain))
        fields = []
        for field in dataclasses.fields(plain):
            default = _MISSING if field.default is dataclasses.MISSING else field.default
            factory: Any = field.default_factory
            factory = msgspec.NODEFAULT if factory is dataclasses.MISSING else factory
            if field.init:
                fields.append(self._field(field.name, hints[field.name], default, factory))
            elif default is _MISSING and factory is msgspec.NODEFAULT:
                raise self._no(plain, f"its field {field.name} has init=False and no default")
        options = plain.__dataclass_params__
        return td.StructDef(tuple(fields), frozen=options.frozen and options.eq)

    def _key(self, plain: Any, name: str, hint: Any) -> td.FieldDesc:
        """A key of a TypedDict.

        With postponed annotations `__required_keys__` misses the wrappers (documentation of
        typing.TypedDict, `__optional_keys__`), so these have the last word.
        """
        required = name in plain.__required_keys__
        while (wrapper := _wrapper(hint)) in _REQUIREMENTS:
            required = {"Required": True, "NotRequired": False}.get(wrapper, required)
            hint = typing.get_args(hint)[0]
        return td.FieldDesc(name, self.describe(hint), required=required)

    def _field(
        self, name: str, annotation: Any, default: Any, factory: Any = msgspec.NODEFAULT
    ) -> td.FieldDesc:
        if typing.get_origin(annotation) is typing.Union or isinstance(annotation, types.UnionType):
            arguments = typing.get_args(annotation)
            if msgspec.UnsetType in arguments:  # "may be absent": the same as an open default
                rest = tuple(part for part in arguments if part is not msgspec.UnsetType)
                annotation = typing.Union[rest]  # noqa: UP007
        desc = self.describe(annotation)
        if default is _MISSING and factory is msgspec.NODEFAULT:
            return td.FieldDesc(name, desc)
        for kind in _EMPTY:
            if factory is kind or (type(default) is kind and not default):
                return td.FieldDesc(name, desc, required=False, factory=kind.__name__)
        if isinstance(default, enum.Enum):
            field = td.FieldDesc(name, desc, required=False, member=default.name or "")
            try:
                td.enum_of(field, self.types)
            except ValueError:
                return td.FieldDesc(name, desc, required=False)
            return field
        if _is_plain(default):
            return td.FieldDesc(name, desc, required=False, default=default)
        return td.FieldDesc(name, desc, required=False)

    def _enum(self, plain: Any) -> td.EnumDef:
        if issubclass(plain, enum.Flag) and not issubclass(plain, enum.IntFlag):
            # What Flag makes of unknown bits changed between versions of Python 3.11.
            raise self._no(plain, "take an IntFlag, or a set of members of an Enum")
        # Not ``for member in plain``: that leaves out aliases, and flags of no or of several bits.
        values = {type(member.value) for member in plain.__members__.values()}
        if values not in ({str}, {int}):
            raise self._no(plain, "values of an enum are all str or all int")
        if issubclass(plain, enum.IntFlag):
            kind = "IntFlag"
        elif issubclass(plain, int | str):
            kind = "IntEnum" if issubclass(plain, int) else "StrEnum"
        else:
            kind = "Enum"
        return td.EnumDef(
            kind, tuple((name, member.value) for name, member in plain.__members__.items())
        )

    def _hints(self, plain: Any) -> Iterable[tuple[str, Any]]:
        hints = self._evaluate(plain, lambda kind: typing.get_type_hints(kind, include_extras=True))
        return hints.items()  # type: ignore[no-any-return]

    def _evaluate(self, plain: Any, get: Callable[[Any], Any]) -> Any:
        try:
            return get(plain)
        except NameError as error:
            raise InterfaceError(
                f"{self._where}: {plain.__name__}: {error}; define it at the top of its module"
            ) from error
        except Exception as error:  # an annotation is code, it can fail in any way
            raise InterfaceError(
                f"{self._where}: {plain.__name__}: an annotation can't be evaluated: {error}"
            ) from error

    def _no(self, annotation: Any, why: str = _SUPPORTED) -> InterfaceError:
        name = str(annotation) if typing.get_args(annotation) else ""
        name = name or getattr(annotation, "__qualname__", None) or str(annotation)
        return InterfaceError(f"{self._where}: the type {name} can't cross the boundary; {why}")


def _placed(fields: Iterable[td.FieldDesc]) -> tuple[td.FieldDesc, ...]:
    """Fields that messages tell apart by their place.

    None before one that must be there may be left out, nor one whose default can't be described.
    """
    entries = list(fields)
    last = max((at for at, entry in enumerate(entries) if entry.open or entry.required), default=-1)
    return tuple(
        td.FieldDesc(entry.name, entry.type, entry.key) if at <= last else entry
        for at, entry in enumerate(entries)
    )


def _is_plain(value: Any) -> bool:
    """Whether a default can stand in a description as it is."""
    if type(value) is str:
        return len(value) <= MAX_TEXT and not any("\ud800" <= char <= "\udfff" for char in value)
    if type(value) is int:
        return -(2**63) <= value < 2**64
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) is bool


def _is_in(value: Any, known: Any) -> bool:
    try:
        return value in known
    except TypeError:  # not hashable: a Literal of strange values, for example
        return False


def _stands_for(annotation: Any) -> Any:
    """What a NewType or an alias stands for; anything else stands for itself.

    Aliases are those of Python 3.12's ``type Name = ...``, as numpy's NDArray is one there.
    """
    if isinstance(annotation, typing.NewType):
        return annotation.__supertype__
    origin = typing.get_origin(annotation)
    for alias in (annotation, origin):
        if type(alias).__name__ == "TypeAliasType":
            value = alias.__value__
            return value[typing.get_args(annotation)] if alias is origin else value
    return annotation


def _wrapper(hint: Any) -> str:
    return getattr(typing.get_origin(hint), "_name", None) or ""
