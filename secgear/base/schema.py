"""Python types out of a description: what the host gives and gets instead of the app's classes.

The description may come from a hostile image, so nothing in it is ever evaluated: names are
checked identifiers, and classes are made by msgspec, enum and typing from data alone.
"""

from __future__ import annotations

import builtins
import datetime
import decimal
import enum
import typing
import uuid
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Literal, NotRequired, Required

import msgspec

from secgear.base import typedesc as td
from secgear.base.describe import Describer
from secgear.base.interface import ErrorDesc, Function, Interface
from secgear.errors import EnclaveError, InterfaceError

_BASIC: dict[str, Any] = {
    "None": type(None),
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "timedelta": datetime.timedelta,
    "Decimal": decimal.Decimal,
    "UUID": uuid.UUID,
    "Any": Any,
}
_SEQUENCES: dict[str, Any] = {"list": list, "set": set, "frozenset": frozenset}
_FACTORIES: dict[str, Any] = {"list": list, "dict": dict, "set": set}


class HostTypes:
    """The types and exceptions of an interface.

    namespace: the app's named types as attributes. errors: declared exceptions as attributes.
    provided: classes to use instead of made ones, by name; each must describe the same type.
    Raises InterfaceError when a provided class differs or a type can't be made here.
    """

    def __init__(self, interface: Interface, provided: Mapping[str, type] | None = None) -> None:
        self._definitions = interface.types
        self._made: dict[str, Any] = {}
        self._making: set[str] = set()
        self._forward: set[str] = set()
        for name, kind in (provided or {}).items():
            if name in interface.types:
                self._check_provided(name, kind)
                self._made[name] = kind
        for name in interface.types:
            self._named(name)
        for made in self._made.values():
            # Recursive types name each other; msgspec resolves such names in the class itself.
            if isinstance(made, msgspec.StructMeta):
                for name in self._forward:
                    setattr(made, _forward_name(name), self._made[name])
        self.namespace = SimpleNamespace(**self._made)
        errors: dict[str, Any] = {}
        functions = [*interface.ecalls.values(), *interface.ocalls.values()]
        for entry in (entry for function in functions for entry in function.raises):
            given = (provided or {}).get(entry.name)
            errors.setdefault(entry.name, given or _exception(entry))
        self.errors = SimpleNamespace(**errors)

    def annotation(self, desc: td.TypeDesc) -> Any:
        """The Python type of a description, for a msgspec decoder."""
        match desc:
            case td.Basic(name):
                return _BASIC[name]
            case td.Limited(of, limits):
                return typing.Annotated[self.annotation(of), msgspec.Meta(**limits)]  # type: ignore[arg-type]
            case td.Sequence("tuple", item):
                return tuple[self.annotation(item), ...]  # type: ignore[misc]
            case td.Sequence(kind, item):
                return _SEQUENCES[kind][self.annotation(item)]
            case td.Fixed(items):
                return tuple[tuple(map(self.annotation, items))]  # type: ignore[misc]
            case td.Mapping(key, value):
                return dict[self.annotation(key), self.annotation(value)]  # type: ignore[misc]
            case td.Either(of):
                return typing.Union[tuple(map(self.annotation, of))]  # noqa: UP007
            case td.Exactly(values):
                return Literal[values]
            case td.NDArray(dtype):
                return _ndarray(dtype)
            case td.Arrow(kind):
                return getattr(_optional("pyarrow"), kind)
            case td.Named(name):
                return self._named(name)
        raise AssertionError(desc)

    def raises(self, function: Function) -> Iterable[type[Exception]]:
        """The exception classes that `function` declares."""
        return [getattr(self.errors, entry.name) for entry in function.raises]

    def _named(self, name: str) -> Any:
        if name in self._making:
            self._forward.add(name)
            return typing.ForwardRef(_forward_name(name))
        if name not in self._made:
            self._making.add(name)
            self._made[name] = self._make(name, self._definitions[name])
            self._making.remove(name)
        return self._made[name]

    def _make(self, name: str, definition: td.TypeDef) -> Any:
        match definition:
            case td.EnumDef(kind, members):
                return getattr(enum, kind)(name, list(members))
            case td.DictDef(fields):
                return typing.TypedDict(  # type: ignore[operator]
                    name,
                    {
                        field.name: (Required if field.required else NotRequired)[
                            self.annotation(field.type)
                        ]
                        for field in fields
                    },
                )
            case td.TupleDef(fields):
                made = typing.NamedTuple(  # type: ignore[misc]
                    name, [(field.name, self.annotation(field.type)) for field in fields]
                )
                defaults = [field.default for field in fields if not field.required]
                made.__new__.__defaults__ = tuple(defaults)  # type: ignore[attr-defined]
                made._field_defaults = {
                    field.name: field.default for field in fields if not field.required
                }
                return made
            case td.StructDef():
                return self._struct(name, definition)
        raise AssertionError(definition)

    def _struct(self, name: str, definition: td.StructDef) -> Any:
        fields: list[Any] = []
        rename = {}
        for field in definition.fields:
            annotation = self.annotation(field.type)
            if field.key:
                rename[field.name] = field.key
            if field.required:
                fields.append((field.name, annotation))
            elif field.factory:
                default = msgspec.field(default_factory=_FACTORIES[field.factory])
                fields.append((field.name, annotation, default))
            elif field.default is not msgspec.UNSET:
                fields.append((field.name, annotation, field.default))
            else:
                fields.append((field.name, annotation | msgspec.UnsetType, msgspec.UNSET))
        return msgspec.defstruct(
            name,
            fields,
            tag_field=definition.tag_field,
            tag=definition.tag,
            rename=rename or None,
            array_like=definition.array_like,
            forbid_unknown_fields=definition.forbid_unknown,
            kw_only=False,
            namespace={"__doc__": td.render_definition(name, definition)},
            module="secgear.enclave",
        )

    def _check_provided(self, name: str, kind: type) -> None:
        describer = Describer(name)
        describer.describe(kind)
        own = describer.types.get(kind.__name__)
        wanted = self._definitions[name]
        if own != wanted and _shape(own) != _shape(wanted):
            raise InterfaceError(
                f"{name}: the class given for it is "
                f"{td.render_definition(name, own) if own else kind!r}, the app has "
                f"{td.render_definition(name, wanted)}"
            )


def _forward_name(name: str) -> str:
    return f"_secgear_{name}"


def _shape(definition: td.TypeDef | None) -> Any:
    """What of a definition matters on the wire."""
    if isinstance(definition, td.StructDef):
        return msgspec.structs.replace(definition, dataclass=False)
    return definition


def _ndarray(dtype: str | None) -> Any:
    numpy = _optional("numpy")
    if dtype is None:
        return numpy.ndarray
    scalar = numpy.bool_ if dtype == "bool" else getattr(numpy, dtype)
    return numpy.ndarray[Any, numpy.dtype[scalar]]


def _optional(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InterfaceError(
            f"this app's interface uses {module}, which is not installed here; "
            "pip install 'secgear[data]'"
        ) from error


def _exception(entry: ErrorDesc) -> type[Exception]:
    """A class that is both EnclaveError and the built-in that the app's class is one of."""
    base = getattr(builtins, entry.base, Exception)
    bases: tuple[type, ...] = (EnclaveError,)
    if isinstance(base, type) and issubclass(base, Exception) and base is not Exception:
        bases = (EnclaveError, base)
    try:
        return type(entry.name, bases, {"__module__": "secgear.enclave"})
    except TypeError:  # the built-in's layout does not go with ours
        return type(entry.name, (EnclaveError,), {"__module__": "secgear.enclave"})
