"""Who is an enclave like this one, where a measurement at launch does not say all that runs."""

from __future__ import annotations

from typing import Any

import pytest

from secgear.base.tee import Evidence, SealingPolicy
from secgear.middleware.attestation.checks import Outcome
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.policy.rules import judge
from secgear.services.crypto.token import membership
from tests.adversary.claims import LAUNCH, NOW, claims_for_tests
from tests.adversary.crypto_host import MemoryGuest

OWN = {"launch": LAUNCH, "rtmr1": b"k" * 48, "rtmr2": b"c" * 48, "mrseam": b"1" * 48}


@pytest.mark.parametrize(
    ("changed", "like"),
    [
        ({}, True),
        ({"mrseam": b"2" * 48}, True),
        ({"launch": b"f" * 48}, False),
        ({"rtmr1": b"o" * 48}, False),
        ({"rtmr2": None}, False),
    ],
)
def test_registers_have_to_be_the_same(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, bytes | None], like: bool
) -> None:
    """The firmware of a TD is the same, and another kernel was begun by it."""

    def verified(evidence: Evidence, **_: Any) -> Any:
        return claims_for_tests(measurements=OWN, report_data=evidence.data)

    monkeypatch.setattr(membership, "verify", verified)
    kin = membership.Kin(MemoryGuest(), SealingPolicy.MEASUREMENT, (), Collateral(), NOW)
    found = {name: value for name, value in {**OWN, **changed}.items() if value is not None}
    checks = judge(claims_for_tests(measurements=found), kin._rules(0), None, NOW)
    assert all(one.outcome is not Outcome.FAIL for one in checks) is like
