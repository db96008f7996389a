"""The benchmarks run and report; how fast they are is never asserted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secgear.base.transport import ring

ROOT = Path(__file__).parents[2]


def _run(name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench", name, "--quick", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow
def test_benchmarks_report_ratios_against_their_peers() -> None:
    pytest.importorskip("grpc", reason="make bench installs grpcio, the peer")
    document = _run("calls")
    rows = document["calls"]
    assert {"unix socket", "mp.Pipe", "grpc", "ecall"} <= {row["name"] for row in rows}
    for row in rows:
        assert 0 < row["p10"] <= row["median"] <= row["p90"]
        assert row["ratio"] > 0
    assert {"cores", "kernel", "python"} <= set(document["machine"])


def test_verifying_is_measured_against_bare_signatures_and_dcap_qvl() -> None:
    rows = _run("attestation")["attestation"]
    measured = {(row["what"], row["name"]) for row in rows}
    for what in ("sev-snp", "tdx", "sgx", "nitro"):
        assert {(what, name) for name in ("bare signatures", "warm", "cold")} <= measured
    assert ("tdx", "dcap-qvl") in measured
    medians = {(row["what"], row["name"]): row["median"] for row in rows}
    # What the word says, not how fast it is: a cold verifier does all that a warm one does.
    assert all(medians[what, "cold"] > medians[what, "warm"] for what in ("tdx", "nitro"))


def test_envelopes_are_measured_against_the_bare_cipher() -> None:
    rows = _run("envelopes")["envelopes"]
    against = {row["name"] for row in rows if row["ratio"] == 1}
    assert {"AES-GCM", "AES-GCM into", "HPKE"} <= against
    assert all(row["median"] > 0 for row in rows)


def test_the_channel_is_measured_against_plain_tls() -> None:
    rows = _run("channel")["channel"]
    tables: dict[str, set[str]] = {}
    for row in rows:
        assert row["median"] > 0
        tables.setdefault(row["what"], set()).add(row["name"])
    both = {"plain TLS 1.3", "channel"}
    apart = {"of it, making evidence", "of it, checking evidence"}
    assert both | apart <= tables["handshake"]
    assert both <= tables["64 B there and back"]
    assert both | {"AES-256-GCM, both ways"} == tables["16 MiB"]
    for what in ("50 x 64 B into an enclave and back", "8 MiB into an enclave"):
        assert tables[what] == {"ECALLs", "session"}
    medians = {row["name"]: row["median"] for row in rows if row["what"] == "handshake"}
    # What the words say: evidence for nothing costs less than evidence.
    assert medians["channel, evidence for nothing"] < medians["channel"]


def test_sealing_is_measured_against_plain_files_and_the_bare_cipher() -> None:
    rows = _run("sealing")["sealing"]
    tables = {row["what"]: set() for row in rows}
    for row in rows:
        assert row["median"] > 0
        tables[row["what"]].add(row["name"])
    files = [names for what, names in tables.items() if what.startswith(("read", "write"))]
    assert len(files) == 4
    for names in files:
        assert names == {"plain file", *(f"protected, chunks of {k} KiB" for k in (4, 64))}
    assert tables["seal 1 KiB"] == {"HKDF and AES-GCM", "seal"}
    assert tables["unseal 1024 KiB"] == {"HKDF and AES-GCM", "unseal"}


def test_the_service_is_measured_under_load() -> None:
    loads = _run("service")["service"]
    assert [(load["clients"], load["what"]) for load in loads] == [
        (clients, what) for clients in (1, 8, 64) for what in ("health", "challenge", "attest")
    ]
    for load in loads:
        assert load["rate"] > 0
        assert 0 < load["p50"] <= load["p99"]


def test_samples_are_percentiles_and_ratios_are_of_medians() -> None:
    from bench.measure import human, interleaved, rows, sample

    assert sample([float(value) for value in range(1, 101)]).median == 50.5
    samples = interleaved({"a": lambda: None, "b": lambda: sum(range(2000))}, rounds=9, batch=20)
    by_name = {row.name: row for row in rows("work", samples, "a")}
    assert by_name["a"].ratio == 1.0
    assert by_name["b"].ratio > 1.0
    assert [human(value) for value in (2.0, 0.0035, 4e-6, 5e-8)] == [
        "2 s",
        "3.5 ms",
        "4 us",
        "50 ns",
    ]


@pytest.mark.slow
def test_switchless_calls_are_measured_against_a_cache_line() -> None:
    pytest.importorskip("grpc", reason="make bench installs grpcio, the peer")
    if shutil.which("cc") is None or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the floor needs a C compiler and two processors")
    rows = _run("switchless")["switchless"]
    names = {row["name"] for row in rows}
    assert {"cache line, there and back", "grpc", "memcpy", "AES-256-GCM, one thread"} <= names
    for row in rows:
        if row["what"].startswith("round trip"):
            assert row["what"].rpartition(", ")[2] in {"near", "far", "mix"}
            assert row["against"] == "cache line, there and back"
        assert row["median"] >= 0


def test_a_plot_is_a_document_with_every_line() -> None:
    from xml.etree import ElementTree

    from bench.plot import Series, draw

    series = [Series("one <&>", [(8, 1e-6), (64, 2e-6)]), Series("two", [(8, 1e-4), (64, 3e-3)])]
    root = ElementTree.fromstring(draw(series, "A title", "bytes", "time"))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"A title", "one <&>", "two", "bytes", "time", "8", "64", "1 µs", "10 ms"} <= {*texts}
    assert sum(element.tag.endswith("polyline") for element in root.iter()) == 2


@pytest.mark.slow
@pytest.mark.skipif(not ring.available(), reason=ring.reason())
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the two sides need a processor each")
def test_the_ring_is_measured_against_the_floor_and_its_peers() -> None:
    pytest.importorskip("grpc", reason="make bench installs grpcio, a peer")
    rows = _run("ring")["ring"]
    for payload in ("8 B", "4 KiB", "1 MiB"):
        measured = {row["name"] for row in rows if row["what"].startswith(f"round trip {payload}")}
        assert {"cache line, there and back", "ring", "unix socket", "grpc"} <= measured
    assert {"memcpy", "unix socket"} <= {row["against"] for row in rows}
    assert all(row["median"] > 0 for row in rows)


@pytest.mark.slow
def test_the_cryptographic_module_is_measured_against_softhsm_and_openssl() -> None:
    for library in ("softhsm/libsofthsm2.so", "pkcs11/p11-kit-client.so"):
        if not list(Path("/usr/lib").glob(f"*/{library}")):
            pytest.skip(f"{library} is not installed (Debian: softhsm2, p11-kit-modules)")
    if shutil.which("p11-kit") is None:
        pytest.skip("p11-kit is not installed (Debian: p11-kit)")
    rows = _run("crypto")["crypto"]
    for what in ("sign, rsa2048", "sign, ecdsap256"):
        names = {row["name"] for row in rows if row["what"] == what}
        assert {"softhsm", "softhsm, p11-kit server", "secgear", "openssl speed"} <= names
    crowds = {row["name"] for row in rows if row["what"] == "clients of 2 enclaves, rsa2048"}
    assert crowds == {"1 at once, each", "8 at once, each"}
    assert {row["name"] for row in rows if row["what"] == "find a label, inside"}
    assert all(row["median"] > 0 for row in rows)
