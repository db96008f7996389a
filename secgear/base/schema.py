"""Python types out of a description: what the host gives and gets instead of the app's classes.

The description may come from a hostile image, so nothing in it is ever evaluated: names are
checked identifiers, and classes are made by msgspec, enum and typing from data alone. Regular
expressions (`Meta(pattern=...)`) are checked by the enclave only: one that a stranger wrote could
keep the host busy for ever.

A dataclass becomes a msgspec Struct, everything else what it was; `secgear.base.tee.Evidence` is
itself. A default that can't be
described (anything but plain values, members of enums and empty containers) becomes
`msgspec.UNSET`: such a field may be left out, and the enclave fills it in.
"""

from __future__ import annotations

import builtins
import datetime
import decimal
import enum
import importlib
import typing
import uuid
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Literal, NotRequired, Required

import msgspec

from secgear.base import typedesc as td
from secgear.base.describe import Describer
from secgear.base.interface import ErrorDesc, Function, Interface
from secgear.base.shared import Shared
from secgear.base.tee import Evidence
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
    "secgear.Shared": Shared,
}
_SEQUENCES: dict[str, Any] = {"list": list, "set": set, "frozenset": frozenset}
_MODULE = "secgear.enclave"
"""What made classes say they come from; there is no such module."""


class HostTypes:
    """The types and exceptions of an interface.

    namespace: the app's named types as attributes. errors: declared exceptions as attributes.
    provided: classes to use instead of made ones, by name, and with them the named types that
    their fields have; each must describe the same type.
    Raises InterfaceError when a provided class differs or a type can't be made here.
    """

    def __init__(self, interface: Interface, provided: Mapping[str, type] | None = None) -> None:
        self._definitions = interface.types
        functions = [*interface.ecalls.values(), *interface.ocalls.values()]
        declared = {entry.name: entry for function in functions for entry in function.raises}
        provided = dict(provided or {})
        for name in provided.keys() - interface.types.keys() - declared.keys():
            known = ", ".join(sorted({*interface.types, *declared})) or "none"
            raise InterfaceError(f"{name}: the app has no type of that name; it has {known}")
        self._classes: dict[str, Any] = self._adopt(
            {name: kind for name, kind in provided.items() if name in interface.types}
        )
        missing = dict(interface.types)
        for name, definition in interface.types.items():
            if name not in self._classes and (own := framework_class(name, definition)):
                self._classes[name] = own
            if name in self._classes:
                del missing[name]
        try:
            # Classes come first, and of these the enums, whose members are defaults of others.
            # Only when every class exists are the fields given their types: they may be recursive.
            for name in sorted(missing, key=lambda name: not isinstance(missing[name], td.EnumDef)):
                self._classes[name] = self._make(name, missing[name])
            for name, definition in missing.items():
                self._annotate(self._classes[name], definition)
            for function in functions:
                for desc in (function.result, *(param.type for param in function.params)):
                    msgspec.msgpack.Decoder(self.annotation(desc))
        except (TypeError, ValueError, RecursionError, NotImplementedError) as error:
            raise InterfaceError(f"{interface.name}: its types can't be made: {error}") from error
        self.namespace = SimpleNamespace(**self._classes)
        self.errors = SimpleNamespace(
            **{name: _exception(entry, provided.get(name)) for name, entry in declared.items()}
        )

    def annotation(self, desc: td.TypeDesc) -> Any:
        """The Python type of a description, for a msgspec decoder.

        Raises InterfaceError when it needs a package that is not installed.
        """
        match desc:
            case td.Basic(name):
                return _BASIC[name]
            case td.Limited(of, limits):
                rest: Any = {name: limits[name] for name in limits if name != "pattern"}
                inner = self.annotation(of)
                return typing.Annotated[inner, msgspec.Meta(**rest)] if rest else inner
            case td.Sequence("tuple", item):
                return tuple[self.annotation(item), ...]  # type: ignore[misc]
            case td.Sequence(kind, item):
                return _SEQUENCES[kind][self.annotation(item)]
            case td.Fixed(items):
                return tuple[tuple(map(self.annotation, items))]  # type: ignore[misc]
            case td.Dictionary(key, value):
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
                return self._classes[name]
        raise AssertionError(desc)

    def raises(self, function: Function) -> list[type[Exception]]:
        """The exception classes that `function` declares."""
        return [getattr(self.errors, entry.name) for entry in function.raises]

    def _adopt(self, provided: Mapping[str, Any]) -> dict[str, Any]:
        """The provided classes and the named types inside them, all of them checked."""
        found: dict[str, Any] = {}
        for name, kind in provided.items():
            describer = Describer(name)
            describer.describe(kind)
            if describer.classes.get(name) is not kind:
                raise InterfaceError(f"{name}: the class given for it is {kind!r}")
            for label, inner in describer.classes.items():
                wanted, own = self._definitions.get(label), describer.types[label]
                if wanted is None or _on_host(own) != _on_host(wanted):
                    raise InterfaceError(
                        f"{name}: the class given for {label} is "
                        f"{td.render_definition(label, own)}; the app has "
                        f"{td.render_definition(label, wanted) if wanted else 'no such type'}"
                    )
                if found.setdefault(label, provided.get(label, inner)) is not inner:
                    raise InterfaceError(f"{name}: two different classes are given for {label}")
        return found

    def _make(self, name: str, definition: td.TypeDef) -> Any:
        """The class, with names and defaults of its fields but not their types."""
        match definition:
            case td.EnumDef(kind, members):
                return getattr(enum, kind)(name, list(members), module=_MODULE)
            case td.DictDef(fields):
                keys = {
                    field.name: Required[Any] if field.required else NotRequired[Any]
                    for field in fields
                }
                return typing.TypedDict(name, keys)  # type: ignore[operator]
            case td.TupleDef(fields):
                made: Any = typing.NamedTuple(  # type: ignore[misc]
                    name, [(field.name, Any) for field in fields]
                )
                defaults = {
                    field.name: self._default(field) for field in fields if not field.required
                }
                made.__new__.__defaults__ = tuple(defaults.values())
                made._field_defaults = defaults
                return made
            case td.StructDef():
                return self._struct(name, definition)
        raise AssertionError(definition)

    def _struct(self, name: str, definition: td.StructDef) -> Any:
        fields: list[Any] = []
        for field in definition.fields:
            if field.required:
                fields.append((field.name, Any))
            elif field.factory:
                default = msgspec.field(default_factory=getattr(builtins, field.factory))
                fields.append((field.name, Any, default))
            else:
                fields.append((field.name, Any, self._default(field)))
        return msgspec.defstruct(
            name,
            fields,
            tag_field=definition.tag_field,
            tag=definition.tag,
            rename={field.name: field.key for field in definition.fields if field.key} or None,
            array_like=definition.array_like,
            forbid_unknown_fields=definition.forbid_unknown,
            frozen=definition.frozen,
            kw_only=td.keyword_only(definition),
            namespace={"__doc__": td.render_definition(name, definition)},
            module=_MODULE,
        )

    def _default(self, field: td.FieldDesc) -> Any:
        if field.member:
            return self._classes[td.enum_of(field, self._definitions)][field.member]
        if field.factory:
            return getattr(builtins, field.factory)()
        return field.default

    def _annotate(self, made: Any, definition: td.TypeDef) -> None:
        """Give a class the types of its fields, before msgspec looks: when a decoder is made."""
        annotations = {}
        for field in td.fields_of(definition):
            annotation = self.annotation(field.type)
            if field.open and isinstance(definition, td.StructDef):
                annotation = typing.Union[annotation, msgspec.UnsetType]  # noqa: UP007
            annotations[field.name] = annotation
        if annotations:
            made.__annotations__ = annotations


