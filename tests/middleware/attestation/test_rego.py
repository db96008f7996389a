"""Policies in Rego: only a plain true is a yes."""

from __future__ import annotations

import importlib.util

import pytest

from secgear.errors import PolicyError
from secgear.middleware.attestation.appraisal import appraise
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.policy import load_policy, rego
from secgear.middleware.attestation.policy.model import Rego
from secgear.middleware.attestation.reference import ReferenceValue, ReferenceValues
from secgear.middleware.attestation.values import Duration, Hex
from tests.adversary.claims import LAUNCH, NOW, REPORT_DATA, claims_for_tests

pytest.importorskip("regopy", reason="the engine comes with the extra rego")

GOOD = """
package policy
import rego.v1
default allow = false
allow if {
    input.tee == "snp"
    input.measurements.launch in data.reference["release 7"]
    not input.debug
}
"""
VALUES = ReferenceValues(
    (ReferenceValue(name="release 7", tee="snp", measurements={"launch": Hex(LAUNCH)}),)
)


def judged(module: str, query: str = "data.policy.allow", **fields: object) -> Check:
    return rego.judge_by_rego(Rego(module, query), claims_for_tests(**fields), VALUES)


def test_module_sees_claims_and_reference_values() -> None:
    assert judged(GOOD).outcome is Outcome.PASS
    assert judged(GOOD, debug=True).outcome is Outcome.FAIL
    assert judged(GOOD, measurements={}).outcome is Outcome.FAIL


def test_store_is_there_as_in_its_file() -> None:
    module = """
    package policy
    allow { data.reference_values[_].measurements.launch == input.measurements.launch }
    """
    assert judged(module).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("package policy\ndefault allow = false", "undefined"),
        ("package policy\nallow := 1", "1"),
        ('package policy\nallow := "true"', '"true"'),
        ("package policy\nallow := [true]", "[true]"),
        ("package policy\nallow { input.nothing }", "undefined"),
        ("package other\nallow := true", "undefined"),
        ('package policy\nallow { http.send({"method": "get", "url": "http://[::1]"}) }', ""),
        ("package policy\nallow := true\nallow := false", ""),
        ("no { rego", ""),
        ("", ""),
    ],
)
def test_anything_but_true_is_a_no(module: str, found: str) -> None:
    check = judged(module)
    assert check.outcome is Outcome.FAIL
    assert check.expected == "true"
    if found:
        assert check.found == found


def test_late_answer_is_a_no() -> None:
    module = """
    package policy
    allow if { some i in numbers.range(1, 3000); some j in numbers.range(1, 3000); i * j == -1 }
    """
    slow = Rego(module, timeout=Duration(seconds=1))
    check = rego.judge_by_rego(slow, claims_for_tests(), None)
    assert check.outcome is Outcome.FAIL


def test_claims_beyond_the_limit_are_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rego, "MAX_INPUT", 10)
    assert "at most 10" in judged(GOOD).detail


def test_without_the_engine_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check = judged(GOOD)
    assert check.outcome is Outcome.FAIL
    assert "pip install 'secgear[rego]'" in check.detail


def test_module_identifies_what_runs_and_the_other_rules_stay() -> None:
    toml = f"""
    [accept]
    tees = ["snp"]
    [rego]
    module = '''{GOOD}'''
    """
    policy = load_policy(toml.encode())

    def reasons(**fields: object) -> list[str]:
        verdict = appraise(
            claims_for_tests(**fields),
            policy,
            at=NOW,
            report_data=REPORT_DATA,
            reference_values=VALUES,
        )
        return [check.name for check in verdict.reasons]

    assert reasons() == []
    assert reasons(measurements={}) == ["policy.rego"]
    assert reasons(simulated=True) == ["policy.simulated"]


def test_module_that_is_too_large_is_refused() -> None:
    with pytest.raises(PolicyError, match="Rego module of more than"):
        load_policy(b"[rego]\nmodule = '" + b"x" * 300_000 + b"'")
