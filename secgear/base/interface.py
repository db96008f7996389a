"""The interface of an app: what can be called, with which types, as data with a digest.

The type annotations of an app are its interface definition. Both sides compare the digest before
the first call, so a host that was written against another version is refused before it can send
something that would be misunderstood.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from secgear.base import typedesc as td
from secgear.base.describe import STREAMS, Describer, hints_of
from secgear.base.typedesc import TypeDef, TypeDesc
from secgear.errors import ArgumentError, InterfaceError

MAX_BYTES = 1 << 20
"""Largest description that is read."""

RESERVED = frozenset(
    {
        "aio",
        "alive",
        "call",
        "close",
        "errors",
        "image",
        "interface",
        "layers",
        "options",
        "pid",
        "shared",
        "stats",
        "submit",
        "switchless",
        "tee",
        "types",
    }
)
"""Names that the handle of an enclave uses, or will; no ECALL may have them."""

POSITIONAL, EITHER, KEYWORD = "positional", "either", "keyword"


class Param(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A parameter. kind: how it may be passed. stream: `type` is that of the items."""

    name: str
    type: TypeDesc
    kind: str = EITHER
    required: bool = True
    stream: bool = False


class ErrorDesc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A declared exception. base: the nearest built-in class that it is one of."""

    name: str
    base: str


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An ECALL or OCALL. result_stream: `result` is the type of the items."""

    name: str
    params: tuple[Param, ...]
    result: TypeDesc
    result_stream: bool = False
    raises: tuple[ErrorDesc, ...] = ()
    doc: str = ""


class Described(NamedTuple):
    """A Python function as the interface sees it.

    types: Python type of each parameter by name, and of the result under ``return``; of the items
    where it is a stream. definitions: the named types it uses.
    """

    function: Function
    types: Mapping[str, Any]
    definitions: Mapping[str, TypeDef]


class Interface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All functions of an app and the named types that they use."""

    name: str
    version: str
    ecalls: dict[str, Function]
    ocalls: dict[str, Function]
    types: dict[str, TypeDef]

    @classmethod
    def gather(
        cls, name: str, version: str, ecalls: Iterable[Described], ocalls: Iterable[Described]
    ) -> Interface:
        """The interface of these functions.

        Raises InterfaceError when two different types have the same name.
        """
        ecalls, ocalls = list(ecalls), list(ocalls)
        types: dict[str, TypeDef] = {}
        for entry in [*ecalls, *ocalls]:
            for label, definition in entry.definitions.items():
                if types.setdefault(label, definition) != definition:
                    raise InterfaceError(f"{name}: two different types are called {label}")
        return cls(
            name,
            version,
            {entry.function.name: entry.function for entry in ecalls},
            {entry.function.name: entry.function for entry in ocalls},
            types,
        )

    def to_json(self) -> bytes:
        """The canonical form: sorted keys, no spaces, UTF-8."""
        return _canonical(msgspec.to_builtins(self))

    @classmethod
    def from_json(cls, data: bytes) -> Interface:
        """Read what `to_json` wrote. Raises InterfaceError for anything that does not make sense."""
        if len(data) > MAX_BYTES:
            raise InterfaceError(f"an interface of {len(data)} bytes is over {MAX_BYTES}")
        try:
            interface = _decoder.decode(data)
            interface._check()
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise InterfaceError(f"not an interface: {error}") from error
        return interface

    def digest(self) -> bytes:
        """SHA-384 of what both sides must agree on: everything but documentation and version."""
        plain = msgspec.to_builtins(self)
        del plain["version"]
        for functions in (plain["ecalls"], plain["ocalls"]):
            for function in functions.values():
                function.pop("doc", None)
        return hashlib.sha384(_canonical(plain)).digest()

    def _check(self) -> None:
        for label in self.types:
            _check_identifier(label)
        for definition in self.types.values():
            self._check_definition(definition)
        for functions in (self.ecalls, self.ocalls):
            for key, function in functions.items():
                if key != function.name:
                    raise ValueError(f"{key} is called {function.name}")
                self._check_function(function)
        for key in self.ecalls:
            if key in RESERVED or key.startswith("_") or key in self.ocalls:
                raise ValueError(f"the name {key} can't be used")

    def _check_definition(self, definition: TypeDef) -> None:
        if isinstance(definition, td.EnumDef):
            if definition.kind not in td.ENUMS or not definition.members:
                raise ValueError("malformed enum")
            for name, _ in definition.members:
                _check_identifier(name)
            return
        seen = set()
        for field in definition.fields:
            _check_identifier(field.name)
            if field.name in seen or field.factory not in {"", "list", "dict", "set"}:
                raise ValueError(f"malformed field {field.name}")
            seen.add(field.name)
            td.check(field.type, self.types)

    def _check_function(self, function: Function) -> None:
        _check_identifier(function.name)
        names = set()
        for param in function.params:
            _check_identifier(param.name)
            if param.name in names or param.kind not in {POSITIONAL, EITHER, KEYWORD}:
                raise ValueError(f"{function.name}: malformed parameter {param.name}")
            names.add(param.name)
            td.check(param.type, self.types)
        td.check(function.result, self.types)
        for error in function.raises:
            _check_identifier(error.name)
            _check_identifier(error.base)


_decoder = msgspec.json.Decoder(Interface)


def check_name(name: str) -> None:
    """Raise InterfaceError for an ECALL name that the handle of an enclave needs for itself."""
    if name in RESERVED or name.startswith("_"):
        raise InterfaceError(
            f"{name}: this name belongs to the enclave's handle (enclave.{name}); "
            "call the ECALL something else"
        )


def describe_function(
    function: Callable[..., Any], raises: Iterable[type[Exception]] = ()
) -> Described:
    """Describe a function by its annotations.

    Raises InterfaceError naming the function, the parameter and what is supported.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        raise InterfaceError(f"{function!r}: only plain functions can cross the boundary")
    name = code.co_name
    if code.co_flags & 0x0C:
        raise InterfaceError(f"{name}: *args and **kwargs can't cross; name every parameter")
    hints = hints_of(function, name)
    count, keywords = code.co_argcount, code.co_kwonlyargcount
    names = code.co_varnames[: count + keywords]
    optional = set(names[count - len(function.__defaults__ or ()) : count])  # type: ignore[attr-defined]
    optional |= set(function.__kwdefaults__ or ())  # type: ignore[attr-defined]
    types: dict[str, Any] = {}
    definitions: dict[str, TypeDef] = {}
    params = []
    for position, label in enumerate(names):
        if label not in hints:
            raise InterfaceError(
                f"{name}: parameter {label} has no type; the annotations are the interface"
            )
        desc, stream = _annotation(f"{name}({label})", hints[label], types, label, definitions)
        if stream and label in optional:
            raise InterfaceError(f"{name}({label}): a stream can't have a default")
        kind = KEYWORD if position >= count else EITHER
        kind = POSITIONAL if position < code.co_posonlyargcount else kind
        params.append(Param(label, desc, kind, label not in optional, stream))
    if "return" not in hints:
        raise InterfaceError(f"{name}: the result has no type; write '-> None' if there is none")
    result, stream = _annotation(f"{name} result", hints["return"], types, "return", definitions)
    described = Function(
        name,
        tuple(params),
        result,
        stream,
        tuple(_error(name, kind) for kind in raises),
        _first_paragraph(function.__doc__),
    )
    return Described(described, types, definitions)


