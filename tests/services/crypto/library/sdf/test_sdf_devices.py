"""Devices, sessions, rights: GM/T 0018, 6.2."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from ctypes import byref, c_ulong, c_void_p
from pathlib import Path

import pytest

from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, connect
from tests.services.crypto.conftest import refusal
from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.cryptoki import Library
from tests.services.crypto.library.sdf import binding
from tests.services.crypto.library.sdf.binding import (
    DeviceInfo,
    EccPublic,
    EccSignature,
    Refused,
    Room,
    Sdf,
    Session,
    opened,
)

DIGEST = bytes(range(32))
PkcsState = Callable[[], str]


@pytest.fixture
def pkcs11_state(sdf: Sdf) -> PkcsState:
    """Whether the process is logged in on the token, asked through PKCS#11 in the same library."""

    def ask() -> str:
        library = Library(sdf.path)
        handle = library.number("C_OpenSession", 0, 4, None, None)
        info = (c_ulong * 4)()
        library.call("C_GetSessionInfo", handle, info)
        library.call("C_CloseSession", handle)
        library.close()
        return {0: "public", 1: "user"}[info[1]]

    return ask


def sign(session: Session, index: int = 1) -> str:
    return session.code("InternalSign_ECC", index, DIGEST, 32, byref(EccSignature()))


def test_a_device_says_what_it_is(session: Session) -> None:
    info = DeviceInfo()
    session.call("GetDeviceInfo", byref(info))
    assert bytes(info.issuer).strip() == b"secGear"
    assert info.asymmetric[0] & binding.SM2_SIGN == binding.SM2_SIGN
    assert info.asymmetric[0] & binding.RSA
    assert info.symmetric & binding.SM4_CBC == binding.SM4_CBC
    assert info.hash & binding.SM3
    assert info.standard == 1


@pytest.mark.parametrize("size", [1, 32, 4096, (1 << 20) + 7])
def test_random_bytes_fill_what_was_asked_for(session: Session, size: int) -> None:
    room = Room(size)
    session.call("GenerateRandom", size, room.buffer)
    assert size < 16 or room.data.count(0) < size // 2
    assert len(set(room.data)) > min(size, 16) // 2


def test_handles_are_not_pointers_and_old_ones_are_refused(sdf: Sdf, device: c_void_p) -> None:
    session = Session(sdf, device)
    session.close()
    info = DeviceInfo()
    for handle in (session.handle, device, c_void_p(0), c_void_p(8), c_void_p(2**64 - 1)):
        assert sdf.code("GetDeviceInfo", handle, byref(info)) == "INARGERR"
        assert sdf.code("CloseSession", handle) == "INARGERR"
    again = Session(sdf, device)
    assert again.handle.value != session.handle.value  # the place is the same, its turn is not
    assert sdf.code("GetDeviceInfo", session.handle, byref(info)) == "INARGERR"
    assert sdf.code("CloseDevice", again.handle) == "INARGERR"


def test_pointers_to_nothing_are_refused(sdf: Sdf, session: Session) -> None:
    assert sdf.code("OpenDevice", None) == "OUTARGERR"
    assert session.code("GetDeviceInfo", None) == "OUTARGERR"
    assert session.code("GenerateRandom", 8, None) == "OUTARGERR"
    assert session.code("GenerateRandom", 0, Room(1).buffer) == "INARGERR"
    assert session.code("GetPrivateKeyAccessRight", 1, None, 4) == "INARGERR"
    assert session.code("GetPrivateKeyAccessRight", 1, b"", 0) == "INARGERR"


def test_sessions_end_with_their_device_and_others_go_on(sdf: Sdf, device: c_void_p) -> None:
    with opened(sdf) as other:
        ended = Session(sdf, other)
        kept = Session(sdf, device)
    assert ended.code("GenerateRandom", 8, Room(8).buffer) == "INARGERR"
    kept.call("GenerateRandom", 8, Room(8).buffer)


def test_a_device_that_was_closed_opens_again(sdf: Sdf) -> None:
    for _ in range(3):
        with opened(sdf) as device:
            session = Session(sdf, device)
            session.right(1, PIN)
            assert sign(session) == "OK"
    assert sign(session) == "INARGERR"


