"""A PostgreSQL cluster of its own for a test: a new directory, a socket in it, no network."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
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
    """A running server."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._count = itertools.count()

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._count)}"
        subprocess.run(
            [self._programs / "createdb", "-h", self._folder, "-U", "owner", name],
            check=True,
            cwd="/",
        )
        return f"postgresql://owner@/{name}?host={self._folder}"


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start a server and end it. Skips where there is no PostgreSQL."""
    programs, account = _programs(), _account()
    # Not under pytest's folder, which other users can't enter; sockets need a short path as well.
    folder = Path(tempfile.mkdtemp(prefix="sgpg"))
    if account is not None:
        shutil.chown(folder, account)
    options = {"user": account} if account else {}
    data = folder / "data"
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "owner", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
            **options,
        )
        server = subprocess.Popen(
            [
                programs / "postgres",
                "-D",
                data,
                "-k",
                folder,
                "-h",
                "",
                "-c",
                "max_connections=200",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **options,
        )
        try:
            _wait(programs, folder, server)
            yield Cluster(programs, folder)
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(programs: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        ready = subprocess.run(
            [programs / "pg_isready", "-q", "-h", folder, "-U", "owner"], check=False
        )
        if ready.returncode == 0:
            return
        assert server.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.05)
