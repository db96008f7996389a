"""Generated clients: typed, clean, the same every time, and they work."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
import pytest

import secgear
from secgear.base.build import build
from secgear.base.codegen import client_module, stub
from secgear.base.image import Image
from secgear.base.interface import RESERVED, Interface, describe_function
from secgear.base.schema import HostTypes
from secgear.errors import DeadlineExceeded, EnclaveError, InterfaceMismatch

ROOT = Path(__file__).parents[2]

APP = '''
from __future__ import annotations

import builtins
import dataclasses
import datetime
import enum
import time
import typing
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict

import msgspec

from secgear import App

app = App("rich-app 9", version="1.0")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.IntFlag):
    READ = 4


class Person(msgspec.Struct, frozen=True, rename={"born": "b"}):
    name: str
    color: Color = Color.RED
    born: datetime.date | None = None
    tags: list[str] = []
    odd: tuple[int, ...] = (1, 2)
    none: tuple[int, ...] = ()
    raw: bytes = b""


class Tree(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    value: int
    children: list[Tree | Leaf] = []


Shade = Color


class Leaf(msgspec.Struct, tag="leaf", tag_field="type"):
    list: builtins.list[int]
    date: datetime.date
    Color: Color
    str: float = 1.5
    other: Shade = Shade.BLUE


class Row(msgspec.Struct, array_like=True):
    a: int
    b: int = 3


class Late(msgspec.Struct, kw_only=True):
    early: int = 1
    needed: str


class Keys(TypedDict):
    there: int
    perhaps: NotRequired[str]


class Pair(NamedTuple):
    count: int
    text: str = "q\\"'\\\\"


@dataclasses.dataclass
class Line:
    article: str
    pieces: int = 1


class NoSuch(KeyError):
    """Nobody has it."""


class Plain(Exception):
    """Just so."""


@app.ecall(raises=[NoSuch, Plain, ValueError])
def find(
    name: str,
    limit: int = 5,
    least: Annotated[int, msgspec.Meta(ge=0, lt=10)] = 3,
    *,
    deep: bool,
    wide: float | None = None,
) -> dict[str, int]:
    """Find "it". \\"\\"\\" \\\\ {curly} "quoted\\""""
    if name == "nobody":
        raise NoSuch(name)
    if name == "bad":
        raise ValueError(name)
    progress(0.5)
    return {name: limit, "least": least, "deep": int(deep), "wide": int(wide or 0)}


@app.ecall
def greet(person: Person) -> Person:
    """Greet somebody."""
    return msgspec.structs.replace(person, tags=["hello"])


def _shadows() -> None:
    @app.ecall
    def list(self: int, list: builtins.list[Person], result: Pair) -> builtins.list[Person]:
        return list * self

    @app.ecall
    def Leaf_(Leaf: Leaf, dict: builtins.dict[str, Level]) -> tuple[Leaf, set[Color]]:
        return Leaf, {Leaf.Color, Leaf.other}


_shadows()


@app.ecall
def double(numbers: Iterator[int], times: int = 2) -> Iterator[int]:
    """Double all."""
    for number in numbers:
        yield number * times


@app.ecall
def everything(
    keys: Keys,
    row: Row,
    line: Line,
    late: Late,
    tree: Tree | Leaf,
    grants: dict[Level, Access],
    number: uuid.UUID,
    money: Decimal,
    word: Literal["a", "b", 1, None],
    anything: Any,
    data: bytes | None,
    nothing: tuple[()],
    /,
) -> None:
    """Take one of each."""


@app.ecall
def sleep(seconds: float) -> None:
    """Sleep."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


@app.ocall
def progress(done: float) -> None: ...


@app.ocall
def lookup(names: Iterator[str], *, mode: str = "x") -> Iterator[Person]: ...
'''

DATA = '''
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from collections.abc import Iterator

from secgear import App
from secgear.base.tee import Evidence

app = App("data", requires=["numpy", "pyarrow"])


@app.ecall
def mix(a: npt.NDArray[np.float64], b: np.ndarray | None, c: npt.NDArray[np.bool_]) -> pa.Table:
    """Mix arrays."""
    raise NotImplementedError


