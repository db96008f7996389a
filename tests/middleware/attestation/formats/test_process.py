"""Evidence of the process TEE: authentic under a pinned root, and always simulated."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

import secgear
from secgear.base.tee import Evidence
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.anchors import Anchor, Anchors, builtin_anchors
from secgear.middleware.attestation.certificates import load_certificate
from secgear.middleware.attestation.checks import Outcome
from secgear.middleware.attestation.formats import process
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.simulated import SimulatedVendor

NOW = datetime.datetime.now(datetime.UTC)
APP = """
from secgear import App, guest
app = App("attested", version="1.0")

@app.ecall
def attest(report_data: bytes) -> tuple[str, bytes]:
    evidence = guest().evidence(report_data)
    return evidence.format, evidence.data
"""


@pytest.fixture(scope="module")
def vendor() -> SimulatedVendor:
    return SimulatedVendor()


@pytest.fixture(scope="module")
def evidence(vendor: SimulatedVendor) -> Evidence:
    return vendor.evidence()


def test_a_running_enclave_proves_what_it_is(tmp_path: Path) -> None:
    source = tmp_path / "attested.py"
    source.write_text(APP)
    with secgear.launch(source, tee="process") as enclave:
        kind, data = enclave.attest(b"n" * 64)
        measurement = enclave.image.measurement
    root = SimulatedPlatform(home()).root.public_bytes(serialization.Encoding.DER)
    anchors = Anchors((Anchor("this-machine", "simulated", load_certificate(root)),))
    claims = verify(Evidence(kind, data), at=datetime.datetime.now(datetime.UTC), anchors=anchors)
    assert claims.tee == "process"
    assert claims.measurements == {"launch": measurement}
    assert claims.report_data == b"n" * 64
    assert claims.simulated
    assert claims.debug  # launched from a source file
    assert not claims.root.builtin
    assert claims.evidence_time is not None
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}


def test_claims_are_what_the_platform_said(vendor: SimulatedVendor, evidence: Evidence) -> None:
    claims = verify(evidence, at=NOW, anchors=vendor.anchors)
    assert (claims.product, claims.svn, claims.signer) == ("product", 7, b"s" * 32)
    assert not claims.debug
    assert claims.details == {"layers": {"seccomp": True, "landlock": False}}


def test_the_built_in_roots_never_accept_it(evidence: Evidence) -> None:
    for anchors in (None, builtin_anchors(), Anchors()):
        with pytest.raises(EvidenceRefused, match="certificate-chain"):
            verify(evidence, at=NOW, anchors=anchors)


def test_another_users_root_does_not_accept_it(evidence: Evidence) -> None:
    with pytest.raises(EvidenceRefused, match="certificate-chain"):
        verify(evidence, at=NOW, anchors=SimulatedVendor().anchors)


def test_a_root_pinned_for_something_else_does_not_accept_it(
    vendor: SimulatedVendor, evidence: Evidence
) -> None:
    other = Anchors(
        tuple(Anchor(root.name, "amd", root.certificate) for root in vendor.anchors.roots)
    )
    with pytest.raises(EvidenceRefused, match="certificate-chain"):
        verify(evidence, at=NOW, anchors=other)


@pytest.mark.parametrize(
    "change",
    [
        lambda claims: claims.pop(6),
        lambda claims: claims.pop("signer"),
        lambda claims: claims.update(extra=1),
        lambda claims: claims.update({10: b"short"}),
        lambda claims: claims.update({263: 7}),
        lambda claims: claims.update({265: "tag:another"}),
        lambda claims: claims.update(simulated=False),
        lambda claims: claims.update(tee="snp"),
        lambda claims: claims.update(svn=-1),
        lambda claims: claims.update(svn=True),
        lambda claims: claims.update(svn=1 << 70),
        lambda claims: claims.update({6: "yesterday"}),
        lambda claims: claims.update(measurement=b"x" * 47),
        lambda claims: claims.update(product=b"bytes"),
        lambda claims: claims.update(layers=[]),
        lambda claims: claims.update(layers={"seccomp": 1}),
    ],
)
def test_signed_claims_of_another_form_are_refused(
    vendor: SimulatedVendor, change: Callable[[dict[Any, Any]], object]
) -> None:
    claims = vendor.claims()
    change(claims)
    with pytest.raises(EvidenceMalformed):
        verify(vendor.evidence(claims), at=NOW, anchors=vendor.anchors)


def test_a_signature_by_another_key_under_the_right_certificate_is_refused(
    vendor: SimulatedVendor,
) -> None:
    forged = SimulatedVendor().evidence(certificate=vendor.certificate)
    with pytest.raises(EvidenceRefused, match="signature"):
        verify(forged, at=NOW, anchors=vendor.anchors)


def test_a_chain_instead_of_a_certificate_is_refused(vendor: SimulatedVendor) -> None:
    protected, headers, payload, signature = cbor2.loads(vendor.evidence().data).value
    chain = {33: [headers[33], headers[33]]}
    with pytest.raises(EvidenceMalformed):
        process.parse(cbor2.dumps([protected, chain, payload, signature]))


def test_oversized_tokens_are_refused() -> None:
    with pytest.raises(EvidenceMalformed):
        process.parse(bytes(process.MAX_SIZE + 1))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_changed_token_is_accepted(data: st.DataObject) -> None:
    token = bytearray(_EVIDENCE.data)
    token[data.draw(st.integers(0, len(token) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(EvidenceRefused):
        verify(Evidence(_EVIDENCE.format, bytes(token)), at=NOW, anchors=_VENDOR.anchors)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.integers(0, 400).map(lambda n: _EVIDENCE.data[:n]))
def test_rubbish_is_refused(token: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        verify(Evidence(_EVIDENCE.format, token), at=NOW, anchors=_VENDOR.anchors)


_VENDOR = SimulatedVendor()
_EVIDENCE = _VENDOR.evidence()
