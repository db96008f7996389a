"""A verdict says what was found, and trust can't be put into it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import Untrusted
from secgear.middleware.attestation.appraisal import appraise
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.attestation.verdict import Verdict
from tests.adversary.claims import NOW, REPORT_DATA, claims_for_tests

GOOD = load_policy(
    f'name = "good"\n[accept]\ntees = ["snp"]\nmeasurements = ["{"11" * 48}"]'.encode()
)


def verdict(**fields: object) -> Verdict:
    return appraise(claims_for_tests(**fields), GOOD, at=NOW, report_data=REPORT_DATA)


def test_trusted_verdict_gives_its_claims() -> None:
    assert verdict().trusted
    assert verdict().require() == claims_for_tests()


def test_untrusted_verdict_gives_no_claims_but_the_reasons() -> None:
    with pytest.raises(Untrusted, match=r"policy\.debug: the host can look inside") as caught:
        verdict(debug=True).require()
    assert isinstance(caught.value.verdict, Verdict)
    assert [check.name for check in caught.value.verdict.reasons] == ["policy.debug"]


def test_trust_can_not_be_set() -> None:
    with pytest.raises(TypeError):
        Verdict(  # type: ignore[call-arg]
            trusted=True, checks=(), claims=None, policy="", policy_digest=b"", at=NOW
        )
    with pytest.raises(AttributeError):
        verdict().trusted = True  # type: ignore[misc]


def test_claims_without_an_appraisal_are_no_trusted_verdict() -> None:
    claims = claims_for_tests()
    bare = Verdict(checks=claims.checks, claims=claims, policy="p", policy_digest=b"", at=NOW)
    assert not bare.trusted
    with pytest.raises(Untrusted, match="not appraised"):
        bare.require()


def test_verdict_that_hides_a_check_of_its_claims_is_not_trusted() -> None:
    good = verdict()
    hidden = verdict(not_performed=("revocation",))
    assert good.trusted
    assert not Verdict(
        checks=good.checks, claims=hidden.claims, policy="p", policy_digest=b"", at=NOW
    ).trusted


def test_verdict_without_claims_is_not_trusted_whatever_its_checks() -> None:
    good = verdict()
    assert not Verdict(
        checks=good.checks, claims=None, policy="p", policy_digest=b"", at=NOW
    ).trusted


def test_explanation_begins_with_the_conclusion_and_names_every_check() -> None:
    text = verdict().explain()
    assert text.startswith("TRUSTED under policy 'good' for 2026-06-01T12:00:00+00:00")
    for check in verdict().checks:
        assert f"✓ {check.name}" in text


def test_explanation_of_distrust_tells_values_and_what_to_do() -> None:
    text = verdict(tee="tdx", not_performed=("revocation",)).explain()
    lines = text.splitlines()
    assert lines[0].startswith("NOT TRUSTED")
    assert lines[0].endswith("revocation, policy.tee")
    assert any(line.lstrip().startswith("\N{EN DASH} revocation") for line in lines)
    assert any(line.split() == ["fix:", "collateral", "for", "revocation"] for line in lines)
    failed = next(place for place, line in enumerate(lines) if "✗ policy.tee" in line)
    assert [line.split()[:2] for line in lines[failed + 1 : failed + 4]] == [
        ["expected:", "snp"],
        ["found:", "tdx"],
        ["fix:", "[accept]"],
    ]


@given(st.text(max_size=40))
def test_evidence_can_not_move_the_cursor_or_forge_lines(product: str) -> None:
    text = verdict(product=product, platform={"x": product}, tee=f"\x1b[2K{product}").explain()
    assert all(sign.isprintable() for sign in text.replace("\n", ""))
    assert len(text.splitlines()) == len(verdict(tee="other").explain().splitlines())


@given(st.booleans(), st.binary(max_size=64), st.lists(st.sampled_from("abc"), max_size=2))
def test_json_form_says_the_same_and_round_trips(
    debug: bool, report_data: bytes, missing: list[str]
) -> None:
    made = verdict(debug=debug, report_data=report_data, not_performed=tuple(missing))
    read = json.loads(made.to_json())
    assert read == made.to_dict()
    assert read["trusted"] is made.trusted
    assert [check["name"] for check in read["checks"]] == [check.name for check in made.checks]


def test_json_form_has_the_documented_keys() -> None:
    made = verdict().to_dict()
    assert list(made) == [
        "secgear-verdict",
        "trusted",
        "policy",
        "policy_digest",
        "at",
        "evidence_digest",
        "checks",
        "claims",
    ]
    assert made["checks"][0] == {
        "name": "format",
        "outcome": "pass",
        "detail": "format is fine",
        "expected": "",
        "found": "",
        "fix": "",
        "waived": False,
    }


def test_waiver_is_of_a_place_and_not_of_a_name() -> None:
    missing = Check("revocation", Outcome.NOT_PERFORMED)
    good = verdict()
    twice = Verdict(
        checks=(*good.checks, missing, missing),
        claims=good.claims,
        policy="p",
        policy_digest=b"",
        at=NOW,
        waived=frozenset([len(good.checks)]),
    )
    assert not twice.trusted
    assert twice.reasons == (missing,)
