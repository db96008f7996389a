"""The host's types: equal on the wire to the app's own, safe to make from anybody's description."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.interface import Interface, describe_function
from secgear.base.marshal import ValueCodec
from secgear.base.schema import HostTypes
from secgear.base.tee import Evidence
from secgear.errors import ArgumentError, EnclaveError, InterfaceError


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"
    AZURE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str, enum.Enum):  # noqa: UP042  (apps written before StrEnum have these)
    YES = "yes"


class Access(enum.IntFlag):
    READ = 4
    WRITE = 2


class Person(msgspec.Struct, frozen=True, rename={"born": "b"}):
    name: str
    color: Color = Color.RED
    born: datetime.date | None = None
    tags: list[str] = []
    pair: tuple[int, ...] = (1, 2)


class Tree(msgspec.Struct, tag="tree", forbid_unknown_fields=True):
    value: int
    children: list[Tree | Leaf] = []


class Leaf(msgspec.Struct, tag="leaf", tag_field="type"):
    value: float


class Lean(msgspec.Struct, omit_defaults=True):
    number: int = 3
    words: list[str] = []
    color: Color = Color.BLUE
    odd: tuple[int, ...] = (1, 2)


class Row(msgspec.Struct, array_like=True):
    a: int
    b: tuple[int, ...] = (1,)
    c: int = 3


class Late(msgspec.Struct, kw_only=True):
    early: int = 1
    needed: str


class Empty(msgspec.Struct):
    pass


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Linked:
    value: int
    following: Linked | None = None


class Keys(TypedDict):
    there: int
    perhaps: NotRequired[Keys]


class Pair(NamedTuple):
    left: int
    color: Color = Color.RED
    rest: list[Pair] = []  # noqa: RUF012


class Unstable(msgspec.Struct):
    pattern: Annotated[str, msgspec.Meta(pattern="^(a+)+$", max_length=40)]
    other: Annotated[str, msgspec.Meta(pattern="^b$")] | int = 0


class Missing(KeyError):
    """Not there."""


def gather(annotation: Any, *raises: type[Exception]) -> Interface:
    def f() -> None: ...

    f.__annotations__["return"] = annotation
    return Interface.gather("app", "1", [describe_function(f, raises)], [])


def host_of(annotation: Any, **provided: type) -> tuple[HostTypes, Any]:
    """The host's types and what they make of `annotation`, over bytes and back."""
    interface = Interface.from_json(gather(annotation).to_json())
    types = HostTypes(interface, provided)
    return types, types.annotation(interface.ecalls["f"].result)


def carry(source: Any, target: Any, value: Any) -> Any:
    """`value` of type `source` on one side becomes a value of type `target` on the other."""
    packed = ValueCodec("f", source).encode(value)
    return ValueCodec("f", target).decode(
        packed.body, [bytearray(view) for view in packed.attachments]
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, pa.Table | pa.RecordBatch):
        return bool(one.equals(other))
    return bool(one == other)


NOW = datetime.datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=datetime.UTC)