@app.ecall
def batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Cut a table."""
    yield from table.to_batches()


@app.ecall
def attest(report_data: bytes) -> Evidence:
    """Evidence."""
    raise NotImplementedError
'''

AWKWARD = '''
from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator
from decimal import Decimal
from typing import Literal, NamedTuple

import msgspec

from secgear import App

app = App("awkward")


class Case(enum.StrEnum):
    title = "title"
    index = "index"
    lower = "lower"


class Bits(enum.IntFlag):
    name = 1
    real = 2


class hash(msgspec.Struct):
    x: int


class type(msgspec.Struct):
    x: int


class Holder(msgspec.Struct):
    hashed: hash
    Iterator: type
    Callable: int = 0
    Any: int = 0


class Shared(NamedTuple):
    words: list[str] = []
    numbers: dict[str, int] = {}
    marks: set[int] = set()


@app.ecall
def a_rather_long_name_for_a_function(
    another_long_name: Holder, one_more_long_name: Shared, cases: dict[Case, Bits]
) -> dict[str, tuple[int, Shared]]:
    """This sentence is longer than a line of the generated module, so that it ends up in a piece
    of the interface in which there is no quotation mark at all, which is what is tested here."""
    raise NotImplementedError


@app.ecall
def nothing_to_return_but_long_names(another_long_name_to_give: int, one_more_name: int) -> None:
    """Nothing."""


@app.ecall
def far(
    x: dict[str, dict[str, tuple[Literal["one", "two"], Literal["three", "four"], Holder, Shared]]],
) -> Iterator[int]:
    """A type that is longer than a line."""
    yield 1


@app.ocall
def ask(when: datetime.datetime, amount: Decimal | None = None) -> None: ...
'''

USE = """
from __future__ import annotations

import datetime

from client import Color, Leaf, Ocalls, Pair, Person, RichApp9Client, launch


def show(done: float) -> None:
    print(done)


def use(client: RichApp9Client) -> None:
    found: dict[str, int] = client.find("x", deep=True)
    numbers: list[int] = list(client.double(iter([1]), times=3))
    future = client.submit.find("x", 1, deep=False)
    found = future.result()
    person = Person("Ada", born=datetime.date(1815, 12, 10))
    people: list[Person] = client.list(1, [person], Pair(1))
    leaf = Leaf([1], datetime.date.today(), Color.RED)
    colors: set[Color] = client.Leaf_(leaf, {})[1]
    print(found, numbers, people, colors, client.options(deadline=1.0).greet(person).name)


async def later(client: RichApp9Client) -> None:
    person: Person = await client.aio.greet(Person("Ada"))
    async for number in client.aio.double([1, 2]):
        print(number + 1, person)


handlers: Ocalls = {"progress": show}
with launch("app.sgear", ocalls=handlers) as running:
    use(running)
    wrong: str = running.find("x", deep=True)  # type: ignore[assignment]
    running.find("x")  # type: ignore[call-arg]
    running.find(1, deep=True)  # type: ignore[arg-type]
    running.nothing()  # type: ignore[attr-defined]
    bad: Ocalls = {"progress": len}  # type: ignore[typeddict-item]
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    path = tmp_path_factory.mktemp("app") / "app.py"
    path.write_text(APP)
    return build(path, debug=True)


@pytest.fixture(scope="module")
def data_interface(tmp_path_factory: pytest.TempPathFactory) -> Interface:
    path = tmp_path_factory.mktemp("data") / "data.py"
    path.write_text(DATA)
    return build(path, debug=True).interface


@pytest.fixture(scope="module")
def awkward_interface(tmp_path_factory: pytest.TempPathFactory) -> Interface:
    path = tmp_path_factory.mktemp("awkward") / "awkward.py"
    path.write_text(AWKWARD)
    return build(path, debug=True).interface


def load(tmp_path: Path, source: str, name: str) -> ModuleType:
    """Import generated source as somebody would."""
    path = tmp_path / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # msgspec looks annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client(
    image: Image, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ModuleType, Any, list[float]]]:
    """The generated module, a client of a running enclave, and what its OCALL told."""
    source = client_module(image.interface, image.measurement)
    module = load(tmp_path_factory.mktemp("client"), source, "generated_client")
    path = tmp_path_factory.mktemp("app") / "app.py"
    path.write_text(APP)
    told: list[float] = []
    with module.launch(path, tee="process", ocalls={"progress": told.append}) as running:
        yield module, running, told
    del sys.modules["generated_client"]


# --- the text ------------------------------------------------------------------------------------


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MYPYPATH": str(ROOT)},
    )


