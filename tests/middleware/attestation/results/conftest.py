"""Verdicts of every kind, keys, and the arguments that issuing and verifying share."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from secgear.middleware.attestation.appraisal import appraise
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.attestation.results import ResultKey, new_key
from secgear.middleware.attestation.verdict import Verdict
from tests.adversary.claims import LAUNCH, NOW, REPORT_DATA, claims_for_tests

POLICY = f"""
name = "production"
[accept]
tees = ["snp", "tdx", "nitro", "process"]
measurements = ["{LAUNCH.hex()}"]
"""


@pytest.fixture(scope="session")
def key() -> ResultKey:
    return new_key()


@pytest.fixture
def judge() -> Callable[..., Verdict]:
    def judged(
        claims: Claims | None = None, more: str = "", *, report_data: bytes | None = REPORT_DATA
    ) -> Verdict:
        return appraise(
            claims or claims_for_tests(),
            load_policy((POLICY + more).encode()),
            at=NOW,
            report_data=report_data,
        )

    return judged


@pytest.fixture
def issuing() -> dict[str, Any]:
    return {
        "issuer": "https://verifier.example",
        "audience": "relying-party",
        "nonce": b"n" * 32,
        "lifetime": datetime.timedelta(minutes=5),
        "now": NOW,
    }


@pytest.fixture
def reading(issuing: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in issuing.items() if name != "lifetime"}
