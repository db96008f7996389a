"""A token with internal keys, and the library as an SDF application has it."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import c_void_p
from pathlib import Path

import pytest

from secgear.services.crypto.client import Token
from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.sdf import InternalKey, make_kek, make_pair
from secgear.services.crypto.token.mechanisms import MECHANISMS
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, MemoryStore, connect, open_module
from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.cryptoki import copy_of
from tests.services.crypto.library.sdf.binding import Sdf, Session, opened


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if Mech.SM2 not in MECHANISMS:
        skip = pytest.mark.skip(reason="the system's OpenSSL has no SM2")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def _provisioned(_prepared: MemoryStore) -> MemoryStore:
    """Key pairs 1 of both kinds; 2 of SM2 may decrypt; a key encryption key."""
    store = _prepared.copy()
    caller = connect(open_module(store))
    session = Token(caller, 0).session(PIN)
    for role in ("sign", "enc"):
        for algorithm in ("sm2", "rsa"):
            make_pair(session, InternalKey(role, 1, algorithm))
    make_pair(session, InternalKey("sign", 2, "sm2"))
    make_pair(session, InternalKey("enc", 2, "sm2"), decrypt=True)
    make_pair(session, InternalKey("enc", 2, "rsa"), decrypt=True)
    make_kek(session, 1)
    caller.call("C_Finalize")
    return store


@pytest.fixture
def store(_provisioned: MemoryStore) -> MemoryStore:
    return _provisioned.copy()


@pytest.fixture
def module(store: MemoryStore) -> Module:
    """Of each test its own."""
    return open_module(store)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file, without a PIN."""
    path = tmp_path / "sdf.conf"
    path.write_text("slot = 0\n")
    path.chmod(0o644)
    monkeypatch.setenv("SECGEAR_SDF", str(path))
    return path


@pytest.fixture
def pin_file(settings: Path, tmp_path: Path) -> Path:
    """The same with one."""
    path = tmp_path / "pin"
    path.touch(0o600)
    path.write_bytes(PIN + b"\n")
    settings.write_text(f"# of tests\nslot = 0\npin-file = {path}\n")
    return path


@pytest.fixture
def sdf(
    built: Path,
    tmp_path: Path,
    server: Answering,
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Sdf]:
    """A copy of the library that nobody else has."""
    monkeypatch.setenv("SECGEAR_PKCS11", server.address)
    library = Sdf(copy_of(built, tmp_path))
    yield library
    library.close()


@pytest.fixture
def device(sdf: Sdf) -> Iterator[c_void_p]:
    with opened(sdf) as one:
        yield one


@pytest.fixture
def session(sdf: Sdf, device: c_void_p) -> Session:
    """A session without rights."""
    return Session(sdf, device)


@pytest.fixture
def user(session: Session) -> Session:
    """A session with the rights to the keys of index 1 and 2."""
    for index in (1, 2):
        session.right(index, PIN)
    return session
