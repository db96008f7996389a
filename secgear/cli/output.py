"""How commands speak: results on stdout, everything else on stderr, one clear line for errors.

Exit codes: 0 fine; 1 other errors; 2 wrong usage; 3 image, signature, requirement or build;
4 platform or launch; 5 a call; 130 interrupted.
"""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from secgear import errors
from secgear.errors import SecGearError

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

_CODES: tuple[tuple[type[SecGearError], int], ...] = (
    (errors.ImageError, 3),
    (errors.BuildError, 3),
    (errors.InterfaceError, 3),
    (errors.KeyFileError, 3),
    (errors.PlatformUnavailable, 4),
    (errors.LaunchFailed, 4),
    (errors.CallError, 5),
)


class UsageError(SecGearError):
    """The command line does not fit together."""

    code = "usage"


def exit_code(error: SecGearError) -> int:
    """The exit code of an error."""
    if isinstance(error, UsageError):
        return 2
    return next((code for kind, code in _CODES if isinstance(error, kind)), 1)


def wants_json() -> bool:
    """Whether the command line asks for JSON, also where parsing it has failed."""
    arguments = sys.argv[1:]
    return (
        "--json" in arguments[: arguments.index("--")]
        if "--" in arguments
        else ("--json" in arguments)
    )


def fail(error: SecGearError) -> NoReturn:
    """Print an error and exit with its code."""
    if wants_json():
        emit({"error": {"code": error.code, "message": str(error)}})
    note(f"error: {error}")
    raise SystemExit(exit_code(error))


def note(text: str) -> None:
    """A line for people, on stderr."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def emit(value: Any) -> None:
    """A result as one JSON document, on stdout."""
    sys.stdout.write(to_json(value, indent=2) + "\n")
    sys.stdout.flush()


def to_json(value: Any, *, indent: int = 0) -> str:
    """JSON of anything that crosses the boundary: arrays as lists, tables as rows."""
    text = msgspec.json.encode(value, enc_hook=_plain)
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def _plain(value: Any) -> Any:
    if hasattr(value, "to_pylist"):
        return value.to_pylist()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, memoryview):
        return base64.b64encode(value).decode()
    raise NotImplementedError(type(value).__name__)


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Show that something is being done, where a person is watching."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def write_new(path: Path, data: bytes, *, force: bool = False) -> None:
    """Write a file in one step; nothing is left behind on failure.

    Raises UsageError when it exists and `force` is not given, or can't be written.
    """
    import tempfile

    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; remove it, or name another with -o")
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror or error}") from error


def read(path: Path) -> bytes:
    """A file's bytes. Raises UsageError when it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from error
