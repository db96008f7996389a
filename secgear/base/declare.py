"""From a Python function to its description: where an app's interface comes from."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from secgear.base import typedesc as td
from secgear.base.describe import Describer, streamed
from secgear.base.signature import Described, ErrorDesc, Function, Param
from secgear.base.wellformed import EITHER, KEYWORD, MAX_TEXT, POSITIONAL, identifier
from secgear.errors import InterfaceError

# Flags of code objects (documentation of the module inspect): this needs nothing else of it.
_VARIABLE = 0x04 | 0x08
_GENERATOR = 0x20
_ASYNCHRONOUS = 0x80 | 0x200
_BYTES: dict[str, Any] = {"bytes": bytes, "bytearray": bytearray, "memoryview": memoryview}


def describe_function(
    function: Callable[..., Any], raises: Iterable[type[Exception]] = ()
) -> Described:
    """Describe a function by its annotations; one in a wrapper (`functools.wraps`) by its own.

    raises: exception classes that may cross the boundary.
    Raises InterfaceError naming the function, the parameter and what is supported.
    """
    return _Declaration(function).describe(tuple(raises))


class _Declaration:
    """One function on its way to a description."""

    def __init__(self, function: Any) -> None:
        self._name = getattr(function, "__name__", "")
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        self._code: Any = getattr(function, "__code__", None)
        if self._code is None or not isinstance(self._name, str):
            raise InterfaceError(
                f"{function!r}: only functions written with def can cross the boundary"
            )
        self._function = function
        self._types: dict[str, Any] = {}
        self._definitions: dict[str, td.TypeDef] = {}

    def describe(self, raises: tuple[Any, ...]) -> Described:
        name, code = self._name, self._code
        self._check_name(name)
        if code.co_flags & _ASYNCHRONOUS:
            raise InterfaceError(
                f"{name}: async functions can't cross the boundary; write a plain one (it may "
                "return an iterator), the host awaits it through enclave.aio"
            )
        if code.co_flags & _VARIABLE:
            raise InterfaceError(f"{name}: *args and **kwargs can't cross; name every parameter")
        hints = self._hints()
        params = self._params(hints)
        if "return" not in hints:
            raise InterfaceError(
                f"{name}: the result has no type; write '-> None' if there is none"
            )
        result, stream = self._annotation("return", hints["return"])
        if code.co_flags & _GENERATOR and not stream:
            raise InterfaceError(f"{name}: it yields, so its result is an Iterator[...]")
        described = Function(
            name,
            params,
            result,
            stream,
            tuple(self._error(kind) for kind in raises),
            _first_paragraph(self._function.__doc__),
        )
        return Described(described, self._types, self._definitions)

    def _check_name(self, label: str) -> None:
        try:
            identifier(label)
        except ValueError as error:
            raise InterfaceError(f"{self._name}: {error}") from error

    def _params(self, hints: dict[str, Any]) -> tuple[Param, ...]:
        name, code = self._name, self._code
        count = code.co_argcount
        names = code.co_varnames[: count + code.co_kwonlyargcount]
        optional = {*names[count - len(self._function.__defaults__ or ()) : count]}
        optional |= set(self._function.__kwdefaults__ or ())
        params = []
        for position, label in enumerate(names):
            self._check_name(label)
            if label not in hints:
                raise InterfaceError(
                    f"{name}: parameter {label} has no type; the annotations are the interface"
                )
            desc, stream = self._annotation(label, hints[label])
            if stream and label in optional:
                raise InterfaceError(f"{name}({label}): a stream can't have a default")
            kind = POSITIONAL if position < code.co_posonlyargcount else EITHER
            kind = KEYWORD if position >= count else kind
            params.append(Param(label, desc, kind, label not in optional, stream))
        return tuple(params)

    def _annotation(self, label: str, annotation: Any) -> tuple[td.TypeDesc, bool]:
        where = f"{self._name} result" if label == "return" else f"{self._name}({label})"
        annotation, stream = streamed(where, annotation)
        describer = Describer(where)
        try:
            desc = describer.describe(annotation)
        except RecursionError as error:
            raise InterfaceError(f"{where}: its types are nested too deeply") from error
        for name, definition in describer.types.items():
            if self._definitions.setdefault(name, definition) != definition:
                raise InterfaceError(f"{where}: two different types are called {name}")
        try:
            msgspec.msgpack.Decoder(annotation)
        except Exception as error:
            # Whatever msgspec can't tell apart in a message (two structs without tags, a pattern
            # that is none, …) it says when a decoder is made, in exceptions of several classes.
            raise InterfaceError(f"{where}: {error}") from error
        self._types[label] = _buffer(desc) if td.top_level_bytes(desc) else annotation
        return desc, stream

    def _hints(self) -> dict[str, Any]:
        function = self._function
        try:
            return typing.get_type_hints(function, localns=_around(function), include_extras=True)
        except NameError as error:
            raise InterfaceError(
                f"{self._name}: {error}; annotations must name types that are defined where the "
                "function is, at run time too (not only under TYPE_CHECKING)"
            ) from error
        except Exception as error:  # an annotation is code, it can fail in any way
            raise InterfaceError(
                f"{self._name}: an annotation can't be evaluated: {type(error).__name__}: {error}"
            ) from error

    def _error(self, kind: Any) -> ErrorDesc:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise InterfaceError(f"{self._name}: raises= takes exception classes, not {kind!r}")
        if issubclass(kind, StopIteration | StopAsyncIteration):
            raise InterfaceError(
                f"{self._name}: {kind.__name__} ends iterators, it can't be declared with raises="
            )
        self._check_name(kind.__name__)
        base = next(ancestor for ancestor in kind.__mro__ if ancestor.__module__ == "builtins")
        return ErrorDesc(kind.__name__, base.__name__)


def _first_paragraph(doc: str | None) -> str:
    lines = (doc or "").strip().split("\n\n", 1)[0].split()
    text = "".join(char if char.isprintable() else " " for char in " ".join(lines))
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def _buffer(desc: td.TypeDesc) -> Any:
    """The plain type of what travels out of band, however it was spelled (NewType, Annotated)."""
    if isinstance(desc, td.Either):
        return next(_buffer(part) for part in desc.of if part != td.Basic("None")) | None
    return _BYTES[td.render(desc)]


def _around(function: Any) -> dict[str, Any] | None:
    """Names of the function that `function` is being defined in, if it is inside one."""
    outer, inside, _ = function.__qualname__.rpartition(".<locals>.")
    frame = sys._getframe(1) if inside else None
    while frame is not None and frame.f_code.co_qualname != outer:
        frame = frame.f_back
    return dict(frame.f_locals) if frame is not None else None
