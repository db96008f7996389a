"""The interface as data: canonical, comparable, and read back only if it makes sense."""

from __future__ import annotations

import contextlib
import copy
import enum
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base import interface as module
from secgear.base import typedesc as td
from secgear.base.codegen import client_module
from secgear.base.interface import RESERVED, Interface, check_name, describe_function, diff
from secgear.base.schema import HostTypes
from secgear.errors import InterfaceError


class Person(msgspec.Struct, frozen=True):
    name: str
    age: int = 0


class Color(enum.Enum):
    RED = "red"


class Node(msgspec.Struct, tag="node"):
    next: Node | None
    size: Annotated[int, msgspec.Meta(ge=0)]
    table: pa.Table | None
    grid: npt.NDArray[np.float64]
    word: Literal["a", 1]
    color: Color = Color.RED


class Pair(NamedTuple):
    left: int
    right: int = 1


class Keys(TypedDict):
    pairs: NotRequired[dict[str, Pair]]


class NoSuchPerson(KeyError):
    """Nobody."""


def find(name: str, limit: int = 10) -> list[Person]:
    """Find people."""


def tell(names: Iterator[str]) -> None:
    """Tell the host."""


def mix(node: Node, keys: Keys, /, *, colors: set[Color]) -> Iterator[tuple[Pair, Any]]:
    """Mix them."""
    yield from ()


def gather(
    *ecalls: Callable[..., Any],
    ocalls: tuple[Callable[..., Any], ...] = (),
    raises: tuple[type[Exception], ...] = (),
    name: str = "people",
    version: str = "1.0",
) -> Interface:
    return Interface.gather(
        name,
        version,
        [describe_function(function, raises) for function in ecalls],
        [describe_function(function) for function in ocalls],
    )


SAMPLE = gather(find, ocalls=(tell,), raises=(NoSuchPerson,))


def test_json_is_canonical_and_comes_back() -> None:
    data = SAMPLE.to_json()
    assert Interface.from_json(data) == SAMPLE
    plain = json.loads(data)
    assert data == json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def test_the_digest_is_the_same_for_ever() -> None:
    """It is in images that exist: a change here shuts out every one of them."""
    assert SAMPLE.digest().hex() == (
        "a66e1606bdf59fd9de902113c632e382385e0563311282d0"
        "98119c363cc7b8e558763c11ca4b4cbb2b2f28dc4cdf4fbb"
    )


