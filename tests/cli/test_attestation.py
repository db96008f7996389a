"""Evidence on the command line: judged, bundled, refused, always with a reason and an exit code."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from secgear.middleware.attestation import envelope, make_bundle
from secgear.middleware.attestation.certificates import to_pem
from tests.adversary.vendors.corim import Publisher, comid, corim, measurement, reference
from tests.adversary.vendors.pki import Authority
from tests.adversary.vendors.simulated import SimulatedVendor

NOW = datetime.datetime.now(datetime.UTC)
NONCE = b"n" * 64
POLICY = f"""
name = "test"
[accept]
tees = ["process"]
measurements = ["{(b"m" * 48).hex()}"]
[allow]
simulated = true
test_roots = true
"""
JUDGE = ("--policy", "policy.toml", "--report-data", NONCE.hex(), "--root", "simulated=root.pem")


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    vendor = SimulatedVendor()
    evidence = vendor.evidence(report_data=NONCE)
    return {
        "evidence.json": envelope.to_json(evidence),
        "evidence.cbor": envelope.to_cbor(evidence),
        "evidence.bin": evidence.data,
        "root.pem": to_pem(vendor.certificate),
        "policy.toml": POLICY.encode(),
        "nothing.toml": b'name = "nothing"\n',
    }


@pytest.fixture(autouse=True)
def _written(files: dict[str, bytes], tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)


@pytest.mark.parametrize("name", ["evidence.json", "evidence.cbor", "evidence.bin"])
def test_good_evidence_is_trusted(run: Any, name: str) -> None:
    format_name = ("--format", "secgear.process.cwt") if name == "evidence.bin" else ()
    done = run("verify", name, *JUDGE, *format_name)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("TRUSTED under policy 'test'")


def test_the_verdict_is_json_for_machines(run: Any) -> None:
    done = run("verify", "evidence.json", *JUDGE, "--json")
    assert done.code == 0
    assert done.json["trusted"] is True
    assert {check["outcome"] for check in done.json["checks"]} == {"pass"}
    assert done.json["claims"]["simulated"] is True


def test_without_a_policy_nothing_is_trusted(run: Any) -> None:
    done = run("verify", "evidence.json", "--root", "simulated=root.pem")
    assert done.code == 6
    assert "authentic, under root" in done.out
    assert "simulated, root not built in" in done.out
    assert "no policy was given" in done.err
    done = run("verify", "evidence.json", "--root", "simulated=root.pem", "--json")
    assert (done.code, done.json["trusted"]) == (6, False)
    assert done.json["claims"]["tee"] == "process"


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"--policy": "nothing.toml"}, "policy.tee"),
        ({"--report-data": "00" * 64}, "freshness"),
        ({"--root": None}, "certificate-chain"),
        ({"--report-data": None}, "freshness"),
    ],
)
def test_distrust_names_its_check(run: Any, change: dict[str, str | None], check: str) -> None:
    options = dict(zip(JUDGE[::2], JUDGE[1::2], strict=True)) | change
    line = [word for name, value in options.items() if value for word in (name, value)]
    done = run("verify", "evidence.json", *line)
    assert done.code == 6
    assert done.out.startswith("NOT TRUSTED")
    assert check in done.out


def test_the_past_is_judged_on_request(run: Any) -> None:
    done = run("verify", "evidence.json", *JUDGE, "--at", "2020-01-01T00:00Z")
    assert done.code == 6
    assert "validity" in done.out
    assert run("verify", "evidence.json", *JUDGE, "--at", "yesterday").code == 2


def test_this_users_own_simulation_is_a_root_by_name(run: Any) -> None:
    done = run("verify", "evidence.json", "--root", "simulated")
    assert done.code == 6
    assert "own-simulated-platform" in done.err + done.out


def test_a_bundle_is_made_and_judged_again(run: Any, tmp_path: Path) -> None:
    made = run("bundle", "evidence.json", *JUDGE, "-o", "x.bundle")
    assert (made.code, made.out.startswith("TRUSTED")) == (0, True)
    for name in ("evidence.json", "policy.toml", "root.pem"):
        (tmp_path / name).unlink()
    again = run("verify", "x.bundle")
    assert again.code == 0
    assert "the verdict is the recorded one" in again.out
    assert "roots that are not built in: root" in again.out
    late = run("verify", "x.bundle", "--at", "2099-01-01", "--json")
    assert (late.code, late.json["as_recorded"], late.json["trusted"]) == (6, False, False)


def test_a_strangers_bundle_is_judged_by_my_rules(run: Any) -> None:
    run("bundle", "evidence.json", *JUDGE, "-o", "x.bundle")
    mine = run("verify", "x.bundle", "--policy", "policy.toml", "--json")
    assert (mine.code, mine.json["policy_from"]) == (6, "caller")  # its root is not mine
    root = ("--root", "simulated=root.pem")
    old = run("verify", "x.bundle", "--policy", "policy.toml", *root)
    assert (old.code, "freshness" in old.out) == (6, True)  # its maker's word is not mine
    nonce = ("--report-data", NONCE.hex())
    assert run("verify", "x.bundle", "--policy", "policy.toml", *root, *nonce).code == 0
    assert run("verify", "x.bundle", *root).code == 2
    assert run("verify", "x.bundle", "--report-data", "00").code == 2


def test_a_strangers_bundle_is_judged_for_now(run: Any, tmp_path: Path) -> None:
    """Its maker could name a time at which a revoked key was good; my nonce does not show that."""
    gone = SimulatedVendor(end=NOW - datetime.timedelta(days=1))
    (tmp_path / "root.pem").write_bytes(to_pem(gone.certificate))
    (tmp_path / "evidence.json").write_bytes(envelope.to_json(gone.evidence(report_data=NONCE)))
    past = ("--at", (NOW - datetime.timedelta(days=2)).isoformat())
    assert run("bundle", "evidence.json", *JUDGE, *past, "-o", "x.bundle").code == 0
    assert run("verify", "x.bundle").code == 0  # its maker's rules, and said so
    mine = run("verify", "x.bundle", *JUDGE)
    assert (mine.code, "validity" in mine.out) == (6, True)
    assert run("verify", "x.bundle", *JUDGE, "--at", "recorded").code == 0
    assert run("verify", "x.bundle", "--at", "recorded").code == 0
    assert run("verify", "evidence.json", *JUDGE, "--at", "recorded").code == 2


def test_a_bundle_keeps_distrust_too(run: Any, tmp_path: Path) -> None:
    done = run("bundle", "evidence.json", "--policy", "nothing.toml", "-o", "x.bundle")
    assert done.code == 6
    assert (tmp_path / "x.bundle").is_file()
    assert run("verify", "x.bundle").code == 6
    assert run("bundle", "evidence.json", "-o", "y.bundle").code == 2


def test_a_bundle_does_not_overwrite_other_files(run: Any, tmp_path: Path) -> None:
    done = run("bundle", "evidence.json", *JUDGE, "-o", "policy.toml")
    assert done.code == 2
    assert (tmp_path / "policy.toml").read_text() == POLICY


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("verify", "absent.json"), 2),
        (("verify", "policy.toml"), 6),
        (("verify", "evidence.bin", "--format", "acme.chip"), 6),
        (("verify", "evidence.json", "--policy", "evidence.bin"), 2),
        (("verify", "evidence.json", "--policy", "root.pem"), 6),
        (("verify", "evidence.json", "--root", "acme=root.pem"), 6),
        (("verify", "evidence.json", "--root", "root.pem"), 2),
        (("verify", "evidence.json", "--root", "amd=policy.toml"), 6),
        (("verify", "evidence.json", "--collateral", "policy.toml"), 6),
        (("verify", "evidence.json", *JUDGE, "--reference-values", "policy.toml"), 6),
        (("verify", "evidence.json", "--policy", "policy.toml", "--report-data", "xyz"), 2),
        (("verify", "evidence.json", "--policy", "policy.toml", "--report-data", "00" * 65), 2),
    ],
)
def test_mistakes_are_one_line_with_a_code(run: Any, arguments: tuple[str, ...], code: int) -> None:
    done = run(*arguments)
    assert done.code == code, done.err
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1
    assert "defect" not in done.err
    failed = run(*arguments, "--json")
    assert failed.json["error"]["code"]


def test_evidence_is_asked_for_with_a_nonce_only(run: Any) -> None:
    done = run("attest")
    assert done.code == 2
    assert "nonce" in done.err


def test_a_machine_without_a_tee_says_so(run: Any, tmp_path: Path) -> None:
    done = run("attest", "--report-data", "00", "-o", "out.json", "--source", "tsm")
    assert done.code == 4
    assert done.err.startswith("error: ")
    assert not (tmp_path / "out.json").exists()


def test_measure_gives_reference_values_that_are_accepted(run: Any, app: Path) -> None:
    measured = run("measure", str(app), "--json")
    assert measured.code == 0
    app.with_name("measured.json").write_text(measured.out)
    done = run("reference", "import", "measured.json", "-o", "values.json", "--json")
    assert (done.code, done.json["count"]) == (0, 1)
    values = json.loads(app.with_name("values.json").read_text())
    assert values["values"][0]["tee"] == "process"
    assert run("reference", "import", "values.json", "measured.json", "-o", "values.json").code == 0
    assert run("reference", "import", "root.pem", "-o", "other.json").code == 6


def test_corim_is_imported_with_its_key_or_when_told_so(
    run: Any, vector: Any, tmp_path: Path
) -> None:
    (tmp_path / "p.cbor").write_bytes(vector("cca/veraison-corim-cca-platform-valid.cbor"))
    refused = run("reference", "import", "p.cbor", "-o", "values.json")
    assert refused.code == 6
    assert "not signed" in refused.err
    (tmp_path / "keys").mkdir()
    done = run("reference", "import", "p.cbor", "--unsigned", "-o", "values.json", "--keys", "keys")
    assert done.code == 0
    assert "not imported: " in done.err
    assert "arm:010202" in done.out
    assert len(list((tmp_path / "keys").iterdir())) == 1


def test_a_corim_needs_a_root_that_was_named_for_it(run: Any, tmp_path: Path) -> None:
    """The vendors' own, which evidence is held against, vouch for no reference values."""
    publisher = Publisher()
    signed = publisher.signed(
        corim(comid(reference(measurement(641)))), chain=publisher.certificate.der
    )
    (tmp_path / "signed.cbor").write_bytes(signed)
    done = run("reference", "import", "signed.cbor", "-o", "v.json", "--root", "tpm=root.pem")
    assert done.code == 6
    assert "to a trusted root (root)" in done.err


