"""A bundle can be judged again, offline, and nothing recorded in it is believed."""

from __future__ import annotations

import datetime
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import AttestationError, CollateralError, PolicyError
from secgear.middleware.attestation.bundle import (
    AddedRoot,
    Bundle,
    anchors_with,
    is_bundle,
    load_bundle,
    make_bundle,
    reverify,
    same_verdict,
    with_rules,
)
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.collateral import Collateral
from tests.adversary.vendors.simulated import SimulatedVendor

NOW = datetime.datetime.now(datetime.UTC)
VENDOR = SimulatedVendor()
NONCE = b"n" * 64
EVIDENCE = VENDOR.evidence(report_data=NONCE)
ROOT = AddedRoot("simulated", "fake", to_pem(VENDOR.certificate).decode())
POLICY = f"""
name = "test"
[accept]
tees = ["process"]
measurements = ["{(b"m" * 48).hex()}"]
[allow]
simulated = true
test_roots = true
"""


def bundle(policy: str = POLICY, evidence: Evidence = EVIDENCE) -> Bundle:
    return make_bundle(evidence, policy, at=NOW, report_data=NONCE, roots=[ROOT])


GOOD = bundle()
FILE = GOOD.to_json()


def test_a_saved_bundle_gives_the_same_verdict() -> None:
    loaded = load_bundle(FILE)
    assert loaded == GOOD
    verdict = reverify(loaded)
    assert verdict.trusted
    assert same_verdict(loaded, verdict)
    assert is_bundle(FILE)


def test_a_verdict_of_distrust_is_kept_as_well() -> None:
    refused = load_bundle(bundle('name = "nothing"\n').to_json())
    verdict = reverify(refused)
    assert not verdict.trusted
    assert same_verdict(refused, verdict)


def test_a_recorded_verdict_is_not_believed() -> None:
    lying = msgspec.structs.replace(bundle('name = "nothing"\n'), verdict=reverify(GOOD).to_dict())
    verdict = reverify(load_bundle(lying.to_json()))
    assert not verdict.trusted
    assert not same_verdict(lying, verdict)


def test_another_time_is_judged_for_itself() -> None:
    late = reverify(GOOD, at=NOW + datetime.timedelta(days=1000))
    assert not late.trusted
    assert late.checks[-1].name == "validity"
    assert not same_verdict(GOOD, late)


def test_own_rules_replace_all_rules_of_the_bundle() -> None:
    mine = with_rules(GOOD, POLICY, at=NOW, report_data=GOOD.report_data)
    verdict = reverify(mine)
    assert not verdict.trusted  # the bundle's root went with the bundle's policy
    assert verdict.checks[-1].name == "certificate-chain"
    again = with_rules(GOOD, POLICY, at=NOW, report_data=GOOD.report_data, roots=[ROOT])
    assert reverify(again).trusted


def test_the_time_that_its_maker_names_is_not_mine() -> None:
    """Evidence for my nonce is new, whatever time a bundle says that its chain was good at."""
    past = NOW - datetime.timedelta(days=900)
    gone = SimulatedVendor(end=NOW - datetime.timedelta(days=800))
    root = AddedRoot("simulated", "gone", to_pem(gone.certificate).decode())
    evidence = gone.evidence(report_data=NONCE)
    made = make_bundle(evidence, POLICY, at=past, report_data=NONCE, roots=[root])
    assert reverify(made).trusted
    mine = with_rules(made, POLICY, at=NOW, report_data=NONCE, roots=[root])
    assert [check.name for check in reverify(mine).reasons] == ["validity"]


def test_what_its_maker_expected_is_no_freshness_for_others() -> None:
    verdict = reverify(with_rules(GOOD, POLICY, at=NOW, report_data=None, roots=[ROOT]))
    assert [check.name for check in verdict.reasons] == ["freshness"]


def test_changed_evidence_is_refused() -> None:
    data = bytearray(EVIDENCE.data)
    data[-1] ^= 1
    changed = msgspec.structs.replace(GOOD, evidence=Evidence(EVIDENCE.format, bytes(data)))
    verdict = reverify(load_bundle(changed.to_json()))
    assert not verdict.trusted
    assert verdict.checks[-1].name == "signature"


def test_everything_survives_the_file() -> None:
    full = make_bundle(
        EVIDENCE,
        POLICY,
        at=NOW,
        collateral=Collateral(crls=(b"1",)),
        report_data=None,
        reference_values='{"secgear-reference-values": 1, "values": []}',
        roots=[ROOT],
    )
    assert load_bundle(full.to_json()) == full


@pytest.mark.parametrize(
    "change",
    [
        {"secgear-bundle": 2},
        {"at": "2026-01-01T00:00:00"},
        {"at": "yesterday"},
        {"evidence": {}},
        {"collateral": {}},
        {"policy": 7},
        {"extra": 1},
        {"roots": [{}]},
        {"report_data": "!"},
    ],
)
def test_other_files_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(AttestationError):
        load_bundle(json.dumps(json.loads(FILE) | change).encode())


def test_unusable_rules_are_errors_not_verdicts() -> None:
    with pytest.raises(PolicyError):
        make_bundle(EVIDENCE, "accept = 7", at=NOW)
    with pytest.raises(PolicyError):
        make_bundle(EVIDENCE, POLICY, at=NOW, reference_values="{}")
    with pytest.raises(CollateralError):
        anchors_with([AddedRoot("acme", "x", ROOT.pem)])
    with pytest.raises(CollateralError):
        anchors_with([ROOT] * 65)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_untrusted_or_unchanged(data: st.DataObject) -> None:
    damaged = bytearray(FILE)
    damaged[data.draw(st.integers(0, len(FILE) - 1))] = data.draw(st.integers(32, 126))
    try:
        loaded = load_bundle(bytes(damaged))
        verdict = reverify(loaded)
    except AttestationError:
        return
    if verdict.trusted:
        assert loaded.evidence == GOOD.evidence
        assert loaded.report_data == GOOD.report_data


@given(st.binary(max_size=100))
def test_rubbish_is_no_bundle(data: bytes) -> None:
    assert not is_bundle(data) or b"secgear-bundle" in data
    with pytest.raises(AttestationError):
        load_bundle(data)
