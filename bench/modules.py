"""PKCS#11 modules side by side: SoftHSM in the process and behind p11-kit's server, and ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.cryptoki import USER, Library
from secgear.errors import CryptoModuleError
from secgear.services.crypto.library.build import build

SO_PIN, PIN = b"12345678", b"123456"
SOFTHSM, REMOTE = "softhsm", "softhsm, p11-kit server"
OURS, OWN_LIBRARY = "secgear", "secgear, own library"
_ADDRESS = "P11_KIT_SERVER_ADDRESS"
_DEADLINE = 60.0


def library(name: str) -> Path:
    """A system library, by what stands behind ``/usr/lib``. Raises SystemExit."""
    found = next(iter(sorted(Path("/usr/lib").glob(f"**/{name}"))), None)
    if found is None:
        raise SystemExit(f"crypto: no {name}; it needs p11-kit, p11-kit-modules and softhsm2")
    return found


@contextlib.contextmanager
def modules() -> Iterator[tuple[dict[str, Library], Path]]:
    """All of them, each with a session in which the user is logged in; and our socket."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _softhsm_home(folder)
        found = {SOFTHSM: _prepared(Library(library("libsofthsm2.so")))}
        address = stack.enter_context(_p11_kit_server(folder))
        found[REMOTE] = _opened(client(folder / "remote.so", address))
        socket = stack.enter_context(serving(folder / "module", 1))
        found[OURS] = _prepared(client(folder / "ours.so", socket))
        with contextlib.suppress(CryptoModuleError):  # where there is no compiler
            build(folder / "own.so", address=f"unix:{socket}")
            found[OWN_LIBRARY] = _opened(Library(folder / "own.so"))
        yield found, socket


def client(copy: Path, socket: Path) -> Library:
    """p11-kit's client of a socket: a copy, since one library has one connection."""
    shutil.copy(library("p11-kit-client.so"), copy)
    os.environ[_ADDRESS] = f"unix:path={socket}"
    return Library(copy)


@contextlib.contextmanager
def serving(directory: Path, workers: int) -> Iterator[Path]:
    """Our module, founded here if it is not; its socket."""
    command = [sys.executable, "-m", "secgear.cli"]
    if not directory.exists():
        founding = [*command, "crypto", "init", str(directory)]
        subprocess.run(founding, check=True, capture_output=True)
    serve = [*command, "serve", "crypto", "--directory", str(directory), "--workers", str(workers)]
    with subprocess.Popen(serve, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            while "module at" not in (line := server.stderr.readline()):
                if not line:
                    raise SystemExit("crypto: the module does not start")
            yield directory / "pkcs11.sock"
        finally:
            server.terminate()


@contextlib.contextmanager
def _p11_kit_server(folder: Path) -> Iterator[Path]:
    """SoftHSM behind p11-kit's own server."""
    socket = folder / "p11-kit.sock"
    provider = str(library("libsofthsm2.so"))
    command = ["p11-kit", "server", "-f", "-p", provider, "-n", str(socket), "pkcs11:"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until = time.monotonic() + _DEADLINE
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > until:
                    raise SystemExit("crypto: p11-kit server does not start")
                time.sleep(0.01)
            yield socket
        finally:
            server.terminate()


def _softhsm_home(folder: Path) -> None:
    tokens = folder / "tokens"
    tokens.mkdir()
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(configuration)


def _prepared(module: Library) -> Library:
    module.prepare(SO_PIN, PIN)
    return _opened(module)


def _opened(module: Library) -> Library:
    module.open()
    module.login(USER, PIN)
    return module
