"""Which types can cross the boundary, and what is said of those that can't."""

from __future__ import annotations

import collections
import dataclasses
import enum
import subprocess
import sys
import threading
import typing
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest

from secgear.base import typedesc as td
from secgear.base.declare import describe_function
from secgear.base.describe import Describer
from secgear.errors import InterfaceError

T = typing.TypeVar("T")


class Box(msgspec.Struct, typing.Generic[T]):
    inside: T


class IntBox(Box[int]):
    pass


class Soft(msgspec.Struct):
    name: str


class Hard(msgspec.Struct, frozen=True):
    name: str


class Branch(msgspec.Struct, frozen=True):
    twigs: tuple[Branch, ...] = ()


class BranchWithList(msgspec.Struct, frozen=True):
    twigs: tuple[BranchWithList, ...]
    leaves: list[int]


class HardWithList(msgspec.Struct, frozen=True):
    names: list[str]


class Shade(enum.Enum):
    DARK = 1.5


class Bits(enum.Flag):
    A = 1


class Combined(enum.IntFlag):
    NONE = 0
    BOTH = 3


class Names(enum.Enum):
    ONE = "one"


class Sized(msgspec.Struct):
    one: Names = Names.ONE
    optional: Names | None = Names.ONE
    words: list[str] = []
    pair: tuple[int, int] = (1, 2)
    none: tuple[int, ...] = ()
    made: dict[str, int] = msgspec.field(default_factory=lambda: {"a": 1})
    endless: float = float("inf")
    absent: int | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, array_like=True):
    first: int = 1
    second: tuple[int, ...] = (1,)
    third: int = 3


class Postponed(TypedDict):
    there: int
    perhaps: NotRequired[str]


class Nowhere(msgspec.Struct):
    thing: Missing  # noqa: F821  (that is the point)


@dataclasses.dataclass
class HalfMade:
    given: int
    made: int = dataclasses.field(init=False)


class Bad(NamedTuple):
    lock: threading.Thread


class datetime(msgspec.Struct):  # noqa: N801
    """Not the one you think."""


def describe(annotation: Any) -> td.TypeDesc:
    return Describer("f(x)").describe(annotation)


def fields(annotation: Any) -> dict[str, td.FieldDesc]:
    describer = Describer("f(x)")
    describer.describe(annotation)
    definition = describer.types[annotation.__name__]
    return {field.name: field for field in td.fields_of(definition)}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (object, "supported are"),
        (complex, "complex"),
        (threading.Thread, "the type Thread can't cross"),
        (collections.OrderedDict, "OrderedDict"),
        (typing.Callable[[], int], "Callable"),
        (list[Iterator[int]], "a stream may only be a whole parameter or a whole result"),
        (Iterator[int] | None, "a stream may only be"),
        (AsyncIterator[int], "write Iterator"),
        (np.float64, "take a numpy scalar as int or float"),
        (np.dtype[np.float64], "numpy"),
        (npt.NDArray[np.object_], "array of object_ can't cross"),
        (npt.NDArray[np.longdouble], "longdouble can't cross"),
        (npt.NDArray[np.void], "void can't cross"),
        (npt.NDArray[np.float32 | np.float64], "name one numeric type"),
        (pa.Schema, "pyarrow.Table or RecordBatch"),
        (pa.RecordBatchReader, "pyarrow.Table or RecordBatch"),
        (pd.DataFrame, "the type DataFrame can't cross"),
        (T, "a type variable"),
        (Box[int], "derive a concrete one"),
        (Box, "a type variable"),
        (Literal[b"x"], "values of a Literal"),
        (Shade, "values of an enum are all str or all int"),
        (Bits, "IntFlag"),
        (enum.Enum, "values of an enum"),
        (set[list[int]], "not hashable"),
        (dict[Soft, int], "Soft is not hashable"),
        (set[HardWithList], "HardWithList is not hashable"),
        (set[BranchWithList], "BranchWithList is not hashable"),
        (frozenset[bytearray], "not hashable"),
        (Nowhere, "'Missing' is not defined"),
        (HalfMade, "made has init=False and no default"),
        (Bad, "Thread"),
        (datetime, "the name of a built-in type"),
        ("int", "can't cross"),
        (3, "can't cross"),
    ],
)
def test_what_can_not_cross_is_refused_by_name(annotation: Any, message: str) -> None:
    with pytest.raises(InterfaceError, match=r"^f\(x\): ") as caught:
        describe(annotation)
    assert message in str(caught.value)


