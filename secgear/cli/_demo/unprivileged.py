"""Running the demo as a user without privileges, when root started it.

Root may look into every process, so a break-in by root would show nothing. The whole demo is
started once more as ``nobody``, who has to be able to read the interpreter and its packages.
Lending nobody the right to read all files (CAP_DAC_READ_SEARCH) would not help: the enclave gives
up every capability before it imports anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import secgear
from secgear.cli._demo.cast import python

NOBODY: Final = 65534
"""The overflow user and group of Linux, ``nobody`` and ``nogroup`` in Debian."""

_PROBE: Final = (
    "import duckdb, pyarrow, secgear.base.build, secgear.base.launch, tempfile; "
    "tempfile.TemporaryFile().close()"
)
_PROBE_SECONDS: Final = 60
# Nothing of root's environment that could be a secret: its new owner is less protected.
_KEPT: Final = (
    *("COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TERM"),
    *("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ"),
)

Start = Callable[..., "subprocess.Popen[bytes]"]


def rerun(arguments: Sequence[str]) -> int | None:
    """Run ``secgear ARGUMENTS`` as nobody; returns its exit status, None if nobody can't.

    Its files lie in a folder that is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="secgear-demo-", ignore_cleanup_errors=True) as folder:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HOME": folder, "TMPDIR": folder}
        try:
            os.chown(folder, NOBODY, NOBODY)
        except OSError:  # a user namespace without this user
            return None
        for start in (_as_nobody, _with_own_view):
            if _can_run(start, environment):
                code = "from secgear.cli import main; sys.exit(main())"
                with start(python(code, arguments), environment) as child:
                    try:
                        return child.wait()
                    except KeyboardInterrupt:  # the terminal has told the child as well
                        child.wait()
                        raise
    return None


def _can_run(start: Start, environment: Mapping[str, str]) -> bool:
    """Whether nobody can use the interpreter, secgear, the demo's packages and the folder."""
    try:
        with start(python(_PROBE), environment, quiet=True) as child:
            try:
                return child.wait(_PROBE_SECONDS) == 0
            finally:
                child.kill()  # harmless once it has ended
    except (OSError, subprocess.SubprocessError):
        return False


def _as_nobody(
    command: list[str], environment: Mapping[str, str], *, quiet: bool = False
) -> subprocess.Popen[bytes]:
    identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return _start(command, environment, quiet, identity)


def _with_own_view(
    command: list[str], environment: Mapping[str, str], *, quiet: bool = False
) -> subprocess.Popen[bytes]:
    """Where the interpreter or the packages lie in a private folder of root; see ``view.py``."""
    paths = [sys.prefix, sys.base_prefix, str(Path(secgear.__file__).parents[1])]
    paths += [environment["HOME"], *(entry for entry in _search_path() if Path(entry).is_dir())]
    code = f"from secgear.cli._demo.view import enter; enter({NOBODY}, {paths!r}, {command!r})"
    return _start(python(code), environment, quiet, {})


def _start(
    command: list[str], environment: Mapping[str, str], quiet: bool, identity: dict[str, Any]
) -> subprocess.Popen[bytes]:
    output = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        cwd="/",
        **identity,
    )


def _search_path() -> list[str]:
    return [str(Path(entry).absolute()) for entry in sys.path if entry]