def test_generated_code_passes_mypy_and_catches_wrong_use(
    image: Image, data_interface: Interface, awkward_interface: Interface, tmp_path: Path
) -> None:
    (tmp_path / "client.py").write_text(client_module(image.interface, image.measurement))
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "data.py").write_text(client_module(data_interface))
    (tmp_path / "awkward.py").write_text(client_module(awkward_interface))
    (tmp_path / "stubs").mkdir()
    (tmp_path / "stubs" / "awkward_stub.pyi").write_text(stub(awkward_interface))
    (tmp_path / "stubs" / "client_stub.pyi").write_text(stub(image.interface))
    (tmp_path / "stubs" / "data_stub.pyi").write_text(stub(data_interface))
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}"]
    files = ["client.py", "use.py", "data.py", "awkward.py"]
    files += [f"stubs/{name}_stub.pyi" for name in ("client", "data", "awkward")]
    done = run("mypy", *options, *files, cwd=tmp_path)
    assert done.stdout.startswith("Success"), done.stdout + done.stderr


def test_generated_code_passes_ruff_and_needs_no_formatting(
    image: Image, data_interface: Interface, awkward_interface: Interface, tmp_path: Path
) -> None:
    interfaces = (image.interface, data_interface, awkward_interface, _shorter(awkward_interface))
    for number, interface in enumerate(interfaces):
        (tmp_path / f"client{number}.py").write_text(client_module(interface, image.measurement))
        (tmp_path / f"stub{number}.pyi").write_text(stub(interface))
    for command in (["check"], ["format", "--diff"]):
        done = run("ruff", *command, "--isolated", "--no-cache", ".", cwd=tmp_path)
        assert done.returncode == 0, done.stdout


def _shorter(awkward: Interface) -> Interface:
    """Without the type that no line can hold, so that formatters and linters look at the rest."""
    ecalls = {name: function for name, function in awkward.ecalls.items() if name != "far"}
    return msgspec.structs.replace(awkward, ecalls=ecalls)


def test_only_a_type_longer_than_a_line_keeps_formatters_out(
    image: Image, awkward_interface: Interface
) -> None:
    assert "fmt: off" not in client_module(image.interface, image.measurement)
    assert "fmt: off" in client_module(awkward_interface)
    assert "fmt: off" not in client_module(_shorter(awkward_interface))


def test_awkward_names_can_be_imported_and_used(
    awkward_interface: Interface, tmp_path: Path
) -> None:
    module = load(tmp_path, client_module(awkward_interface), "generated_awkward")
    try:
        types = HostTypes(awkward_interface, module.TYPES)
        assert types.namespace.Holder is module.Holder
        assert module.Shared() == ([], {}, set())
        assert module.Case.title == "title"
    finally:
        del sys.modules["generated_awkward"]


def test_the_same_interface_gives_the_same_text(image: Image) -> None:
    again = Interface.from_json(image.interface.to_json())
    assert client_module(image.interface) == client_module(again)
    backwards = msgspec.structs.replace(
        again,
        ecalls=dict(reversed(again.ecalls.items())),
        types=dict(reversed(again.types.items())),
    )
    assert client_module(backwards) == client_module(again)
    assert stub(backwards) == stub(again)


def test_a_small_stub_reads_like_this() -> None:
    def count(text: str, limit: int = 3) -> dict[str, int]:
        """Count words."""

    interface = Interface.gather("word count", "1.0", [describe_function(count)], [])
    assert textwrap.dedent(
        '''
        class WordCountClient:
            """Running enclave; its ECALLs wait for their results."""

            enclave: Enclave
            submit: Submit
            aio: Aio
        '''
    ) in stub(interface)
    assert (
        "    async def count(self, text: str, limit: int = ...) -> dict[str, int]:\n"
        '        """Count words."""\n'
    ) in stub(interface)


@pytest.mark.parametrize("name", ["a\"'\\\n", '"""', "\\", "1", "ä", "{}", "%s"])
def test_no_name_or_text_breaks_out_of_its_place(name: str, tmp_path: Path) -> None:
    def f(
        word: str = "",
    ) -> None: ...

    f.__doc__ = f"{name} {name}\n\nmore"
    printable = "".join(char for char in name if char.isprintable())
    odd = msgspec.defstruct("Odd", [("x", str, printable)], tag=printable, rename={"x": "%{é}"})
    f.__annotations__["word"] = odd | Literal[printable]
    interface = Interface.gather(printable, printable, [describe_function(f)], [])
    module = load(tmp_path, client_module(interface), "generated_odd")
    try:
        assert module.Odd().x == printable
        assert Interface.from_json(module.INTERFACE) == interface
        client = next(kind for label, kind in vars(module).items() if label.endswith("Client"))
        assert " ".join(inspect.getdoc(client.f).split()) == interface.ecalls["f"].doc.strip()
    finally:
        del sys.modules["generated_odd"]


