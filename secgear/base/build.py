"""Building an image from source: collect the files, describe the app in a child, measure, assemble.

The process that builds never imports the app: a fresh interpreter does, from exactly the bytes that
go into the image, without this process's environment. Nothing of the machine enters the image: no
path, user, time, permission or order of a directory.
"""

from __future__ import annotations

import hashlib
import keyword
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from secgear.base import distributions
from secgear.base._describe import Description, Request
from secgear.base.image import MAX_IMAGE, Image, assemble
from secgear.base.manifest import MAX_FILES, Manifest, check_path
from secgear.errors import BuildError, ImageError

TIMEOUT: Final = 300.0
SECGEAR_ROOT: Final = str(Path(__file__).resolve().parents[2])

_LEFT_OUT: Final = frozenset({"__pycache__", "tests", "node_modules"})
_LEFT_OUT_ENDINGS: Final = (".sgear", ".pyc", ".pyo", ".egg-info", ".dist-info")
_PRIVATE_KEY = re.compile(rb"(?m)^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----\s*$")
_CHILD = (
    "import sys; sys.path[:] = {path!r}; from secgear.base._describe import main; main({answer})"
)
# What a child needs to find its libraries; everything else could change what it does, or leak.
_PASSED_ON: Final = ("PATH", "LD_LIBRARY_PATH")


def build(
    source: str | os.PathLike[str],
    *,
    debug: bool = False,
    output: str | os.PathLike[str] | None = None,
) -> Image:
    """The image of the app in `source`.

    source: one of

    - a file ``wordcount.py``: that file alone is the app;
    - a package, a folder with ``__init__.py``: its `App` is in ``app.py`` if there is one, else in
      ``__init__.py``; modules import each other by the package's name;
    - a project, a folder with ``app.py`` and no ``__init__.py``: its `App` is in ``app.py``;
      everything else in the folder comes along.

    From folders everything is taken but hidden files, ``tests``, byte code, metadata of
    installations, virtual environments and images. Symbolic links are refused.

    debug: mark the image as a debug image: tracebacks may leave it, and no verifier accepts it by
    default. output: where to write the image, in one step; None to keep it in memory.

    Raises BuildError naming what to change, RequirementError for distributions that can't be
    measured here, ImageError when `output` can't be written.
    """
    try:
        root, entry, paths = _locate(Path(source))
    except (OSError, ValueError) as error:  # a name too long, a NUL, a folder that hides
        raise BuildError(f"{str(source)[:200]!r}: can't be read: {error}") from error
    files = _read(root, paths)
    described = _describe(root, entry, files)
    required = distributions.closure(described.requires)
    _refuse_shadows(paths, required)
    if required:
        python, platform = distributions.python_tag(), distributions.platform_tag()
    else:
        python = platform = ""
    try:
        manifest = Manifest(
            name=described.name,
            version=described.version,
            product=described.product,
            svn=described.svn,
            entry=entry,
            debug=debug,
            interface=hashlib.sha384(described.interface).digest(),
            threads=described.threads,
            memory=described.memory,
            log=described.log,
            ocalls=described.ocalls,
            python=python,
            platform=platform,
            requires=tuple(distribution.requirement for distribution in required),
            files={path: hashlib.sha384(content).digest() for path, content in files.items()},
        )
        image = assemble(manifest, described.interface, files)
    except ImageError as error:
        raise BuildError(f"{source}: {error}") from error
    if output is not None:
        image.save(output)
    return image


# --- which files ---------------------------------------------------------------------------------


def _locate(source: Path) -> tuple[Path, str, list[str]]:
    """The folder that modules are imported from, the entry module, and the files in it."""
    if source.is_symlink():
        raise BuildError(f"{source}: a symbolic link; name the file or folder itself")
    if source.is_file():
        if source.suffix != ".py":
            raise BuildError(f"{source}: an app is a .py file or a folder with app.py")
        _check_module(source.stem, source)
        return source.parent, source.stem, [source.name]
    if not source.is_dir():
        raise BuildError(f"{source}: there is no such file or folder")
    source = source.resolve()
    package = (source / "__init__.py").is_file()
    app = (source / "app.py").is_file()
    if not package and not app:
        inside = sorted(path.name for path in source.glob("*.py") if not path.is_symlink())
        hint = f"; to build one file alone, name it: {source.name}/{inside[0]}" if inside else ""
        raise BuildError(f"{source}: a folder with an app has app.py or __init__.py{hint}")
    if package:
        _check_module(source.name, source)
        paths = [f"{source.name}/{path}" for path in _walk(source)]
        return source.parent, f"{source.name}.app" if app else source.name, sorted(paths)
    paths = sorted(_walk(source))
    for top in {path.partition("/")[0] for path in paths}:
        if top.endswith(".py"):
            _check_module(top.removesuffix(".py"), source / top)
        elif f"{top}/__init__.py" in paths:
            _check_module(top, source / top)
    return source, "app", paths


def _check_module(name: str, where: Path) -> None:
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        raise BuildError(f"{where}: {name!r} can't be imported in Python; rename it")
    if name in sys.stdlib_module_names or name == "secgear":
        raise BuildError(f"{where}: {name!r} is a module of Python or secgear itself; rename it")


