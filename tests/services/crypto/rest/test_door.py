"""The door, end to end: a module as it is run, and hvac and curl that know nothing of enclaves."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import pytest
import requests

from secgear.errors import CryptoModuleError
from secgear.services.crypto.door import Door
from tests.services.crypto.conftest import template
from tests.services.crypto.rest.conftest import checked_session
from tests.services.crypto.running import (
    PIN,
    SECGEAR,
    founded,
    prepare_token,
    secgear,
    serving,
)
from tests.services.crypto.test_channel import Place, holds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("rest") / "module"
    founded(directory)
    with serving(directory, "--attested", "tcp://127.0.0.1:0", ready=2) as server:
        prepare_token(server.socket, directory / "pins")
        (directory / "pins").unlink()
        match = re.search(r"attested channels at (\S+)", "\n".join(server.said))
        assert match is not None
        yield Place(server, directory, match[1])


@contextlib.contextmanager
def door(place: Place, listen: str = "127.0.0.1:0") -> Iterator[str]:
    """``secgear crypto http``, until the block ends: where it listens."""
    process = subprocess.Popen(
        [*SECGEAR, "crypto", "http", place.address, "--policy", str(place.policy),
         "--root", "simulated", "--listen", listen, "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = ""
        while not said.endswith("}\n"):
            line = process.stdout.readline()
            assert line, said
            said += line
        yield json.loads(said)["address"]
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def url(place: Place) -> Iterator[str]:
    with door(place) as address:
        yield address


def logged_in(url: str) -> hvac.Client:
    client = hvac.Client(url=url, session=checked_session())
    client.auth.userpass.login("user", PIN)
    return client


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_hvac_works_through_the_door_unchanged(url: str) -> None:
    client = logged_in(url)
    transit = client.secrets.transit
    transit.create_key("hvac")
    cipher = transit.encrypt_data("hvac", plaintext=b64(b"through the door"))["data"]["ciphertext"]
    transit.rotate_key("hvac")
    opened = transit.decrypt_data("hvac", cipher)["data"]["plaintext"]
    assert base64.b64decode(opened) == b"through the door"
    large = os.urandom(2 << 20)
    cipher = transit.encrypt_data("hvac", plaintext=b64(large))["data"]["ciphertext"]
    assert base64.b64decode(transit.decrypt_data("hvac", cipher)["data"]["plaintext"]) == large


def test_curl_works_through_a_unix_socket(place: Place, tmp_path: Path) -> None:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed")
    path = tmp_path / "door.sock"

    def curl(target: str, body: Any, *more: str) -> Any:
        said = subprocess.run(
            [program, "--silent", "--show-error", "--unix-socket", str(path), "--data", "@-",
             *more, f"http://module/v1/{target}"],
            input=json.dumps(body).encode(), capture_output=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        return json.loads(said)

    with door(place, f"unix:{path}"):
        token = curl("auth/userpass/login/user", {"password": PIN})["auth"]["client_token"]
        header = ("--header", f"X-Vault-Token: {token}")
        curl("transit/keys/curl", {"type": "ed25519"}, *header)
        # More than a mebibyte: curl asks first whether it may (Expect: 100-continue).
        data = b64(os.urandom(1_500_000))
        signed = curl("transit/sign/curl", {"input": data}, *header)["data"]["signature"]
        body = {"input": data, "signature": signed}
        assert curl("transit/verify/curl", body, *header)["data"]["valid"] is True


def test_what_went_through_the_door_is_nowhere_on_the_host(place: Place, url: str) -> None:
    control = b"control-label-through-the-socket"
    plain = b"canary-plaintext-through-the-door"
    client = logged_in(url)
    transit = client.secrets.transit
    transit.create_key("canary")
    for _ in range(20):
        cipher = transit.encrypt_data("canary", plaintext=b64(plain))["data"]["ciphertext"]
        transit.decrypt_data("canary", cipher)
    datakey = transit.generate_data_key("canary", "plaintext")["data"]["plaintext"]
    canaries = [plain, b64(plain).encode(), datakey.encode(), base64.b64decode(datakey)]
    canaries += [client.token.encode(), f'"password": "{PIN}"'.encode()]
    with place.server.caller() as local:
        session = local.one("C_OpenSession", 0, 6)
        assert local.one("C_CreateObject", session, template(CLASS=0, TOKEN=True, LABEL=control))
        process = Path(f"/proc/{place.server.process.pid}")
        found = holds(process / "mem", process / "maps", [*canaries, control])
    # What goes through the socket passes through the host's hands: the search would have found it.
    assert found == {control}
    kept = b"".join(file.read_bytes() for file in place.directory.iterdir() if file.is_file())
    assert not [canary for canary in canaries if canary in kept]
    assert b"rest user" in kept  # the trail says who has logged in
    assert not [line for line in place.server.said if client.token in line or PIN in line]


def test_clients_at_once_get_what_is_theirs(url: str) -> None:
    logged_in(url).secrets.transit.create_key("shared")
    logged_in(url).secrets.transit.create_key("signer", key_type="ecdsa-p256")
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            transit = logged_in(url).secrets.transit
            for at in range(8):
                own = f"{number} {at}".encode()
                if number == 0:
                    transit.rotate_key("shared")
                if number % 2:
                    text = transit.sign_data("signer", hash_input=b64(own))["data"]["signature"]
                    answer = transit.verify_signed_data("signer", b64(own), signature=text)
                    if answer["data"]["valid"] is not True:
                        wrong.append(answer)
                else:
                    text = transit.encrypt_data("shared", plaintext=b64(own))["data"]["ciphertext"]
                    answer = transit.decrypt_data("shared", text)
                    if answer["data"]["plaintext"] != b64(own):
                        wrong.append(answer)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert wrong == []
    assert logged_in(url).secrets.transit.read_key("shared")["data"]["latest_version"] == 9


def test_a_killed_enclave_ends_logins_and_loses_no_version(place: Place, url: str) -> None:
    client = logged_in(url)
    transit = client.secrets.transit
    transit.create_key("kept")
    cipher = transit.encrypt_data("kept", plaintext=b64(b"kept"))["data"]["ciphertext"]
    answered = [1]
    stop = threading.Event()

    def rotate() -> None:
        with contextlib.suppress(Exception):
            while not stop.is_set():
                answered.append(transit.rotate_key("kept")["data"]["latest_version"])

    thread = threading.Thread(target=rotate)
    thread.start()
    while len(answered) < 4 and thread.is_alive():
        threading.Event().wait(0.01)
    os.kill(place.server.enclave, signal.SIGKILL)
    thread.join(60)
    stop.set()
    again = _back(url)
    latest = again.secrets.transit.read_key("kept")["data"]["latest_version"]
    assert latest in (answered[-1], answered[-1] + 1)  # the last one may have been kept unanswered
    opened = again.secrets.transit.decrypt_data("kept", cipher)["data"]["plaintext"]
    assert base64.b64decode(opened) == b"kept"
    status = requests.get(f"{url}/v1/keys", headers={"X-Vault-Token": client.token}, timeout=60)
    assert status.status_code == 403


def _back(url: str) -> hvac.Client:
    for _ in range(300):
        with contextlib.suppress(requests.RequestException, hvac.exceptions.VaultError):
            return logged_in(url)
        threading.Event().wait(0.1)
    raise AssertionError("the module did not come back")


def test_keys_are_rotated_by_command(place: Place, url: str, tmp_path: Path) -> None:
    client = logged_in(url)
    client.secrets.transit.create_key("bycommand")
    pins = tmp_path / "pin"
    pins.write_text(PIN + "\n")
    said = secgear(
        "crypto", "rotate", "bycommand", "--socket", str(place.server.socket),
        "--pin-file", str(pins),
    )  # fmt: skip
    assert "version 2, active" in said
    said = secgear(
        "crypto", "rotate", "bycommand", "--json", "--address", place.address, "--policy",
        str(place.policy), "--root", "simulated", "--pin-file", str(pins), "--pre-active",
    )  # fmt: skip
    assert json.loads(said) == {"name": "bycommand", "version": 3, "state": "pre_active"}
    states = client.secrets.transit.read_key("bycommand")["data"]["states"]
    assert states == {"1": "deactivated", "2": "active", "3": "pre_active"}
    said = secgear(
        "crypto", "rotate", "none", "--socket", str(place.server.socket), "--pin-file", str(pins),
        fails=True,
    )  # fmt: skip
    assert "no named key 'none'" in said
    assert "--address and --policy" in secgear("crypto", "rotate", "x", fails=True)


def test_what_one_enclave_rotates_the_others_use_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "module"
    founded(directory)
    arguments = ("--workers", "2", "--attested", f"unix:{tmp_path}/channel")
    with serving(directory, *arguments, ready=2) as server:
        prepare_token(server.socket, directory / "pins")
        place = Place(server, directory, f"unix:{tmp_path}/channel")
        with door(place) as one, door(place) as other:
            first, second = logged_in(one), logged_in(other)
            first.secrets.transit.create_key("spread")
            for number in range(2, 6):
                first.secrets.transit.rotate_key("spread")
                answer = second.secrets.transit.encrypt_data("spread", plaintext="AA==")["data"]
                assert answer["key_version"] == number
                first, second = second, first
            # A door's connections all reach the enclave that knows its login.
            for _ in range(4):
                again = hvac.Client(url=one, token=first.token if number % 2 else second.token)
                assert again.is_authenticated()


def test_a_door_that_others_reach_is_not_opened(place: Place) -> None:
    for listen in ("0.0.0.0:0", "192.0.2.1:8200", "example.org:80", "vsock://2:80", "nowhere"):
        with pytest.raises(CryptoModuleError):
            Door(place.connect, listen)


def test_without_an_enclave_that_is_trusted_there_is_no_door(place: Place, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(re.sub(r'"[0-9a-f]{96}"', f'"{"0" * 96}"', place.policy.read_text()))
    said = secgear(
        "crypto", "http", place.address, "--policy", str(policy), "--root", "simulated",
        "--listen", "127.0.0.1:0", fails=True,
    )  # fmt: skip
    assert "door" not in said


def test_a_door_with_nobody_behind_it_says_so(place: Place) -> None:
    def nobody() -> Any:
        raise CryptoModuleError("gone")

    with Door(nobody, "127.0.0.1:0") as closed:
        url = closed.address.replace("tcp://", "http://")
        answer = requests.get(f"{url}/v1/sys/health", timeout=60)
    assert answer.status_code == 502
    assert answer.json()["errors"] == ["no channel to the module's enclave: crypto.failed"]


def test_who_says_too_much_hears_why(url: str) -> None:
    token = logged_in(url).token
    for headers, size in (({"X-Vault-Token": token}, 9 << 20), ({}, 1 << 20)):
        answer = requests.post(
            f"{url}/v1/transit/encrypt/none", data=bytes(size), headers=headers, timeout=60
        )
        assert answer.status_code == 413


def test_one_connection_too_many_is_told_so(place: Place) -> None:
    def nobody() -> Any:
        raise CryptoModuleError("gone")

    with Door(nobody, "127.0.0.1:0", limit=0) as full:
        answer = requests.get(full.address.replace("tcp://", "http://"), timeout=60)
    assert (answer.status_code, answer.json()["errors"]) == (503, ["too many connections"])


def test_a_client_that_is_done_speaking_still_gets_its_answer(url: str) -> None:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((host, int(port)), 60) as raw:
        raw.sendall(b"GET /v1/sys/health HTTP/1.1\r\nHost: module\r\n\r\n")
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        while data := raw.recv(4096):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"initialized":true' in answer