HOSTILE = "\x1b[2J\x9b31m\u202e\r\n"


def test_words_of_others_do_not_steer_the_terminal(run: Any, tmp_path: Path) -> None:
    vendor = SimulatedVendor()
    stranger = Authority(f"authority{HOSTILE}")
    claims = vendor.claims(product=f"product{HOSTILE}")
    good = vendor.evidence(claims, report_data=NONCE)
    bundle = json.loads(make_bundle(good, POLICY, at=NOW, report_data=NONCE).to_json())
    root = to_pem(vendor.certificate).decode()
    bundle["roots"] = [{"family": "simulated", "name": f"root{HOSTILE}", "pem": root}]
    for name, content in (
        ("good.json", envelope.to_json(good)),
        (
            "strange.json",
            envelope.to_json(vendor.evidence(claims, certificate=stranger.certificate)),
        ),
        ("bundle.json", json.dumps(bundle).encode()),
        ("root.pem", root.encode()),
        ("stranger.pem", to_pem(stranger.certificate)),
    ):
        (tmp_path / name).write_bytes(content)
    for words, command in (
        ("product", ("verify", "good.json", "--root", "simulated=root.pem")),
        ("authority", ("verify", "strange.json", "--root", "simulated=root.pem")),
        ("root", ("verify", "bundle.json")),
        ("authority", ("collateral", "show", "stranger.pem")),
    ):
        done = run(*command)
        shown = done.out + done.err
        assert words + HOSTILE.encode("unicode_escape").decode() in shown.replace("\\\\", "\\")
        assert not [sign for sign in shown if sign != "\n" and not sign.isprintable()]
