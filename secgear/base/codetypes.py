"""An interface's types as Python source: annotations, and the classes that they name."""

from __future__ import annotations

import builtins
import enum
from collections.abc import Mapping

import msgspec

from secgear.base import typedesc as td
from secgear.base.codetext import INDENT, Names, docstring, literal, text, wrapped
from secgear.base.interface import Interface
from secgear.base.schema import framework_class, is_error

_HOMES = {
    "Any": "typing",
    "datetime": "datetime",
    "date": "datetime",
    "time": "datetime",
    "timedelta": "datetime",
    "Decimal": "decimal",
    "UUID": "uuid",
}
_QUALIFIED = frozenset({"datetime", "decimal", "uuid"})
_TUPLE_METHODS = frozenset({"count", "index"})
_EMPTY = {"tuple": "()", "bytes": 'b""', "list": "[]", "dict": "{}"}


class TypeWriter:
    """Writes the types of one module.

    members: names of fields, methods and parameters. A class that has one of them, or the name of
    a built-in, gets a second, private name, because where that member is in scope, or before the
    class is defined, the first means something else.
    stub: whether defaults are written as ``...``.
    """

    def __init__(
        self, interface: Interface, names: Names, members: frozenset[str], *, stub: bool
    ) -> None:
        self._stub = stub
        self._types = interface.types
        functions = [*interface.ecalls.values(), *interface.ocalls.values()]
        self._errors = {
            entry.name: entry.base for function in functions for entry in function.raises
        }
        self._names = names
        self._second = {
            name: names.private(name)
            for name in sorted(interface.types)
            if name in members or hasattr(builtins, name)
        }

    def write(self, desc: td.TypeDesc) -> str:
        """The type as an annotation."""
        names = self._names
        match desc:
            case td.Basic(name):
                return self._basic(name)
            case td.Limited(of, limits):
                return self._limited(of, limits)
            case td.Sequence(kind, item):
                more = ", ..." if kind == "tuple" else ""
                return f"{names.builtin(kind)}[{self.write(item)}{more}]"
            case td.Fixed(items):
                inside = ", ".join(map(self.write, items)) or "()"
                return f"{names.builtin('tuple')}[{inside}]"
            case td.Dictionary(key, value):
                return f"{names.builtin('dict')}[{self.write(key)}, {self.write(value)}]"
            case td.Either(of):
                return " | ".join(map(self.write, of))
            case td.Exactly(values):
                inside = ", ".join(map(literal, values))
                return f"{names.use('typing', 'Literal')}[{inside}]"
            case td.NDArray(dtype):
                return f"{names.use('numpy.typing')}.NDArray[{self._scalar(dtype)}]"
            case td.Arrow(kind):
                return f"{names.use('pyarrow')}.{kind}"
            case td.Named(name):
                return self._second.get(name, name)
        raise AssertionError(desc)

    def _basic(self, name: str) -> str:
        if name == "None":
            return name
        if name == td.SHARED.name:
            return f"{self._names.use('secgear')}.Shared"
        home = _HOMES.get(name)
        if home in _QUALIFIED:
            return f"{self._names.use(home)}.{name}"
        return self._names.use(home, name) if home else self._names.builtin(name)

    def _limited(self, of: td.TypeDesc, limits: Mapping[str, object]) -> str:
        """Patterns stay with the enclave, see `schema`."""
        inner = [f"{name}={literal(limits[name])}" for name in sorted(limits) if name != "pattern"]
        if not inner:
            return self.write(of)
        meta = f"{self._names.use('msgspec')}.Meta({', '.join(inner)})"
        return f"{self._names.use('typing', 'Annotated')}[{self.write(of)}, {meta}]"

    def _scalar(self, dtype: str | None) -> str:
        if dtype is None:
            return self._names.use("typing", "Any")
        return f"{self._names.use('numpy')}.{'bool_' if dtype == 'bool' else dtype}"

    def classes(self) -> list[str]:
        """Names of the classes that the module defines."""
        errors = sorted(name for name, base in self._errors.items() if name != base)
        return [*sorted(self._types), *errors]

    def definitions(self) -> list[str]:
        """Class statements; enums first, because defaults of others are their members."""
        lines = []
        for name in sorted(self._types, key=lambda name: (not self._is_enum(name), name)):
            own = framework_class(name, self._types[name])
            if own is not None:
                lines += ["", f"{name} = {self._names.use(own.__module__, name)}", ""]
                continue
            match self._types[name]:
                case td.EnumDef() as definition:
                    statement = self._enum(name, definition)
                case td.StructDef() as definition:
                    statement = self._struct(name, definition)
                case td.DictDef(fields):
                    statement = self._keys(name, fields)
                case td.TupleDef(fields):
                    statement = self._tuple(name, fields)
            lines += ["", *statement, ""]
            if name in self._second:
                lines += ["", f"{self._second[name]} = {name}", ""]
        for name, base in sorted(self._errors.items()):
            if name != base:
                lines += ["", *self._error(name, base), ""]
        return lines

    def _is_enum(self, name: str) -> bool:
        return isinstance(self._types[name], td.EnumDef)

    def _enum(self, name: str, definition: td.EnumDef) -> list[str]:
        kind = definition.kind
        return [
            f"class {name}({self._names.use('enum', kind)}):",
            *docstring([f"The app's enumeration {name}."], INDENT),
            "",
            *(
                f"{INDENT}{member} = {literal(value)}{_hiding(kind, member)}"
                for member, value in definition.members
            ),
        ]

    def _struct(self, name: str, definition: td.StructDef) -> list[str]:
        options = [f"{self._names.use('msgspec')}.Struct"]
        options += ["frozen=True"] * definition.frozen
        if definition.tag is not None:
            options.append(f"tag_field={literal(definition.tag_field)}")
            options.append(f"tag={literal(definition.tag)}")
        options += ["array_like=True"] * definition.array_like
        options += ["forbid_unknown_fields=True"] * definition.forbid_unknown
        options += ["kw_only=True"] * td.keyword_only(definition)
        renamed = {field.name: field.key for field in definition.fields if field.key}
        if renamed:
            inside = ", ".join(f"{text(key)}: {text(value)}" for key, value in renamed.items())
            options.append(f"rename={{{inside}}}")
        fields = [f"{INDENT}{field.name}: {self._field(field)}" for field in definition.fields]
        return [
            *wrapped(f"class {name}(", options, "):"),
            *docstring([f"The app's type {name}."], INDENT),
            *(["", *fields] if fields else []),
        ]

    def _field(self, field: td.FieldDesc) -> str:
        kind = self.write(field.type)
        if field.required:
            return kind
        if field.open:
            kind += f" | {self._names.use('msgspec')}.UnsetType"
        if self._stub:
            return f"{kind} = ..."
        if field.factory in {"", "tuple", "frozenset", "bytes"}:
            return f"{kind} = {self._default(field)}"
        factory = self._names.builtin(field.factory)
        return f"{kind} = {self._names.use('msgspec')}.field(default_factory={factory})"

    def _default(self, field: td.FieldDesc) -> str:
        if field.member:
            name = td.enum_of(field, self._types)
            return f"{self._second.get(name, name)}.{field.member}"
        if field.factory:
            return _EMPTY.get(field.factory, f"{self._names.builtin(field.factory)}()")
        if field.default is msgspec.UNSET:
            return f"{self._names.use('msgspec')}.UNSET"
        return literal(field.default)

    def _keys(self, name: str, fields: tuple[td.FieldDesc, ...]) -> list[str]:
        optional = (
            self._names.use("typing", "NotRequired")
            if any(not field.required for field in fields)
            else ""
        )
        lines = []
        for field in fields:
            kind = self.write(field.type)
            lines.append(
                f"{INDENT}{field.name}: {kind if field.required else f'{optional}[{kind}]'}"
            )
        return [
            f"class {name}({self._names.use('typing', 'TypedDict')}):",
            *docstring([f"The app's type {name}."], INDENT),
            *(["", *lines] if lines else []),
        ]

    def _tuple(self, name: str, fields: tuple[td.FieldDesc, ...]) -> list[str]:
        lines = []
        for field in fields:
            default = "" if field.required else f" = {self._default(field)}"
            # Nobody changes the one list or dict that all tuples share: calls only read it.
            shared = "  # noqa: RUF012" if default.endswith(("]", "}", "set()")) else ""
            if default and self._stub:
                default, shared = " = ...", ""
            # A field may hide a method of tuple; that is the app's choice, not an error here.
            hides = "  # type: ignore[assignment]" if field.name in _TUPLE_METHODS else ""
            lines.append(f"{INDENT}{field.name}: {self.write(field.type)}{default}{hides}{shared}")
        return [
            f"class {name}({self._names.use('typing', 'NamedTuple')}):",
            *docstring([f"The app's type {name}."], INDENT),
            *(["", *lines] if lines else []),
        ]

    def _error(self, name: str, base: str) -> list[str]:
        bases = [self._names.use("secgear.errors", "EnclaveError")]
        if is_error(getattr(builtins, base, None)):
            bases.append(self._names.builtin(base))
        return [
            f"class {name}({', '.join(bases)}):",
            *docstring([f"The app's exception {name}."], INDENT),
        ]


def _hiding(kind: str, member: str) -> str:
    """What type checkers must be told of a member that hides an attribute of its enum's base."""
    hides = any(member in vars(base) for base in getattr(enum, kind).__mro__)
    return "  # type: ignore[assignment, misc, override, unused-ignore]" if hides else ""