def _walk(folder: Path, prefix: str = "") -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise BuildError(f"{folder}: can't be read: {error.strerror}") from error
    for entry in entries:
        name = entry.name
        if name.startswith(".") or name in _LEFT_OUT or name.endswith(_LEFT_OUT_ENDINGS):
            continue
        if entry.is_symlink():
            raise BuildError(
                f"{entry.path}: a symbolic link, which would mean something else on another "
                "machine; replace it by the file itself, or hide it with a leading dot"
            )
        if entry.is_dir():
            if not Path(entry.path, "pyvenv.cfg").exists():
                yield from _walk(Path(entry.path), f"{prefix}{name}/")
        elif entry.is_file():
            yield prefix + name
        else:
            raise BuildError(f"{entry.path}: neither a file nor a folder; move it elsewhere")


def _read(root: Path, paths: list[str]) -> dict[str, bytes]:
    if len(paths) > MAX_FILES:
        raise BuildError(f"{root}: {len(paths)} files; an image has at most {MAX_FILES}")
    files = {}
    left = MAX_IMAGE
    for path in paths:
        try:
            check_path(path)
        except ImageError as error:
            raise BuildError(f"{root / path}: can't be in an image, rename it: {error}") from error
        try:
            with open(root / path, "rb", opener=_open_plain) as file:
                files[path] = file.read(left + 1)
        except OSError as error:
            raise BuildError(f"{root / path}: can't be read: {error.strerror}") from error
        left -= len(files[path])
        if left < 0:
            raise BuildError(f"{root}: more than {MAX_IMAGE >> 20} MiB; send large data by ECALL")
        if _PRIVATE_KEY.search(files[path]):
            raise BuildError(
                f"{root / path}: holds a private key; images are not secret, so move it elsewhere "
                "and give the enclave its secrets by ECALL once it has proven itself"
            )
    return files


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _refuse_shadows(paths: list[str], required: tuple[distributions.Distribution, ...]) -> None:
    """The app's modules win over distributions', so a shared name would break the distribution."""
    own = {path.partition("/")[0].removesuffix(".py") for path in paths if path.endswith(".py")}
    for distribution in required:
        for path in distribution.files:
            top = path.partition("/")[0].partition(".")[0]
            if top in own and path.endswith((".py", ".so")):
                raise BuildError(
                    f"the app's module {top!r} has the name of a module of {distribution.name}, "
                    "which it requires; rename the app's"
                )


# --- what the app declares -----------------------------------------------------------------------


def _describe(root: Path, entry: str, files: dict[str, bytes]) -> Description:
    request = msgspec.msgpack.encode(Request(entry, files))
    reader, writer = os.pipe()
    try:
        path = [SECGEAR_ROOT, *(str(Path(folder).absolute()) for folder in sys.path if folder)]
        code = _CHILD.format(path=path, answer=writer)
        answer, status, output = _run_child(code, request, reader, writer)
    finally:
        os.close(reader)
    if not answer:
        tail = "\n".join(output.decode("utf-8", "replace").strip().splitlines()[-15:])
        raise BuildError(
            f"importing {entry} ended the interpreter (status {status})"
            + (f":\n{tail}" if tail else "; it printed nothing")
        )
    try:
        description = _DESCRIPTION.decode(answer)
    except msgspec.DecodeError as error:
        raise BuildError(f"importing {entry} disturbed the build: {error}") from error
    if description.error:
        raise BuildError(_explain(root, description))
    return description


def _run_child(code: str, request: bytes, reader: int, writer: int) -> tuple[bytes, int, bytes]:
    """Run `code`; returns its answer, exit status and what it printed. Closes `writer`."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    answers: list[bytes] = []

    def collect() -> None:
        with os.fdopen(os.dup(reader), "rb") as file:
            answers.append(file.read())

    try:
        child = subprocess.Popen(
            [sys.executable, "-I", "-B", "-u", "-X", "utf8", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(writer)
    with child:
        collector = threading.Thread(target=collect, daemon=True)
        collector.start()
        try:
            output, _ = child.communicate(request, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise BuildError(
                f"importing the app took longer than {TIMEOUT:.0f} seconds; "
                "move long work into @app.on_start"
            ) from None
        finally:
            child.kill()  # harmless once it has ended; whatever interrupts us, it does not stay
        collector.join(1)
    return b"".join(answers), child.returncode, output


def _explain(root: Path, description: Description) -> str:
    message = description.error
    top = description.missing.partition(".")[0]
    if top and ((root / f"{top}.py").is_file() or (root / top / "__init__.py").is_file()):
        message += (
            f"\n{top} lies beside the app, but a single file is built alone; "
            "put both into a folder with app.py and build the folder"
        )
    elif top:
        message += (
            f"\nIf {top} is a distribution, install it here and add it to App(requires=[...])"
        )
    if description.trace:
        tail = description.trace.replace("<image>/", f"{root}{os.sep}").strip().splitlines()[-15:]
        message += "\n" + "\n".join(tail)
    return message


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIPTION = msgspec.msgpack.Decoder(Description)
