"""One door for all formats: unknown, oversized and nested evidence; nothing passes by itself."""

from __future__ import annotations

import datetime
import socket

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation import verification
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.verification import formats, verify
from tests.adversary.vendors.simulated import SimulatedVendor

NOW = datetime.datetime.now(datetime.UTC)


def test_a_format_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(EvidenceUnsupported, match=r"acme\.chip") as caught:
        verify(Evidence("acme.chip", b""), at=NOW)
    assert "amd.sev-snp" in str(caught.value)


@pytest.mark.parametrize("name", formats())
def test_every_format_refuses_rubbish_with_a_record(name: str) -> None:
    for data in (b"", b"\x00" * 1184, b"\xff" * 5000, b"rubbish"):
        with pytest.raises(EvidenceRefused) as caught:
            verify(Evidence(name, data), at=NOW)
        last = caught.value.checks[-1]
        assert isinstance(last, Check)
        assert (last.name, last.outcome) == ("format", Outcome.FAIL)


def test_a_time_without_a_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="time zone"):
        verify(Evidence("amd.sev-snp", b""), at=datetime.datetime(2026, 1, 1))


def test_evidence_and_attachments_are_bounded() -> None:
    huge = bytes(verification.MAX_EVIDENCE + 1)
    for evidence in (Evidence("f", huge), Evidence("f", b"", {"log": huge})):
        with pytest.raises(EvidenceMalformed, match="at most"):
            verify(evidence, at=NOW)


def test_verifying_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("a verifier reached out")

    monkeypatch.setattr(socket, "socket", no_network)
    vendor = SimulatedVendor()
    verify(vendor.evidence(), at=NOW, anchors=vendor.anchors)
