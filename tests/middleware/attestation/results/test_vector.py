"""The trustworthiness vector and the tier that a verdict comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from secgear.errors import EvidenceRefused
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Tcb, TcbStatus
from secgear.middleware.attestation.results import vector
from secgear.middleware.attestation.results.vector import CATEGORIES, Tier, tier_of
from secgear.middleware.attestation.verdict import Verdict
from tests.adversary.claims import ADDED, NOW, claims_for_tests, gpu_for_tests

Judge = Callable[..., Verdict]


def assessed(verdict: Verdict, path: str = "") -> tuple[Tier, dict[str, int]]:
    assert verdict.claims is not None
    tier, values = vector.assess(verdict, path, dict(verdict.claims.every())[path])
    assert tuple(values) == CATEGORIES
    return tier, {name: value for name, value in values.items() if value}


@pytest.mark.parametrize(
    ("value", "tier"),
    [
        (0, "none"), (1, "none"), (-1, "none"), (2, "affirming"), (31, "affirming"),
        (-2, "affirming"), (-32, "affirming"), (32, "warning"), (95, "warning"), (-33, "warning"),
        (-96, "warning"), (96, "contraindicated"), (127, "contraindicated"),
        (-97, "contraindicated"), (-128, "contraindicated"),
    ],
)  # fmt: skip
def test_values_lie_in_the_tiers_that_ar4si_draws(value: int, tier: str) -> None:
    assert tier_of(value) is Tier(tier)


def test_a_good_machine_is_affirmed_in_all_that_its_evidence_shows(judge: Judge) -> None:
    assert assessed(judge()) == (
        Tier.AFFIRMING,
        {"instance-identity": 2, "executables": 3, "hardware": 2, "runtime-opaque": 2},
    )


@pytest.mark.parametrize(
    ("fields", "more", "expected"),
    [
        ({"debug": True}, "[allow]\ndebug = true", {"configuration": 32, "runtime-opaque": 32}),
        (
            {"simulated": True},
            "[allow]\nsimulated = true",
            {"instance-identity": 0, "hardware": 0, "runtime-opaque": 0},
        ),
        ({"migratable": True}, "[allow]\nmigratable = true", {"configuration": 32}),
        (
            {"tcb": Tcb(TcbStatus.OUT_OF_DATE)},
            '[tcb]\nstatuses = ["OutOfDate"]',
            {"hardware": 32},
        ),
        (
            {"tcb": Tcb(TcbStatus.UP_TO_DATE, advisories=("INTEL-SA-1",))},
            '[tcb]\nadvisories = ["INTEL-SA-1"]',
            {"hardware": 32},
        ),
    ],
)
def test_what_a_policy_tolerates_is_a_warning_and_not_an_affirmation(
    judge: Judge, fields: dict[str, Any], more: str, expected: dict[str, int]
) -> None:
    verdict = judge(claims_for_tests(**fields), more)
    assert verdict.trusted
    tier, values = assessed(verdict)
    assert tier is Tier.WARNING
    assert {name: values.get(name, 0) for name in expected} == expected


def test_a_check_that_the_policy_does_without_is_a_warning(judge: Judge) -> None:
    missing = Check("revocation", Outcome.NOT_PERFORMED, "no list")
    claims = claims_for_tests(checks=(*claims_for_tests().checks, missing))
    verdict = judge(claims, '[unchecked]\nallow = ["revocation"]')
    assert verdict.trusted
    assert assessed(verdict)[0] is Tier.WARNING
    stale = judge(more='[freshness]\nreport_data = "optional"', report_data=None)
    assert stale.trusted
    assert assessed(stale)[0] is Tier.WARNING


def test_a_check_that_a_part_lacks_is_the_parts_own(judge: Judge) -> None:
    missing = Check("revocation", Outcome.NOT_PERFORMED, "no list")
    gpu = gpu_for_tests(checks=(*gpu_for_tests().checks, missing))
    verdict = judge(
        claims_for_tests(parts={"gpu0": gpu}),
        "[parts.policy.gpu.accept]\nvendor_measurements = true\n"
        '[parts.policy.gpu.unchecked]\nallow = ["revocation"]',
    )
    assert verdict.trusted, verdict.explain()
    assert assessed(verdict, "gpu0")[0] is Tier.WARNING
    assert assessed(verdict)[0] is Tier.AFFIRMING


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"debug": True}, {"configuration": 96, "runtime-opaque": 96}),
        ({"simulated": True}, {"hardware": 96, "instance-identity": 0}),
        ({"migratable": True}, {"configuration": 96}),
        ({"measurements": {"launch": b"x" * 48}}, {"executables": 33}),
        ({"tcb": Tcb(TcbStatus.OUT_OF_DATE)}, {"hardware": 32}),
        ({"tcb": Tcb(TcbStatus.REVOKED)}, {"hardware": 96, "instance-identity": 96}),
        ({"root": ADDED}, {"instance-identity": 97}),
        ({"tee": "gpu"}, {"hardware": 96}),
    ],
)
def test_what_a_policy_refuses_contraindicates_and_says_where(
    judge: Judge, fields: dict[str, Any], expected: dict[str, int]
) -> None:
    tier, values = assessed(judge(claims_for_tests(**fields)))
    assert tier is Tier.CONTRAINDICATED
    assert {name: values.get(name, 0) for name in expected} == expected


def test_a_stale_nonce_contraindicates_though_no_category_tells(judge: Judge) -> None:
    tier, values = assessed(judge(report_data=b"another"))
    assert (tier, values["executables"]) == (Tier.CONTRAINDICATED, 3)


def test_a_tee_that_says_nothing_of_encryption_is_not_called_opaque(judge: Judge) -> None:
    verdict = judge(claims_for_tests(tee="nitro", format="aws.nitro", tcb=Tcb()))
    assert verdict.trusted
    assert "runtime-opaque" not in assessed(verdict)[1]


def test_checks_of_a_part_are_the_parts_own(judge: Judge) -> None:
    gpu = gpu_for_tests(debug=True)
    verdict = judge(
        claims_for_tests(parts={"gpu0": gpu}),
        "[parts.policy.gpu]\n[parts.policy.gpu.accept]\nvendor_measurements = true",
    )
    assert not verdict.trusted
    assert assessed(verdict, "gpu0")[1]["configuration"] == 96
    assert "configuration" not in assessed(verdict)[1]


@pytest.mark.parametrize(
    ("check", "value"),
    [("signature", 99), ("format", 99), ("root", 97), ("revocation", 96), ("gpu0.root", 97)],
)
def test_evidence_that_is_not_authentic_has_a_value_for_its_identity_only(
    check: str, value: int
) -> None:
    refusal = EvidenceRefused("no", (Check(check, Outcome.FAIL, "no"),))
    verdict = Verdict(
        checks=refusal.checks,  # type: ignore[arg-type]
        claims=None,
        policy="p",
        policy_digest=bytes(32),
        at=NOW,
    )
    tier, values = vector.without_claims(verdict)
    assert tier is Tier.CONTRAINDICATED
    assert {name: number for name, number in values.items() if number} == {
        "instance-identity": value
    }