def test_nobody_there_is_told(sdf: Sdf, server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECGEAR_PKCS11", f"unix:{server.path}.not")
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"


def test_a_module_that_goes_away_fails_calls_and_a_new_device_works(
    sdf: Sdf, server: Answering
) -> None:
    with opened(sdf) as device:
        session = Session(sdf, device)
        server.drop()
        assert session.code("GenerateRandom", 8, Room(8).buffer) == "COMMFAIL"
        assert sdf.code("OpenSession", device, byref(c_void_p())) == "OPENSESSION"
    with opened(sdf) as device:
        Session(sdf, device).call("GenerateRandom", 8, Room(8).buffer)


# --- rights ------------------------------------------------------------------------------------


def test_private_keys_need_a_right_of_this_session_to_this_index(
    sdf: Sdf, device: c_void_p
) -> None:
    one, other = Session(sdf, device), Session(sdf, device)
    assert sign(one) == "PARDENY"
    one.right(1, PIN)
    assert sign(one) == "OK"
    assert sign(one, 2) == "PARDENY"
    assert sign(other) == "PARDENY"
    other.right(2, PIN)
    assert sign(other, 2) == "OK"
    one.call("ReleasePrivateKeyAccessRight", 1)
    assert sign(one) == "PARDENY"
    assert sign(other, 2) == "OK"
    assert one.code("ReleasePrivateKeyAccessRight", 1) == "PRKRERR"


def test_public_keys_need_none(session: Session) -> None:
    session.call("ExportSignPublicKey_ECC", 1, byref(EccPublic()))


def test_a_wrong_password_gives_no_right(session: Session) -> None:
    assert session.code("GetPrivateKeyAccessRight", 1, b"wrong", 5) == "PRKRERR"
    assert sign(session) == "PARDENY"
    session.right(2, PIN)  # now the process is logged in, and a password is checked all the same
    assert session.code("GetPrivateKeyAccessRight", 1, b"wrong", 5) == "PRKRERR"
    assert sign(session) == "PARDENY"
    assert session.code("GetPrivateKeyAccessRight", 9, PIN, len(PIN)) == "KEYNOTEXIST"
    assert session.code("GetPrivateKeyAccessRight", 1, PIN, len(PIN) - 1) == "PRKRERR"


@pytest.mark.parametrize("first", [False, True])
def test_guessing_locks_the_pin(session: Session, module: Module, first: bool) -> None:
    if first:
        session.right(2, PIN)
    for _ in range(10):
        assert session.code("GetPrivateKeyAccessRight", 1, b"guess", 5) == "PRKRERR"
    assert session.code("GetPrivateKeyAccessRight", 1, PIN, len(PIN)) == "PRKRERR"
    caller = connect(module)
    handle = caller.one("C_OpenSession", 0, 6)
    assert refusal(caller.call, "C_Login", handle, 1, PIN).name == "PIN_LOCKED"


def test_the_last_right_that_is_given_back_logs_the_process_out(
    sdf: Sdf, device: c_void_p, pkcs11_state: PkcsState
) -> None:
    one, other = Session(sdf, device), Session(sdf, device)
    one.right(1, PIN)
    other.right(1, PIN)
    assert pkcs11_state() == "user"
    one.call("ReleasePrivateKeyAccessRight", 1)
    assert pkcs11_state() == "user"
    other.close()
    assert pkcs11_state() == "public"
    one.right(1, PIN)
    assert sign(one) == "OK"


def test_the_last_right_goes_with_its_device(
    sdf: Sdf, device: c_void_p, pkcs11_state: PkcsState
) -> None:
    with opened(sdf) as other:
        Session(sdf, other).right(1, PIN)
        assert pkcs11_state() == "user"
    assert pkcs11_state() == "public"


@pytest.mark.parametrize("by_file", [False, True])
def test_a_login_ends_with_the_device_that_has_made_it(
    sdf: Sdf, server: Answering, settings: Path, pin_file: Path, by_file: bool,
    pkcs11_state: PkcsState,
) -> None:  # fmt: skip
    """Though the application goes on with PKCS#11; and its own login outlives the device."""
    if not by_file:
        settings.write_text("slot = 0\n")
    library = Library(sdf.path)
    library.initialise(server.address)
    try:
        kept = library.number("C_OpenSession", 0, 4, None, None)
        with opened(sdf) as device:
            Session(sdf, device).right(1, PIN)
            assert pkcs11_state() == "user"
        assert pkcs11_state() == "public"
        library.call("C_Login", kept, 1, PIN, len(PIN))
        with opened(sdf) as device:
            Session(sdf, device).right(1, PIN)
        assert pkcs11_state() == "user"
    finally:
        library.call("C_Finalize", None)


def test_an_operation_under_way_outlives_the_last_right(
    sdf: Sdf, device: c_void_p, pkcs11_state: PkcsState
) -> None:
    one, other = Session(sdf, device), Session(sdf, device)
    one.right(1, PIN)
    other.call("HashInit", binding.SM3, None, None, 0)
    other.call("HashUpdate", b"ab", 2)
    one.call("ReleasePrivateKeyAccessRight", 1)
    assert pkcs11_state() == "user"  # a logout would end the digest
    other.call("HashUpdate", b"c", 1)
    assert other.output("HashFinal").hex().startswith("66c7f0f4")
    assert pkcs11_state() == "public"


def test_a_right_that_is_asked_for_again_is_no_other_one(session: Session) -> None:
    for _ in range(3):
        session.right(1, PIN)
    session.call("ReleasePrivateKeyAccessRight", 1)
    assert sign(session) == "PARDENY"


# --- settings ----------------------------------------------------------------------------------


def test_a_pin_in_a_file_logs_in_and_rights_are_asked_for_all_the_same(
    sdf: Sdf, pin_file: Path, pkcs11_state: PkcsState
) -> None:
    with opened(sdf) as device:
        session = Session(sdf, device)
        assert pkcs11_state() == "user"
        assert sign(session) == "PARDENY"
        assert session.code("GetPrivateKeyAccessRight", 1, b"wrong", 5) == "PRKRERR"
        session.right(1, PIN)
        assert sign(session) == "OK"
        session.call("ReleasePrivateKeyAccessRight", 1)
        assert pkcs11_state() == "user"  # until the device is closed


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_pin_that_others_can_read_is_not_used(sdf: Sdf, pin_file: Path, mode: int) -> None:
    pin_file.chmod(mode)
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"
    pin_file.chmod(0o400)
    sdf.call("CloseDevice", sdf.open())


@pytest.mark.parametrize("text", [b"", b"\n", b"two\nlines\n", b"x" * 300])
def test_what_is_no_pin_is_not_tried(sdf: Sdf, pin_file: Path, module: Module, text: bytes) -> None:
    pin_file.write_bytes(text)
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"
    user = module.slot(0).state.user
    assert user is not None
    assert user.failures == 0


def test_a_wrong_pin_in_the_file_opens_no_device(sdf: Sdf, pin_file: Path) -> None:
    pin_file.write_bytes(b"not-the-pin")
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"
    pin_file.write_bytes(PIN)  # with no line's end
    sdf.call("CloseDevice", sdf.open())


@pytest.mark.parametrize(
    "text",
    ["slot\n", "slot = \n", "slot = -1\n", "slot = 1x\n", "slot = 99\n", "pin = 1\n", "\0",
     "pin-file = relative\n", "pin-file = /nowhere\n", "slot = 99999999999999999999999\n"],
)  # fmt: skip
def test_settings_that_say_something_else_open_no_device(
    sdf: Sdf, settings: Path, text: str
) -> None:
    settings.write_text(text)
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"


def test_settings_that_others_may_write_are_not_believed(sdf: Sdf, settings: Path) -> None:
    settings.chmod(0o666)
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"
    settings.chmod(0o644)
    settings.unlink()
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"  # it was named
    os.mkfifo(settings)
    assert sdf.code("OpenDevice", byref(c_void_p())) == "OPENDEVICE"  # and nothing waits


def test_another_slot_has_other_keys(sdf: Sdf, settings: Path) -> None:
    settings.write_text("slot=1\n")
    with opened(sdf) as device:
        session = Session(sdf, device)
        assert session.code("ExportSignPublicKey_ECC", 1, byref(EccPublic())) == "KEYNOTEXIST"


# --- processes and threads ---------------------------------------------------------------------


def test_a_child_of_fork_has_none_of_its_parents_handles(
    sdf: Sdf, device: c_void_p, user: Session
) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answers = [sign(user), sdf.code("CloseDevice", device)]
        try:
            with opened(sdf) as own:
                session = Session(sdf, own)
                answers.append(sign(session))
                session.right(1, PIN)
                answers.append(sign(session))
        except Refused as refused:
            answers.append(refused.name)
        os.write(writing, " ".join(answers).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read().split() == [b"INARGERR", b"INARGERR", b"PARDENY", b"OK"]
    assert sign(user) == "OK"


def test_threads_with_a_session_each_do_not_disturb_each_other(sdf: Sdf, device: c_void_p) -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        try:
            for turn in range(2):
                session = Session(sdf, device)
                data = bytes((number, turn)) * 40
                session.right(1, PIN)
                key = session.key(bytes((number,)) * 16)
                sealed = session.crypt("Encrypt", key, binding.SM4_ECB, data)
                if session.crypt("Decrypt", key, binding.SM4_ECB, sealed) != data:
                    failures.append("another's data")
                if sign(session) != "OK":
                    failures.append("no signature")
                session.close()
        except Refused as refused:
            failures.append(str(refused))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_with_one_session_take_turns(user: Session) -> None:
    digests: list[bytes] = []

    def work() -> None:
        for _ in range(10):
            assert sign(user) == "OK"
            key = user.key(bytes(16))
            digests.append(user.crypt("Encrypt", key, binding.SM4_ECB, bytes(16)))
            user.call("DestroyKey", key)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(digests) == 60
    assert len(set(digests)) == 1


def test_a_device_that_closes_while_others_work_breaks_nothing(sdf: Sdf) -> None:
    for _ in range(5):
        device = sdf.open()
        sessions = [Session(sdf, device) for _ in range(4)]
        codes: set[str] = set()

        def work(session: Session, codes: set[str] = codes) -> None:
            while (code := session.code("GenerateRandom", 8, Room(8).buffer)) == "OK":
                pass
            codes.add(code)

        threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
        for thread in threads:
            thread.start()
        sdf.call("CloseDevice", device)
        for thread in threads:
            thread.join()
        assert codes == {"INARGERR"}