def test_digest_and_json_do_not_depend_on_the_process() -> None:
    code = (
        "from tests.base.test_interface import SAMPLE;"
        "print(SAMPLE.digest().hex(), SAMPLE.to_json().hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert outputs == {f"{SAMPLE.digest().hex()} {SAMPLE.to_json().hex()}\n"}


def test_unions_do_not_depend_on_who_wrote_them_first() -> None:
    """typing caches ``List[str | int]`` and gives it back for ``List[int | str]``."""
    import typing

    one = describe_function(_returning(typing.List[typing.Union[str, int]]))  # noqa: UP006, UP007
    other = describe_function(_returning(list[int | str]))
    assert one.function == other.function


def _returning(annotation: Any) -> Callable[..., Any]:
    def f() -> None: ...

    f.__annotations__["return"] = annotation
    return f


# --- what matters and what does not ---------------------------------------------------------------


def _changed(change: Callable[[dict[str, Any]], None]) -> Interface:
    plain = json.loads(SAMPLE.to_json())
    change(plain)
    return Interface.from_json(json.dumps(plain).encode())


def _find(plain: dict[str, Any]) -> Any:
    return plain["ecalls"]["find"]


def _person(plain: dict[str, Any]) -> Any:
    return plain["types"]["Person"]


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "app": lambda plain: plain.update(name="other"),
    "parameter renamed": lambda plain: _find(plain)["params"][0].update(name="who"),
    "parameter retyped": lambda plain: _find(plain)["params"][0]["type"].update(name="bytes"),
    "parameter required": lambda plain: _find(plain)["params"][1].pop("required"),
    "parameter by keyword": lambda plain: _find(plain)["params"][1].update(kind="keyword"),
    "parameter gone": lambda plain: _find(plain)["params"].pop(),
    "stream": lambda plain: plain["ocalls"]["tell"]["params"][0].pop("stream"),
    "result": lambda plain: _find(plain).update(result={"type": "basic", "name": "int"}),
    "result streamed": lambda plain: _find(plain).update(result_stream=True),
    "exception gone": lambda plain: _find(plain).pop("raises"),
    "exception's base": lambda plain: _find(plain)["raises"][0].update(base="Exception"),
    "ecall gone": lambda plain: plain["ecalls"].pop("find"),
    "ocall gone": lambda plain: plain["ocalls"].pop("tell"),
    "field renamed": lambda plain: _person(plain)["fields"][0].update(name="label"),
    "field's key": lambda plain: _person(plain)["fields"][0].update(key="n"),
    "field retyped": lambda plain: _person(plain)["fields"][1]["type"].update(name="float"),
    "field's default": lambda plain: _person(plain)["fields"][1].update(default=1),
    "default's type": lambda plain: _person(plain)["fields"][1].update(default=False),
    "default gone": lambda plain: _person(plain)["fields"][1].pop("default"),
    "field required": lambda plain: _person(plain).update(fields=_person(plain)["fields"][:1]),
    "frozen": lambda plain: _person(plain).pop("frozen"),
    "tag": lambda plain: _person(plain).update(tag="p", tag_field="type"),
    "array_like": lambda plain: _person(plain).update(array_like=True),
    "forbid_unknown": lambda plain: _person(plain).update(forbid_unknown=True),
    "other kind": lambda plain: _person(plain).update(type="tuple", frozen=None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_matters_changes_the_digest_and_shows_in_the_diff(name: str) -> None:
    def change(plain: dict[str, Any]) -> None:
        CHANGES[name](plain)
        if _person(plain).get("frozen", 0) is None:
            del _person(plain)["frozen"]

    other = _changed(change)
    assert other.digest() != SAMPLE.digest()
    assert diff(SAMPLE, other)


def test_documentation_and_version_do_not_matter() -> None:
    def change(plain: dict[str, Any]) -> None:
        plain["version"] = "2.0"
        _find(plain)["doc"] = "Find them all."

    other = _changed(change)
    assert other.digest() == SAMPLE.digest()
    assert diff(SAMPLE, other) == []


def test_the_diff_reads_like_declarations() -> None:
    def find(name: str, limit: int = 10, *, exact: bool = False) -> list[Person]: ...

    class Person(msgspec.Struct, frozen=True):
        name: str
        mail: str

    find.__annotations__["return"] = list[Person]
    Person.__annotations__ = {"name": str, "mail": str}
    assert diff(SAMPLE, gather(find)) == [
        "- find(name: str, limit: int = ...) -> list[Person] raises NoSuchPerson(KeyError)",
        "+ find(name: str, limit: int = ..., *, exact: bool = ...) -> list[Person]",
        "- ocall tell(names: Iterator[str]) -> None",
        "- class Person(name: str, age: int = 0) [frozen]",
        "+ class Person(name: str, mail: str) [frozen]",
    ]


# --- gathering -----------------------------------------------------------------------------------


def test_two_types_of_one_name_are_refused() -> None:
    def other() -> None: ...

    other.__annotations__["return"] = msgspec.defstruct("Person", [("x", int)], frozen=True)
    with pytest.raises(InterfaceError, match="people: two different types are called Person"):
        gather(find, other)


def test_two_exceptions_of_one_name_are_refused() -> None:
    other = type("NoSuchPerson", (ValueError,), {})
    with pytest.raises(InterfaceError, match="two different exceptions are called NoSuchPerson"):
        Interface.gather(
            "people",
            "1",
            [describe_function(find, [NoSuchPerson])],
            [describe_function(tell, [other])],
        )


def test_what_could_not_be_read_back_is_not_gathered() -> None:
    def long() -> None: ...

    long.__annotations__["return"] = Literal["x" * 2000]
    with pytest.raises(InterfaceError, match="a text of 2000 characters"):
        gather(long)
    with pytest.raises(InterfaceError, match="version is a text"):
        gather(find, version=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_of_the_handle_are_refused(name: str) -> None:
    with pytest.raises(InterfaceError, match=f"enclave.{name}"):
        check_name(name)
    plain = SAMPLE.to_json().replace(b'"find"', f'"{name}"'.encode())
    with pytest.raises(InterfaceError):
        Interface.from_json(plain)


def test_private_names_are_refused() -> None:
    with pytest.raises(InterfaceError, match="underscore"):
        check_name("_find")


# --- hostile descriptions ------------------------------------------------------------------------


def _survives(data: bytes) -> None:
    """Whatever is accepted can be compared, made into types and written as code."""
    try:
        interface = Interface.from_json(data)
    except InterfaceError:
        return
    assert Interface.from_json(interface.to_json()) == interface
    assert (interface.digest() == RICH.digest()) == (diff(interface, RICH) == [])
    compile(client_module(interface), "client.py", "exec")
    try:
        HostTypes(interface)
    except InterfaceError:
        return


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InterfaceError):
        Interface.from_json(data)


_words = st.sampled_from(
    [
        *("Person", "find", "tell", "name", "int", "str", "None", "list", "class", "__init__"),
        *("keyword", "positional", "struct", "enum", "tuple", "dict", "basic", "named", "Any"),
        *("mro", "close", "_x", "é", "a b", "", '"""', "\\", "\x1b[2J", "x" * 129, "StopIteration"),
        *("float64", "object_", "Table", "type", "set", "RED", "self", "result", "Enclave"),
    ]
)
_descs = st.recursive(
    st.fixed_dictionaries({"type": st.just("named"), "name": st.sampled_from(["Node", "Person"])})
    | st.builds(lambda name: {"type": "basic", "name": name}, st.sampled_from(sorted(td.BASIC)))
    | st.builds(lambda dtype: {"type": "ndarray", "dtype": dtype}, st.sampled_from(["int8", None]))
    | st.just({"type": "arrow", "kind": "Table"})
    | st.builds(lambda values: {"type": "exactly", "values": values}, st.lists(_words, min_size=1)),
    lambda inner: (
        st.builds(
            lambda kind, item: {"type": "sequence", "kind": kind, "item": item},
            st.sampled_from(sorted(td.SEQUENCES)),
            inner,
        )
        | st.builds(
            lambda of: {"type": "either", "of": of}, st.lists(inner, min_size=2, max_size=3)
        )
        | st.builds(lambda k, v: {"type": "dictionary", "key": k, "value": v}, inner, inner)
        | st.builds(
            lambda of, name, value: {"type": "limited", "of": of, "limits": {name: value}},
            inner,
            st.sampled_from(td.LIMITS),
            st.integers(-1, 5) | st.booleans() | st.just("("),
        )
    ),
    max_leaves=4,
)
_values = _descs | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _words,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_words, inner, max_size=3)
        | st.fixed_dictionaries({"type": _words, "name": _words})
    ),
    max_leaves=6,
)


