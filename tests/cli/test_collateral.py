"""Collateral on the command line: fetched from a (fake) vendor, shown, used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secgear.base.tee import Evidence
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.certificates import to_pem
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.pki import NOW, YEAR
from tests.adversary.vendors.server import VendorServer
from tests.middleware.attestation.fetching.conftest import serve_intel

FETCH = ("collateral", "fetch", "evidence.json", "-o", "c.json")
AT = ("--at", NOW.isoformat())
POLICY = """
name = "p"
[accept]
tees = ["tdx"]
[allow]
test_roots = true
"""


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


@pytest.fixture
def server(tmp_path: Path, intel: Intel) -> Iterator[VendorServer]:
    evidence = Evidence("intel.tdx.quote", intel.td_quote())
    (tmp_path / "evidence.json").write_bytes(envelope.to_json(evidence))
    (tmp_path / "root.pem").write_bytes(to_pem(intel.root.certificate))
    (tmp_path / "policy.toml").write_text(POLICY)
    with VendorServer() as running:
        serve_intel(running, intel, "tdx")
        yield running


def test_what_was_fetched_is_what_verifying_needs(run: Any, server: VendorServer) -> None:
    command = ("collateral", "fetch", "evidence.json", "-o", "c.json", "--intel-pcs", server.url)
    done = run(*command, "--cache", "cache", *AT)
    assert done.code == 0, done.err
    assert "fetching TCB information: 127.0.0.1" in done.err
    assert "c.json (6 items)" in done.out
    asked = len(server.asked)

    judge = ("verify", "evidence.json", "--root", "intel=root.pem", *AT, "--json")
    without = run(*judge)
    names = {
        check["name"]
        for check in without.json["claims"]["checks"]
        if check["outcome"] == "not-performed"
    }
    assert {"revocation", "tcb"} <= names
    full = run(*judge, "--collateral", "c.json")
    names = {
        check["name"]
        for check in full.json["claims"]["checks"]
        if check["outcome"] == "not-performed"
    }
    assert not {"revocation", "tcb"} & names
    assert len(server.asked) == asked  # a verifier asks nobody

    offline = run(*command[:-2], "--cache", "cache", "--offline", "--json", *AT)
    assert offline.code == 6  # whom to ask is part of what is looked up
    kept = run(*command, "--cache", "cache", "--offline", "--json", *AT)
    assert (kept.code, kept.json["items"]) == (0, 6)
    assert len(server.asked) == asked


def test_collateral_is_shown_with_its_end(run: Any, server: VendorServer) -> None:
    run("collateral", "fetch", "evidence.json", "-o", "c.json", "--intel-pcs", server.url, *AT)
    shown = run("collateral", "show", "c.json", *AT)
    assert shown.code == 0
    assert "50806f000000/tdx" in shown.out
    assert "EXPIRED" not in shown.out
    late = run("collateral", "show", "c.json", "root.pem", "--at", (NOW + YEAR).isoformat())
    assert "EXPIRED" in late.out
    items = run("collateral", "show", "c.json", *AT, "--json").json
    assert {item["kind"] for item in items} == {
        "certificate",
        "revocation list",
        "intel.tcb-info",
        "intel.qe-identity",
    }
    assert not any(item["expired"] for item in items)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (FETCH, "--intel-pcs"),
        (
            (*FETCH, "--intel-pcs", "http://127.0.0.1:1"),
            "127.0.0.1:1",
        ),
        (("collateral", "show", "evidence.json"), "no known kind"),
    ],
)
def test_mistakes_are_one_line_with_a_code(
    run: Any, server: VendorServer, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done = run(*arguments)
    assert (done.code, reason in done.err) == (6, True), done.err
    assert not (tmp_path / "c.json").exists()