TABLE: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, -(2**63)),
    (int, 2**64 - 1),
    (float, -0.5),
    (str, "grüß\U0001f600"),
    (bytes, b"\x00\xff"),
    (bytearray, bytearray(b"xy")),
    (datetime.datetime, NOW),
    (datetime.date, NOW.date()),
    (datetime.time, NOW.timetz()),
    (datetime.timedelta, datetime.timedelta(days=-1, microseconds=3)),
    (Decimal, Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=5)),
    (Any, {"a": [1, None, 2.5, "x", b"y"]}),
    (list[int], [1, 2]),
    (list, [1, "a"]),
    (dict, {"a": 1}),
    (tuple, (1, "a")),
    (tuple[()], ()),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[int, str], (1, "a")),
    (set[str], {"a", "b"}),
    (frozenset[int], frozenset({1})),
    (dict[int, dict[str, list[float]]], {1: {"a": [0.5]}}),
    (dict[tuple[int, str], int], {(1, "a"): 2}),
    (int | None, None),
    (int | str | list[int] | None, [1]),
    (Literal["a", 1, None], None),
    (Literal["a", 1], 1),
    (Annotated[int, msgspec.Meta(ge=0, le=9)], 9),
    (Annotated[datetime.datetime, msgspec.Meta(tz=True)], NOW),
    (list[Annotated[str, msgspec.Meta(min_length=1, max_length=2)]], ["ab"]),
    (Color, Color.BLUE),
    (dict[Color, set[Level]], {Color.RED: {Level.LOW}}),
    (Word, Word.YES),
    (Access, Access.READ | Access.WRITE),
    (Person, Person("Ada", Color.BLUE, NOW.date(), ["x"], ())),
    (set[Point], {Point(1), Point(2, 3)}),
    (Tree | Leaf, Tree(1, [Leaf(2.5), Tree(3)])),
    (Lean, Lean()),
    (Lean, Lean(4, ["a"], Color.RED, (3,))),
    (list[Row], [Row(1), Row(1, (), 2)]),
    (Late, Late(needed="x")),
    (Empty, Empty()),
    (Linked, Linked(1, Linked(2))),
    (Keys, {"there": 1, "perhaps": {"there": 2}}),
    (Pair, Pair(1, Color.BLUE, [Pair(2)])),
    (Unstable, Unstable("aaa", "b")),
    (Evidence, Evidence("secgear.process.cwt", b"\x01")),
    (np.ndarray, np.arange(6, dtype="<i2").reshape(2, 3)),
    (npt.NDArray[np.float64] | None, np.array([1.5])),
    (npt.NDArray[np.bool_], np.array([True])),
    (npt.NDArray[np.datetime64], np.array(["2024-01-01"], "M8[D]")),
    (npt.NDArray[np.floating[Any]], np.array([1.5], "f4")),
    (dict[str, npt.NDArray[np.complex128]], {"z": np.array([1j])}),
    (pa.Table, pa.table({"a": [1, None], "b": ["x", "y"]})),
    (pa.RecordBatch | None, pa.record_batch({"a": [1]})),
]


@pytest.mark.parametrize(("annotation", "value"), TABLE)
def test_a_value_goes_to_the_host_and_back(annotation: Any, value: Any) -> None:
    _, host = host_of(annotation)
    there = carry(annotation, host, value)
    assert same(carry(host, annotation, there), value)


@pytest.mark.parametrize(
    ("annotation", "bad"),
    [
        (int, "1"),
        (Annotated[int, msgspec.Meta(ge=0)], -1),
        (Color, "green"),
        (Literal["a", 1], 2),
        (tuple[int, str], [1]),
        (Person, {"color": "red"}),
        (Person, {"name": 5}),
        (Tree | Leaf, {"type": "bush", "value": 1}),
        (Tree, {"type": "tree", "value": 1, "more": 2}),
        (Row, []),
        (Keys, {"perhaps": {"there": 1}}),
        (Pair, []),
        (npt.NDArray[np.float64], [0, "<f8", [1]]),
        (Annotated[datetime.datetime, msgspec.Meta(tz=True)], datetime.datetime(2024, 1, 1)),
    ],
)
def test_the_host_is_as_strict_as_the_enclave(annotation: Any, bad: Any) -> None:
    _, host = host_of(annotation)
    body = msgspec.msgpack.encode(bad)
    for side in (annotation, host):
        with pytest.raises(ArgumentError):
            ValueCodec("f", side).decode(body, [])


def test_defaults_are_the_same_on_both_sides() -> None:
    types, _ = host_of(tuple[Person, Lean, Late, Point, Pair])
    space = types.namespace
    person = space.Person("Ada")
    assert person.color is space.Color.RED
    assert person.born is None
    assert person.tags == []
    assert person.tags is not space.Person("Bob").tags
    assert space.Lean().color is space.Color.BLUE
    assert space.Late(needed="x").early == 1
    assert space.Point(1).y == 0
    assert space.Pair(1) == (1, space.Color.RED, [])


def test_a_default_that_can_not_be_described_is_filled_in_by_the_enclave() -> None:
    types, host = host_of(Person)
    person = types.namespace.Person("Ada")
    assert person.pair is msgspec.UNSET
    assert carry(host, Person, person) == Person("Ada")


