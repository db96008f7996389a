"""Files: GM/T 0018, 6.7."""

from __future__ import annotations

import threading
from ctypes import byref, c_ubyte, c_uint, c_void_p
from pathlib import Path

import pytest

from secgear.services.crypto.pkcs11.constants import Attr, ObjectClass
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, MemoryStore, connect, open_module
from tests.services.crypto.conftest import User
from tests.services.crypto.library.sdf.binding import MARK, Sdf, Session, opened


@pytest.fixture
def holder(user: Session) -> Session:
    """Somebody who is logged in: files are private."""
    return user


def create(session: Session, name: bytes, size: int) -> str:
    return session.code("CreateFile", name, len(name), size)


def write(session: Session, name: bytes, offset: int, data: bytes) -> str:
    return session.code("WriteFile", name, len(name), offset, len(data), data)


def read(session: Session, name: bytes, offset: int, size: int) -> tuple[str, bytes]:
    room, length = (c_ubyte * (size + len(MARK)))(), c_uint(size)
    room[size:] = MARK
    code = session.code("ReadFile", name, len(name), offset, byref(length), room)
    assert bytes(room[size:]) == MARK
    return code, bytes(room[: length.value]) if code == "OK" else b""


def test_a_file_is_made_written_read_and_deleted(holder: Session) -> None:
    assert create(holder, b"certificate", 100) == "OK"
    assert read(holder, b"certificate", 0, 200) == ("OK", bytes(100))
    assert write(holder, b"certificate", 10, b"inside") == "OK"
    assert read(holder, b"certificate", 8, 10) == ("OK", b"\0\0inside\0\0")
    assert read(holder, b"certificate", 95, 10) == ("OK", bytes(5))
    assert create(holder, b"certificate", 1) == "FILEEXISTS"
    assert holder.code("DeleteFile", b"certificate", 11) == "OK"
    assert read(holder, b"certificate", 0, 1)[0] == "FILENOEXIST"
    assert holder.code("DeleteFile", b"certificate", 11) == "FILENOEXIST"
    assert write(holder, b"certificate", 0, b"x") == "FILENOEXIST"


def test_nothing_is_written_or_read_beyond_a_file(holder: Session) -> None:
    assert create(holder, b"f", 16) == "OK"
    assert write(holder, b"f", 0, bytes(range(16))) == "OK"
    for offset, data in ((16, b"x"), (10, bytes(7)), (2**32 - 1, b"x"), (2**32 - 8, bytes(16))):
        assert write(holder, b"f", offset, data) == "FILEOFSERR"
    for offset in (16, 17, 2**32 - 1):
        assert read(holder, b"f", offset, 1)[0] == "FILEOFSERR"
    assert read(holder, b"f", 0, 16) == ("OK", bytes(range(16)))


@pytest.mark.parametrize("size", [0, 65537, 2**32 - 1])
def test_sizes_have_a_limit(holder: Session, size: int) -> None:
    assert create(holder, b"f", size) == "FILESIZEERR"


def test_the_largest_file_works(holder: Session) -> None:
    assert create(holder, b"large", 65536) == "OK"
    assert write(holder, b"large", 1, bytes(range(255)) * 257) == "OK"
    assert read(holder, b"large", 65530, 100) == ("OK", bytes(range(249, 255)))


@pytest.mark.parametrize("name", [b"", b"x" * 129])
def test_names_have_a_limit(holder: Session, name: bytes) -> None:
    assert create(holder, name, 1) == "INARGERR"
    assert read(holder, name, 0, 1)[0] == "INARGERR"
    assert holder.code("CreateFile", None, 4, 1) == "INARGERR"


def test_arguments_are_checked(holder: Session) -> None:
    assert create(holder, b"f", 4) == "OK"
    assert holder.code("WriteFile", b"f", 1, 0, 0, b"") == "INARGERR"
    assert holder.code("WriteFile", b"f", 1, 0, 4, None) == "INARGERR"
    assert holder.code("WriteFile", b"f", 1, 0, 2**32 - 1, b"x") == "FILESIZEERR"
    assert holder.code("ReadFile", b"f", 1, 0, None, (c_ubyte * 4)()) == "OUTARGERR"
    assert holder.code("ReadFile", b"f", 1, 0, byref(c_uint(4)), None) == "OUTARGERR"


def test_files_are_for_who_is_logged_in(session: Session, module: Module) -> None:
    assert create(session, b"f", 1) == "PARDENY"
    session.right(1, PIN)
    assert create(session, b"f", 1) == "OK"
    stranger = User(connect(module), login=False)
    assert stranger.find(CLASS=ObjectClass.DATA) == []
    session.call("ReleasePrivateKeyAccessRight", 1)
    assert read(session, b"f", 0, 1)[0] == "PARDENY"


def test_with_a_pin_in_the_settings_no_right_is_needed(sdf: Sdf, pin_file: Path) -> None:
    with opened(sdf) as device:
        assert create(Session(sdf, device), b"f", 1) == "OK"


def test_names_are_what_they_are(holder: Session) -> None:
    for name in (b"a", b"A", b"a\0b", b"a\0c", b"\xff\xfe"):
        assert create(holder, name, 1) == "OK"
        assert write(holder, name, 0, name[:1]) == "OK"
    assert holder.code("DeleteFile", b"a\0b", 3) == "OK"
    assert read(holder, b"a\0c", 0, 1) == ("OK", b"a")


def test_files_outlive_the_module(holder: Session, store: MemoryStore, sdf: Sdf) -> None:
    create(holder, b"kept", 8)
    write(holder, b"kept", 0, b"contents")
    user = User(connect(open_module(store)))
    (handle,) = user.find(CLASS=ObjectClass.DATA, APPLICATION=b"sdf", LABEL=b"kept")
    assert user.get(handle, Attr.VALUE) == b"contents"
    assert user.get(handle, Attr.PRIVATE) is True


def test_of_many_that_create_one_file_one_has(sdf: Sdf, device: c_void_p, holder: Session) -> None:
    codes: list[str] = []
    start = threading.Barrier(5)

    def work() -> None:
        session = Session(sdf, device)
        start.wait(30)
        codes.append(create(session, b"one", 4))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == ["FILEEXISTS"] * 4 + ["OK"]
    assert holder.code("DeleteFile", b"one", 3) == "OK"
    assert read(holder, b"one", 0, 1)[0] == "FILENOEXIST"


def test_writes_to_different_parts_are_all_there(
    sdf: Sdf, device: c_void_p, holder: Session
) -> None:
    create(holder, b"shared", 60)

    def work(part: int) -> None:
        session = Session(sdf, device)
        for at in range(10):
            assert write(session, b"shared", 10 * part + at, bytes((part,))) == "OK"

    threads = [threading.Thread(target=work, args=(part,)) for part in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(holder, b"shared", 0, 60) == ("OK", bytes(at // 10 for at in range(60)))
