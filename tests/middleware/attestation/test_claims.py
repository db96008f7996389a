"""Claims exist only after verification, and can't be changed afterwards."""

from __future__ import annotations

import datetime
import json

import pytest

from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.checks import Check, Checks, Outcome
from secgear.middleware.attestation.claims import Claims, Root, Tcb, TcbStatus

ROOT = Root("fake", bytes(32), builtin=False)


def claims(*names: str, **fields: object) -> Claims:
    checks = Checks()
    for name in names or ("format", "root", "signature"):
        checks.passed(name, "")
    settings: dict[str, object] = {
        "format": "f",
        "tee": "snp",
        "measurements": {"launch": b"\1" * 48},
        "debug": False,
        "simulated": False,
        "report_data": b"\2" * 64,
        "root": ROOT,
        "checks": checks.done,
    }
    return Claims(**(settings | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("format",), ("format", "root"), ("signature", "root")])
def test_no_claims_without_the_essential_checks(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="no claims without verification"):
        claims(*names)


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.NOT_PERFORMED])
def test_no_claims_where_an_essential_check_did_not_pass(outcome: Outcome) -> None:
    checks = tuple(
        Check(name, outcome if name == "signature" else Outcome.PASS)
        for name in ("format", "root", "signature")
    )
    with pytest.raises(ValueError, match="signature"):
        claims(checks=checks)


def test_no_claims_beside_a_failed_check() -> None:
    done = (*claims().checks, Check("anything", Outcome.FAIL))
    with pytest.raises(ValueError, match="anything"):
        claims(checks=done)


def test_claims_can_not_be_changed() -> None:
    made = claims(details={"a": {"b": [1, 2]}})
    with pytest.raises(AttributeError):
        made.debug = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.measurements["launch"] = b""  # type: ignore[index]
    with pytest.raises(TypeError):
        made.details["a"]["b"] = 1
    assert made.details["a"]["b"] == (1, 2)


def test_what_was_not_checked_is_said() -> None:
    missing = Check("revocation", Outcome.NOT_PERFORMED, "no list")
    assert claims(checks=(*claims().checks, missing)).not_checked == (missing,)


def test_all_parts_are_walked() -> None:
    inner = claims(tee="gpu")
    outer = claims(parts={"gpu0": claims(tee="gpu", parts={"link": inner})})
    assert [name for name, _ in outer.every()] == ["", "gpu0", "gpu0.link"]


def test_claims_are_plain_values_for_machines() -> None:
    made = claims(
        tcb=Tcb(TcbStatus.OUT_OF_DATE, {"snp": 3}, as_of=datetime.datetime(2026, 1, 1)),
        parts={"gpu0": claims(tee="gpu")},
    )
    read = json.loads(json.dumps(made.to_dict()))
    assert read["measurements"] == {"launch": "01" * 48}
    assert read["tcb"]["status"] == "OutOfDate"
    assert read["tcb"]["as_of"] == "2026-01-01T00:00:00"
    assert read["parts"]["gpu0"]["tee"] == "gpu"
    assert read["checks"][0]["outcome"] == "pass"


def test_a_failed_check_refuses_and_keeps_the_record() -> None:
    checks = Checks()
    checks.passed("format", "fine")
    with pytest.raises(EvidenceRefused, match=r"signature: bad \(expected 1, found nothing\)") as e:
        checks.failed("signature", "bad", expected="1", fix="nothing")
    assert [check.name for check in e.value.checks] == ["format", "signature"]
    with pytest.raises(EvidenceMalformed):
        checks.malformed("short")
    with pytest.raises(EvidenceRefused):
        checks.require(False, "x", "", "no")
    checks.require(True, "x", "yes", "no")
    assert checks.done[-1].outcome is Outcome.PASS


def test_checks_of_a_part_carry_its_name() -> None:
    checks = Checks()
    checks.adopt("gpu0", (Check("signature", Outcome.PASS),))
    assert checks.done[0].name == "gpu0.signature"
