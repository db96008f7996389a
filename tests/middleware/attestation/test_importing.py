"""Collateral is taken in the forms that people have it, and in no other."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import CollateralError
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.importing import import_collateral
from tests.adversary.vendors.pki import Authority

ROOT = Authority("root")
CERTIFICATE, CRL = ROOT.certificate.der, ROOT.revoke()
CRL_PEM = b"-----BEGIN X509 CRL-----\n" + base64.encodebytes(CRL) + b"-----END X509 CRL-----\n"


def test_der_is_told_apart() -> None:
    assert import_collateral(CERTIFICATE, "f") == Collateral(certificates=(CERTIFICATE,))
    assert import_collateral(CRL, "f") == Collateral(crls=(CRL,))


def test_pem_may_hold_several() -> None:
    pem = b"some text\n" + to_pem(ROOT.certificate) + CRL_PEM + to_pem(ROOT.certificate)
    found = import_collateral(pem, "f")
    assert found == Collateral(certificates=(CERTIFICATE, CERTIFICATE), crls=(CRL,))


def test_our_own_form_is_read() -> None:
    collateral = Collateral(certificates=(CERTIFICATE,), crls=(CRL,))
    assert import_collateral(collateral.to_json(), "f") == collateral


def test_intels_documents_keep_their_bytes() -> None:
    for member, kind in (("tcbInfo", "intel.tcb-info"), ("enclaveIdentity", "intel.qe-identity")):
        data = json.dumps({member: {"version": 3}, "signature": "00"}).encode()
        (document,) = import_collateral(data, "f").documents
        assert (document.kind, document.data) == (kind, data)


def test_a_reference_manifest_is_known_by_its_tag() -> None:
    xml = b'<?xml version="1.0"?><SoftwareIdentity name="x" tagId="NV_GPU_DRIVER_GH100_550"/>'
    (document,) = import_collateral(xml, "f").documents
    assert (document.kind, document.name) == ("nvidia.rim", "NV_GPU_DRIVER_GH100_550")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"x": 1}',
        b"<html/>",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nAAAA",
    ],
)
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(CollateralError, match=r"file\.ext"):
        import_collateral(data, "file.ext")


def test_the_collateral_of_dcap_qvl_is_read(vector) -> None:  # type: ignore[no-untyped-def]
    found = import_collateral(vector("tdx/dcapqvl-tdx_quote_collateral.json"), "f")
    assert {document.kind for document in found.documents} == {
        "intel.tcb-info",
        "intel.qe-identity",
    }
    assert len(found.crls) == 2


@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda text: b"{" + text.encode()))
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(CollateralError):
        import_collateral(data, "f")