def _annotation(
    where: str,
    annotation: Any,
    types: dict[str, Any],
    label: str,
    definitions: dict[str, TypeDef],
) -> tuple[TypeDesc, bool]:
    stream = typing.get_origin(annotation) in STREAMS
    if stream:
        annotation = typing.get_args(annotation)[0]
    elif annotation in STREAMS:
        raise InterfaceError(f"{where}: a stream of what? Write Iterator[...] with the item's type")
    describer = Describer(where)
    desc = describer.describe(annotation)
    types[label] = annotation
    for name, definition in describer.types.items():
        if definitions.setdefault(name, definition) != definition:
            raise InterfaceError(f"{where}: two different types are called {name}")
    return desc, stream


def _error(function: str, kind: Any) -> ErrorDesc:
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        raise InterfaceError(f"{function}: raises= takes exception classes, not {kind!r}")
    base = next(ancestor for ancestor in kind.__mro__ if ancestor.__module__ == "builtins")
    return ErrorDesc(kind.__name__, base.__name__)


def _first_paragraph(doc: str | None) -> str:
    lines = (doc or "").strip().split("\n\n", 1)[0].splitlines()
    return " ".join(line.strip() for line in lines)[:1000]


def _check_identifier(name: str) -> None:
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name) or len(name) > 128:
        raise ValueError(f"{name[:128]!r} can't be a name")


def _canonical(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def bind(function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, as Python would bind them.

    Raises ArgumentError naming what is missing, unknown or too much.
    """
    values: dict[str, Any] = {}
    position = 0
    rest = dict(kwargs)
    for param in function.params:
        name = param.name
        if param.kind != KEYWORD and position < len(args):
            if name in rest and param.kind != POSITIONAL:
                raise ArgumentError(f"{function.name}: {name} is given twice; {signature(function)}")
            values[name] = args[position]
            position += 1
        elif name in rest and param.kind != POSITIONAL:
            values[name] = rest.pop(name)
        elif param.required:
            raise ArgumentError(f"{function.name}: {name} is missing; {signature(function)}")
    if position < len(args):
        raise ArgumentError(
            f"{function.name}: {len(args)} arguments by position are too many; {signature(function)}"
        )
    if rest:
        unknown = ", ".join(sorted(rest))
        raise ArgumentError(f"{function.name}: no parameter {unknown}; {signature(function)}")
    return values


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


def diff(mine: Interface, theirs: Interface) -> list[str]:
    """What differs, in lines: ``-`` what the first has, ``+`` what the second has."""
    lines = []
    for label, left, right in (
        ("", mine.ecalls, theirs.ecalls),
        ("ocall ", mine.ocalls, theirs.ocalls),
    ):
        for name in sorted({*left, *right}):
            lines += _difference(
                label + _line(left[name]) if name in left else None,
                label + _line(right[name]) if name in right else None,
            )
    for name in sorted({*mine.types, *theirs.types}):
        one, other = mine.types.get(name), theirs.types.get(name)
        if one != other:
            lines += [f"- {td.render_definition(name, one)}"] if one is not None else []
            lines += [f"+ {td.render_definition(name, other)}"] if other is not None else []
    if not lines and mine.name != theirs.name:
        lines = [f"- app {mine.name}", f"+ app {theirs.name}"]
    return lines


def _line(function: Function) -> str:
    raises = ", ".join(error.name for error in function.raises)
    return signature(function) + (f" raises {raises}" if raises else "")


def _difference(one: str | None, other: str | None) -> list[str]:
    if one == other:
        return []
    return ([f"- {one}"] if one else []) + ([f"+ {other}"] if other else [])


def top_level_bytes(desc: TypeDesc) -> bool:
    """Whether a type is bytes-like, or that or None, so that its value may travel out of band."""
    if isinstance(desc, td.Either):
        kinds = {part.name for part in desc.of if isinstance(part, td.Basic)}
        return len(desc.of) == 2 and "None" in kinds and bool(kinds & td.BYTES)
    return isinstance(desc, td.Basic) and desc.name in td.BYTES
