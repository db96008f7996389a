"""A cryptographic module to try things out with: founded, served and prepared for one example.

In life it is founded once, by `secgear crypto init`, and served by the machine's service manager.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from secgear.services.crypto.client import connect

SECGEAR = [sys.executable, "-m", "secgear.cli"]
TOKEN = "demo"


class Place(NamedTuple):
    """A running module. folder: for the example's files. socket: the host's. pin: the user's."""

    folder: Path
    socket: Path
    pin: str


@contextlib.contextmanager
def running() -> Iterator[Place]:
    """A module with an empty token `TOKEN`; it ends with the block, and nothing of it stays."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        directory, pin = folder / "module", secrets.token_hex(4)
        subprocess.run(
            [*SECGEAR, "crypto", "init", str(directory)], check=True, stdout=subprocess.DEVNULL
        )
        with served(directory):
            with connect(directory / "pkcs11.sock") as module:
                officer = secrets.token_hex(8).encode()
                module.tokens()[0].initialise(TOKEN, officer, pin.encode())
            (folder / "pin").write_text(pin)
            (folder / "pin").chmod(0o600)
            yield Place(folder, directory / "pkcs11.sock", pin)


@contextlib.contextmanager
def served(directory: Path) -> Iterator[None]:
    """Serve the module until the block ends."""
    with subprocess.Popen(
        [*SECGEAR, "serve", "crypto", "--directory", str(directory)],
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            for line in server.stderr or ():
                if "pkcs11.sock" in line:
                    break
            else:
                sys.exit("the module did not start")
            yield
        finally:
            server.terminate()
