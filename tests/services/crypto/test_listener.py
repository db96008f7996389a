"""The host's socket: who may connect, what it does with nonsense, many clients at once."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from secgear.services.crypto.client import Caller, SocketExchange
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.mechanism import GcmParams
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.frames import HEADER, MAX_BODY, build_frame, parse_header
from secgear.services.crypto.rpc.messages import HANDSHAKE, build_request, parse_answer
from secgear.services.crypto.token.mechanisms import MECHANISMS
from tests.services.crypto.conftest import P256, User, refusal
from tests.services.crypto.running import (
    PIN,
    Server,
    founded,
    prepare_token,
    secgear,
    serving,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("crypto") / "module"
    founded(directory, "--slots", "2")
    with serving(directory) as running:
        prepare_token(running.socket, directory / "pins")
        yield running


def raw(server: Server) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(60)
    connection.connect(str(server.socket))
    return connection


def closed(connection: socket.socket) -> bool:
    """Whether the other side hangs up, after whatever it still says."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def test_the_socket_is_its_owners(server: Server) -> None:
    mode = stat.S_IMODE(server.socket.stat().st_mode)
    assert mode == 0o600
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_another_user_can_not_connect(server: Server) -> None:
    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    program = f"import socket; socket.socket(socket.AF_UNIX).connect({str(server.socket)!r})"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", program], preexec_fn=become_nobody, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\1",
        b"\1" + b"\xff" * 12,
        b"\1" + HEADER.pack(1, 0, MAX_BODY + 1),
        b"\1" + HEADER.pack(1, 4097, 0),
        b"\1" + HEADER.pack(1, 0, 100) + b"half",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_nonsense_ends_its_own_connection_and_no_other(server: Server, said: bytes) -> None:
    with raw(server) as connection:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)
        assert closed(connection)
    with server.caller() as caller:
        assert caller.call("C_GetInfo")


def test_a_body_that_is_no_message_is_answered_and_the_connection_goes_on(server: Server) -> None:
    with SocketExchange(server.socket) as exchange:
        for body in (b"", b"\0", b"\xff" * 100, bytes(MAX_BODY)):
            with pytest.raises(CryptokiError) as refused:
                parse_answer(BY_NAME["C_GetInfo"], exchange(body), OWN)
            assert refused.value.rv in (Rv.DEVICE_ERROR, Rv.FUNCTION_NOT_SUPPORTED)
        caller = Caller(exchange)
        assert refusal(caller.call, "C_GetInfo") is Rv.CRYPTOKI_NOT_INITIALIZED
        caller.initialise()
        assert caller.call("C_GetInfo")


def test_calls_that_overlap_are_answered_each_under_its_code(server: Server) -> None:
    """As several threads of one process do over p11-kit's one socket."""
    with raw(server) as connection, connection.makefile("rb") as file:
        connection.sendall(b"\2")
        assert file.read(1) == b"\2"

        def ask(code: int, name: str, *arguments: object) -> bytes:
            return build_frame(code, build_request(BY_NAME[name], arguments, 2), b"client")

        def hear() -> tuple[int, bytes]:
            header = parse_header(file.read(HEADER.size))
            return header.code, file.read(header.body)

        connection.sendall(ask(0, "C_Initialize", HANDSHAKE, 0, b"\0"))
        hear()
        connection.sendall(ask(1, "C_OpenSession", 0, 6))
        (session,) = parse_answer(BY_NAME["C_OpenSession"], hear()[1], 2)
        frames = [ask(code, "C_GenerateRandom", session, code) for code in range(100, 400)]
        sender = threading.Thread(target=lambda: connection.sendall(b"".join(frames)))
        sender.start()
        seen = set()
        for _ in frames:
            code, body = hear()
            (data,) = parse_answer(BY_NAME["C_GenerateRandom"], body, 2)
            assert len(data) == code
            seen.add(code)
        sender.join()
        assert seen == set(range(100, 400))


def test_a_client_that_leaves_takes_its_sessions_along(server: Server) -> None:
    with server.caller() as other:
        for _ in range(3):
            with server.caller() as caller:
                caller.one("C_OpenSession", 1, 6)
        for _ in range(1000):
            if other.call("C_GetTokenInfo", 1)[6] == 0:
                break
        assert other.call("C_GetTokenInfo", 1)[6] == 0


