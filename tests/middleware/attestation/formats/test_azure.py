"""Azure's paravisor: hardware vouches for runtime data, that for the vTPM, that for the nonce."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.formats.tpm import azure
from secgear.middleware.attestation.formats.tpm.azure_coco import from_coco
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.azure import FakeAzure, jwk
from tests.adversary.vendors.pki import NOW, ec_key
from tests.adversary.vendors.tpm import VALUES, FakeTpm

MACHINE = FakeAzure()
COLLATERAL = Collateral(crls=(MACHINE.amd.ark.revoke(),))
OTHER = FakeTpm(rsa.generate_private_key(65537, 2048))


def judge(evidence: Evidence) -> Claims:
    return verify(evidence, at=NOW, anchors=MACHINE.amd.anchors, collateral=COLLATERAL)


def refused(check: str, evidence: Evidence) -> None:
    with pytest.raises(EvidenceRefused) as caught:
        judge(evidence)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value


@pytest.mark.parametrize("digest", [1, 2, 3])
def test_a_genuine_machine_passes(digest: int) -> None:
    claims = judge(MACHINE.evidence(hash=digest))
    assert claims.format == "azure.snp"
    assert claims.tee == "snp"
    assert claims.report_data == b"n" * 32  # what the quote carries, not the paravisor's
    assert claims.measurements["launch"] == b"m" * 48
    assert claims.measurements["pcr7"] == VALUES[7]
    assert claims.details["runtime"] == {"vm-configuration": {"secure-boot": True}}
    assert "keys" not in claims.details["runtime"]
    names = {check.name for check in claims.checks}
    assert {"hardware.signature", "hardware.binding.chip", "signature", "root"} <= names
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}


def test_hardware_in_debug_mode_shows() -> None:
    assert judge(MACHINE.evidence(report={"policy": 0x30000 | 1 << 19})).debug


def test_runtime_data_that_the_hardware_does_not_vouch_for_is_refused() -> None:
    other = json.dumps({"keys": [jwk(OTHER.key)]}).encode()
    bound = MACHINE.hcl()[32 + 0x50 : 32 + 0x70]
    refused("binding.runtime-data", MACHINE.evidence(runtime=other, bound=bound, tpm=OTHER))
    refused("binding.runtime-data", MACHINE.evidence(bound=b"x" * 64))


def test_a_quote_by_another_tpm_is_refused() -> None:
    refused("signature", MACHINE.evidence(tpm=OTHER))


def test_a_broken_hardware_report_is_refused() -> None:
    with pytest.raises(EvidenceRefused, match="signature"):
        judge(MACHINE.evidence(report={"key": ec_key()}))


def test_values_that_were_not_quoted_are_refused() -> None:
    refused("binding.pcrs", MACHINE.evidence(quote={"digest": bytes(32)}))


@pytest.mark.parametrize("drop", ["quote", "signature"])
def test_missing_parts_are_refused(drop: str) -> None:
    refused("format", MACHINE.evidence(drop=drop))


@pytest.mark.parametrize(
    "changes",
    [
        {"magic": b"HCLB"},
        {"version": 9},
        {"area_version": 2},
        {"kind": 4},
        {"kind": 3},
        {"hash": 0},
        {"hash": 4},
        {"size": 1 << 31},
        {"tail": b"\0\0\1"},
        {"runtime": b""},
        {"runtime": b"[]"},
        {"runtime": b'{"keys": 7}'},
        {"runtime": b'{"keys": []}'},
        {"runtime": b'{"keys": [7]}'},
        {"runtime": json.dumps({"keys": [jwk(OTHER.key, "HCLEkPub")]}).encode()},
        {"runtime": json.dumps({"keys": [jwk(OTHER.key)] * 2}).encode()},
        {"runtime": json.dumps({"keys": [jwk(OTHER.key) | {"n": "AQAB"}]}).encode()},
        {"runtime": json.dumps({"keys": [jwk(OTHER.key) | {"n": "!"}]}).encode()},
        {"runtime": b'{"keys": ' + b"[" * 5000},
    ],
)
def test_malformed_reports_are_refused(changes: dict[str, Any]) -> None:
    refused("format", MACHINE.evidence(**changes))


def test_td_evidence_needs_its_quote() -> None:
    evidence = msgspec.structs.replace(MACHINE.evidence(kind=4), format="azure.tdx")
    refused("format", evidence)
    rubbish = evidence.attachments | {"td-quote": b"rubbish"}
    with pytest.raises(EvidenceRefused):
        judge(msgspec.structs.replace(evidence, attachments=rubbish))


def test_oversized_reports_are_refused() -> None:
    with pytest.raises(EvidenceMalformed):
        azure.parse(bytes(azure.MAX_SIZE + 1))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 255))
def test_no_change_adds_anything(position: int, change: int) -> None:
    data = bytearray(_EVIDENCE.data)
    position %= len(data)
    data[position] ^= change
    changed = msgspec.structs.replace(_EVIDENCE, data=bytes(data))
    try:
        claims = judge(changed)
    except EvidenceRefused:
        return
    assert position in range(8, 32) or 32 + 1184 <= position < 32 + 1184 + 4  # sizes, unused
    assert claims.measurements == judge(_EVIDENCE).measurements


_EVIDENCE = MACHINE.evidence()


@pytest.mark.parametrize(
    "name",
    ["trustee-azsnp-evidence-v0", "trustee-azsnp-evidence-v1", "trustee-aztdx-evidence-v0"],
)
def test_real_evidence_with_another_machines_quote_is_refused(vector: Any, name: str) -> None:
    evidence = from_coco(vector(f"vtpm/{name}.json"))
    donor = from_coco(vector("vtpm/trustee-azsnp-evidence-genoa.json"))
    mixed = dict(evidence.attachments)
    mixed |= {part: donor.attachments[part] for part in ("quote", "signature", "pcrs")}
    with pytest.raises(EvidenceRefused, match="signature"):
        verify(
            msgspec.structs.replace(evidence, attachments=mixed),
            at=NOW.replace(year=2025),
        )


def test_the_negative_pair_of_the_vectors_is_refused(vector: Any) -> None:
    """A report and a quote whose attestation keys differ."""
    message = vector("vtpm/trustee-azsnp-tpm-quote.msg")
    signature = vector("vtpm/trustee-azsnp-tpm-quote.sig")
    evidence = Evidence(
        "azure.snp",
        vector("vtpm/trustee-azsnp-hcl-report.bin"),
        {
            "quote": message,
            "signature": b"\0\x14\0\x0b\1\0" + signature,
            "vcek": vector("vtpm/trustee-azsnp-vcek.pem"),
        },
    )
    with pytest.raises(EvidenceRefused, match="signature: the quote is not signed"):
        verify(evidence, at=NOW.replace(year=2025))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"quote": 7, "report": [], "vcek": ""}',
        b'{"quote": {"signature": [256], "message": [], "pcrs": []}, "report": [], "vcek": ""}',
        b'{"quote": {"signature": [], "message": [], "pcrs": [[]]}, "report": [], "vcek": ""}',
        b'{"quote": {"signature": "!", "message": "", "pcrs": []}, "report": "", "vcek": ""}',
    ],
)
def test_other_json_is_refused(text: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        from_coco(text)


def test_report_asked_for_from_below_the_paravisor_is_refused() -> None:
    refused("binding.vmpl", MACHINE.evidence(report={"vmpl": 2}))
