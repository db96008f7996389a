"""The library, compiled once for all tests of a run, and what answers it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from secgear.services.crypto.library.build import build
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, MemoryStore, open_module
from tests.services.crypto.library.answering import Answering, answering, honest
from tests.services.crypto.library.cryptoki import Library, Session, copy_of, loaded


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library as a file. Skips where there is no compiler.

    SECGEAR_TEST_LIBRARY: one that is there, with sanitizers: see tests/native/check.py.
    """
    if given := os.environ.get("SECGEAR_TEST_LIBRARY"):
        return Path(given)
    if shutil.which(os.environ.get("CC", "cc").split()[0]) is None:
        pytest.skip("there is no C compiler")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    path = base / "libsecgear-pkcs11.so"
    with (base / "library.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            build(path, flags=["-Werror"])
    return path


@pytest.fixture(scope="module")
def _shared(_prepared: MemoryStore) -> Module:
    return open_module(_prepared.copy())


@pytest.fixture
def module(_shared: Module) -> Module:
    """One for all tests of a file: opening it takes longer than most of them."""
    return _shared


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="sg") as name:
        yield Path(name)


@pytest.fixture
def server(module: Module, short: Path) -> Iterator[Answering]:
    """The token, without its enclave."""
    with answering(short / "token", honest(module)) as one:
        yield one


@pytest.fixture
def library(built: Path, tmp_path: Path) -> Iterator[Library]:
    """A copy that nobody else has, loaded and not initialised."""
    with loaded(copy_of(built, tmp_path)) as one:
        yield one


@pytest.fixture
def ready(library: Library, server: Answering) -> Library:
    """The same, initialised."""
    library.initialise(server.address)
    return library


@pytest.fixture
def session(ready: Library) -> Session:
    """A session in which the user is logged in."""
    return Session(ready, pin=PIN)
