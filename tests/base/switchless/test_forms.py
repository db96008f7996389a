"""The fast form of a function, and how large its types let its arguments be."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear import Shared
from secgear.base.interface import Interface, describe_function
from secgear.base.switchless.forms import Form, Misfit, form
from secgear.base.switchless.limits import largest_arguments


def made(function: Any) -> Form | None:
    described = describe_function(function)
    return form(described.function, described.types, described.definitions)


def largest(function: Any) -> int | None:
    described = describe_function(function)
    interface = Interface.gather("a", "1", [described], [])
    return largest_arguments(interface.ecalls[described.function.name], interface.types)


class Point(NamedTuple):
    x: int
    y: float = 0.0


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(max_length=5)]
    at: Point
    kind: Literal["a", "bb"] = "a"


class Tree(msgspec.Struct, forbid_unknown_fields=True):
    left: Tree | None = None


class Open(msgspec.Struct):
    a: int


class Keys(TypedDict):
    a: int


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


# --- forms ---------------------------------------------------------------------------------------


def test_arguments_by_position_make_an_array() -> None:
    def function(a: int, b: str = "x", *, c: int = 0) -> float: ...

    assert made(function) is None  # c goes by keyword only

    def plain(a: int, b: str = "x") -> float: ...

    fast = made(plain)
    assert fast is not None
    assert (fast.fewest, fast.most) == (1, 2)
    for given_arguments in ((1,), (1, "y")):
        body = fast.encode_arguments(given_arguments)
        assert body == msgspec.msgpack.encode(given_arguments)
        assert fast.decode_arguments(body) == given_arguments
    assert fast.encode_result is not None
    assert fast.decode_result is not None
    assert fast.decode_result(fast.encode_result(1.5)) == 1.5


@pytest.mark.parametrize("payload", [b"", b"\x90", b"\x93\x01\xa1y\x01", b"\x92\x01\x01", b"\xc1"])
def test_other_payloads_are_refused(payload: bytes) -> None:
    def plain(a: int, b: str = "x") -> float: ...

    fast = made(plain)
    assert fast is not None
    with pytest.raises(ValueError):  # noqa: PT011  (of several kinds)
        fast.decode_arguments(payload)


def test_a_single_buffer_goes_as_it_is() -> None:
    def function(data: bytes) -> bytearray: ...

    fast = made(function)
    assert fast is not None
    data = b"some bytes"
    assert fast.encode_arguments((data,)) is data
    assert fast.decode_arguments(data) == (data,)
    assert fast.encode_result is not None
    assert fast.decode_result is not None
    assert fast.encode_result(data) is data
    assert fast.decode_result(data) == bytearray(data)
    assert type(fast.decode_result(data)) is bytearray
    wide = memoryview(bytes(range(16))).cast("Q")
    assert bytes(fast.encode_arguments((wide,))) == bytes(range(16))
    for wrong in ("text", 5, None, [1], memoryview(data)[::2], np.zeros(3)):
        with pytest.raises(Misfit):
            fast.encode_arguments((wrong,))
        with pytest.raises(Misfit):
            fast.encode_result(wrong)


def test_large_buffers_among_others_are_attachments() -> None:
    def function(name: str, data: bytes | None) -> bytes | None: ...

    fast = made(function)
    assert fast is not None
    assert fast.decode_arguments(fast.encode_arguments(("a", b"x"))) == ("a", b"x")
    assert fast.decode_arguments(fast.encode_arguments(("a", None))) == ("a", None)
    with pytest.raises(Misfit):
        fast.encode_arguments(("a", bytes(100_000)))
    assert fast.encode_result is not None
    with pytest.raises(Misfit):
        fast.encode_result(bytes(100_000))


def test_what_has_attachments_or_streams_has_no_fast_form() -> None:
    class Holder(msgspec.Struct):
        values: list[np.ndarray]

    def array(values: np.ndarray) -> None: ...
    def inside(values: dict[str, np.ndarray]) -> None: ...
    def hidden(holder: Holder) -> None: ...
    def stream(values: Iterator[int]) -> None: ...
    def items() -> Iterator[int]: ...
    def shared(data: Shared) -> int: ...

    for function in (array, inside, hidden, stream, items, shared):
        assert made(function) is None, function

    def result(n: int) -> np.ndarray: ...

    fast = made(result)
    assert fast is not None
    assert fast.encode_result is None


def test_recursive_types_come_to_an_end() -> None:
    def function(tree: Tree) -> Tree: ...

    fast = made(function)
    assert fast is not None
    tree = Tree(Tree(Tree()))
    assert fast.decode_arguments(fast.encode_arguments((tree,))) == (tree,)


def test_functions_of_many_parameters_take_the_ordinary_form() -> None:
    names = [f"p{number}" for number in range(20)]
    scope: dict[str, Any] = {}
    exec(f"def many({', '.join(f'{name}: int' for name in names)}) -> None: ...", scope)
    assert made(scope["many"]) is None


# --- sizes ---------------------------------------------------------------------------------------


def test_bounded_types_bound_their_arguments() -> None:
    def none() -> None: ...
    def numbers(a: int, b: float, c: bool | None) -> None: ...
    def text(a: Annotated[str, msgspec.Meta(max_length=10)]) -> None: ...
    def several(a: Annotated[list[int], msgspec.Meta(max_length=3)]) -> None: ...
    def things(a: Closed, b: Color, c: uuid.UUID, d: datetime.datetime) -> None: ...

    sizes = [largest(function) for function in (none, numbers, text, several, things)]
    assert all(size is not None and size < 400 for size in sizes)


@pytest.mark.parametrize(
    "annotation",
    [
        str,
        bytes,
        list[int],
        dict[str, int],
        Any,
        Tree,
        Open,
        Keys,
        np.ndarray,
        Closed | str,
        tuple[int, list[int]],
        Annotated[list[str], msgspec.Meta(max_length=3)],
    ],
)
def test_other_types_have_no_bound(annotation: Any) -> None:
    def function(a: Any) -> None: ...

    function.__annotations__["a"] = annotation
    assert largest(function) is None


@given(
    name=st.text(max_size=5),
    x=st.integers(-(2**63), 2**64 - 1),
    y=st.floats(allow_nan=False),
    kind=st.sampled_from(["a", "bb"]),
    color=st.sampled_from(Color),
    moment=st.datetimes(),
    key=st.uuids(),
    numbers=st.lists(st.integers(-(2**63), 2**64 - 1), max_size=4),
)
def test_no_value_of_its_types_is_larger_than_the_bound(
    name: str,
    x: int,
    y: float,
    kind: Any,
    color: Color,
    moment: datetime.datetime,
    key: uuid.UUID,
    numbers: list[int],
) -> None:
    def function(
        closed: Closed,
        color: Color,
        moment: datetime.datetime,
        key: uuid.UUID,
        numbers: Annotated[list[int], msgspec.Meta(max_length=4)],
        choice: int | None = None,
    ) -> None: ...

    bound = largest(function)
    assert bound is not None
    closed = Closed(name, Point(x, y), kind)
    arguments = (closed, color, moment, key, numbers, x)
    names = ("closed", "color", "moment", "key", "numbers", "choice")
    fast = made(function)
    assert fast is not None
    assert len(fast.encode_arguments(arguments)) <= bound
    assert len(msgspec.msgpack.encode(dict(zip(names, arguments, strict=True)))) <= bound


def test_types_that_have_each_other_many_times_are_looked_at_once() -> None:
    """Their tree has 2^60 leaves."""
    from secgear.base import typedesc as td
    from secgear.base.interface import Function, Param

    definitions: dict[str, td.TypeDef] = {}
    desc: td.TypeDesc = td.Basic("int")
    for number in range(60):
        fields = (td.FieldDesc("a", desc), td.FieldDesc("b", desc))
        definitions[f"S{number}"] = td.StructDef(fields, forbid_unknown=True)
        desc = td.Named(f"S{number}")
    described = Function("f", (Param("a", desc),), td.Basic("None"))
    size = largest_arguments(described, definitions)
    assert size is not None
    assert size > 2**60
    assert form(described, {"a": int, "return": None}, definitions) is not None