def test_a_field_that_has_a_place_must_be_given() -> None:
    types, _ = host_of(Row)
    with pytest.raises(TypeError, match="b"):
        types.namespace.Row(1)
    assert types.namespace.Row(1, (2,)).c == 3


def test_classes_that_were_frozen_are_frozen() -> None:
    types, _ = host_of(tuple[Person, Point, Leaf])
    assert len({types.namespace.Point(1), types.namespace.Point(1)}) == 1
    with pytest.raises(AttributeError):
        types.namespace.Person("Ada").name = "Bob"
    with pytest.raises(TypeError):
        hash(types.namespace.Leaf(1.0))


def test_regular_expressions_are_left_to_the_enclave() -> None:
    """A pattern that backtracks without end must not stop the host."""
    types, host = host_of(Unstable)
    evil = types.namespace.Unstable("a" * 39 + "!")
    assert carry(host, host, evil) == evil
    with pytest.raises(ArgumentError, match=r"length <= 40|matching regex"):
        ValueCodec("f", host).decode(msgspec.msgpack.encode({"pattern": "a" * 41}), [])


# --- exceptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "caught"),
    [(Missing, KeyError), (Missing, LookupError), (ValueError, ValueError), (OSError, OSError)],
)
def test_a_declared_exception_is_caught_as_its_built_in(
    kind: type[Exception], caught: type[Exception]
) -> None:
    made = getattr(HostTypes(gather(int, kind)).errors, kind.__name__)
    with pytest.raises(caught) as info:
        raise made("no 'such' thing")
    assert isinstance(info.value, EnclaveError)
    assert str(info.value) == "no 'such' thing"


@pytest.mark.parametrize("base", ["UnicodeDecodeError", "StopIteration", "SystemExit", "open", "x"])
def test_a_base_that_can_not_be_raised_with_a_text_is_left_out(base: str) -> None:
    data = gather(int, Missing).to_json().replace(b'"KeyError"', f'"{base}"'.encode())
    made = HostTypes(Interface.from_json(data)).errors.Missing
    assert made.__bases__ == (EnclaveError,)
    assert str(made("text")) == "text"


def test_evidence_is_the_frameworks_own_class() -> None:
    types, host = host_of(Evidence)
    assert host is types.namespace.Evidence is Evidence
    other = msgspec.defstruct("Evidence", [("mine", int)])
    assert host_of(other)[1] is not Evidence


# --- classes of the host's own -------------------------------------------------------------------


class Mine(msgspec.Struct):
    color: Color


def test_provided_classes_are_used_with_those_inside_them() -> None:
    types, host = host_of(list[Person], Person=Person)
    assert host == list[Person]
    assert types.namespace.Color is Color
    assert carry(host, host, [Person("Ada")]) == [Person("Ada")]


def test_a_struct_may_stand_in_for_a_dataclass() -> None:
    other = msgspec.defstruct("Point", [("x", int), ("y", int, 0)], frozen=True)
    types, _ = host_of(Point, Point=other)
    assert types.namespace.Point is other


@pytest.mark.parametrize(
    ("provided", "message"),
    [
        ({"Point": Person}, "Point: the class given for it is"),
        ({"Point": msgspec.defstruct("Point", [("x", str)])}, "class Point(x: str); the app has"),
        ({"Point": int}, "Point: the class given for it is"),
        ({"Pint": Point}, "Pint: the app has no type of that name; it has Missing, Point"),
        ({"Missing": int}, "not an exception"),
    ],
)
def test_other_classes_are_refused(provided: dict[str, Any], message: str) -> None:
    with pytest.raises(InterfaceError) as caught:
        HostTypes(gather(Point, Missing), provided)
    assert message in str(caught.value)


def test_two_classes_for_one_type_are_refused() -> None:
    other = enum.Enum("Color", {"RED": "red", "BLUE": "blue", "AZURE": "blue"})
    with pytest.raises(InterfaceError, match="two different classes are given for Color"):
        host_of(Person, Person=Person, Color=other)


def test_provided_exceptions_are_used() -> None:
    assert HostTypes(gather(int, Missing), {"Missing": Missing}).errors.Missing is Missing


# --- packages that are not there -----------------------------------------------------------------


