"""REST through its door against the calls of the table over a channel; both are attested.

One client, one connection: what JSON, base64 and HTTP cost on top of the boundary and of TLS.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.measure import Row, interleaved, rows
from secgear.middleware.attestation import bundle, load_policy
from secgear.middleware.channel import connect
from secgear.services.crypto.client import SERVICE, Caller, ChannelExchange
from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.mechanism import GcmParams, Mechanism, Mechanisms

SO_PIN, PIN = "12345678", "123456"
_SECGEAR = [sys.executable, "-m", "secgear.cli"]
_ROOM = 1 << 20
_BATCH = 64


def main(*, quick: bool) -> list[Row]:
    """Encryption of 1 KiB, one and 64 at a time; a P-256 signature; nothing."""
    with tempfile.TemporaryDirectory() as folder, _running(Path(folder)) as (address, policy):
        rules = load_policy(policy.read_bytes())
        anchors = bundle.anchors_with(_roots())
        with (
            _door(address, policy) as port,
            connect(address, rules, service=SERVICE, anchors=anchors) as session,
        ):
            return list(_rows(Rest(port), Calls(Caller(ChannelExchange(session))), quick=quick))


class Rest:
    """A client of REST."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers: dict[str, str] = {}
        auth = self.ask("/v1/auth/userpass/login/user", {"password": PIN})["auth"]
        self._headers["X-Vault-Token"] = auth["client_token"]
        self.ask("/v1/keys/data", {"type": "aes256-gcm96"})
        self.ask("/v1/keys/web", {"type": "ecdsa-p256"})

    def ask(self, path: str, body: object) -> dict[str, dict[str, str]]:
        """One request."""
        self._connection.request("POST", path, json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"rest: {answer.status} {data!r}")
        said: dict[str, dict[str, str]] = json.loads(data)
        return said

    def encrypt(self, plain: bytes) -> None:
        """One plaintext."""
        self.ask("/v1/transit/encrypt/data", {"plaintext": base64.b64encode(plain).decode()})

    def encrypt_batch(self, plains: list[bytes]) -> None:
        """Several."""
        items = [{"plaintext": base64.b64encode(plain).decode()} for plain in plains]
        self.ask("/v1/transit/encrypt/data", {"batch_input": items})

    def sign(self, data: bytes) -> None:
        """A signature."""
        self.ask("/v1/transit/sign/web", {"input": base64.b64encode(data).decode()})

    def nothing(self) -> None:
        """The least there is."""
        self._connection.request("GET", "/v1/sys/init")
        self._connection.getresponse().read()


class Calls:
    """A client of the table of calls."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        caller.initialise()
        self._session = caller.one("C_OpenSession", 0, 6)
        caller.call("C_Login", self._session, 1, PIN.encode())
        self._data = caller.call("S_FindKey", self._session, b"data", 0)[1]
        self._web = caller.call("S_FindKey", self._session, b"web", 0)[1]

    def encrypt(self, plain: bytes) -> None:
        """One plaintext."""
        mechanism = Mechanism(Mech.AES_GCM, GcmParams(os.urandom(12), b"", 128))
        self._caller.call("C_EncryptInit", self._session, mechanism, self._data)
        self._caller.call("C_Encrypt", self._session, plain, _ROOM)

    def encrypt_batch(self, plains: list[bytes]) -> None:
        """Several, in one call."""
        parameters = tuple(GcmParams(os.urandom(12), b"", 128) for _ in plains)
        mechanisms = Mechanisms(Mech.AES_GCM, parameters)
        self._caller.call("S_EncryptBatch", self._session, mechanisms, self._data, plains)

    def sign(self, data: bytes) -> None:
        """A signature."""
        self._caller.call("C_SignInit", self._session, Mechanism(Mech.ECDSA_SHA256), self._web)
        self._caller.call("C_Sign", self._session, data, _ROOM)

    def nothing(self) -> None:
        """The least there is."""
        self._caller.call("C_GetInfo")


def _rows(rest: Rest, calls: Calls, *, quick: bool) -> Iterator[Row]:
    rounds = 7 if quick else 21
    one, many = bytes(1024), [bytes(1024)] * _BATCH
    for what, batch, run in (
        ("nothing", 50, lambda client: client.nothing),
        ("encrypt 1 KiB", 20, lambda client: lambda: client.encrypt(one)),
        (
            f"encrypt 1 KiB, {_BATCH} at a time",
            5,
            lambda client: lambda: client.encrypt_batch(many),
        ),
        ("sign, ecdsap256", 20, lambda client: lambda: client.sign(one)),
    ):
        contenders: dict[str, Callable[[], object]] = {"calls": run(calls), "rest": run(rest)}
        yield from rows(what, interleaved(contenders, rounds=rounds, batch=batch), "calls")


@contextlib.contextmanager
def _running(folder: Path) -> Iterator[tuple[str, Path]]:
    """A module with a token, its address, and the policy that trusts it."""
    home = folder / "module"
    subprocess.run([*_SECGEAR, "crypto", "init", str(home)], check=True, capture_output=True)
    measured = subprocess.run(
        [*_SECGEAR, "measure", str(home / "module.sgear")],
        check=True,
        capture_output=True,
        text=True,
    )
    digest = re.search(r"process\s+measurement\s+([0-9a-f]{96})", measured.stdout)
    policy = folder / "policy.toml"
    policy.write_text(
        'name = "bench"\n[accept]\ntees = ["process"]\n'
        f'measurements = ["{digest[1] if digest else ""}"]\n'
        "[allow]\nsimulated = true\ntest_roots = true\n"
    )
    address = f"unix:{folder}/channel"
    command = [*_SECGEAR, "serve", "crypto", "--directory", str(home), "--attested", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            while "attested" not in (line := server.stderr.readline()):
                if not line:
                    raise SystemExit("rest: the module does not start")
            pins = folder / "pins"
            pins.write_text(f"{SO_PIN}\n{PIN}\n")
            subprocess.run(
                [*_SECGEAR, "crypto", "token", "bench", "--socket", str(home / "pkcs11.sock"),
                 "--pin-file", str(pins)],
                check=True, capture_output=True,
            )  # fmt: skip
            yield address, policy
        finally:
            server.terminate()


@contextlib.contextmanager
def _door(address: str, policy: Path) -> Iterator[int]:
    """``secgear crypto http``: its port."""
    command = [*_SECGEAR, "crypto", "http", address, "--policy", str(policy), "--root", "simulated"]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True
    ) as door:
        try:
            assert door.stderr is not None
            while not (
                found := re.search(r"http://127.0.0.1:(\d+)", line := door.stderr.readline())
            ):
                if not line:
                    raise SystemExit("rest: the door does not open")
            yield int(found[1])
        finally:
            door.terminate()


def _roots() -> list[bundle.AddedRoot]:
    from secgear.cli.inputs import read_roots

    return list(read_roots(["simulated"]))