def test_spellings_of_one_type_are_one_type() -> None:
    assert describe(typing.Optional[int]) == describe(None | int) == describe(int | None)  # noqa: UP045
    assert describe(typing.List[int]) == describe(list[int])  # noqa: UP006
    assert describe(str | int | None) == describe(typing.Union[None, int, str])  # noqa: UP007
    assert describe(Literal["b", "a"]) == describe(Literal["a", "b"])
    assert describe(Literal["a", None]) == describe(Literal["a"] | None)
    assert describe(Annotated[int, "words only"]) == describe(int)
    assert describe(typing.NewType("Id", int)) == describe(int)
    assert describe(npt.NDArray[Any]) == describe(np.ndarray)
    assert describe(np.ndarray[tuple[int, int], np.dtype[np.int8]]) == td.NDArray("int8")
    assert describe(typing.Sequence[int]) == describe(list[int])


def test_true_and_one_are_two_values() -> None:
    assert td.render(describe(Literal[True])) != td.render(describe(Literal[1]))


def test_constraints_are_part_of_the_type() -> None:
    meta = msgspec.Meta(ge=0, lt=10)
    assert describe(Annotated[int, meta]) == td.Limited(td.Basic("int"), {"ge": 0, "lt": 10})
    assert describe(Annotated[str, msgspec.Meta(pattern="^a")]) != describe(str)
    assert describe(Annotated[Decimal, msgspec.Meta(description="money")]) == td.Basic("Decimal")


def test_hashable_classes_may_be_keys() -> None:
    assert describe(dict[Hard, set[tuple[int, Names]]])
    assert describe(set[Branch])


def test_flags_without_a_single_bit_are_flags() -> None:
    describer = Describer("f(x)")
    describer.describe(Combined)
    assert describer.types["Combined"] == td.EnumDef("IntFlag", (("NONE", 0), ("BOTH", 3)))


def test_a_class_derived_from_a_generic_one_is_concrete() -> None:
    assert fields(IntBox)["inside"].type == td.Basic("int")


def test_defaults_are_described_where_they_can_be() -> None:
    entries = fields(Sized)
    assert entries["one"].member == entries["optional"].member == "ONE"
    assert entries["words"].factory == "list"
    assert entries["none"].factory == "tuple"
    assert entries["absent"].type == td.Basic("int")
    opened = {name for name, field in entries.items() if field.open}
    assert opened == {"pair", "made", "endless", "absent"}


def test_a_field_told_by_its_place_is_there_if_a_later_one_must_be() -> None:
    entries = fields(Row)
    assert [entries[name].required for name in ("first", "second", "third")] == [True, True, False]


def test_optional_keys_are_seen_through_postponed_annotations() -> None:
    entries = fields(Postponed)
    assert entries["there"].required
    assert not entries["perhaps"].required


def test_two_types_of_one_name_are_refused() -> None:
    def other() -> type:
        return msgspec.defstruct("Soft", [("number", int)])

    with pytest.raises(InterfaceError, match="two different types are called Soft"):
        describe(tuple[Soft, other()])


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_statements_are_what_they_stand_for() -> None:
    scope: dict[str, Any] = {}
    for statement in (
        "type Ids = list[int]",
        "type Both[T] = tuple[T, T]",
        "type Endless = list[Endless]",
        "type Itself = Itself",
    ):
        exec(statement, scope)
    assert describe(scope["Ids"]) == describe(list[int])
    assert describe(scope["Both"][int]) == describe(tuple[int, int])

    with pytest.raises(InterfaceError, match="Itself"):
        describe(scope["Itself"])

    def endless() -> None: ...

    endless.__annotations__["return"] = scope["Endless"]
    with pytest.raises(InterfaceError, match="nested too deeply"):
        describe_function(endless)


def test_describing_imports_neither_numpy_nor_pyarrow() -> None:
    code = "import sys, secgear.base.interface; print({'numpy', 'pyarrow'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
