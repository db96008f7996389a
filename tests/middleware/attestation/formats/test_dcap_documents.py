"""Intel's signed documents: TCB information and QE identities that are wrong, old or forged."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceRefused
from secgear.middleware.attestation.claims import TcbStatus
from secgear.middleware.attestation.collateral import Document
from secgear.middleware.attestation.formats.dcap.exchange import collateral_from_dcap_qvl
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.intel import Intel, p256
from tests.adversary.vendors.intel_documents import (
    COMPONENTS,
    FMSPC,
    iso,
    qe_identity,
    tcb_info,
)
from tests.adversary.vendors.intel_trial import check, named, refused, replaced
from tests.adversary.vendors.pki import NOW, YEAR, ec_key

SECOND = datetime.timedelta(seconds=1)


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


def test_missing_documents_are_not_performed_and_say_what_to_fetch(intel: Intel) -> None:
    collateral = replaced(intel.pieces("sgx").collateral(), documents=())
    claims = check(intel, intel.sgx_quote(), collateral)
    fixes = {one.name: one.fix for one in claims.not_checked}
    assert set(fixes) == {"tcb", "qe-identity"}
    assert f"FMSPC {FMSPC.hex()}" in fixes["tcb"]
    assert claims.tcb.status is TcbStatus.NOT_ASSESSED
    assert claims.tcb.components["sgx01"] == COMPONENTS[0]


@pytest.mark.parametrize("keep", [0, 1])
def test_one_document_alone_is_judged_alone(intel: Intel, keep: int) -> None:
    given = intel.pieces("sgx").collateral()
    claims = check(intel, intel.sgx_quote(), replaced(given, documents=given.documents[keep:][:1]))
    assert [one.name for one in claims.not_checked] == [("qe-identity", "tcb")[keep]]


@pytest.mark.parametrize(
    "info",
    [
        tcb_info("sgx", fmspc="00a067110000"),
        tcb_info("sgx", pceId="0100"),
        tcb_info("tdx"),
    ],
)
def test_tcb_information_of_another_platform_is_refused(
    intel: Intel, info: Mapping[str, object]
) -> None:
    last = refused(intel, intel.sgx_quote(), intel.pieces("sgx", info), "tcb")
    assert FMSPC.hex() in last.expected


def test_identity_of_another_quoting_enclave_is_refused(intel: Intel) -> None:
    pieces = intel.pieces("sgx", identity=qe_identity("tdx"))
    refused(intel, intel.sgx_quote(), pieces, "qe-identity")


@pytest.mark.parametrize("document", ["tcb", "qe"])
def test_changed_document_is_refused(intel: Intel, document: str) -> None:
    pieces = intel.pieces("sgx")
    body = getattr(pieces, f"{document}_body").replace(b'"UpToDate"', b'"UpToDate" ')
    label = {"tcb": "tcb-info", "qe": "qe-identity"}[document]
    pieces = replace(pieces, **{f"{document}_body": body})
    refused(intel, intel.sgx_quote(), pieces, f"{label}.signature")


@pytest.mark.parametrize("document", ["info", "identity"])
@pytest.mark.parametrize(
    ("field", "when"),
    [("nextUpdate", NOW - SECOND), ("issueDate", NOW + SECOND)],
)
def test_document_that_is_not_current_is_refused(
    intel: Intel, document: str, field: str, when: datetime.datetime
) -> None:
    make = tcb_info if document == "info" else qe_identity
    pieces = intel.pieces("sgx", **{document: make("sgx", **{field: iso(when)})})
    label = "tcb-info" if document == "info" else "qe-identity"
    refused(intel, intel.sgx_quote(), pieces, f"{label}.current")


def test_of_two_documents_the_one_that_is_current_counts(intel: Intel) -> None:
    current = intel.pieces("sgx")
    stale = intel.pieces("sgx", tcb_info("sgx", nextUpdate=iso(NOW - SECOND)))
    future = intel.pieces("sgx", tcb_info("sgx", issueDate=iso(NOW + SECOND)))
    together = stale.collateral().merged(future.collateral(), current.collateral())
    assert check(intel, intel.sgx_quote(), together).tcb.status is TcbStatus.UP_TO_DATE


def test_documents_for_other_platforms_beside_the_right_one_do_no_harm(intel: Intel) -> None:
    other = intel.pieces("tdx", tcb_info("tdx", fmspc="00a067110000")).collateral()
    both = other.merged(intel.pieces("sgx").collateral())
    assert check(intel, intel.sgx_quote(), both).tcb.status is TcbStatus.UP_TO_DATE


def test_documents_signed_by_a_revoked_signer_are_refused(intel: Intel) -> None:
    pieces = intel.pieces("sgx", revoked_by_root=[intel.signer])
    refused(intel, intel.sgx_quote(), pieces, "tcb-info.revocation")


def test_documents_of_an_expired_signer_are_refused() -> None:
    old = Intel(signer_dates=(NOW - YEAR, NOW - SECOND))
    refused(old, old.sgx_quote(), old.pieces("sgx"), "tcb-info.validity")


def test_documents_signed_by_someone_else_are_refused(intel: Intel) -> None:
    pieces = intel.pieces("sgx", key=p256())
    refused(intel, intel.sgx_quote(), pieces, "tcb-info.signature")


def test_platforms_do_not_sign_their_own_tcb_information(intel: Intel) -> None:
    pieces = intel.pieces("sgx", key=intel.pck_key)
    pieces = replace(pieces, signer=(intel.pck, intel.ca.certificate))
    refused(intel, intel.sgx_quote(), pieces, "tcb-info.certificate-chain")


def test_a_pck_ca_does_not_appoint_signers(intel: Intel) -> None:
    ca = intel.ca
    key = p256()
    signer = ca.issue("Intel SGX TCB Signing", key.public_key())
    pieces = replace(intel.pieces("sgx", key=key), signer=(signer, ca.certificate))
    last = refused(intel, intel.sgx_quote(), pieces, "tcb-info.certificate-chain")
    assert "root itself" in last.detail


def test_another_trusted_root_does_not_speak_about_this_platform(intel: Intel) -> None:
    laboratory = Intel()
    anchors = intel.anchors.adding(laboratory.root.anchor("laboratory", "intel"))
    mine, theirs = intel.pieces("sgx").collateral(), laboratory.pieces("sgx").collateral()
    mixed = replaced(mine.merged(theirs), documents=theirs.documents)
    with pytest.raises(EvidenceRefused) as caught:
        verify(
            Evidence("intel.sgx.quote", intel.sgx_quote()),
            at=NOW,
            collateral=mixed,
            anchors=anchors,
        )
    assert caught.value.checks[-1].name == "tcb-info.certificate-chain"


def test_signer_may_come_among_the_certificates(intel: Intel) -> None:
    given = intel.pieces("sgx").collateral()
    bare = tuple(type(one)(one.kind, one.data) for one in given.documents)
    with_signer = replaced(
        given, documents=bare, certificates=(intel.signer.der, *given.certificates)
    )
    assert check(intel, intel.sgx_quote(), with_signer)
    without = replaced(given, documents=bare)
    refused(intel, intel.sgx_quote(), without, "tcb-info.certificate-chain")


def _body(**changes: object) -> bytes:
    return json.dumps(tcb_info("sgx", **changes)).encode()


@pytest.mark.parametrize(
    "body",
    [
        _body().replace(b'"version": 3', b'"version": 3, "version": 3'),
        _body().replace(b'"svn": 7', b'"svn": 0, "svn": 7', 1),
        _body(version=1),
        _body(version=4),
        _body(tcbType=1),
        _body(fmspc="50806f0000"),
        _body(fmspc="zz806f000000"),
        _body(id="TPM"),
        _body(id=...),
        _body(tcbLevels=[]),
        _body(issueDate="yesterday"),
        _body(issueDate="2026-05-20T00:00:00"),
        _body().replace(b'"svn": 7', b'"svn": 256'),
        _body().replace(b'"svn": 7', b'"svn": -1'),
        _body().replace(b'"svn": 7', b'"svn": 7.0'),
        _body().replace(b'"svn": 7', b'"svn": NaN'),
        _body().replace(b'{"svn": 0}, ', b"", 1),
        _body().replace(b'"UpToDate"', b'"NotAssessed"'),
        _body().replace(b'"UpToDate"', b'"TDRelaunchAdvised"'),
        _body().replace(b'"pcesvn": 13', b'"pcesvn": null'),
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b"9" * 5_000,
        b"\xff\xfe",
        b'"text"',
    ],
)
def test_tcb_information_of_broken_form_is_refused(intel: Intel, body: bytes) -> None:
    refused(intel, intel.sgx_quote(), intel.pieces("sgx", body), "tcb")


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-1] + b',"tcbInfo":{}}',
        lambda data: data[:-1] + b',"\\u0074cbInfo":{}}',
        lambda data: data[:-1] + b',"other":1}',
        lambda data: data.replace(b'"signature":"', b'"signature":"00'),
        lambda data: data.replace(b'"signature":"', b'"signature":"zz'),
        lambda data: data[: data.index(b',"signature"')] + b',"signature":7}',
        lambda data: data[: data.index(b',"signature"')] + b"}",
        lambda data: data + b"{}",
        lambda data: b"[" + data + b"]",
        lambda data: data + b" " * (1 << 20),
        lambda _: b"",
    ],
)
def test_documents_of_broken_frame_are_refused(
    intel: Intel, change: Callable[[bytes], bytes]
) -> None:
    given = intel.pieces("sgx").collateral()
    document = given.documents[0]
    broken = type(document)(document.kind, change(document.data), chain=document.chain)
    collateral = replaced(given, documents=(broken, given.documents[1]))
    refused(intel, intel.sgx_quote(), collateral, "tcb")


def test_space_around_the_signed_object_does_not_matter(intel: Intel) -> None:
    given = intel.pieces("sgx").collateral()
    document = given.documents[0]
    spaced = document.data.replace(b'{"tcbInfo":', b' {\n "tcbInfo" : ', 1) + b"\n"
    changed = type(document)(document.kind, spaced, chain=document.chain)
    collateral = replaced(given, documents=(changed, given.documents[1]))
    assert check(intel, intel.sgx_quote(), collateral)


@pytest.mark.parametrize("version", [1, 3])
def test_qe_identity_of_an_unknown_version_is_refused(intel: Intel, version: int) -> None:
    pieces = intel.pieces("sgx", identity=qe_identity("sgx", version=version))
    refused(intel, intel.sgx_quote(), pieces, "qe-identity")


def test_qe_identity_of_wrong_sizes_is_refused(intel: Intel) -> None:
    for field, value in (("mrsigner", "00"), ("attributes", "00"), ("miscselectMask", "")):
        pieces = intel.pieces("sgx", identity=qe_identity("sgx", **{field: value}))
        refused(intel, intel.sgx_quote(), pieces, "qe-identity")


# --- dcap-qvl's files ----------------------------------------------------------------------------


def test_collateral_file_of_dcap_qvl_is_read(intel: Intel) -> None:
    pieces = intel.pieces("tdx")
    collateral = collateral_from_dcap_qvl(json.dumps(pieces.dcap_qvl()).encode())
    assert [one.name for one in collateral.documents] == [f"{FMSPC.hex()}/tdx", "tdx"]
    assert check(intel, intel.td_quote(), collateral, tee="tdx").tcb.status is TcbStatus.UP_TO_DATE


def test_pck_chain_in_a_file_of_dcap_qvl_is_used(intel: Intel) -> None:
    file = intel.pieces("sgx").dcap_qvl() | {"pck_certificate_chain": intel.pem_chain().decode()}
    collateral = collateral_from_dcap_qvl(json.dumps(file).encode())
    assert check(intel, intel.sgx_quote(certification=(1, named(1))), collateral)


@pytest.mark.parametrize(
    "change",
    [
        {"tcb_info": "{}"},
        {"tcb_info": "{"},
        {"tcb_info": '{},"signature":"00"'},
        {"root_ca_crl": "zz"},
        {"tcb_info_issuer_chain": "none"},
        {"qe_identity_signature": "00"},
        {"pck_crl": 1},
    ],
)
def test_broken_files_of_dcap_qvl_are_refused(intel: Intel, change: dict[str, object]) -> None:
    file = json.dumps(intel.pieces("sgx").dcap_qvl() | change).encode()
    with pytest.raises(CollateralError, match="dcap-qvl"):
        collateral_from_dcap_qvl(file)


def test_signer_of_another_curve_is_refused(intel: Intel) -> None:
    signer = intel.root.issue("Intel SGX TCB Signing", ec_key().public_key())
    pieces = replace(intel.pieces("sgx"), signer=(signer, intel.root.certificate))
    refused(intel, intel.sgx_quote(), pieces, "tcb-info.signature")


def test_junk_in_the_place_of_the_signer_is_refused(intel: Intel) -> None:
    given = intel.pieces("sgx").collateral()
    for chain in ((b"\x30\x00",), (intel.root.certificate.der,)):
        documents = tuple(Document(one.kind, one.data, chain=chain) for one in given.documents)
        collateral = replaced(given, documents=documents)
        refused(intel, intel.sgx_quote(), collateral, "tcb-info.certificate-chain")


def test_only_so_many_signers_are_tried(intel: Intel) -> None:
    given = intel.pieces("sgx").collateral()
    key = p256().public_key()
    others = tuple(intel.root.issue("Intel SGX TCB Signing", key).der for _ in range(16))
    documents = tuple(Document(one.kind, one.data) for one in given.documents)
    few = replaced(
        given,
        documents=documents,
        certificates=(*others[:15], intel.signer.der, *given.certificates),
    )
    assert check(intel, intel.sgx_quote(), few)
    many = replaced(few, certificates=(*others, intel.signer.der))
    refused(intel, intel.sgx_quote(), many, "tcb-info.signature")


@pytest.mark.parametrize(
    "changes",
    [
        {"tdxModule": ...},
        {"tdxModule": {"mrsigner": "00", "attributes": "00" * 8, "attributesMask": "ff" * 8}},
        {"tdxModule": {"mrsigner": "00" * 48, "attributes": "00", "attributesMask": "ff"}},
    ],
)
def test_tdx_tcb_information_without_a_sound_module_is_refused(
    intel: Intel, changes: Mapping[str, object]
) -> None:
    pieces = intel.pieces("tdx", tcb_info("tdx", **changes))
    refused(intel, intel.td_quote(), pieces, "tcb", tee="tdx")
