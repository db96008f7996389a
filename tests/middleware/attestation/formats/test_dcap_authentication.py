"""SGX and TDX: from the quote to Intel's root, and every way to cheat on the way."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes

from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.claims import TcbStatus
from tests.adversary.vendors.intel import PPID, Intel, p256, raw_point
from tests.adversary.vendors.intel_documents import (
    COMPONENTS,
    FMSPC,
    MONTH,
    PCE_SVN,
    qe_identity,
    revocation_list,
)
from tests.adversary.vendors.intel_trial import check, named, refused, replaced
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key

SECOND = datetime.timedelta(seconds=1)


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


def test_genuine_sgx_quote_passes_every_check(intel: Intel) -> None:
    claims = check(intel, intel.sgx_quote(), intel.pieces("sgx"))
    assert [one.name for one in claims.checks] == [
        "format",
        "certificate-chain",
        "root",
        "validity",
        "revocation",
        "qe-report.signature",
        "binding.attestation-key",
        "signature",
        *(
            f"{document}.{name}"
            for document in ("tcb-info", "qe-identity")
            for name in (
                "certificate-chain",
                "root",
                "validity",
                "revocation",
                "signature",
                "current",
            )
        ),
        "qe-identity",
        "tcb",
    ]
    assert not claims.not_checked
    assert claims.root.name == "fake-intel"


def test_sgx_claims_are_those_of_the_enclave(intel: Intel) -> None:
    claims = check(
        intel,
        intel.sgx_quote(mrenclave=b"e" * 32, mrsigner=b"s" * 32, config_id=b"c" * 64, config_svn=4),
        intel.pieces("sgx"),
    )
    assert (claims.format, claims.tee) == ("intel.sgx.quote", "sgx")
    assert claims.measurements == {"launch": b"e" * 32}
    assert (claims.signer, claims.product, claims.svn) == (b"s" * 32, "11", 3)
    assert (claims.debug, claims.simulated, claims.migratable) == (False, False, False)
    assert claims.report_data == b"nonce".ljust(64, b"\0")
    assert claims.platform["fmspc"] == FMSPC.hex()
    assert claims.platform["ppid"] == PPID.hex()
    assert claims.platform["platform_instance_id"] == bytes(range(16, 32)).hex()
    assert claims.details["config_id"] == (b"c" * 64).hex()
    assert claims.details["config_svn"] == 4
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert claims.tcb.components["sgx01"] == COMPONENTS[0]
    assert claims.tcb.components["pcesvn"] == PCE_SVN
    json.dumps(claims.to_dict())


@pytest.mark.parametrize("version", [3, 4, 5])
def test_sgx_quotes_of_all_versions_pass(intel: Intel, version: int) -> None:
    claims = check(intel, intel.sgx_quote(version), intel.pieces("sgx"))
    assert claims.details["quote_version"] == version


def test_tdx_claims_are_those_of_the_td(intel: Intel) -> None:
    quote = intel.td_quote(5, newer=True, mrowner=b"o" * 48, mrservicetd=b"v" * 48)
    claims = check(intel, quote, intel.pieces("tdx"), tee="tdx")
    assert claims.tee == "tdx"
    assert claims.measurements == {
        "launch": b"T" * 48,
        "rtmr0": b"0" * 48,
        "rtmr1": b"1" * 48,
        "rtmr2": b"2" * 48,
        "rtmr3": bytes(48),
        "mrseam": b"M" * 48,
        "mrsignerseam": bytes(48),
        "mrowner": b"o" * 48,
        "mrservicetd": b"v" * 48,
    }
    assert claims.details["td_attribute_flags"] == ("SEPT_VE_DISABLE",)
    assert claims.tcb.components["tdx03"] == 7
    assert (claims.debug, claims.migratable) == (False, False)
    json.dumps(claims.to_dict())


@pytest.mark.parametrize(
    ("attributes", "debug", "migratable"),
    [(1, True, False), (1 << 5, True, False), (1 << 29, False, True), (1 << 63, False, False)],
)
def test_debug_and_migration_of_a_td_show_in_the_claims(
    intel: Intel, attributes: int, debug: bool, migratable: bool
) -> None:
    quote = intel.td_quote(td_attributes=attributes)
    claims = check(intel, quote, intel.pieces("tdx"), tee="tdx")
    assert (claims.debug, claims.migratable) == (debug, migratable)


def test_debug_of_an_enclave_shows_in_the_claims(intel: Intel) -> None:
    quote = intel.sgx_quote(attributes=bytes([7]) + bytes(7) + b"\xe7" + bytes(7))
    assert check(intel, quote, intel.pieces("sgx")).debug is True


def test_quote_for_the_other_tee_is_refused(intel: Intel) -> None:
    with pytest.raises(EvidenceMalformed, match="SGX quote belongs"):
        check(intel, intel.td_quote(), intel.pieces("tdx"), tee="sgx")
    with pytest.raises(EvidenceMalformed, match="TDX quote belongs"):
        check(intel, intel.sgx_quote(), intel.pieces("sgx"), tee="tdx")


def test_tdreport_is_refused_with_the_failed_check(intel: Intel) -> None:
    with pytest.raises(EvidenceUnsupported) as caught:
        check(intel, bytes(1024), intel.pieces("tdx"), tee="tdx")
    assert [one.name for one in caught.value.checks] == ["format"]


# --- the platform's chain ------------------------------------------------------------------------


def test_right_signatures_under_another_root_are_refused(intel: Intel) -> None:
    other = Intel()
    refused(intel, other.sgx_quote(), other.pieces("sgx"), "certificate-chain")


def test_expired_pck_certificate_is_refused() -> None:
    old = Intel(pck_dates=(NOW - YEAR, NOW - SECOND))
    refused(old, old.sgx_quote(), old.pieces("sgx"), "validity")


def test_pck_certificate_of_the_future_is_refused() -> None:
    young = Intel(pck_dates=(NOW + SECOND, NOW + YEAR))
    refused(young, young.sgx_quote(), young.pieces("sgx"), "validity")


def test_expired_pck_ca_is_refused() -> None:
    old = Intel(ca_end=NOW - SECOND)
    refused(old, old.sgx_quote(), old.pieces("sgx"), "validity")


def test_revoked_pck_certificate_is_refused(intel: Intel) -> None:
    pieces = intel.pieces("sgx", revoked_by_ca=[intel.pck])
    refused(intel, intel.sgx_quote(), pieces, "revocation")


def test_revoked_pck_ca_is_refused(intel: Intel) -> None:
    pieces = intel.pieces("sgx", revoked_by_root=[intel.ca.certificate])
    refused(intel, intel.sgx_quote(), pieces, "revocation")


@pytest.mark.parametrize("which", ["root_crl", "ca_crl"])
def test_stale_revocation_list_is_refused(intel: Intel, which: str) -> None:
    authority = intel.root if which == "root_crl" else intel.ca
    stale = revocation_list(authority, start=NOW - 2 * MONTH, end=NOW - SECOND)
    pieces = replace(intel.pieces("sgx"), **{which: stale})
    refused(intel, intel.sgx_quote(), pieces, "revocation")


def test_revocation_without_lists_is_not_performed(intel: Intel) -> None:
    collateral = replaced(intel.pieces("sgx").collateral(), crls=())
    names = {one.name for one in check(intel, intel.sgx_quote(), collateral).not_checked}
    assert names == {"revocation", "tcb-info.revocation", "qe-identity.revocation"}


@pytest.mark.parametrize(
    "names",
    [
        {"pck_name": "Intel SGX Something"},
        {"ca_name": "Intel SGX TCB Signing CA"},
    ],
)
def test_certificates_for_other_purposes_do_not_certify_platforms(names: dict[str, str]) -> None:
    other = Intel(**names)
    last = refused(other, other.sgx_quote(), other.pieces("sgx"), "certificate-chain")
    assert "PCK" in last.expected


def test_certificate_without_sgx_extension_is_no_pck() -> None:
    other = Intel(extension=b"")
    refused(other, other.sgx_quote(), other.pieces("sgx"), "certificate-chain")


def test_pck_issued_by_the_root_itself_is_refused(intel: Intel) -> None:
    short = Intel(root=intel.root)
    extensions = [(one.value, one.critical) for one in short.pck.parsed.extensions]
    pck = intel.root.issue(
        "Intel SGX PCK Certificate", short.pck_key.public_key(), extensions=extensions
    )
    quote = short.sgx_quote(certification=(4, to_pem(pck)))
    refused(intel, quote, short.pieces("sgx"), "certificate-chain")


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_pck_certificate_may_come_as_collateral(intel: Intel, kind: int) -> None:
    quote = intel.sgx_quote(certification=(kind, named(kind)))
    given = intel.pieces("sgx").collateral()
    collateral = replaced(given, certificates=(intel.pck.der, *given.certificates))
    assert "binding.platform" in {one.name for one in check(intel, quote, collateral).checks}
    last = refused(intel, quote, given, "certificate-chain")
    assert "PCK certificate" in last.fix


@pytest.mark.parametrize("data", [named(1, ppid=b"p" * 16), named(1, pce_svn=1)])
def test_pck_certificate_of_another_platform_or_tcb_is_refused(intel: Intel, data: bytes) -> None:
    quote = intel.sgx_quote(certification=(1, data))
    given = intel.pieces("sgx").collateral()
    collateral = replaced(given, certificates=(intel.pck.der, *given.certificates))
    refused(intel, quote, collateral, "binding.platform")


# --- quoting enclave and quote -------------------------------------------------------------------


def test_qe_report_signed_by_another_key_is_refused(intel: Intel) -> None:
    refused(intel, intel.sgx_quote(qe_key=p256()), intel.pieces("sgx"), "qe-report.signature")


def test_qe_report_of_another_platform_is_refused(intel: Intel) -> None:
    other = Intel(root=intel.root)
    quote = other.sgx_quote(certification=(5, intel.pem_chain()))
    refused(intel, quote, intel.pieces("sgx"), "qe-report.signature")


def test_attestation_key_that_the_qe_does_not_vouch_for_is_refused(intel: Intel) -> None:
    mine = p256()
    quote = intel.sgx_quote(key=mine, point=raw_point(mine))
    refused(intel, quote, intel.pieces("sgx"), "binding.attestation-key")


def test_bytes_after_the_key_hash_in_the_qe_report_are_refused(intel: Intel) -> None:
    import hashlib

    digest = hashlib.sha256(raw_point(intel.attestation_key) + bytes(range(32))).digest()
    quote = intel.sgx_quote(qe={"report_data": digest + bytes(31) + b"\1"})
    refused(intel, quote, intel.pieces("sgx"), "binding.attestation-key")


def test_quote_signed_by_another_key_is_refused(intel: Intel) -> None:
    refused(intel, intel.sgx_quote(key=p256()), intel.pieces("sgx"), "signature")


@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_changed_body_is_refused(intel: Intel, tee: str) -> None:
    quote = bytearray(intel.sgx_quote() if tee == "sgx" else intel.td_quote())
    quote[48 + 100] ^= 1 if tee == "tdx" else 0
    quote[48 + 64] ^= 1
    refused(intel, bytes(quote), intel.pieces(tee), "signature", tee=tee)


def test_attestation_key_off_the_curve_is_refused(intel: Intel) -> None:
    import hashlib

    point = b"\1" * 64
    digest = hashlib.sha256(point + bytes(range(32))).digest()
    quote = intel.sgx_quote(point=point, qe={"report_data": digest + bytes(32)})
    with pytest.raises(EvidenceMalformed, match="no point"):
        check(intel, quote, intel.pieces("sgx"))


def test_signature_of_zeros_is_refused(intel: Intel) -> None:
    quote = bytearray(intel.sgx_quote())
    quote[436:500] = bytes(64)
    refused(intel, bytes(quote), intel.pieces("sgx"), "signature")


def test_qe_in_debug_mode_is_refused(intel: Intel) -> None:
    debug = bytes.fromhex("1700000000000000e700000000000000")
    identity = qe_identity("sgx", attributesMask="00" * 16, attributes="00" * 16)
    pieces = intel.pieces("sgx", identity=identity)
    refused(intel, intel.sgx_quote(qe={"attributes": debug}), pieces, "qe-identity")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"mrsigner": b"X" * 32}, "MRSIGNER"),
        ({"product_id": 1}, "ISVPRODID"),
        ({"miscselect": 1}, "MISCSELECT"),
        ({"attributes": bytes.fromhex("0500000000000000e700000000000000")}, "ATTRIBUTES"),
    ],
)
def test_enclave_that_is_no_quoting_enclave_of_intel_is_refused(
    intel: Intel, fields: Mapping[str, object], word: str
) -> None:
    quote = intel.sgx_quote(qe=fields)
    assert word in refused(intel, quote, intel.pieces("sgx"), "qe-identity").detail


def test_miscselect_is_compared_in_little_endian_order(intel: Intel) -> None:
    identity = qe_identity("sgx", miscselect="01000000")
    pieces = intel.pieces("sgx", identity=identity)
    assert check(intel, intel.sgx_quote(qe={"miscselect": 1}), pieces)


def test_root_that_is_not_named_intel_is_only_as_good_as_its_anchor() -> None:
    named_otherwise = Intel(root=Authority("Laboratory", p256(), digest=hashes.SHA256()))
    assert check(named_otherwise, named_otherwise.sgx_quote(), named_otherwise.pieces("sgx"))


def test_pck_of_another_curve_is_refused(intel: Intel) -> None:
    odd = Intel(root=intel.root)
    extensions = [(one.value, one.critical) for one in odd.pck.parsed.extensions]
    pck = odd.ca.issue("Intel SGX PCK Certificate", ec_key().public_key(), extensions=extensions)
    chain = b"".join(to_pem(one) for one in (pck, odd.ca.certificate))
    quote = odd.sgx_quote(certification=(5, chain))
    last = refused(intel, quote, odd.pieces("sgx"), "certificate-chain")
    assert "P-256" in last.detail


def test_junk_among_the_certificates_does_no_harm(intel: Intel) -> None:
    quote = intel.sgx_quote(certification=(1, named(1)))
    given = intel.pieces("sgx").collateral()
    junk = (b"", b"\x30\x00", intel.pck.der[:-1], intel.root.certificate.der)
    collateral = replaced(given, certificates=(*junk, intel.pck.der, *given.certificates))
    assert check(intel, quote, collateral)


def test_pck_beyond_the_first_certificates_is_not_looked_for(intel: Intel) -> None:
    quote = intel.sgx_quote(certification=(1, named(1)))
    given = intel.pieces("sgx").collateral()
    many = tuple(index.to_bytes(2, "big") for index in range(512))
    collateral = replaced(given, certificates=(*many, intel.pck.der, *given.certificates))
    refused(intel, quote, collateral, "certificate-chain")


def test_what_was_not_performed_stays_so_the_second_time(intel: Intel) -> None:
    collateral = replaced(intel.pieces("sgx").collateral(), crls=())
    first, second = (check(intel, intel.sgx_quote(), collateral) for _ in range(2))
    assert first.not_checked == second.not_checked != ()
    assert first.checks == second.checks


def test_pck_ca_that_the_root_did_not_issue_itself_is_refused(intel: Intel) -> None:
    between = Authority("Intel SGX Between", p256(), issuer=intel.root, digest=hashes.SHA256())
    below = Intel(root=between)
    last = refused(intel, below.sgx_quote(), below.pieces("sgx"), "certificate-chain")
    assert "Intel SGX Between" in last.found
