"""Building: the same bytes everywhere, the app never in the builder, errors that name the fix."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from secgear.base import build as build_module
from secgear.base.build import build
from secgear.base.distributions import closure, platform_tag, python_tag
from secgear.base.image import Image
from secgear.errors import BuildError, ImageError, RequirementError, SecGearError

SECGEAR = str(Path(build_module.__file__).parents[2])

APP = """
from secgear import App

app = App("wordcount", version="1.0", svn=3, threads=2, memory=1 << 28, log="info")

@app.ecall
def count(text: str) -> dict[str, int]:
    progress(0.5)
    return {}

@app.ocall
def progress(done: float) -> None: ...
"""


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def test_a_single_file_becomes_an_image(tmp_path: Path) -> None:
    lay_out(tmp_path, {"wordcount.py": APP, "sibling.py": "", "data.txt": ""})
    image = build(tmp_path / "wordcount.py")
    manifest = image.manifest
    assert image.paths == ("wordcount.py",)
    assert image.read("wordcount.py") == APP.encode()
    assert (manifest.name, manifest.version, manifest.product) == ("wordcount", "1.0", "wordcount")
    assert (manifest.svn, manifest.threads, manifest.memory) == (3, 2, 1 << 28)
    assert (manifest.log, manifest.debug, manifest.entry) == ("info", False, "wordcount")
    assert manifest.ocalls == ("progress",)
    assert manifest.requires == ()
    assert manifest.python == manifest.platform == ""
    assert set(image.interface.ecalls) == {"count"}
    assert manifest.interface == hashlib.sha384(image.interface.to_json()).digest()
    assert Image.parse(image.data) == image


def test_a_debug_image_says_so_and_measures_differently(tmp_path: Path) -> None:
    lay_out(tmp_path, {"wordcount.py": APP})
    debug = build(tmp_path / "wordcount.py", debug=True)
    assert debug.manifest.debug
    assert debug.measurement != build(tmp_path / "wordcount.py").measurement


LEFT_OUT = {
    ".env": "SECRET=1",
    ".git/config": "",
    "__pycache__/app.cpython-311.pyc": "",
    "stale.pyc": "",
    "tests/test_app.py": "",
    "shop/tests/test_stock.py": "",
    "old.sgear": "",
    "venv/pyvenv.cfg": "",
    "venv/lib/x.py": "",
    "demo.egg-info/PKG-INFO": "",
}


def test_a_project_folder_brings_its_modules_and_data(tmp_path: Path) -> None:
    app = "import shop.stock, helper\n" + APP + "assert helper.data == 'a b'\n"
    lay_out(tmp_path, {
        "app.py": app,
        "helper.py": "from pathlib import Path\nimport pkgutil\n"
                     "data = pkgutil.get_data('shop', 'words.txt').decode()\n",
        "shop/__init__.py": "", "shop/stock.py": "", "shop/words.txt": "a b",
        **LEFT_OUT,
    })  # fmt: skip
    image = build(tmp_path)
    assert image.manifest.entry == "app"
    assert image.paths == (
        "app.py", "helper.py", "shop/__init__.py", "shop/stock.py", "shop/words.txt",
    )  # fmt: skip


@pytest.mark.parametrize(("home", "entry"), [("__init__", "shop"), ("app", "shop.app")])
def test_a_package_folder_keeps_its_name(tmp_path: Path, home: str, entry: str) -> None:
    lay_out(tmp_path, {
        "shop/__init__.py": "", "shop/stock.py": "x = 1\n",
        f"shop/{home}.py": "from shop.stock import x\nfrom . import stock\n" + APP,
        "outside.py": "", **{f"shop/{path}": text for path, text in LEFT_OUT.items()},
    })  # fmt: skip
    image = build(tmp_path / "shop")
    assert image.manifest.entry == entry
    assert set(image.paths) == {"shop/__init__.py", "shop/stock.py", f"shop/{home}.py"}


def test_a_relative_path_builds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, {"shop/__init__.py": APP})
    absolute = build(tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    assert build(".") == absolute


def test_required_distributions_are_measured_with_what_they_need(tmp_path: Path) -> None:
    lay_out(tmp_path, {"app.py": "import cffi\n" + APP.replace("svn=3", "requires=['cffi']")})
    manifest = build(tmp_path).manifest
    assert manifest.requires == tuple(item.requirement for item in closure(["cffi"]))
    assert [item.name for item in manifest.requires] == ["cffi", "pycparser"]
    assert manifest.python == python_tag()
    assert manifest.platform == platform_tag()


# --- the same bytes everywhere -------------------------------------------------------------------

ELSEWHERE = """
import os, sys, json
folder, output, user, umask, path = json.loads(sys.argv[1])
os.umask(umask)
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
sys.path[:] = path
from secgear.base.build import build
build(folder, output=output)
"""


def readable(folder: Path) -> bool:
    """Whether another user could read everything that the interpreter needs."""
    needed = [Path(sys.executable), Path(os.__file__), Path(SECGEAR), folder]
    return all(parent.stat().st_mode & 0o005 == 0o005 for path in needed for parent in path.parents)


@pytest.mark.parametrize("shape", ["wordcount.py", "project", "shop"])
def test_two_different_machines_build_the_same_bytes(tmp_path: Path, shape: str) -> None:
    app = APP.replace("svn=3", "requires=['cffi']")
    files = {
        "wordcount.py": {"wordcount.py": app},
        "project": {
            "project/app.py": app,
            "project/b/x.txt": "x",
            "project/B.txt": "",
            "project/a.py": "",
        },
        "shop": {"shop/__init__.py": app, "shop/words.txt": "x", "shop/z.py": "", "shop/Z.py": ""},
    }[shape]
    other = 12345 if os.geteuid() == 0 and readable(Path(tempfile.gettempdir())) else 0
    first = tmp_path / "one"
    lay_out(first, files)
    with tempfile.TemporaryDirectory(prefix="two ü ") as folder:
        second = lay_out(Path(folder), dict(reversed(files.items())))
        for number, path in enumerate(sorted(second.rglob("*"))):
            path.chmod(0o755 if number % 2 or path.is_dir() else 0o444)
            os.utime(path, (number, 2**31 - number))
        second.chmod(0o777)
        built = [
            build_elsewhere(first, shape, first, 0, 0o000, {
                "TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": "/nowhere",
            }),
            build_elsewhere(second, shape, Path("/"), other, 0o077, {
                "TZ": "America/St_Johns", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "7",
                "SOURCE_DATE_EPOCH": "1", "LANG": "tr_TR.UTF-8",
            }),
        ]  # fmt: skip
    assert built[0] == built[1]


def build_elsewhere(
    folder: Path, shape: str, cwd: Path, user: int, umask: int, environment: dict[str, str]
) -> bytes:
    output = folder / "out.sgear"
    path = [SECGEAR, *sys.path]
    request = json.dumps([str(folder / shape), str(output), user, umask, path])
    done = subprocess.run(
        [sys.executable, "-B", "-c", ELSEWHERE, request],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert output.stat().st_uid == user or not user
    return output.read_bytes()


def test_nothing_of_the_machine_is_in_the_image(tmp_path: Path) -> None:
    lay_out(tmp_path, {"wordcount.py": APP})
    data = build(tmp_path / "wordcount.py").data
    for canary in (str(tmp_path), os.uname().nodename, sys.prefix):
        assert canary.encode() not in data


# --- the app stays outside of the builder --------------------------------------------------------


def test_the_builder_never_imports_the_app(tmp_path: Path) -> None:
    spy = "import os, sys\nsys.modules['builtins'].canary = os.getpid()\n"
    lay_out(tmp_path, {"wordcount.py": spy + APP})
    build(tmp_path / "wordcount.py")
    assert "wordcount" not in sys.modules
    assert not hasattr(sys.modules["builtins"], "canary")
    assert list(tmp_path.rglob("*.pyc")) == []


def test_the_app_does_not_see_the_builder_s_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "canary")
    check = "import os\nassert 'TOKEN' not in os.environ, 'leaked'\n"
    lay_out(tmp_path, {"wordcount.py": check + APP})
    build(tmp_path / "wordcount.py")


def test_an_app_that_prints_or_starts_threads_while_imported_is_built(tmp_path: Path) -> None:
    noise = (
        "import sys, threading, time\nprint('x' * 200_000)\nsys.stderr.write('y' * 200_000)\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
    )
    lay_out(tmp_path, {"wordcount.py": noise + APP})
    before = time.monotonic()
    build(tmp_path / "wordcount.py")
    assert time.monotonic() - before < 60


def test_an_app_that_never_finishes_its_import_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_module, "TIMEOUT", 2.0)
    lay_out(tmp_path, {"wordcount.py": "import time\ntime.sleep(600)\n"})
    with pytest.raises(BuildError, match="longer than 2 seconds"):
        build(tmp_path / "wordcount.py")


# --- what can't be built -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "missing.py", "no such file"),
        ({"app.txt": APP}, "app.txt", r"an app is a \.py file or a folder"),
        ({"empty/x.txt": ""}, "empty", r"has app\.py or __init__\.py"),
        ({"one/main.py": APP}, "one", r"name it: one/main\.py"),
        ({"a-b.py": APP}, "a-b.py", "'a-b' can't be imported in Python; rename it"),
        ({"class.py": APP}, "class.py", "rename it"),
        ({"json.py": APP}, "json.py", "a module of Python or secgear itself; rename it"),
        ({"p/app.py": APP, "p/random.py": ""}, "p", "'random'.*rename it"),
        ({"p/app.py": APP, "p/email/__init__.py": ""}, "p", "'email'.*rename it"),
        ({"p/app.py": APP, "p/é.txt": ""}, "p", "rename it"),
        ({"x.py": ""}, "x.py", r"x declares no App; add app = App\('name'\)"),
        (
            {"x.py": APP + "other = App('b')\nalias = app\n"},
            "x.py",
            r"declares 2 Apps \(app, other\)",
        ),
        ({"x.py": "1 +"}, "x.py", "SyntaxError"),
        ({"x.py": "import sys\nsys.exit(3)"}, "x.py", "SystemExit: 3"),
        ({"x.py": "import os\nprint('canary')\nos._exit(7)"}, "x.py", r"status 7\):\ncanary"),
        ({"x.py": "import os\nos.kill(os.getpid(), 9)"}, "x.py", "status -9"),
        ({"x.py": "import helper", "helper.py": ""}, "x.py", "a single file is built alone"),
        ({"x.py": "import nowhere_to_be"}, "x.py", r"add it to App\(requires"),
        ({"x.py": APP.replace("wordcount", "名")}, "x.py", "name: .* is not"),
        ({"x.py": APP.replace("1 << 28", "5")}, "x.py", "memory is a number"),
        ({"x.py": APP.replace('"1.0"', "1")}, "x.py", "version"),
        ({"x.py": APP.replace("svn=3", "requires=['secgear']")}, "x.py", "leave it out"),
        ({"x.py": APP.replace("svn=3", "requires=['absent-thing']")}, "x.py", "pip install"),
        (
            {"p/app.py": APP.replace("svn=3", "requires=['cffi']"), "p/cffi.py": ""},
            "p",
            "name of a module of cffi",
        ),
    ],
)
def test_what_can_not_be_built_is_explained(
    tmp_path: Path, files: dict[str, str], source: str, message: str
) -> None:
    lay_out(tmp_path, files)
    output = tmp_path / "out.sgear"
    with pytest.raises((BuildError, RequirementError), match=message):
        build(tmp_path / source, output=output)
    assert not output.exists()


def test_an_error_of_the_app_shows_the_app_s_traceback(tmp_path: Path) -> None:
    lay_out(tmp_path, {"wordcount.py": "def load():\n    return {}['key']\n\nload()\n"})
    with pytest.raises(BuildError) as caught:
        build(tmp_path / "wordcount.py")
    text = str(caught.value)
    assert text.startswith("importing wordcount failed: KeyError: 'key'")
    assert f"File \"{tmp_path}/wordcount.py\", line 2, in load\n    return {{}}['key']" in text
    assert "importlib" not in text


@pytest.mark.parametrize("target", ["secret.txt", "gone", ".."])
def test_symbolic_links_are_refused(tmp_path: Path, target: str) -> None:
    lay_out(tmp_path, {"secret.txt": "", "p/app.py": APP})
    (tmp_path / "p" / "link").symlink_to(tmp_path / target)
    with pytest.raises(BuildError, match="link: a symbolic link"):
        build(tmp_path / "p")
    (tmp_path / "whole").symlink_to(tmp_path / "p")
    with pytest.raises(BuildError, match="whole: a symbolic link"):
        build(tmp_path / "whole")


def test_sockets_and_pipes_are_refused(tmp_path: Path) -> None:
    lay_out(tmp_path, {"app.py": APP})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildError, match="neither a file nor a folder"):
        build(tmp_path)


def test_private_keys_do_not_end_up_in_images(tmp_path: Path) -> None:
    lay_out(tmp_path, {"app.py": APP})
    pem = "notes\n-----BEGIN EC PRIVATE KEY-----\ncanary\n-----END EC PRIVATE KEY-----\n"
    (tmp_path / "signing.pem").write_text(pem)
    with pytest.raises(BuildError, match=r"signing\.pem: holds a private key") as caught:
        build(tmp_path)
    assert "canary" not in str(caught.value)


def test_too_much_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path, {"app.py": APP})
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    monkeypatch.setattr(build_module, "MAX_IMAGE", 1 << 20)
    with pytest.raises(BuildError, match="more than 1 MiB"):
        build(tmp_path)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    lay_out(tmp_path, {"wordcount.py": APP})
    (tmp_path / "demo.sgear").mkdir()
    for output in (tmp_path / "demo.sgear", tmp_path / "nowhere" / "demo.sgear"):
        with pytest.raises(ImageError, match=r"demo\.sgear"):
            build(tmp_path / "wordcount.py", output=output)
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["demo.sgear", "wordcount.py"]


def test_the_output_is_the_image(tmp_path: Path) -> None:
    lay_out(tmp_path, {"app.py": APP})
    output = tmp_path / "demo.sgear"
    image = build(tmp_path, output=output)
    assert output.read_bytes() == image.data
    assert build(tmp_path) == image, "the output is not part of the next image"
    assert image.manifest.files["app.py"] == hashlib.sha384(APP.encode()).digest()


def test_every_refusal_is_one_of_ours() -> None:
    for bad in ("", "\0", "/", "/dev/null", "x" * 5000):
        with pytest.raises(SecGearError):
            build(bad)
