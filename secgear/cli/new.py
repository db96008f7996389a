"""``secgear new``: a small app to begin with, with a test that passes."""

from __future__ import annotations

import contextlib
import keyword
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer

from secgear.cli.output import AsJson, UsageError, emit

_TAKEN: Final = frozenset({"host", "pytest", "secgear", "tests"})
_APP = '''"""What runs inside the enclave. The annotations are its interface."""

from secgear import App

app = App("{name}", version="0.1", svn=1)


@app.ecall
def greet(name: str) -> str:
    """A greeting, made inside."""
    progress(1.0)
    return f"Hello, {{name}}, from inside."


@app.ocall
def progress(done: float) -> None:
    """The host is told how far we are."""
'''
_HOST = '''"""The untrusted side: starts the enclave and calls it."""

from pathlib import Path

import secgear

APP = Path(__file__).parent / "{name}"


def main() -> None:
    """Launch from source (a debug image) and call."""
    with secgear.launch(APP, ocalls={{"progress": print}}) as enclave:
        print(enclave.greet("world"))


if __name__ == "__main__":
    main()
'''
_TEST = '''"""The app, called as its host calls it."""

from pathlib import Path

import secgear

APP = Path(__file__).parent.parent / "{name}"


def test_greet() -> None:
    seen: list[float] = []
    with secgear.launch(APP, ocalls={{"progress": seen.append}}) as enclave:
        assert enclave.greet("Ada") == "Hello, Ada, from inside."
    assert seen == [1.0]
'''
_README = """# {name}

`{name}/app.py` is the trusted program; `host.py` is the untrusted side.

    python host.py                                  # launch from source
    python -m pytest                                # test it
    secgear build {name} -o {name}.sgear            # build an image
    secgear keygen -o signer.pem                    # once
    secgear sign {name}.sgear --key signer.pem
    secgear run {name}.sgear greet Ada
    secgear codegen {name}.sgear -o client.py       # a typed client

Keep `signer.pem` out of version control.
"""


def new(
    name: Annotated[str, typer.Argument(help="The app's name, a Python identifier.")],
    directory: Annotated[
        Path | None,
        typer.Option("--directory", "-d", help="Where; ./NAME by default.", readable=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start an app: the program, a host for it, and a test that passes."""
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise UsageError(f"{name!r}: the name of an app is a Python identifier, such as word_count")
    if name in sys.stdlib_module_names or name in _TAKEN:
        raise UsageError(
            f"{name!r}: a module of this name exists already; call the app something else"
        )
    target = directory or Path(name)
    files = {
        f"{name}/__init__.py": '"""The trusted program."""\n',
        f"{name}/app.py": _APP,
        "host.py": _HOST,
        f"tests/test_{name}.py": _TEST,
        "README.md": _README,
        ".gitignore": "*.pem\n*.sgear\n__pycache__/\n",
    }
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target}: exists already; choose another folder with --directory")
        _write(target, {path: text.format(name=name) for path, text in files.items()})
    except OSError as error:
        raise UsageError(f"{target}: can't be written: {error.strerror or error}") from error
    if as_json:
        emit({"directory": str(target), "files": sorted(files)})
        return
    typer.echo(f"{target}: {', '.join(sorted(files))}")
    typer.echo(f"next: cd {target} && python host.py")


def _write(target: Path, files: dict[str, str]) -> None:
    """Write the files and then put them in place, so that a folder that is there is complete."""
    with contextlib.ExitStack() as undo:
        for missing in (target.parent, *target.parent.parents):
            if not missing.exists():
                undo.callback(_remove_empty, missing)
        target.parent.mkdir(parents=True, exist_ok=True)
        there = target.exists()  # as an empty folder, perhaps the one we stand in
        with tempfile.TemporaryDirectory(
            dir=target if there else target.parent, prefix=".secgear-new-"
        ) as folder:
            staged = Path(folder, "new")
            for path, text in files.items():
                file = staged / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            if there:
                for entry in sorted(staged.iterdir()):
                    entry.rename(target / entry.name)
            else:
                staged.rename(target)
        undo.pop_all()


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
