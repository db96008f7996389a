"""The enclave's importers: measured bytes run, anything else does not."""

from __future__ import annotations

import base64
import hashlib
import json
import marshal
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from secgear import App
from secgear.base import distributions, loader
from secgear.base.image import Image, assemble
from secgear.base.manifest import Manifest, Requirement

SECGEAR = str(Path(loader.__file__).parents[2])
SITE = [path for path in sys.path if path.endswith("site-packages")]

# As the runtime does it: its own modules are there first, then only measured ones can come.
INSIDE = """
import json, marshal, sys
files, requirements, site, outer = marshal.loads(sys.stdin.buffer.read())
sys.path[:0] = outer
from secgear.base import distributions, loader, manifest
sys.path[:] = [path for path in sys.path if path not in outer]
class Files:
    paths = tuple(files)
    read = staticmethod(files.__getitem__)
required = [manifest.Requirement(*item) for item in requirements]
before = set(sys.modules)
loader.install_finders(Files, distributions.verify(required, site), site)
def refused(name):
    try:
        __import__(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "imported"
"""


def inside(
    code: str,
    files: dict[str, bytes] | None = None,
    required: Iterable[distributions.Distribution] = (),
    site: list[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `code` in an interpreter that imports only what is measured."""
    requirements = [(item.name, item.version, item.digest) for item in required]
    request = marshal.dumps((files or {}, requirements, SITE if site is None else site,
                             [SECGEAR, *SITE]))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", INSIDE + code],
        input=request, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def output(code: str, *args: object, **kwargs: object) -> str:
    done = inside(code, *args, **kwargs)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- the app -------------------------------------------------------------------------------------

APP = {
    "wordcount.py": b"import shop.stock, helper\nprint(__file__, helper.x, shop.stock.y)\n",
    "helper.py": b"x = 1\n",
    "shop/__init__.py": b"",
    "shop/stock.py": b"from . import deep\nfrom .deep.most import z\ny = z + 1\n",
    "shop/deep/most.py": b"z = 2\n",
    "shop/data/prices.csv": "a,é\n".encode(),
}


def test_an_app_imports_its_modules_from_the_image() -> None:
    assert output("import wordcount", APP) == "<image>/wordcount.py 1 3"


def test_a_module_that_the_image_does_not_hold_is_not_found() -> None:
    assert output("print(refused('helpers'))", APP) == (
        "ModuleNotFoundError: No module named 'helpers'"
    )
    assert "No module named" in output("print(refused('shop.stick'))", APP)


def test_an_app_can_not_replace_the_standard_library() -> None:
    files = {"json.py": b"print('evil')\n", "json/decoder.py": b"print('evil')\n"}
    assert output("import json.decoder; print(json.__file__)", files).startswith("/")


def test_a_package_wins_over_a_module_and_a_module_over_a_bare_folder() -> None:
    files = {
        "a.py": b"print('module')\n",
        "a/__init__.py": b"print('package')\n",
        "b.py": b"print('module')\n",
        "b/c.py": b"",
    }
    assert output("import a, b", files).split() == ["package", "module"]


def test_resources_of_a_package_are_read_from_the_image() -> None:
    code = """
from importlib import resources
import pkgutil, shop
root = resources.files("shop")
prices = root / "data" / "prices.csv"
print(prices.read_text() == "a,é\\n", prices.read_bytes() == "a,é\\n".encode(), prices.name)
print(root.joinpath("data", "prices.csv").is_file(), (root / "data").is_dir(), root.is_file())
print(sorted(item.name for item in root.iterdir()), list(map(str, (root / "data").iterdir())))
with prices.open() as text, prices.open("rb") as binary:
    print(text.read() == binary.read().decode())
print(resources.read_text("shop", "stock.py")[:6], pkgutil.get_data("shop", "data/prices.csv")[:2])
for missing in (root / "gone", root / ".." / "helper.py"):
    try:
        missing.read_bytes()
    except FileNotFoundError as error:
        print(error)
"""
    assert output(code, APP).splitlines() == [
        "True True prices.csv",
        "True True False",
        "['__init__.py', 'data', 'deep', 'stock.py'] ['<image>/shop/data/prices.csv']",
        "True",
        "from . b'a,'",
        "[Errno 2] not in the image: '<image>/shop/gone'",
        "[Errno 2] not in the image: '<image>/shop/../helper.py'",
    ]


def test_tracebacks_and_inspect_show_the_app_s_source() -> None:
    files = {"broken.py": "# é\ndef fail():\n    raise ValueError('oops')  # here\n".encode()}
    code = """
import broken, inspect, traceback
print(inspect.getsource(broken.fail))
try:
    broken.fail()
except ValueError:
    print(traceback.format_exc())
"""
    printed = output(code, files)
    assert printed.startswith("def fail():\n")
    assert "\"<image>/broken.py\", line 3, in fail\n    raise ValueError('oops')  # here" in printed


def test_source_in_another_encoding_is_honoured() -> None:
    files = {"latin.py": "# coding: latin-1\nprint(len('é'))\n".encode("latin-1")}
    assert output("import latin", files) == "1"


# --- distributions -------------------------------------------------------------------------------


def lay_out(site: Path, name: str, files: dict[str, bytes]) -> None:
    record = ""
    files = {**files, f"{name}-1.0.dist-info/METADATA": f"Name: {name}\nVersion: 1.0\n".encode()}
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    (site / f"{name}-1.0.dist-info" / "RECORD").write_text(record)


PURE = {
    "pure/__init__.py": b"x = 1\n",
    "pure/part.py": b"y = 2\n",
    "pure/data.txt": b"data\n",
    "space/left/__init__.py": b"side = 'left'\n",
    "single.py": b"one = 1\n",
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    lay_out(tmp_path, "pure", PURE)
    return tmp_path


def copy(name: str, site: Path) -> distributions.Distribution:
    """Copy an installed distribution to `site`."""
    found = distributions.measure(name)
    for path in [*found.files, f"{found.metadata}/RECORD"]:
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{found.root}/{path}", site / path)
    return distributions.measure(name, [str(site)])


def output_with(site: Path, code: str, *names: str) -> str:
    required = [distributions.measure(name, [str(site)]) for name in names or ("pure",)]
    return output(code, {}, required, [str(site)])


def after(
    site: Path, change: dict[str, bytes], code: str, *names: str
) -> subprocess.CompletedProcess[str]:
    """Run `code` where files were changed after the image was built."""
    required = [distributions.measure(name, [str(site)]) for name in names or ("pure",)]
    for path, content in change.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    return inside(code, {}, required, [str(site)])


def test_measured_modules_are_imported(site: Path) -> None:
    lay_out(site, "other", {"space/right/__init__.py": b"side = 'right'\n"})
    code = """
import pure.part, single, space.left, space.right
from importlib import metadata, resources
print(pure.x, pure.part.y, single.one, space.left.side, space.right.side)
print(metadata.version("Pure"), [item.name for item in metadata.distributions()][:2])
print(resources.files("pure").joinpath("data.txt").read_text().strip())
print(pure.__file__, pure.__spec__.loader.get_data(pure.__file__))
"""
    assert output_with(site, code, "pure", "other").splitlines() == [
        "1 2 1 left right",
        "1.0 ['pure', 'other']",
        "data",
        f"{site}/pure/__init__.py b'x = 1\\n'",
    ]


def test_a_module_of_a_distribution_that_is_not_required_is_explained(site: Path) -> None:
    lay_out(site, "Other_Thing", {"thing.py": b"print('ran')\n"})
    message = output_with(site, "print(refused('thing'))")
    assert message == (
        "ModuleNotFoundError: thing is installed, but the image does not require it; "
        "add 'other-thing' to App(requires=[...]) and build again"
    )


def test_a_changed_source_is_refused(site: Path) -> None:
    done = after(site, {"pure/part.py": b"print('ran')\n"}, "print(refused('pure.part'))")
    assert "RequirementError" in done.stdout
    assert "pure/part.py differs" in done.stdout


def test_planted_byte_code_is_not_run(site: Path) -> None:
    evil = site / "evil.py"
    evil.write_text("print('ran')\n")
    status = (site / "pure/__init__.py").stat()
    os.utime(evil, ns=(status.st_atime_ns, status.st_mtime_ns))
    cache = site / "pure/__pycache__" / f"__init__.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(
        str(evil), str(cache), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    for planted in ("pure/sourceless.pyc", "sourceless.pyc", "pure/part/sourceless.pyc"):
        (site / planted).parent.mkdir(exist_ok=True)
        shutil.copy(cache, site / planted)
    plain = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(site)!r}]; import pure"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert plain.stdout == "ran\n", "the attack must work on an ordinary interpreter"
    code = """
import pure.part
print(pure.x, pure.part.y)
sys.path.append(site[0])
sys.path.append(site[0] + "/../" + site[0].rpartition("/")[2])
for name in ("pure.sourceless", "sourceless", "pure.part.sourceless"):
    print(refused(name).partition(":")[0])
"""
    assert output_with(site, code).splitlines() == ["1 2", *["ModuleNotFoundError"] * 3]


def test_no_byte_code_is_written(site: Path) -> None:
    output_with(site, "sys.dont_write_bytecode = False; import pure.part, single")
    assert not list(site.rglob("*.pyc"))


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("pure/planted.py", "pure.planted"),
        ("pure/planted/__init__.py", "pure.planted"),
        ("pure/part/__init__.py", "pure.part"),  # a package would win over the module
        (f"pure/part{EXTENSION_SUFFIXES[0]}", "pure.part"),  # so would an extension module
        ("space/__init__.py", "space.left"),
        ("planted.py", "planted"),
        ("space/planted.py", "space.planted"),
    ],
)
def test_a_planted_module_is_not_run(site: Path, path: str, module: str) -> None:
    code = f"print(refused({module!r}), [name for name in sys.modules if 'planted' in name])"
    done = after(site, {path: b"print('ran')\n"}, code)
    assert "ran" not in done.stdout
    if "planted" in module:
        assert "ModuleNotFoundError" in done.stdout
    assert done.returncode == 0, done.stderr


def test_changed_data_is_refused_before_the_first_module_runs(site: Path) -> None:
    done = after(site, {"pure/data.txt": b"evil\n"}, "print(refused('pure'))")
    assert "RequirementError: pure/data.txt" in done.stdout


def test_changed_metadata_is_refused(site: Path) -> None:
    change = {"pure-1.0.dist-info/METADATA": b"Name: pure\nVersion: 2.0\n"}
    done = after(site, change, "import importlib.metadata; importlib.metadata.version('pure')")
    assert "RequirementError" in done.stderr


def test_an_extension_module_is_imported_and_a_changed_one_refused(tmp_path: Path) -> None:
    measured = copy("msgspec", tmp_path)
    core = next(path for path in measured.files if path.endswith(".so"))
    code = """
for name in [name for name in sys.modules if name.startswith("msgspec")]:
    del sys.modules[name]
"""
    fresh = code + "import msgspec; print(msgspec.__file__, msgspec.json.encode([1]))"
    assert output(fresh, {}, [measured], [str(tmp_path)]) == (
        f"{tmp_path}/msgspec/__init__.py b'[1]'"
    )
    changed = bytearray((tmp_path / core).read_bytes())
    changed[-1] ^= 1
    (tmp_path / core).write_bytes(changed)
    done = inside(code + "print(refused('msgspec'))", {}, [measured], [str(tmp_path)])
    assert f"RequirementError: {core}" in done.stdout


def test_an_extension_is_compared_again_right_before_it_is_opened(tmp_path: Path) -> None:
    suffix = EXTENSION_SUFFIXES[0]
    lay_out(tmp_path, "fast", {"fast/__init__.py": b"", f"fast/core{suffix}": b"not ELF"})
    code = f"""
import fast
with open({str(tmp_path / "fast" / f"core{suffix}")!r}, "ab") as file:
    file.write(b"evil")
print(refused("fast.core"))
"""
    assert "RequirementError" in output_with(tmp_path, code, "fast")


@pytest.mark.parametrize(
    "path",
    ["fast.libs/libz.so.1", "fast.libs/libplanted.so", "fast.libs/glibc-hwcaps/x/libm.so",
     "fast/libstdc++.so.6", "libc++.so.1"],
)  # fmt: skip
def test_a_library_planted_beside_measured_ones_is_refused(tmp_path: Path, path: str) -> None:
    suffix = EXTENSION_SUFFIXES[0]
    files = {
        "fast/__init__.py": b"",
        f"fast/core{suffix}": b"",
        f"fast_top{suffix}": b"",
        "fast.libs/libm-12.so.6": b"",
    }
    lay_out(tmp_path, "fast", files)
    lay_out(tmp_path, "other", {f"other{suffix}": b"not ours"})
    assert output_with(tmp_path, "print(refused('fast'))", "fast") == "imported"
    done = after(tmp_path, {path: b""}, "print(refused('fast'))", "fast")
    assert "RequirementError" in done.stdout
    assert "never measured" in done.stdout


REAL = {
    "numpy": """
import numpy, numpy.linalg, numpy.random
print((numpy.linalg.inv(numpy.eye(3)) == numpy.eye(3)).all(), numpy.random.default_rng(1).random())
""",
    "pyarrow": """
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet, pyarrow.dataset
print(pc.sum(pa.array([1, 2, 3])))
""",
    "duckdb": """
import duckdb
print(duckdb.sql("select sum(range) from range(10)").fetchall())
""",
    "cryptography": """
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography import x509
key = ed25519.Ed25519PrivateKey.generate()
key.public_key().verify(key.sign(b"x"), b"x")
print(len(AESGCM(bytes(32)).encrypt(bytes(12), b"x", None)))
""",
    "pandas": """
import pandas as pd
frame = pd.DataFrame({"a": [1, 2, 2], "t": pd.to_datetime(["2024-01-01"] * 3)})
print(frame.groupby("a").size().to_dict(), frame.t.dt.tz_localize("Europe/Berlin")[0])
""",
    "rich": """
from rich.console import Console
Console().print("[bold]hello[/]")
""",
}


@pytest.mark.parametrize("name", REAL)
def test_real_distributions_work_through_the_measured_importer(name: str) -> None:
    required = distributions.closure([name])
    code = (
        REAL[name]
        + """
from importlib import metadata
print("version", metadata.version(NAME))
def measured(module):
    spec = getattr(module, "__spec__", None)  # None for what an extension module makes itself
    return spec is None or type(spec.loader).__name__.startswith("Measured")
foreign = [module.__file__ for key, module in sys.modules.items() if key not in before
           and (getattr(module, "__file__", None) or "").startswith(tuple(site))
           and not measured(module)]
print("unmeasured", foreign)
""".replace("NAME", repr(name))
    )
    printed = output(code, {}, required)
    version = next(item.version for item in required if item.name == name)
    assert f"version {version}" in printed
    assert printed.endswith("unmeasured []")


def test_importing_the_loader_stays_light() -> None:
    code = "import sys, json, secgear.base.loader; print(json.dumps(list(sys.modules)))"
    stdlib = sysconfig.get_path("stdlib")
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         f"import sys; sys.path[:0] = {[SECGEAR, *SITE, stdlib]!r}; {code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(json.loads(done.stdout))
    assert loaded.isdisjoint({"importlib.metadata", "importlib.abc", "zipfile", "pathlib", "csv"})


# --- an image and what it requires ---------------------------------------------------------------

INSTALLED = """
import marshal, sys
data, search_path, outer, code = marshal.loads(sys.stdin.buffer.read())
standard = list(sys.path)
sys.path[:0] = outer
from secgear.base import image, loader
import cryptography  # in part
made = image.Image.parse(data)
sys.path[:] = standard
try:
    loader.install(made, search_path)
    exec(code)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def installed(image: Image, search_path: list[str], code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", INSTALLED],
        input=marshal.dumps((image.data, search_path, [SECGEAR, *SITE], code)),
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout.decode().strip()


def image_of(**changes: object) -> Image:
    source = b"import cffi, json, xml.dom, _decimal\nprint(cffi.__version__)\n"
    interface = App("demo").interface.to_json()
    values: dict[str, object] = {
        "name": "demo", "version": "0", "product": "demo", "svn": 1, "entry": "demo",
        "debug": False, "interface": hashlib.sha384(interface).digest(), "threads": 1,
        "memory": 1 << 30, "log": "off", "files": {"demo.py": hashlib.sha384(source).digest()},
        "requires": tuple(item.requirement for item in distributions.closure(["cffi"])),
        "python": distributions.python_tag(), "platform": distributions.platform_tag(),
    }  # fmt: skip
    manifest = Manifest(**{**values, **changes})  # type: ignore[arg-type]
    return assemble(manifest, interface, {"demo.py": source})


def test_an_image_finds_what_it_requires_on_the_host_s_whole_search_path() -> None:
    around = str(Path(SITE[0]).parents[2])  # a project's folder, with the environment inside
    stdlib = str(Path(os.__file__).parents[1])  # a folder with the standard library inside
    search_path = [around, stdlib, *(path for path in sys.path if path)]
    assert sysconfig.get_path("stdlib") in search_path
    version = distributions.measure("cffi").version
    assert installed(image_of(), search_path, "import demo") == version
    assert "ModuleNotFoundError: pytest is installed, but" in installed(
        image_of(), search_path, "import pytest"
    )


def test_the_runtime_can_complete_what_it_began_to_import() -> None:
    code = "import cryptography.fernet, secgear.base.build; print('done')"
    assert installed(image_of(), SITE, code) == "done"
    assert "add 'rich' to" in installed(image_of(), SITE, "import rich.console")


def test_what_the_app_requires_is_measured_even_if_the_runtime_began_it(site: Path) -> None:
    lay_out(site, "begun", {"cryptography/__init__.py": b""})
    requires = (distributions.measure("begun", [str(site)]).requirement,)
    py_compile.compile(str(site / "single.py"), str(site / "cryptography/fernet.pyc"))
    code = "sys.modules['cryptography'].__path__ = [search_path[0] + '/cryptography']\n"
    image = image_of(requires=requires)
    printed = installed(
        image, [str(site), *SITE], code + "import cryptography.fernet; print('ran')"
    )
    assert printed.startswith("ModuleNotFoundError")


def test_a_module_beside_the_host_program_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("print('ran')\n")
    printed = installed(image_of(), [str(tmp_path), *SITE], "import neighbour")
    assert printed == (
        f"ModuleNotFoundError: neighbour lies in {tmp_path}, but it is not part of the image; "
        "put it beside the app"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": "cpython-39"}, "built for cpython-39 on"),
        ({"platform": "linux-riscv64"}, "on linux-riscv64, this is"),
        ({"requires": (Requirement("cffi", "0.1", bytes(48)),)}, "built with cffi 0.1, here is"),
        ({"requires": (Requirement("absent", "1", bytes(48)),)}, "absent is not installed"),
    ],
)
def test_an_image_that_does_not_fit_here_says_why(changes: dict[str, object], message: str) -> None:
    printed = installed(image_of(**changes), SITE, "import demo")
    assert printed.startswith("RequirementError: ")
    assert message in printed
