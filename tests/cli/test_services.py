"""Services on the command line: started, administered, used, and their results relied on."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from secgear.base.tee import Evidence
from secgear.errors import ServiceRefused
from secgear.middleware.attestation.broker.client import BrokerClient
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.service.client import VerificationClient
from tests.adversary.vendors import ovmf
from tests.adversary.vendors.simulated import SimulatedVendor

ISSUER = "https://verifier.example"
POLICY = f"""
name = "laboratory"
[accept]
tees = ["process"]
measurements = ["{(b"m" * 48).hex()}"]
[allow]
simulated = true
test_roots = true
"""


SERVE = ("serve", "attestation", "--issuer", "x")


@pytest.fixture(scope="module")
def vendor() -> SimulatedVendor:
    return SimulatedVendor()


class Started:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Started]:
    """`secgear serve …` as an operator starts it; ends with SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", "secgear.cli", "serve", *arguments, "--port", "0"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"https?://\S+", line)
        assert found, line + process.stderr.read()
        yield Started(process, found.group())
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.fixture
def service(run: Any, tmp_path: Path, vendor: SimulatedVendor) -> Iterator[Started]:
    """A verification service with the laboratory's policy, put there by its administrator."""
    (tmp_path / "root.pem").write_bytes(to_pem(vendor.certificate))
    token = run("token", "create", "alice", "--directory", "data", "-o", "alice.token")
    assert token.code == 0, token.err
    with serving(
        tmp_path,
        *("attestation", "--issuer", ISSUER, "--directory", "data"),
        *("--root", "simulated=root.pem"),
    ) as started:
        put = httpx.put(
            f"{started.url}/v1/policies/laboratory",
            content=POLICY,
            headers={"Authorization": f"Bearer {(tmp_path / 'alice.token').read_text().strip()}"},
        )
        assert put.status_code == 200, put.text
        yield started


def test_a_result_goes_from_the_service_to_who_relies_on_it(
    run: Any, tmp_path: Path, service: Started, vendor: SimulatedVendor
) -> None:
    def collect(report_data: bytes) -> Evidence:
        made: Evidence = vendor.evidence(report_data=report_data)
        return made

    (tmp_path / "key.pub").write_bytes(b"the enclave's key")
    with VerificationClient(service.url) as client:
        attested = client.attest(
            collect, policy="laboratory", audience="me", user_data=b"the enclave's key"
        )
        (tmp_path / "keys.json").write_bytes(client.keys())
    assert isinstance(attested.result, str)
    (tmp_path / "result.jwt").write_text(attested.result)
    trust = ("--keys", "keys.json", "--issuer", ISSUER, "--audience", "me")

    strict = run("result", "result.jwt", *trust)
    assert (strict.code, "warning" in strict.err) == (6, True)  # it is a simulation
    done = run("result", "result.jwt", *trust, "--allow-warning", "--user-data", "key.pub")
    assert done.code == 0, done.err
    assert (b"m" * 48).hex() in done.out
    shown = run("result", "result.jwt", *trust, "--allow-warning", "--json")
    assert shown.json["aud"] == "me"

    (tmp_path / "key.pub").write_bytes(b"somebody else's key")
    other = run("result", "result.jwt", *trust, "--allow-warning", "--user-data", "key.pub")
    assert (other.code, "vouch" in other.err) == (6, True)
    elsewhere = ("--keys", "keys.json", "--issuer", ISSUER, "--audience", "you")
    assert run("result", "result.jwt", *elsewhere, "--allow-warning").code == 6
    assert run("result", "result.jwt", *trust, "--allow-warning", "--nonce", "00" * 32).code == 6
    assert run("result", "key.pub", *trust).code == 6


def test_a_secret_goes_from_the_broker_to_the_enclave_of_its_policy(
    run: Any, tmp_path: Path, vendor: SimulatedVendor
) -> None:
    def collect(report_data: bytes) -> Evidence:
        made: Evidence = vendor.evidence(report_data=report_data)
        return made

    def other(report_data: bytes) -> Evidence:
        claims = vendor.claims(measurement=b"x" * 48)
        made: Evidence = vendor.evidence(claims, report_data=report_data)
        return made

    (tmp_path / "root.pem").write_bytes(to_pem(vendor.certificate))
    (tmp_path / "disk.key").write_bytes(b"open sesame")
    where = ("--directory", "data")
    put = ("secret", "put", "default/key/disk", "disk.key", "--policy", "laboratory", *where)
    early = run(*put)
    assert (early.code, "no policy" in early.err) == (6, True)
    assert run("token", "create", "alice", *where, "-o", "alice.token").code == 0
    with (
        serving(tmp_path, "broker", *where, "--root", "simulated=root.pem") as started,
        BrokerClient(started.url) as client,
    ):
        headers = {"Authorization": f"Bearer {(tmp_path / 'alice.token').read_text().strip()}"}
        policy = f"{started.url}/v1/policies/laboratory"
        assert httpx.put(policy, content=POLICY, headers=headers).status_code == 200
        assert run(*put, "--json").json["version"] == 1
        assert client.release("default/key/disk", collect) == b"open sesame"
        with pytest.raises(ServiceRefused) as refused:
            client.release("default/key/disk", other)
        assert refused.value.problem == "release.refused"

        rotated = run("secret", "rotate-key", *where, "--json")
        assert rotated.json["secrets"] == 1
        assert run("secret", "rotate-key", *where, "--drop-old").code == 0
        assert client.release("default/key/disk", collect) == b"open sesame"

        listed = run("secret", "list", *where)
        assert "default/key/disk" in listed.out
        assert "sesame" not in listed.out
        assert run("secret", "list", *where, "--json").json[0]["size"] == 11
        assert run("secret", "delete", "default/key/disk", *where).code == 0
        assert run("secret", "delete", "default/key/disk", *where).code == 1
        with pytest.raises(ServiceRefused):
            client.release("default/key/disk", collect)


