"""A module as it is run: the command line in processes of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from secgear.services.crypto.client import Caller, SocketExchange

SO_PIN, PIN = "87654321", "123456"
SECGEAR = [sys.executable, "-m", "secgear.cli"]


def secgear(*arguments: str, fails: bool = False) -> str:
    """Run a command; returns what it prints, on stderr as well where it is to fail."""
    done = subprocess.run(
        [*SECGEAR, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout + (done.stderr if fails else "")


def founded(directory: Path, *arguments: str) -> str:
    """Found a module; returns its audit key."""
    said = secgear("crypto", "init", str(directory), *arguments)
    match = re.search(r"audit key\s+([0-9a-f]{64})", said)
    assert match is not None
    return match[1]


class Server:
    """A running ``secgear serve crypto``."""

    def __init__(self, process: subprocess.Popen[str], socket: Path) -> None:
        self.process = process
        self.socket = socket
        self.said: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "P11_KIT_SERVER_ADDRESS": f"unix:path={self.socket}"}

    @property
    def enclave(self) -> int:
        """Process id of the enclave: the server's only child."""
        (found,) = self.enclaves
        return found

    @property
    def enclaves(self) -> set[int]:
        """Process ids of all enclaves: the server's children."""
        children = Path(f"/proc/{self.process.pid}/task")
        found: set[int] = set()
        for task in children.iterdir():
            found |= {int(word) for word in (task / "children").read_text().split()}
        return found

    def kill(self, sig: int = signal.SIGKILL) -> None:
        self.process.send_signal(sig)
        self.process.wait(30)

    def quiet(self, busy: int = 0) -> None:
        """Wait until the enclave has nothing else to do: its threads sleep, whenever one looks.

        An answer is at its client before the enclave has noted that. busy: threads that compute.
        """
        asleep = 0
        for _ in range(6000):
            states = [
                (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
                for task in Path(f"/proc/{self.enclave}/task").iterdir()
            ]
            awake = len(states) - states.count("S")
            asleep = asleep + 1 if awake <= busy else 0
            if asleep == 5:
                return
            threading.Event().wait(0.01)
        raise AssertionError("the enclave never rests")

    @contextlib.contextmanager
    def caller(self) -> Iterator[Caller]:
        with SocketExchange(self.socket) as exchange:
            caller = Caller(exchange)
            caller.initialise()
            yield caller


@contextlib.contextmanager
def serving(directory: Path, *arguments: str, ready: int = 1) -> Iterator[Server]:
    """Run the server until the block ends. ready: lines that it says when it is."""
    if "--workers" not in arguments:
        arguments = (*arguments, "--workers", "1")
    process = subprocess.Popen(
        [*SECGEAR, "serve", "crypto", "--directory", str(directory), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    server = Server(process, directory / "pkcs11.sock")
    assert process.stderr is not None
    overdue = threading.Timer(120, process.kill)
    overdue.start()
    try:
        while len([line for line in server.said if " at " in line]) < ready:
            line = process.stderr.readline()
            assert line, server.said
            server.said.append(line.strip())
        overdue.cancel()
        # Its log must not fill the pipe: it would wait for us.
        threading.Thread(target=server.said.extend, args=(process.stderr,), daemon=True).start()
        yield server
    finally:
        overdue.cancel()
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def prepare_token(socket: Path, pins: Path, label: str = "demo", slot: int = 0) -> None:
    """Initialise a token with the PINs above."""
    pins.write_text(f"{SO_PIN}\n{PIN}\n")
    said = secgear(
        "crypto", "token", label, "--socket", str(socket), "--slot", str(slot),
        "--pin-file", str(pins),
    )  # fmt: skip
    assert label in said