@pytest.mark.parametrize("module", ["numpy", "pyarrow"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module: str) -> None:
    annotation = np.ndarray if module == "numpy" else pa.Table
    code = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from secgear.base.interface import Interface\n"
        "from secgear.base.schema import HostTypes\n"
        f"HostTypes(Interface.from_json({gather(annotation).to_json()!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"uses {module}, which is not installed here; pip install 'secgear[data]'" in done.stderr


def test_numpy_and_pyarrow_are_imported_only_when_needed() -> None:
    code = (
        "import sys\n"
        "from secgear.base.interface import Interface\n"
        "from secgear.base.schema import HostTypes\n"
        f"HostTypes(Interface.from_json({gather(Person).to_json()!r}))\n"
        "print({'numpy', 'pyarrow'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- any type ------------------------------------------------------------------------------------

_Pairing = tuple[Any, st.SearchStrategy[Any]]
_finite = st.floats(allow_nan=False)
_hashable: list[_Pairing] = [
    (int, st.integers(-(2**63), 2**64 - 1)),
    (str, st.text()),
    (bool, st.booleans()),
    (bytes, st.binary()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Point, st.builds(Point, st.integers(0, 9), st.integers(0, 9))),
    (datetime.date, st.dates()),
    (Literal["a", 1], st.sampled_from(["a", 1])),
]
_leaves: list[_Pairing] = [
    *_hashable,
    (None, st.none()),
    (float, _finite),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (uuid.UUID, st.uuids()),
    (datetime.timedelta, st.timedeltas(-datetime.timedelta(9**5), datetime.timedelta(9**5))),
    (
        Person,
        st.builds(
            Person,
            st.text(),
            st.sampled_from(Color),
            st.none() | st.dates(),
            st.lists(st.text(), max_size=2),
            st.just((3,)),
        ),
    ),
    (Pair, st.builds(Pair, st.integers(0, 9), st.sampled_from(Color), st.just([Pair(1)]))),
    (Keys, st.fixed_dictionaries({"there": st.integers(0, 9)})),
    (npt.NDArray[np.int64], st.lists(st.integers(0, 9)).map(lambda x: np.array(x, "i8"))),
]


def _bigger(inner: st.SearchStrategy[_Pairing]) -> st.SearchStrategy[_Pairing]:
    def listing(pair: _Pairing) -> _Pairing:
        return list[pair[0]], st.lists(pair[1], max_size=2)  # type: ignore[name-defined]

    def repeated(pair: _Pairing) -> _Pairing:
        return tuple[pair[0], ...], st.lists(pair[1], max_size=2).map(tuple)  # type: ignore[name-defined]

    def optional(pair: _Pairing) -> _Pairing:
        return pair[0] | None if pair[0] else None, st.none() | pair[1]

    def fixed(pairs: list[_Pairing]) -> _Pairing:
        kinds = tuple(kind for kind, _ in pairs)
        return tuple[kinds], st.tuples(*(values for _, values in pairs))  # type: ignore[valid-type]

    def mapping(key: _Pairing, value: _Pairing) -> _Pairing:
        return (
            dict[key[0], value[0]],  # type: ignore[name-defined]
            st.dictionaries(key[1], value[1], max_size=2),
        )

    def unordered(pair: _Pairing) -> _Pairing:
        return set[pair[0]], st.sets(pair[1], max_size=3)  # type: ignore[name-defined]

    keys = st.sampled_from(_hashable)
    return (
        inner.map(listing)
        | inner.map(repeated)
        | inner.map(optional)
        | st.lists(inner, max_size=3).map(fixed)
        | st.builds(mapping, keys, inner)
        | keys.map(unordered)
    )


_types = st.recursive(st.sampled_from(_leaves), _bigger, max_leaves=5)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_values_of_any_type_go_to_the_host_and_back(data: st.DataObject) -> None:
    annotation, values = data.draw(_types)
    value = data.draw(values)
    _, host = host_of(annotation)
    there = carry(annotation, host, value)
    assert _plain(carry(host, annotation, there)) == _plain(value)


def _plain(value: Any) -> Any:
    """Comparable, with arrays as lists."""
    shape: Callable[[Any], Any] = _plain
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [shape(item) for item in value]
    return value