def test_sixty_four_clients_at_once_get_right_results(server: Server) -> None:
    with server.caller() as setup:
        maker = User(setup, login=False)
        maker.call("C_Login", 1, PIN.encode())
        public, private = maker.pair(
            Mech.EC_KEY_PAIR_GEN,
            {"EC_PARAMS": P256, "VERIFY": True, "TOKEN": True},
            {"SIGN": True, "TOKEN": True},
        )
        key = maker.aes(TOKEN=True)
        kept: list[bytes] = []

        def work(number: int) -> None:
            with server.caller() as caller:
                user = User(caller, login=False)
                user.call("C_Login", 1, PIN.encode())
                label = b"client %d" % number
                user.aes(TOKEN=True, LABEL=label)
                kept.append(label)
                for at in range(4):
                    message = b"%d %d" % (number, at)
                    params = GcmParams(number.to_bytes(4, "big") + at.to_bytes(8, "big"), b"", 128)
                    sealed = user.run("Encrypt", Mech.AES_GCM, key, message, params)
                    assert user.run("Decrypt", Mech.AES_GCM, key, sealed, params) == message
                    signature = user.run("Sign", Mech.ECDSA_SHA256, private, message)
                    user.verify(Mech.ECDSA_SHA256, public, message, signature)
            done.append(number)

        done: list[int] = []
        threads = [threading.Thread(target=work, args=(number,)) for number in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 64
        for label in kept:
            assert len(maker.find(LABEL=label)) == 1


def test_everything_that_the_token_offers_works_in_the_sealed_enclave(server: Server) -> None:
    """Libraries are loaded before the enclave is sealed, SM2's among them."""
    with server.caller() as caller:
        user = User(caller, login=False)
        user.call("C_Login", 1, PIN.encode())
        offered = caller.one("C_GetMechanismList", 0, 4096)
        assert set(offered) == set(MECHANISMS)
        for mech, params in (
            (Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048}),
            (Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256}),
            (Mech.EC_EDWARDS_KEY_PAIR_GEN, {"EC_PARAMS": b"\6\3\x2b\x65\x70"}),
            (Mech.EC_MONTGOMERY_KEY_PAIR_GEN, {"EC_PARAMS": b"\6\3\x2b\x65\x6e"}),
            (Mech.ML_DSA_KEY_PAIR_GEN, {"PARAMETER_SET": 2}),
            (Mech.ML_KEM_KEY_PAIR_GEN, {"PARAMETER_SET": 2}),
            (Mech.SM2_KEY_PAIR_GEN, {}),
        ):
            if mech in offered:
                assert len(user.pair(mech, params)) == 2


def test_a_stale_socket_is_replaced_and_another_file_is_not(tmp_path: Path) -> None:
    directory = tmp_path / "module"
    founded(directory)
    stale = directory / "pkcs11.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    with serving(directory) as server, server.caller() as caller:
        assert caller.call("C_GetInfo")
    assert not stale.exists()
    stale.write_text("important")
    said = secgear("serve", "crypto", "--directory", str(directory), fails=True)
    assert "is no socket" in said
    assert stale.read_text() == "important"


def test_the_commands_say_what_is_wrong(tmp_path: Path, server: Server) -> None:
    nothing = str(tmp_path / "nothing")
    said = secgear("serve", "crypto", "--directory", nothing, fails=True)
    assert "no module was founded here" in said
    assert not Path(nothing).exists()
    said = secgear("crypto", "init", str(server.socket.parent), fails=True)
    assert "running here" in said
    pins = tmp_path / "pins"
    pins.write_text("only one line\n")
    token = ("crypto", "token", "x", "--socket", str(server.socket), "--pin-file", str(pins))
    assert "two lines" in secgear(*token, fails=True)
    pins.write_text("wrong-officer\n123456\n")
    said = secgear(*token, fails=True)
    assert "CKR_PIN_INCORRECT" in said
    assert "the officer's old PIN" in said
    pins.write_text("12\n123456\n")
    assert "CKR_PIN_LEN_RANGE" in secgear(*token, "--slot", "1", fails=True)
    assert "CKR_SLOT_ID_INVALID" in secgear(*token, "--slot", "9", fails=True)
    missing = ("crypto", "token", "x", "--socket", nothing, "--pin-file", str(pins))
    said = secgear(*missing, fails=True)
    assert "No such file" in said
    assert "is the module running" in said


def test_a_directory_that_others_can_enter_holds_no_module(tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o755)
    assert "chmod 700" in secgear("crypto", "init", str(place), fails=True)
    assert list(place.iterdir()) == []


def test_pins_are_on_no_command_line_and_in_no_environment(server: Server) -> None:
    for process in (server.process.pid, server.enclave):
        for name in ("cmdline", "environ"):
            try:
                content = Path(f"/proc/{process}/{name}").read_bytes()
            except PermissionError:
                continue
            assert PIN.encode() not in content


def test_the_wire_is_big_endian_and_versions_are_answered(server: Server) -> None:
    for offered, spoken in ((0, 0), (1, 1), (2, 2), (9, 2), (OWN, OWN)):
        with raw(server) as connection:
            connection.sendall(bytes((offered,)))
            assert connection.recv(1) == bytes((spoken,))
            body = build_request(BY_NAME["C_GetInfo"], (), spoken)
            connection.sendall(struct.pack(">III", 5, 0, len(body)) + body)
            assert struct.unpack(">III", connection.recv(12))[0] == 5