def framework_class(name: str, definition: td.TypeDef) -> type | None:
    """The framework's own class, where an app's interface has one: `Evidence` is what it is."""
    if name != Evidence.__name__:
        return None
    describer = Describer(name)
    describer.describe(Evidence)
    return Evidence if describer.types == {name: definition} else None


def _on_host(definition: td.TypeDef) -> td.TypeDef:
    """Without what the host leaves to the enclave."""
    if isinstance(definition, td.EnumDef):
        return definition
    fields = tuple(
        msgspec.structs.replace(field, type=_without_patterns(field.type))
        for field in definition.fields
    )
    return msgspec.structs.replace(definition, fields=fields)


def _without_patterns(desc: td.TypeDesc) -> td.TypeDesc:
    match desc:
        case td.Limited(of, limits):
            rest = {name: value for name, value in limits.items() if name != "pattern"}
            inner = _without_patterns(of)
            return td.Limited(inner, rest) if rest else inner
        case td.Sequence(kind, item):
            return td.Sequence(kind, _without_patterns(item))
        case td.Fixed(items):
            return td.Fixed(tuple(map(_without_patterns, items)))
        case td.Dictionary(key, value):
            return td.Dictionary(_without_patterns(key), _without_patterns(value))
        case td.Either(of):
            return td.either(map(_without_patterns, of))
        case _:
            return desc


def _ndarray(dtype: str | None) -> Any:
    numpy = _optional("numpy")
    if dtype is None:
        return numpy.ndarray
    scalar = numpy.bool_ if dtype == "bool" else getattr(numpy, dtype)
    return numpy.ndarray[Any, numpy.dtype[scalar]]


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InterfaceError(
            f"this app's interface uses {module}, which is not installed here; "
            "pip install 'secgear[data]'"
        ) from error


def _exception(entry: ErrorDesc, provided: Any) -> type[Exception]:
    """A class that is both EnclaveError and the built-in that the app's class is one of."""
    if provided is not None:
        if not (isinstance(provided, type) and issubclass(provided, Exception)):
            raise InterfaceError(f"{entry.name}: {provided!r} is given for it, not an exception")
        return provided
    base: Any = getattr(builtins, entry.base, None)
    bases: tuple[Any, ...] = (EnclaveError, base) if is_error(base) else (EnclaveError,)
    return type(entry.name, bases, {"__module__": _MODULE})


def is_error(base: Any) -> bool:
    """Whether a built-in exception can be raised with a text and nothing else, in any place."""
    if not (isinstance(base, type) and issubclass(base, Exception)) or base is Exception:
        return False
    if issubclass(base, StopIteration | StopAsyncIteration):
        return False
    try:
        type("Probe", (EnclaveError, base), {})("text")
    except TypeError:  # it wants other arguments (UnicodeDecodeError), or another layout
        return False
    return True