def test_ecalls_can_not_hide_what_the_client_offers() -> None:
    def f() -> None: ...

    scope: dict[str, Any] = {}
    source = client_module(Interface.gather("a", "1", [describe_function(f)], []))
    exec(compile(source, "a.py", "exec"), scope)
    public = {name for name in dir(scope["AClient"]) if not name.startswith("_")} - {"f"}
    assert public | {"enclave", "submit", "aio"} <= RESERVED


def test_launch_takes_what_secgear_launch_takes(client: tuple[ModuleType, Any, Any]) -> None:
    module, _, _ = client
    generated = inspect.signature(module.launch).parameters
    original = dict(inspect.signature(secgear.launch).parameters)
    del original["interface"], original["types"]
    assert generated.keys() == original.keys()
    for name, parameter in original.items():
        assert generated[name].kind == parameter.kind
        assert generated[name].default == parameter.default


# --- what it does --------------------------------------------------------------------------------


def test_calls_take_the_enclaves_own_defaults(client: tuple[ModuleType, Any, list[float]]) -> None:
    _, running, told = client
    told.clear()
    assert running.find("x", deep=True) == {"x": 5, "least": 3, "deep": 1, "wide": 0}
    assert running.find("x", 9, 1, deep=False, wide=2.0)["x"] == 9
    assert told == [0.5, 0.5]


def test_the_modules_own_classes_travel(client: tuple[ModuleType, Any, Any]) -> None:
    module, running, _ = client
    person = running.greet(module.Person("Ada", module.Color.BLUE))
    assert type(person) is module.Person
    assert (person.tags, person.color, person.odd) == (["hello"], module.Color.BLUE, (1, 2))
    assert running.enclave.types.Person is module.Person


def test_names_that_shadow_built_ins_work(client: tuple[ModuleType, Any, Any]) -> None:
    module, running, _ = client
    people = [module.Person("Ada")]
    assert [person.name for person in running.list(2, people, module.Pair(1))] == ["Ada", "Ada"]
    leaf = module.Leaf([1], module.datetime.date(2024, 1, 1), module.Color.RED)
    same, colors = running.Leaf_(leaf, {"a": module.Level.LOW})
    assert same == leaf
    assert colors == {module.Color.RED, module.Color.BLUE}


def test_declared_errors_are_the_modules_own(client: tuple[ModuleType, Any, Any]) -> None:
    module, running, _ = client
    with pytest.raises(module.NoSuch, match="nobody") as caught:
        running.find("nobody", deep=True)
    assert isinstance(caught.value, KeyError)
    with pytest.raises(ValueError, match="bad") as other:
        running.find("bad", deep=True)
    assert isinstance(other.value, EnclaveError)


def test_the_three_styles_agree(client: tuple[ModuleType, Any, Any]) -> None:
    _, running, _ = client

    async def collect(numbers: AsyncIterator[int]) -> list[int]:
        return [number async for number in numbers]

    async def find() -> Any:
        return await running.aio.find("x", deep=True)

    future = running.submit.find("x", deep=True)
    assert isinstance(future, Future)
    assert future.result() == running.find("x", deep=True) == asyncio.run(find())
    assert list(running.double([1, 2], times=3)) == [3, 6]
    assert asyncio.run(collect(running.aio.double([1, 2]))) == [2, 4]


def test_options_give_calls_a_deadline(client: tuple[ModuleType, Any, Any]) -> None:
    _, running, _ = client
    with pytest.raises(DeadlineExceeded):
        running.options(deadline=0.2).sleep(30.0)
    running.options(deadline=30.0).sleep(0.0)


def test_another_interface_is_refused_with_the_difference(
    client: tuple[ModuleType, Any, Any], tmp_path: Path
) -> None:
    module, _, _ = client
    path = tmp_path / "app.py"
    path.write_text(APP.replace("times: int = 2", "times: float = 2"))
    with pytest.raises(InterfaceMismatch) as caught:
        module.launch(path)
    assert "- double(numbers: Iterator[int], times: int = ...) -> Iterator[int]" in str(
        caught.value
    )
    assert "+ double(numbers: Iterator[int], times: float = ...) -> Iterator[int]" in str(
        caught.value
    )


def test_the_measurement_is_noted(client: tuple[ModuleType, Any, Any], image: Image) -> None:
    module, _, _ = client
    assert image.measurement == module.MEASUREMENT
