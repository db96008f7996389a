"""Functions to descriptions: what a declaration may look like, and what its errors say."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Annotated, Any, NewType

import msgspec
import pytest

from secgear.base import typedesc as td
from secgear.base.declare import describe_function
from secgear.base.functions import compile_function
from secgear.base.signature import Function, signature
from secgear.base.tee import Evidence
from secgear.errors import InterfaceError


class One(msgspec.Struct):
    x: int


class Two(msgspec.Struct):
    x: int


class Missing(LookupError):
    """Not there."""


def described(function: Callable[..., Any], *raises: type[Exception]) -> Function:
    return describe_function(function, raises).function


def test_a_declaration_reads_as_it_was_written() -> None:
    def f(a: int, /, b: str, c: float = 1.0, *, d: bool, e: bytes | None = None) -> dict[str, int]:
        """First line,
        still the first paragraph.

        Second paragraph.
        """

    function = described(f)
    assert signature(function) == (
        "f(a: int, /, b: str, c: float = ..., *, d: bool, e: bytes | None = ...) -> dict[str, int]"
    )
    assert function.doc == "First line, still the first paragraph."


def test_defaults_themselves_are_not_told() -> None:
    def f(secret: str = "hunter2") -> None: ...

    assert b"hunter2" not in msgspec.json.encode(described(f))


@pytest.mark.parametrize("kind", [Iterator[int], Iterable[int], Generator[int, None, None]])
def test_iterators_are_streams(kind: Any) -> None:
    def f(items):  # type: ignore[no-untyped-def]
        yield from items

    f.__annotations__ = {"items": kind, "return": kind}
    function = described(f)
    assert function.params[0].stream
    assert function.result_stream
    assert function.result == td.Basic("int")


def test_the_evidence_of_a_guest_can_be_returned() -> None:
    def attest(report_data: bytes) -> Evidence: ...

    assert described(attest).result == td.Named("Evidence")


Key = NewType("Key", bytes)


@pytest.mark.parametrize(
    "annotation",
    [Key, Key | None, NewType("Inner", Key), Annotated[bytes | None, "key"], Annotated[Key, "key"]],
)
def test_every_spelling_of_bytes_travels_out_of_band(annotation: Any) -> None:
    def f(items, data=b""):  # type: ignore[no-untyped-def]
        yield from items

    f.__annotations__ = {
        "items": Iterator[annotation],
        "data": annotation,
        "return": Iterator[annotation],
    }
    function, types, _ = describe_function(f)
    compiled = compile_function(function, types, {})
    large = b"x" * 200_000
    packed = compiled.arguments.encode({"data": large})
    assert len(packed.body) < 100
    attached = [bytearray(view) for view in packed.attachments]
    assert compiled.arguments.decode(packed.body, attached) == {"data": large}


def test_names_of_the_enclosing_function_are_known() -> None:
    class Local(msgspec.Struct):
        x: int

    def f(local: Local) -> list[Local]: ...

    assert described(f).result == td.Sequence("list", td.Named("Local"))


def test_a_wrapped_function_is_described_by_its_own_annotations() -> None:
    def noisy(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @noisy
    def f(a: int, *, b: str = "") -> None: ...

    assert signature(described(f)) == "f(a: int, *, b: str = ...) -> None"


def test_declared_exceptions_know_their_built_in_ancestor() -> None:
    def f() -> None: ...

    raises = {entry.name: entry.base for entry in described(f, Missing, OSError).raises}
    assert raises == {"Missing": "LookupError", "OSError": "OSError"}


_nothing: Iterator[int] = iter(())


def no_type(a) -> None: ...  # type: ignore[no-untyped-def]
def no_result(a: int): ...  # type: ignore[no-untyped-def]
def many(*args: int) -> None: ...
def named(**kwargs: int) -> None: ...
def unknown(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def strange(a: 1 / 0) -> None: ...  # type: ignore[valid-type]
def thread(a: list[object]) -> None: ...
def nested(a: list[Iterator[int]]) -> None: ...
def bare(a: Iterator) -> None: ...  # type: ignore[type-arg]
def optional_stream(a: Iterator[int] = _nothing) -> None: ...
def sent(a: int) -> Generator[int, str, None]: ...
def yields(a: int) -> list[int]:  # type: ignore[misc]
    yield a


def ambiguous(a: One | Two) -> None: ...
def confused(a: str | bytes) -> None: ...
def limited(a: Annotated[str, msgspec.Meta(ge=3)]) -> None: ...
def pattern(a: Annotated[str, msgspec.Meta(min_length=1)] | bytes) -> None: ...
def mangled(__a: int) -> None: ...
def größe() -> None: ...  # noqa: PLC2401
async def waits() -> None: ...
async def streams() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_type, "no_type: parameter a has no type"),
        (no_result, "no_result: the result has no type; write '-> None'"),
        (many, "many: *args and **kwargs can't cross"),
        (named, "named: *args and **kwargs can't cross"),
        (unknown, "unknown: name 'Nowhere' is not defined"),
        (strange, "strange: an annotation can't be evaluated: ZeroDivisionError"),
        (thread, "thread(a): the type object can't cross the boundary; supported are"),
        (nested, "nested(a): the type collections.abc.Iterator[int] can't cross"),
        (bare, "bare(a): a stream of what?"),
        (optional_stream, "optional_stream(a): a stream can't have a default"),
        (sent, "sent result: a generator that is sent values"),
        (yields, "yields: it yields, so its result is an Iterator[...]"),
        (ambiguous, "ambiguous(a): If a type union contains multiple Struct types"),
        (confused, "confused(a): Type unions may not contain more than one str-like type"),
        (limited, "limited(a): Can only set `ge` on a numeric type"),
        (pattern, "pattern(a): Type unions"),
        (mangled, "mangled: '__a' can't be a name"),
        (größe, "größe: 'größe' can't be a name: use plain ASCII identifiers"),
        (waits, "waits: async functions can't cross"),
        (streams, "streams: async functions can't cross"),
        (lambda: None, "'<lambda>' can't be a name"),
        (print, "only functions written with def"),
        (functools.partial(no_type, 1), "only functions written with def"),
    ],
)
def test_errors_name_the_function_and_what_to_do(function: Any, message: str) -> None:
    with pytest.raises(InterfaceError) as caught:
        describe_function(function)
    assert message in str(caught.value)


@pytest.mark.parametrize("raises", [[int], [KeyboardInterrupt], ["ValueError"], [StopIteration]])
def test_only_exceptions_that_can_travel_are_declared(raises: Any) -> None:
    def f() -> None: ...

    with pytest.raises(InterfaceError, match=r"f: .*raises="):
        describe_function(f, raises)
