"""A PostgreSQL cluster of its own for a test: a new directory, a socket in it, no network."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def _programs() -> Path:
    found = shutil.which("pg_ctl")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists():
            return place
    pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")


def _account() -> str | None:
    """Whom the server runs as: it refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    pytest.skip("PostgreSQL refuses to run as root, and there is nobody else")


class Cluster:
    """A server that runs, until it is killed."""

    def __init__(self, programs: Path, folder: Path, options: dict[str, str]) -> None:
        self._programs = programs
        self._folder = folder
        self._options = options
        self._count = itertools.count()
        self.start()

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._count)}"
        subprocess.run(
            [self._programs / "createdb", "-h", self._folder, "-U", "owner", name],
            check=True,
            cwd="/",
        )
        return f"postgresql://owner@/{name}?host={self._folder}"

    def start(self) -> None:
        """Run it; returns when it answers."""
        self._server = subprocess.Popen(
            [
                self._programs / "postgres",
                "-D",
                self._folder / "data",
                "-k",
                self._folder,
                "-h",
                "",
                "-c",
                "max_connections=200",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            start_new_session=True,
            **self._options,
        )
        _wait(self._programs, self._folder, self._server)

    def kill(self) -> None:
        """As a crash does: all of its processes at once."""
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    def stop(self) -> None:
        """End it in order."""
        self._server.send_signal(signal.SIGINT)  # without waiting for who is connected
        try:
            self._server.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a server and end it. Skips where there is no PostgreSQL."""
    programs, account = _programs(), _account()
    # Not under pytest's folder, which other users can't enter; sockets need a short path as well.
    folder = Path(tempfile.mkdtemp(prefix="sgpg"))
    if account is not None:
        shutil.chown(folder, account)
    options = {"user": account} if account else {}
    try:
        subprocess.run(
            [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "owner", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            **options,
        )
        running = Cluster(programs, folder, options)
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(programs: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        ready = subprocess.run(
            [programs / "pg_isready", "-q", "-h", folder, "-U", "owner"], check=False
        )
        if ready.returncode == 0:
            return
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.05)
