"""`secgear relay` and `secgear connect`: an operator's and a data owner's side of a channel."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from secgear.middleware.channel.addresses import parse
from tests.cli.conftest import Result

APP = """
from collections.abc import Iterator

from secgear import App, Session

app = App("teller", version="1.0")
app.sessions.configure(ra_tls=True)


@app.session
def shout(session: Session) -> None:
    for message in session:
        session.send(message.upper())


@app.remote
@app.ecall
def count(text: str) -> dict[str, int]:
    return {word: text.split().count(word) for word in text.split()}


@app.remote
@app.ecall
def upto(n: int) -> Iterator[int]:
    yield from range(n)


@app.ecall
def own() -> str:
    return "the host's only"
"""
POLICY = """
name = "owners"
[accept]
tees = ["process"]
measurements = ["{measurement}"]
[allow]
simulated = true
debug = true
test_roots = true
"""


@contextlib.contextmanager
def relaying(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """`secgear relay`, from its first line on; ended with SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "secgear.cli", "relay", "teller.py", "--json", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            text += line
        yield process, json.loads(text)
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("relay")
    (folder / "teller.py").write_text(APP)
    with relaying(folder, "--metrics", "0") as (_, shown):
        (folder / "policy.toml").write_text(POLICY.format(measurement=shown["measurement"]))
        (folder / "other.toml").write_text(POLICY.format(measurement="00" * 48))
        yield folder, shown


class User:
    """Who runs commands in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str) -> Result:
        return Result(
            subprocess.run(
                [sys.executable, "-m", "secgear.cli", *arguments],
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        )


@pytest.fixture
def user(place: Any) -> User:
    return User(place[0])


OWN = ("--policy", "policy.toml", "--root", "simulated")


def test_verdict_is_shown(user: User, place: Any) -> None:
    done = user.run("connect", place[1]["address"], *OWN)
    assert done.code == 0, done.err
    assert done.out.startswith("TRUSTED")
    assert "TLSv1.3" in done.out
    told = user.run("connect", place[1]["address"], *OWN, "--json").json
    assert told["trusted"]
    assert told["connection"]["group"] == "X25519MLKEM768"


def test_call_of_a_verified_enclave(user: User, place: Any) -> None:
    address = place[1]["address"]
    done = user.run("connect", address, "count", "a b a", *OWN)
    assert (done.code, json.loads(done.out)) == (0, {"a": 2, "b": 1})
    assert user.run("connect", address, "count", "text=a", *OWN, "--json").json == {
        "result": {"a": 1}
    }
    stream = user.run("connect", address, "upto", "3", *OWN)
    assert stream.out.split() == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["own", "nonsense"])
def test_what_is_not_offered_is_unknown(user: User, place: Any, name: str) -> None:
    done = user.run("connect", place[1]["address"], name, *OWN)
    assert done.code == 5
    assert name in done.err


def test_message_and_its_answer(user: User, place: Any) -> None:
    (user.folder / "message.txt").write_bytes(b"quietly")
    done = user.run("connect", place[1]["address"], "--message", "message.txt", *OWN)
    assert (done.code, done.out) == (0, "QUIETLY")
    told = user.run("connect", place[1]["address"], "--message", "message.txt", *OWN, "--json")
    assert told.json == {"answer": "UVVJRVRMWQ=="}


def test_enclave_of_another_measurement_is_told_nothing(user: User, place: Any) -> None:
    arguments = ("--policy", "other.toml", "--root", "simulated")
    done = user.run("connect", place[1]["address"], "count", "a secret", *arguments)
    assert done.code == 6
    assert "policy.identity" in done.out
    told = user.run("connect", place[1]["address"], "count", "a", *arguments, "--json")
    assert (told.code, told.json["trusted"]) == (6, False)


def test_production_trusts_no_simulation(user: User, place: Any) -> None:
    done = user.run("connect", place[1]["address"], "--policy", "policy.toml")
    assert done.code == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{address}",), "without --policy nobody is trusted"),
        (("{address}", "count", "--message", "policy.toml", *OWN), "calls or for messages"),
        (("nowhere:x", *OWN), "nowhere:x"),
        (("unix:/nonexistent/socket", *OWN), "No such file"),
        (("{address}", "--policy", "missing.toml"), "missing.toml"),
        (("{address}", "count", *OWN), "text"),
    ],
)
def test_mistakes_are_named(user: User, place: Any, arguments: tuple[str, ...], words: str) -> None:
    done = user.run("connect", *(text.format(**place[1]) for text in arguments))
    assert done.code not in (0, 6)
    assert words in done.err
    assert "Traceback" not in done.err


def test_counters_are_exported(place: Any) -> None:
    with urllib.request.urlopen(place[1]["metrics"], timeout=10) as answer:
        text = answer.read().decode()
    assert "secgear_relay_accepted_total" in text


def test_certificate_of_an_enclave_is_judged_offline(user: User, place: Any) -> None:
    address = parse(place[1]["address"])
    with socket.create_connection((address.host, address.port)) as sock:
        connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), sock)
        connection.set_connect_state()
        connection.do_handshake()
        shown = connection.get_peer_certificate(as_cryptography=True)
    assert shown is not None
    (user.folder / "enclave.pem").write_bytes(shown.public_bytes(Encoding.PEM))
    done = user.run("verify", "enclave.pem", *OWN)
    assert done.code == 6  # a certificate alone is never fresh
    assert "binding.certificate-key" in done.out
    lax = (user.folder / "policy.toml").read_text() + '[freshness]\nreport_data = "optional"\n'
    (user.folder / "lax.toml").write_text(lax)
    done = user.run("verify", "enclave.pem", "--policy", "lax.toml", "--root", "simulated")
    assert done.code == 0, done.out
    assert user.run("verify", "enclave.pem").code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_relay_ends_when_it_is_told_to(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "teller.py").write_text(APP)
    with relaying(tmp_path, "--listen", f"unix:{tmp_path}/socket") as (process, shown):
        assert shown["address"] == f"unix:{tmp_path}/socket"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["stats"]["accepted"] == 0


def test_relay_whose_enclave_dies_says_so(tmp_path: Path) -> None:
    (tmp_path / "teller.py").write_text(APP)
    with relaying(tmp_path) as (process, shown):
        os.kill(shown["pid"], signal.SIGKILL)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 5
    assert "the enclave has ended" in err
    assert json.loads(out)["error"]["code"] == "enclave.lost"


def test_relay_of_what_takes_no_sessions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        'from secgear import App\n\napp = App("plain", version="1")\n\n\n'
        "@app.ecall\ndef f() -> None: ...\n"
    )
    done = User(tmp_path).run("relay", "plain.py")
    assert done.code == 1
    assert "takes no sessions" in done.err
