"""Running the demo's host as a user without privileges, when root started it.

Root may look into every process, so a break-in by root would show nothing. The whole demo is
started once more as ``nobody``, who has to be able to read the interpreter and its packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

NOBODY: Final = 65534
"""The overflow user and group of Linux, ``nobody`` and ``nogroup`` in Debian."""

_PROBE = (
    "import duckdb, pyarrow, secgear.base.build, secgear.base.launch, tempfile; "
    "tempfile.TemporaryFile().close()"
)
_PROBE_SECONDS = 60
# Nothing of root's environment that could be a secret: its new owner is less protected.
_KEPT = ("COLORTERM", "COLUMNS", "FORCE_COLOR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LINES")
_KEPT += ("NO_COLOR", "PATH", "SSL_CERT_FILE", "TERM", "TZ")


class Way(msgspec.Struct, frozen=True):
    """How to start a program as another user: in front of its command, and Popen's arguments."""

    prefix: tuple[str, ...]
    identity: Mapping[str, Any]


_PLAIN = Way((), {"user": NOBODY, "group": NOBODY, "extra_groups": []})


def rerun(arguments: Sequence[str]) -> int | None:
    """Run ``secgear ARGUMENTS`` as nobody; returns its exit status, None if there is no way to.

    Its files lie in a folder that is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="secgear-demo-", ignore_cleanup_errors=True) as folder:
        try:
            os.chown(folder, NOBODY, NOBODY)
        except OSError:  # a user namespace in which there is no such user
            return None
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HOME": folder, "SECGEAR_HOME": folder, "TMPDIR": folder}
        way = _find_way(environment)
        if way is None:
            return None
        command = _python("from secgear.cli import main; main()")
        with _start(way, [*command, *arguments], environment) as child:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the terminal has told the child as well
                return child.wait()


def _find_way(environment: Mapping[str, str]) -> Way | None:
    """The first way in which the interpreter, secgear and the demo's packages can be used."""
    for way in _ways():
        try:
            with _start(way, _python(_PROBE), environment, quiet=True) as child:
                try:
                    if child.wait(_PROBE_SECONDS) == 0:
                        return way
                finally:
                    child.kill()  # harmless once it has ended
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _ways() -> list[Way]:
    ways = [_PLAIN]
    setpriv = shutil.which("setpriv")
    if setpriv:
        # For an interpreter or checkout in a private folder: the right to read files, which gives
        # no right to look into processes. The enclave and the attacker give it up.
        identity = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        rights = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        ways.append(Way((setpriv, *identity, *rights, "--"), {}))
    return ways


def _python(code: str) -> list[str]:
    path = [os.path.abspath(entry) for entry in sys.path if entry]  # noqa: PTH100  (keeps links)
    return [sys.executable, "-P", "-B", "-c", f"import sys; sys.path[:] = {path!r}; {code}"]


def _start(
    way: Way, command: Sequence[str], environment: Mapping[str, str], *, quiet: bool = False
) -> subprocess.Popen[bytes]:
    output = subprocess.DEVNULL if quiet else None
    return subprocess.Popen(
        [*way.prefix, *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=dict(environment),
        cwd="/",
        **way.identity,
    )