def test_a_revoked_token_is_worth_nothing_at_once(
    run: Any, tmp_path: Path, service: Started
) -> None:
    token = (tmp_path / "alice.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{service.url}/v1/policies", headers=headers).status_code == 200
    assert run("token", "revoke", "alice", "--directory", "data").code == 0
    assert httpx.get(f"{service.url}/v1/policies", headers=headers).status_code == 401


def test_a_guest_without_a_tee_gets_no_result(run: Any, service: Started) -> None:
    asked = ("--service", service.url, "--policy", "laboratory", "--audience", "me")
    done = run("attest", *asked)
    assert (done.code, done.out) == (4, "")
    assert "no evidence" in done.err


def test_a_token_file_is_for_its_owner_only_and_never_replaced(run: Any, tmp_path: Path) -> None:
    done = run("token", "create", "bob", "--role", "auditor", "--directory", "d", "-o", "t")
    assert done.code == 0
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600
    assert "sgt_" not in done.out + done.err
    again = run("token", "create", "carol", "--directory", "d", "-o", "t")
    assert again.code == 2
    taken = run("token", "create", "bob", "--directory", "d", "-o", "other")
    assert (taken.code, (tmp_path / "other").exists()) == (1, False)
    printed = run("token", "create", "dora", "--directory", "d", "--json")
    assert printed.json["token"].startswith("sgt_")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("token", "create", "bob"), 2, "--directory"),
        (("token", "create", "BOB", "--directory", "d"), 1, "small letters"),
        (("token", "create", "bob", "--directory", "d", "--role", "king"), 2, "admin"),
        (("token", "revoke", "nobody", "--directory", "d"), 1, "none"),
        (SERVE, 2, "directory"),
        (
            (*SERVE, "--directory", "d", "--host", "0.0.0.0"),
            1,
            "TLS",
        ),
        (
            (*SERVE, "--directory", "d", "--database", "postgresql://me:secret@host/name"),
            2,
            "pgpass",
        ),
        (
            (*SERVE, "--directory", "d", "--root", "what"),
            2,
            "FAMILY",
        ),
        (
            (*SERVE, "--directory", "d", "--tls-key", "k"),
            1,
            "both",
        ),
        (("attest", "--service", "http://127.0.0.1:1"), 2, "--policy"),
        (("attest", "--policy", "p"), 2, "--service"),
    ],
)
def test_mistakes_are_one_line_with_a_code(
    run: Any, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    done = run(*arguments)
    assert (done.code, reason in done.err) == (code, True), done.err
    assert "secret" not in done.err


def test_a_port_that_is_taken_is_one_clear_error(run: Any, service: Started) -> None:
    port = service.url.rpartition(":")[2]
    done = run(*SERVE, "--directory", "d2", "--port", port)
    assert (done.code, "can't listen" in done.err) == (1, True)


def test_a_service_shows_only_this_machine_what_it_says_in_the_clear(service: Started) -> None:
    assert service.url.startswith("http://127.0.0.1:")


def test_a_hand_in_the_audit_trail_shows(run: Any, tmp_path: Path) -> None:
    for name in ("alice", "bob", "carol"):
        assert run("token", "create", name, "--directory", "d").code == 0
    whole = run("audit", "--directory", "d")
    assert (whole.code, "3 records" in whole.out) == (0, True)
    head = whole.out.split()[-1]
    run("token", "revoke", "bob", "--directory", "d")
    assert run("audit", "--directory", "d", "--head", head).code == 0
    other = head[:-1] + ("0" if head[-1] != "0" else "1")
    assert run("audit", "--directory", "d", "--head", other).code == 1
    assert run("audit", "--directory", "d", "--head", "3").code == 2
    with sqlite3.connect(tmp_path / "d" / "attestation.db") as database:
        database.execute("UPDATE audit SET subject = 'mallory' WHERE seq = 2")
    database.close()
    changed = run("audit", "--directory", "d", "--json")
    assert (changed.code, "record 2" in changed.err) == (1, True)
    assert run("audit", "--directory", "nowhere").code == 2


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """An environment without the service's packages, made by hiding one of them."""
    (tmp_path / "sqlalchemy.py").write_text(
        "raise ModuleNotFoundError('hidden', name='sqlalchemy')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "secgear.cli", "token", "create", "a", "--directory", "d"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'secgear[attestation-service]'" in done.stderr


def test_a_launch_measurement_becomes_a_reference_value(run: Any, tmp_path: Path) -> None:
    (tmp_path / "OVMF.fd").write_bytes(ovmf.image())
    (tmp_path / "kernel").write_bytes(b"kernel")
    command = ("reference", "snp-launch", "OVMF.fd", "-o", "values.json", "--vcpus", "2", "--json")
    plain = run(*command)
    assert plain.code == 0, plain.err
    value = json.loads((tmp_path / "values.json").read_bytes())["values"][0]
    assert value["measurements"] == {"launch": plain.json["launch"]}
    booted = run(*command, "--kernel", "kernel", "--append", "console=ttyS0")
    assert booted.json["launch"] != plain.json["launch"]
    assert run(*command, "--processor", "EPYC-Milan-v2").json["launch"] != plain.json["launch"]
    for wrong in (
        ("--processor", "Pentium"),
        ("--hypervisor", "xen"),
        ("--features", "x"),
        ("--append", "quiet"),
    ):
        assert run(*command, *wrong).code == 2
    (tmp_path / "OVMF.fd").write_bytes(base64.b64encode(ovmf.image()))
    assert run(*command).code == 6
