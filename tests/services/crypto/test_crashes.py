"""Killed at any point: what was acknowledged is there, what was not is there as a whole or not."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import random
import signal
import socket
import sqlite3
import termios
import threading
from pathlib import Path

import pytest

from secgear.errors import CryptoModuleError
from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import Attr, Mech
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.frames import HEADER, build_frame, parse_header
from secgear.services.crypto.rpc.messages import HANDSHAKE, build_request, parse_answer
from tests.services.crypto.conftest import P256, User, template
from tests.services.crypto.running import PIN, Server, founded, prepare_token, secgear, serving


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "module"


def logged_in(caller: Caller) -> User:
    user = User(caller, login=False)
    user.call("C_Login", 1, PIN.encode())
    return user


def make_pairs(
    server: Server, prefix: str, acknowledged: list[bytes], stop: threading.Event
) -> None:
    """Generate key pairs on the token until something breaks."""
    try:
        with server.caller() as caller:
            user = logged_in(caller)
            number = 0
            while not stop.is_set():
                label = f"{prefix}-{number}".encode()
                user.pair(
                    Mech.EC_KEY_PAIR_GEN,
                    {"EC_PARAMS": P256, "VERIFY": True, "TOKEN": True, "LABEL": label},
                    {"SIGN": True, "TOKEN": True, "LABEL": label},
                )
                acknowledged.append(label)
                number += 1
    except (CryptokiError, CryptoModuleError, OSError):
        return


def check(server: Server, acknowledged: list[bytes]) -> None:
    """Every acknowledged pair works; no half of a pair is there."""
    with server.caller() as caller:
        user = logged_in(caller)
        for label in acknowledged:
            assert len(user.find(LABEL=label)) == 2, label
        labels = {user.get(handle, Attr.LABEL) for handle in user.find()}
        for label in labels:
            (private,) = user.find(CLASS=3, LABEL=label)
            (public,) = user.find(CLASS=2, LABEL=label)
            signature = user.run("Sign", Mech.ECDSA_SHA256, private, label)
            user.verify(Mech.ECDSA_SHA256, public, label, signature)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["enclave", "host"])
def test_killed_at_random_points_nothing_acknowledged_is_lost(directory: Path, victim: str) -> None:
    key = founded(directory)
    acknowledged: list[bytes] = []
    prepared = False
    for life in range(4):
        with serving(directory) as server:
            if not prepared:
                prepare_token(server.socket, directory / "pins")
                prepared = True
            check(server, acknowledged)
            before, stop = len(acknowledged), threading.Event()
            writers = [
                threading.Thread(
                    target=make_pairs, args=(server, f"{life}-{number}", acknowledged, stop)
                )
                for number in range(3)
            ]
            for writer in writers:
                writer.start()
            wanted = before + random.randint(1, 12)  # some pairs, then in the middle of another
            while len(acknowledged) < wanted and any(writer.is_alive() for writer in writers):
                threading.Event().wait(random.random() / 200)
            if victim == "enclave":
                os.kill(server.enclave, signal.SIGKILL)
            else:
                server.kill()
            for writer in writers:
                writer.join(60)
            stop.set()
            if victim == "enclave":
                check(server, acknowledged)  # the next enclave, behind the same socket
    with serving(directory) as server:
        check(server, acknowledged)
    assert "whole" in secgear("crypto", "audit", "verify", str(directory), "--key", key)


def test_a_connection_outlives_the_enclave_and_has_to_log_in_again(directory: Path) -> None:
    founded(directory)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with server.caller() as caller:
            user = logged_in(caller)
            key = user.aes(TOKEN=True, LABEL=b"kept")
            server.quiet()
            os.kill(server.enclave, signal.SIGKILL)
            while True:
                try:
                    rv = None
                    user.find()
                except CryptokiError as error:
                    rv = error.rv
                if rv is not Rv.DEVICE_REMOVED:
                    break
            assert rv is Rv.SESSION_HANDLE_INVALID
            again = logged_in(caller)
            assert again.find(LABEL=b"kept") == [key]
            sealed = again.run("Encrypt", Mech.AES_ECB, key, bytes(16))
            assert again.run("Decrypt", Mech.AES_ECB, key, sealed) == bytes(16)


def test_a_call_under_way_is_answered_when_its_enclave_dies(directory: Path) -> None:
    """On its own connection, which the next enclave goes on with; so are calls side by side."""
    founded(directory)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with socket.socket(socket.AF_UNIX) as end, server.caller() as other:
            end.settimeout(60)
            end.connect(str(server.socket))
            end.sendall(bytes((OWN,)))
            file = end.makefile("rb")
            assert file.read(1) == bytes((OWN,))

            def ask(code: int, name: str, *arguments: object) -> None:
                end.sendall(build_frame(code, build_request(BY_NAME[name], arguments, OWN)))

            def hear() -> tuple[int, bytes]:
                header = parse_header(file.read(HEADER.size))
                return header.code, file.read(header.body)

            ask(1, "C_Initialize", HANDSHAKE, 0, b"\0")
            hear()
            outcomes: set[Rv] = set()
            code = 10
            for _ in range(4):
                ask(2, "C_OpenSession", 0, 6)
                (session,) = parse_answer(BY_NAME["C_OpenSession"], hear()[1], OWN)
                generate = (
                    "C_GenerateKeyPair", session, Mechanism(0),
                    template(MODULUS_BITS=4096), template(SIGN=True, PRIVATE=False),
                )  # fmt: skip
                ask(code, *generate)
                ask(code + 1, *generate)
                ask(3, "C_GetInfo")
                assert hear()[0] == 3  # it was read after those two
                server.quiet(2)
                os.kill(server.enclave, signal.SIGKILL)
                answers = dict(hear() for _ in range(2))
                assert set(answers) == {code, code + 1}
                for answer in answers.values():
                    try:
                        parse_answer(BY_NAME["C_GenerateKeyPair"], answer, OWN)
                    except CryptokiError as error:
                        outcomes.add(error.rv)
                code += 2
                if outcomes:
                    break
            assert outcomes == {Rv.DEVICE_REMOVED}
            ask(4, "C_GetSessionInfo", session)
            with pytest.raises(CryptokiError) as refused:
                parse_answer(BY_NAME["C_GetSessionInfo"], hear()[1], OWN)
            assert refused.value.rv is Rv.SESSION_HANDLE_INVALID
            assert other.call("C_GetInfo")


def test_a_connection_that_breaks_off_in_the_middle_ends_with_its_enclave(directory: Path) -> None:
    founded(directory)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with socket.socket(socket.AF_UNIX) as end, server.caller() as other:
            end.settimeout(60)
            end.connect(str(server.socket))
            end.sendall(bytes((OWN,)) + build_frame(1, bytes(100))[:50])
            assert end.recv(1) == bytes((OWN,))
            while True:  # until the half was read: the enclave answers others all the time
                other.call("C_GetInfo")
                if not unread(end):
                    break
            server.quiet()
            os.kill(server.enclave, signal.SIGKILL)
            with contextlib.suppress(ConnectionResetError):
                assert end.recv(1) == b""
            assert other.call("C_GetInfo")  # which had nothing under way


def unread(end: socket.socket) -> int:
    """Bytes that the other side has not taken yet."""
    size = array.array("i", [0])
    fcntl.ioctl(end, termios.TIOCOUTQ, size)
    return size[0]


def test_an_older_store_is_refused(directory: Path) -> None:
    founded(directory)
    database = directory / "module.db"
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
    older = database.read_bytes()
    with serving(directory) as server, server.caller() as caller:
        logged_in(caller).aes(TOKEN=True)
    database.write_bytes(older)
    for rest in directory.glob("module.db-*"):
        rest.unlink()
    said = secgear("serve", "crypto", "--directory", str(directory), fails=True)
    assert "sealing.rolled-back" in said


@pytest.mark.parametrize("table", ["crypto_objects", "crypto_audit", "crypto_head"])
def test_a_changed_store_is_refused(directory: Path, table: str) -> None:
    key = founded(directory)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with server.caller() as caller:
            user = logged_in(caller)
            user.aes(TOKEN=True)
            user.aes(TOKEN=True)
    column = {"crypto_objects": "blob", "crypto_audit": "body", "crypto_head": "sealed"}[table]
    with sqlite3.connect(directory / "module.db") as database:
        (data,) = database.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()
        changed = bytes([*data[:-1], data[-1] ^ 1])
        database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (changed, data))
    database.close()
    verify = ("crypto", "audit", "verify", str(directory), "--key", key)
    if table == "crypto_audit":
        assert "record 1 is missing or was changed" in secgear(*verify, fails=True)
    else:
        said = secgear("serve", "crypto", "--directory", str(directory), fails=True)
        assert "were changed" in said or "was changed" in said or "sealing.other" in said


def test_a_removed_object_is_noticed(directory: Path) -> None:
    founded(directory)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with server.caller() as caller:
            user = logged_in(caller)
            user.aes(TOKEN=True)
            user.aes(TOKEN=True)
    with sqlite3.connect(directory / "module.db") as database:
        database.execute("DELETE FROM crypto_objects WHERE id = 1")
    database.close()
    said = secgear("serve", "crypto", "--directory", str(directory), fails=True)
    assert "removed" in said


def test_a_trail_that_was_cut_off_is_noticed_by_who_kept_its_end(directory: Path) -> None:
    key = founded(directory)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
    verify = ("crypto", "audit", "verify", str(directory), "--key", key)
    end = secgear(*verify).split()[-1]
    assert "whole" in secgear(*verify, "--head", end)
    with sqlite3.connect(directory / "module.db") as database:
        database.execute("DELETE FROM crypto_audit WHERE seq >= 3")
    database.close()
    assert "whole" in secgear(*verify)
    assert "it was cut off" in secgear(*verify, "--head", end, fails=True)
    other = ("crypto", "audit", "verify", str(directory), "--key", "00" * 31 + "01")
    assert "audit" in secgear(*other, fails=True)


def test_two_servers_do_not_share_a_module(directory: Path) -> None:
    founded(directory)
    with serving(directory):
        said = secgear("serve", "crypto", "--directory", str(directory), fails=True)
        assert "a server is running here" in said


def test_generating_takes_its_time_and_others_do_not_wait(directory: Path) -> None:
    founded(directory)
    with serving(directory) as server:
        prepare_token(server.socket, directory / "pins")
        with server.caller() as one, server.caller() as other:
            done = threading.Event()

            def generate() -> None:
                user = logged_in(one)
                made = template(MODULUS_BITS=4096, VERIFY=True)
                user.call("C_GenerateKeyPair", Mechanism(0), made, template(SIGN=True))
                done.set()

            thread = threading.Thread(target=generate)
            thread.start()
            calls = 0
            while not done.is_set() and thread.is_alive():
                other.call("C_GetInfo")
                calls += 1
            thread.join()
            assert done.is_set()
            assert calls > 10
