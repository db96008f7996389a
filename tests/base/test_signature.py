"""Arguments meet parameters as in Python, and the other way round."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.declare import describe_function
from secgear.base.signature import Function, bind, signature, spread
from secgear.errors import ArgumentError


def shapes(a: int, b: int = 1, /, c: int = 2, *, d: int, e: int = 3) -> None: ...
def required(a: int, /, b: int, *, c: int) -> None: ...
def optional(a: int = 1, b: int = 2) -> None: ...
def nothing() -> None: ...


FUNCTIONS = [shapes, required, optional, nothing]
_ARGS = st.lists(st.integers(), max_size=4)
_KWARGS = st.sets(st.sampled_from("abcde")).map(lambda names: dict.fromkeys(names, 0)) | (
    st.dictionaries(st.sampled_from("abcdefg"), st.integers(), max_size=6)
)


def described(function: Any) -> Function:
    return describe_function(function).function


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FUNCTIONS), _ARGS, _KWARGS)
def test_arguments_are_bound_as_python_binds_them(
    function: Any, args: list[int], kwargs: dict[str, int]
) -> None:
    try:
        expected = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        with pytest.raises(ArgumentError):
            bind(described(function), tuple(args), kwargs)
    else:
        assert bind(described(function), tuple(args), kwargs) == expected


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FUNCTIONS), _ARGS, _KWARGS)
def test_spreading_is_the_inverse_of_binding(
    function: Any, args: list[int], kwargs: dict[str, int]
) -> None:
    description = described(function)
    try:
        values = bind(description, tuple(args), kwargs)
    except ArgumentError:
        return
    again, named = spread(description, values)
    assert bind(description, tuple(again), named) == values


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "required: a is missing; required(a: int, /, b: int, *, c: int) -> None"),
        ((1,), {"c": 1}, "required: b is missing"),
        ((1, 2), {}, "required: c is missing"),
        ((1, 2, 3), {"c": 1}, "required: 3 arguments by position are too many"),
        ((1, 2), {"b": 2, "c": 1}, "required: b is given twice"),
        ((1, 2), {"c": 1, "x": 1, "y": 2}, "required: no parameter x, y"),
        ((1, 2), {"a": 1, "c": 1}, "required: no parameter a"),
        ((1, msgspec.UNSET), {"c": 1}, "required: b is missing"),
    ],
)
def test_errors_name_the_function_and_show_how_it_is_called(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        bind(described(required), args, kwargs)
    assert str(caught.value).startswith(message)


def test_an_argument_of_unset_was_not_given() -> None:
    unset: Any = msgspec.UNSET
    assert bind(described(optional), (unset, 5), {}) == {"b": 5}
    assert bind(described(shapes), (1,), {"d": 2, "e": unset}) == {"a": 1, "d": 2}


def test_any_callable_of_the_right_arity_will_do() -> None:
    assert spread(described(optional), {"a": 1, "b": 2}) == ([1, 2], {})
    assert spread(described(optional), {"b": 2}) == ([], {"b": 2})


def test_a_gap_before_a_parameter_that_has_only_its_place_is_refused() -> None:
    def f(a: int = 1, b: int = 2, /) -> None: ...

    with pytest.raises(ArgumentError, match="b goes by position, so a must be given as well"):
        spread(described(f), {"b": 2})


def test_signatures_read_like_declarations() -> None:
    assert [signature(described(function)) for function in FUNCTIONS] == [
        "shapes(a: int, b: int = ..., /, c: int = ..., *, d: int, e: int = ...) -> None",
        "required(a: int, /, b: int, *, c: int) -> None",
        "optional(a: int = ..., b: int = ...) -> None",
        "nothing() -> None",
    ]
