"""Programs that load the library: what a test must not do to its own process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.cryptoki import copy_of

ROOT = Path(__file__).resolve().parents[4]
BEGIN = """
import os, sys, threading
sys.path.insert(0, {root!r})
from pathlib import Path
from secgear.services.crypto.pkcs11.rv import Rv
from ctypes import *
from tests.services.crypto.library.cryptoki import *
path, address = Path(sys.argv[1]), sys.argv[2]

def in_child(work):
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child failed"
"""


def run(built: Path, folder: Path, server: Answering, code: str) -> str:
    """A program of its own: it forks, which this one, with its threads, had better not."""
    program = BEGIN.format(root=str(ROOT)) + textwrap.dedent(code)
    path = copy_of(built, folder)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), server.address],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
