"""What one side knows of the other, and by what it judges."""

from __future__ import annotations

import datetime

import pytest

from secgear import errors
from secgear.base.tee import Evidence
from secgear.middleware.attestation import load_policy
from secgear.middleware.channel.trust import Remote, Trust
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel.pairs import POLICY

VENDOR = SimulatedVendor()
DATA = bytes(range(64))


def test_evidence_for_this_report_data_is_trusted_and_for_no_other() -> None:
    trust = Trust(policy=POLICY, anchors=VENDOR.anchors)
    assert trust.judge(VENDOR.evidence(report_data=DATA), DATA).trusted
    other = trust.judge(VENDOR.evidence(report_data=bytes(64)), DATA)
    assert [check.name for check in other.reasons] == ["freshness"]


def test_judging_never_raises_for_what_is_judged() -> None:
    trust = Trust(policy=POLICY, anchors=VENDOR.anchors)
    for name in ("", "secgear.process.cwt", "nobody's", "amd.sev-snp"):
        assert not trust.judge(Evidence(name, b"\xff" * 9), DATA).trusted


def test_roots_are_those_that_were_given() -> None:
    evidence = VENDOR.evidence(report_data=DATA)
    for anchors in (None, SimulatedVendor().anchors):
        assert not Trust(policy=POLICY, anchors=anchors).judge(evidence, DATA).trusted


def test_time_is_now_unless_it_is_given() -> None:
    policy = load_policy(
        b'name = "fresh"\n[accept]\ntees = ["process"]\nmeasurements = ["'
        + (b"m" * 48).hex().encode()
        + b'"]\n[freshness]\nmax_age = "5m"\n[allow]\nsimulated = true\ntest_roots = true\n'
    )
    evidence = VENDOR.evidence(report_data=DATA)
    now = datetime.datetime.now(datetime.UTC)
    for at, good in ((None, True), (now, True), (now + datetime.timedelta(hours=1), False)):
        trust = Trust(policy=policy, anchors=VENDOR.anchors, at=at)
        assert trust.judge(evidence, DATA).trusted is good


def test_claims_are_there_only_if_they_are_trusted() -> None:
    good = Trust(policy=POLICY, anchors=VENDOR.anchors)
    verdict = good.judge(VENDOR.evidence(report_data=DATA), DATA)
    claims = Remote(verdict=verdict).claims
    assert claims is not None
    assert claims.tee == "process"
    with pytest.raises(errors.Untrusted):
        _ = Remote(verdict=good.judge(VENDOR.evidence(report_data=DATA), bytes(64))).claims
    assert Remote().claims is None