def _like(value: Any) -> st.SearchStrategy[Any]:
    """Something else of the same kind, so that more than the first check is reached."""
    match value:
        case bool():
            return st.booleans()
        case str():
            return _words
        case int():
            return st.integers()
        case {"type": _}:
            return _descs
    return _values


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _paths(item, (*path, key))


RICH = gather(find, mix, ocalls=(tell,), raises=(NoSuchPerson,))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_altered_descriptions_are_refused_or_harmless(data: st.DataObject) -> None:
    plain = json.loads(RICH.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        changed = copy.deepcopy(plain)
        path = data.draw(st.sampled_from(list(_paths(changed))[1:]))
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        choice = data.draw(st.integers(0, 5))
        if choice > 1:
            parent[path[-1]] = data.draw(_like(parent[path[-1]]) if choice > 2 else _values)
        elif choice and isinstance(parent, dict):
            parent[data.draw(_words)] = parent.pop(path[-1])
        else:
            del parent[path[-1]]
        plain = changed
        if not isinstance(plain, dict) or len(list(_paths(plain))) < 2:
            break
    _survives(json.dumps(plain).encode())


def _types(count: int) -> dict[str, Any]:
    chain = {
        f"T{number}": {
            "type": "struct",
            "fields": [{"name": "x", "type": {"type": "named", "name": f"T{number + 1}"}}],
        }
        for number in range(count)
    }
    return {**chain, f"T{count}": {"type": "struct", "fields": []}}


def _interface(**parts: Any) -> bytes:
    empty: dict[str, Any] = {"name": "a", "version": "1", "ecalls": {}, "ocalls": {}, "types": {}}
    return json.dumps(empty | parts).encode()


def _deep(depth: int) -> Any:
    desc: Any = {"type": "basic", "name": "int"}
    for _ in range(depth):
        desc = {"type": "sequence", "kind": "list", "item": desc}
    return desc


def _returns(desc: Any) -> bytes:
    return _interface(ecalls={"f": {"name": "f", "params": [], "result": desc}})


def _union(*more: Any) -> Any:
    plain = [{"type": "basic", "name": name} for name in ("int", "str")]
    return {"type": "either", "of": [*plain, *more]}


def _enum(kind: str, value: Any) -> bytes:
    return _interface(types={"E": {"type": "enum", "kind": kind, "members": [["A", value]]}})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 1_000_000, "not an interface"),
        (b" " * (module.MAX_BYTES + 1), "bytes; 1048576 are allowed"),
        (_returns(_deep(40)), "nested too deeply"),
        (_interface(types=_types(1001)), "1002 of a kind; 1000 are allowed"),
        (_interface(name="x" * 1001), "a text of 1001 characters"),
        (_interface(name="\x1b[2J"), "can't be printed"),
        (_interface(more=1), "unknown field"),
        (_returns({"type": "basic", "name": "os.system"}), "unknown type 'os.system'"),
        (_returns({"type": "named", "name": "Nobody"}), "undefined type 'Nobody'"),
        (_returns({"type": "ndarray", "dtype": "object_"}), "unknown dtype 'object_'"),
        (_returns(_union(_union())), "fewer than two types, or of unions"),
        (_enum("IntEnum", "1"), "values of an IntEnum"),
        (_enum("IntFlag", "a"), "values of an IntFlag"),
        (_enum("StrEnum", 1), "values of an StrEnum"),
        (_interface(types={"a-b": {"type": "dict", "fields": []}}), "'a-b' can't be a name"),
        (_interface(types={"class": {"type": "dict", "fields": []}}), "a keyword of Python"),
        (_interface(types={"__x": {"type": "dict", "fields": []}}), "Python's own"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(data: bytes, message: str) -> None:
    begin = time.monotonic()
    with pytest.raises(InterfaceError, match="not an interface") as caught:
        Interface.from_json(data)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert time.monotonic() - begin < 5


def test_a_long_chain_of_types_does_not_crash_the_host() -> None:
    plain = {"type": "named", "name": "T0"}
    functions = {"f": {"name": "f", "params": [], "result": plain}}
    interface = Interface.from_json(_interface(types=_types(999), ecalls=functions))
    with contextlib.suppress(InterfaceError):  # too deep or not: that depends on the Python
        HostTypes(interface)
