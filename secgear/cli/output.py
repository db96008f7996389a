"""How commands speak: results on stdout, everything else on stderr, one clear line for errors.

Exit codes: 0 fine; 1 other errors; 2 wrong usage; 3 image, signature, requirement or build;
4 platform or launch; 5 a call; 6 not trusted, or attestation failed; 130 interrupted; 143
terminated.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any, NoReturn

import msgspec
import typer

from secgear import errors
from secgear.base.printing import printable
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
    (errors.CollectionFailed, 4),
    (errors.ServiceError, 1),
    (errors.AttestationError, 6),
)


class UsageError(SecGearError):
    """The command line does not fit together."""

    code = "usage"


class CommandError(SecGearError):
    """The command could not do its work, for a reason that is none of secGear's own."""

    code = "command.failed"


class Interrupted(SecGearError):
    """The user has stopped the command."""

    code = "command.interrupted"


def exit_code(error: SecGearError) -> int:
    """The exit code of an error."""
    if isinstance(error, UsageError):
        return 2
    if isinstance(error, Interrupted):
        return 130
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
        with contextlib.suppress(OSError):
            emit({"error": {"code": error.code, "message": str(error)}})
    text = f"error: {error}"
    # What evidence says of itself is in here: it may not look like further lines of ours.
    note(printable(text) if isinstance(error, errors.AttestationError) else text)
    raise SystemExit(exit_code(error))


def note(text: str) -> None:
    """Lines for people, on stderr, with words in them that somebody else may have chosen."""
    with contextlib.suppress(OSError):
        sys.stderr.write("\n".join(map(printable, text.split("\n"))) + "\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """A line for people, on stdout, with words in it that somebody else may have chosen."""
    typer.echo(printable(text))


def emit(value: Any) -> None:
    """A result as one JSON document, on stdout."""
    sys.stdout.write(to_json(value, indent=2) + "\n")
    sys.stdout.flush()


def to_json(value: Any, *, indent: int = 0) -> str:
    """JSON of anything that crosses the boundary.

    Arrays become lists, tables rows, bytes base64, complex numbers pairs, numbers that JSON has
    not (NaN, infinity) null. A key of a dict that is no scalar becomes the text of its JSON.
    """
    text = msgspec.json.encode(value, enc_hook=_plain)
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def _plain(value: Any) -> Any:
    if hasattr(value, "to_pylist"):
        return value.to_pylist()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, complex):
        return [value.real, value.imag]
    # As values msgspec knows these itself; here they are keys.
    if isinstance(value, tuple | frozenset | msgspec.Struct):
        return to_json(value)
    raise CommandError(f"a value of type {type(value).__name__} can't be shown as JSON")


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """Show that something is being done, where a person is watching."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextlib.contextmanager
def watching(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """Show how far something has come, where a person is watching.

    total: bytes there are to do, None if nobody knows. Gives what is told of each piece done.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda size: shown.advance(task, size)


def check_target(path: Path, beginning: bytes | None = None) -> None:
    """Raise UsageError unless `path` is free to be written.

    beginning: how files begin that the command itself writes, which may be replaced; None to
    replace nothing. A slip of the keyboard must not cost a source file or a key.
    """
    if not path.exists():
        return
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name the file with -o")
    if not path.is_file():
        raise UsageError(f"{path}: not a regular file; name another with -o")
    if beginning is None:
        raise UsageError(f"{path}: exists already; remove it, or name another with -o")
    with open_data(path) as file:
        found = file.read(len(beginning))
    if found and found != beginning:
        raise UsageError(
            f"{path}: exists already and is something else; remove it, or name another with -o"
        )


def write_file(path: Path, data: bytes | Iterable[bytes | bytearray]) -> None:
    """Write a file, also from pieces, in one step; nothing is left behind on failure.

    Raises UsageError when it can't be written.
    """
    import tempfile

    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
            mask = os.umask(0)
            os.umask(mask)
            Path(temporary).chmod(0o666 & ~mask)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {error.strerror or error}") from error


def open_data(path: Path) -> IO[bytes]:
    """A file or pipe, opened for reading.

    Raises UsageError when it can't be opened or is something else: a device may never end.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from error
    mode = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        file.close()
        raise UsageError(f"{path}: can't be read: neither a file nor a pipe")
    return file


def read(path: Path, limit: int = 4 << 30) -> bytes:
    """The bytes of a file or pipe. limit: how many it may have.

    Raises UsageError when it can't be read or is larger.
    """
    with open_data(path) as file:
        try:
            data = file.read(limit + 1)
        except OSError as error:
            raise UsageError(f"{path}: can't be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise UsageError(f"{path}: larger than {limit} bytes")
    return data
