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
from collections.abc import Mapping, Sequence
from typing import Final

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


def rerun(arguments: Sequence[str]) -> int | None:
    """Run ``secgear ARGUMENTS`` as nobody; returns its exit status, None if nobody can't.

    Its files lie in a folder that is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="secgear-demo-", ignore_cleanup_errors=True) as folder:
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HOME": folder, "SECGEAR_HOME": folder, "TMPDIR": folder}
        try:
            os.chown(folder, NOBODY, NOBODY)
            if not _can_run(environment):
                return None
            child = _start("from secgear.cli import main; main()", arguments, environment)
        except (OSError, subprocess.SubprocessError):  # a user namespace without this user
            return None
        with child:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the terminal has told the child as well
                return child.wait()


def _can_run(environment: Mapping[str, str]) -> bool:
    """Whether nobody can use the interpreter, secgear, the demo's packages and the folder."""
    with _start(_PROBE, (), environment, quiet=True) as child:
        try:
            return child.wait(_PROBE_SECONDS) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            child.kill()  # harmless once it has ended


def _start(
    code: str, arguments: Sequence[str], environment: Mapping[str, str], *, quiet: bool = False
) -> subprocess.Popen[bytes]:
    path = [os.path.abspath(entry) for entry in sys.path if entry]  # noqa: PTH100  (keeps links)
    output = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(
        [sys.executable, "-P", "-B", "-c", f"import sys; sys.path[:] = {path!r}; {code}"]
        + list(arguments),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(environment),
        cwd="/",
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
