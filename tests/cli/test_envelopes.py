"""Envelopes and sealed data on the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secgear.base.tee import SealingPolicy
from secgear.middleware import envelopes
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.envelopes import EnclaveKeyPair
from secgear.middleware.sealing import seal
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.adversary.vendors.tpm import running_swtpm
from tests.middleware.envelopes.conftest import MEASUREMENT
from tests.middleware.envelopes.conftest import FakeGuest as AttestedGuest
from tests.middleware.sealing.conftest import FakeGuest, MemoryCounter

POLICY = f"""
name = "test"
[accept]
tees = ["process"]
measurements = ["{MEASUREMENT.hex()}"]
[allow]
simulated = true
test_roots = true
"""
TRUST = ("--policy", "policy.toml", "--root", "simulated=root.pem")
SEAL = ("envelope", "seal", "data", "--to", "key", *TRUST, "--purpose", "sum")


@pytest.fixture(scope="module")
def vendor() -> SimulatedVendor:
    return SimulatedVendor()


@pytest.fixture
def pair(vendor: SimulatedVendor, tmp_path: Path) -> EnclaveKeyPair:
    pair = EnclaveKeyPair.create(purposes=["sum"], guest=AttestedGuest(vendor))  # type: ignore[arg-type]
    (tmp_path / "key").write_bytes(pair.key.to_cbor())
    (tmp_path / "root.pem").write_text(to_pem(vendor.certificate).decode())
    (tmp_path / "policy.toml").write_text(POLICY)
    (tmp_path / "data").write_bytes(b"CANARY" * 1_000_000)
    return pair


def test_file_is_sealed_and_only_the_key_opens_it(
    run: Any, pair: EnclaveKeyPair, tmp_path: Path
) -> None:
    done = run(*SEAL, "-o", "sealed", "--associated", "query 7", "--json")
    assert (done.code, done.err) == (0, "")
    assert (done.json["bytes"], done.json["key"]["id"]) == (6_000_000, pair.key.id.hex())
    sealed = (tmp_path / "sealed").read_bytes()
    assert b"CANARY" not in sealed
    data = envelopes.open(pair, sealed, purpose="sum", associated=b"query 7")
    assert data == b"CANARY" * 1_000_000
    assert run(*SEAL, "-o", "sealed").code == 0  # an envelope may be replaced
    shown = run("envelope", "show", "sealed", "--json")
    assert (shown.json["bytes"], shown.json["cut_off"]) == (6_000_000, False)
    for cut in (5, 1_000_000, len(sealed) - 100):
        (tmp_path / "cut").write_bytes(sealed[:-cut])
        assert run("envelope", "show", "cut", "--json").json["cut_off"] is True
    assert "the end is missing" in run("envelope", "show", "cut").out
    assert run("envelope", "show", "data").code == 1
    (tmp_path / "short").write_bytes(b"sgenvlp")
    assert run("envelope", "show", "short").code == 2


def test_pipe_is_sealed_and_associated_data_comes_from_a_file(
    pair: EnclaveKeyPair, tmp_path: Path
) -> None:
    (tmp_path / "query").write_bytes(b"\xff\0query")
    command = [sys.executable, "-m", "secgear.cli", *SEAL, "-o", "sealed"]
    command[command.index("data")] = "/dev/stdin"
    subprocess.run(
        [*command, "--associated", "@query"],
        input=b"through a pipe",
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=120,
    )
    sealed = (tmp_path / "sealed").read_bytes()
    data = envelopes.open(pair, sealed, purpose="sum", associated=b"\xff\0query")
    assert data == b"through a pipe"


def test_nothing_is_sealed_without_trust(run: Any, pair: EnclaveKeyPair, tmp_path: Path) -> None:
    (tmp_path / "strict.toml").write_text('name = "strict"\n[accept]\ntees = ["snp"]\n')
    strict = [one if one != "policy.toml" else "strict.toml" for one in SEAL]
    for command in (
        (*strict, "-o", "sealed"),
        (*SEAL[: SEAL.index("--root")], "--purpose", "sum", "-o", "sealed"),
    ):
        done = run(*command)
        assert done.code == 6
        assert not (tmp_path / "sealed").exists()
    for more, reason in (
        (("--context", "11" * 32), "not made for this context"),
        (("--at", "2099-01-01"), "expired"),
        (("--purpose", "size"), "not for the purpose"),
    ):
        done = run(*SEAL, "-o", "sealed", *more)
        assert done.code == 1
        assert reason in done.err
    assert run(*SEAL, "-o", "data").code == 2  # no envelope, so it stays
    assert run(*SEAL, "-o", "sealed", "--context", "zz").code == 2
    assert run(*(one if one != "data" else "none" for one in SEAL), "-o", "sealed").code == 2
    assert not (tmp_path / "sealed").exists()


def test_key_is_judged(run: Any, pair: EnclaveKeyPair, tmp_path: Path) -> None:
    done = run("envelope", "verify", "key", *TRUST)
    assert done.code == 0
    assert pair.key.id.hex() in done.out
    done = run("envelope", "verify", "key", *TRUST, "--json")
    assert (done.json["id"], done.json["purposes"]) == (pair.key.id.hex(), ["sum"])
    assert done.json["verdict"]["trusted"] is True
    assert run("envelope", "verify", "key", "--policy", "policy.toml").code == 6
    assert run("envelope", "verify", "data", *TRUST).code == 1


def test_sealed_data_says_for_whom_it_is(run: Any, tmp_path: Path) -> None:
    guest = FakeGuest()
    (tmp_path / "plain").write_bytes(seal(b"CANARY", guest=guest))
    counted = seal(b"x", policy=SealingPolicy.SIGNER, counter=MemoryCounter(), after=6, guest=guest)
    (tmp_path / "counted").write_bytes(counted)
    done = run("sealed", "plain")
    assert (done.code, done.out.split()) == (
        0,
        ["policy", "measurement", "svn", "3", "counter", "none"],
    )
    assert run("sealed", "counted", "--json").json == {
        "policy": "signer",
        "svn": 3,
        "counter": b"memory".hex(),
        "version": 7,
    }
    (tmp_path / "other").write_bytes(b"something else" * 10)
    assert "no sealed data" in run("sealed", "other").err


def test_tpm_counter_is_made_read_and_removed(run: Any, tmp_path: Path) -> None:
    with running_swtpm(tmp_path) as device:
        (tmp_path / "password").write_bytes(b"ours\n")
        where = ("0x1800007", "--device", device)
        mine = (*where, "--password-file", "password")
        made = run("counter", "define", *mine, "--json")
        assert made.code == 0, made.err
        assert run("counter", "read", *mine, "--json").json == made.json
        assert run("counter", "read", *where).code == 1  # without the password
        assert run("counter", "define", *mine).code == 1
        assert run("counter", "undefine", *where).code == 2
        assert run("counter", "undefine", *where, "--yes").code == 0
        assert "nothing of that handle" in run("counter", "read", *mine).err
    assert run("counter", "read", "seven").code == 2
    assert run("counter", "read", "7").code == 1


def test_witness_refuses_places_that_it_can_not_use(run: Any, tmp_path: Path) -> None:
    for more, code in (
        (("--listen", "nowhere"), 2),
        (("--holder", "zz"), 2),
        (("--listen", f"unix:{tmp_path / 'none' / 'socket'}"), 1),
    ):
        assert run("serve", "witness", "--directory", "w", *more).code == code
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    done = run("serve", "witness", "--directory", "open")
    assert done.code == 1
    assert "others may write" in done.err
