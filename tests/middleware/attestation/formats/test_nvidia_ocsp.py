"""OCSP responses as collateral: whose word counts, about whom, and when."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.ocsp import (
    OCSPCertStatus,
    OCSPResponseBuilder,
    OCSPResponseStatus,
    load_der_ocsp_response,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import EvidenceRefused
from secgear.middleware.attestation.checks import Check, Checks, Outcome
from secgear.middleware.attestation.formats.nvidia.ocsp import check_revocation
from tests.adversary.vendors.nvidia import DAY, Chip, appointed, respond
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key

ROOT = Authority("root")
ISSUER = Authority("issuer", issuer=ROOT)
LEAF = ISSUER.issue("leaf", ec_key().public_key())
PAIR = (LEAF, ISSUER.certificate)
REVOKED = OCSPCertStatus.REVOKED


def check(*responses: bytes, crls: tuple[bytes, ...] = (), at: datetime.datetime = NOW) -> Check:
    """How `revocation` comes out for LEAF."""
    checks = Checks()
    with contextlib.suppress(EvidenceRefused):
        check_revocation(PAIR, responses=responses, crls=crls, at=at, checks=checks, label="x.")
    (only,) = checks.done
    assert only.name == "x.revocation"
    return only


def test_a_good_response_of_the_issuer_passes() -> None:
    assert check(respond(LEAF, ISSUER)).outcome is Outcome.PASS


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384()])
@pytest.mark.parametrize("by_hash", [False, True])
def test_all_usual_ways_to_name_certificates_work(
    algorithm: hashes.HashAlgorithm, by_hash: bool
) -> None:
    response = respond(LEAF, ISSUER, algorithm=algorithm, by_hash=by_hash)
    assert check(response).outcome is Outcome.PASS


def test_nothing_is_not_performed_and_says_what_to_give() -> None:
    missing = check()
    assert missing.outcome is Outcome.NOT_PERFORMED
    assert "OCSP" in missing.fix


def test_a_revoked_certificate_is_refused_with_the_reason() -> None:
    reason = x509.ReasonFlags.key_compromise
    failed = check(respond(LEAF, ISSUER, status=REVOKED, reason=reason))
    assert failed.outcome is Outcome.FAIL
    assert "keyCompromise" in failed.detail
    assert check(respond(LEAF, ISSUER, status=REVOKED)).outcome is Outcome.FAIL


def test_a_certificate_on_hold_is_refused() -> None:
    failed = check(respond(LEAF, ISSUER, status=REVOKED, reason=x509.ReasonFlags.certificate_hold))
    assert failed.outcome is Outcome.FAIL
    assert "on hold" in failed.detail


def test_a_certificate_the_service_does_not_know_is_refused() -> None:
    failed = check(respond(LEAF, ISSUER, status=OCSPCertStatus.UNKNOWN))
    assert failed.outcome is Outcome.FAIL


def test_an_old_response_is_stale_and_a_future_one_too() -> None:
    old = respond(LEAF, ISSUER, start=NOW - 3 * DAY, end=NOW - DAY)
    assert "not current" in check(old).detail
    assert check(old, at=NOW - 2 * DAY).outcome is Outcome.PASS
    assert check(respond(LEAF, ISSUER, start=NOW + DAY, end=NOW + 2 * DAY)).outcome is Outcome.FAIL


def test_a_response_without_an_end_holds_for_its_moment_only() -> None:
    response = respond(LEAF, ISSUER, start=NOW, end=None)
    assert check(response).outcome is Outcome.PASS
    assert check(response, at=NOW + DAY).outcome is Outcome.FAIL


def test_a_good_response_does_not_hide_a_revocation() -> None:
    good = respond(LEAF, ISSUER)
    assert check(good, respond(LEAF, ISSUER, status=REVOKED)).outcome is Outcome.FAIL
    newer = respond(LEAF, ISSUER, status=REVOKED, start=NOW - DAY / 2, end=NOW - DAY / 4)
    assert check(good, newer).outcome is Outcome.FAIL


def test_a_hold_that_ended_is_over() -> None:
    """An old response says what was; a newer one says what is."""
    old = respond(LEAF, ISSUER, status=REVOKED, start=NOW - 9 * DAY, end=NOW - 8 * DAY)
    assert check(old, respond(LEAF, ISSUER)).outcome is Outcome.PASS
    assert check(old).outcome is Outcome.FAIL


def test_a_response_about_another_certificate_says_nothing() -> None:
    other = ISSUER.issue("leaf", ec_key().public_key())
    assert check(respond(other, ISSUER)).outcome is Outcome.NOT_PERFORMED


def test_a_response_about_the_serial_number_of_another_issuer_says_nothing() -> None:
    """Chips are numbered by their makers: the same number may be another's."""
    twin = Authority("issuer", issuer=ROOT)
    response = respond(LEAF, ISSUER, named_issuer=twin)
    assert check(response).outcome is Outcome.NOT_PERFORMED


def test_a_response_that_somebody_else_signed_says_nothing() -> None:
    impostor = Authority("issuer", issuer=ROOT)
    forged = respond(LEAF, impostor, named_issuer=ISSUER)
    assert check(forged).outcome is Outcome.NOT_PERFORMED
    revoked = respond(LEAF, impostor, named_issuer=ISSUER, status=REVOKED)
    assert check(revoked).outcome is Outcome.NOT_PERFORMED


def test_a_responder_that_the_issuer_appointed_may_answer() -> None:
    response = respond(LEAF, ISSUER, responder=appointed(ISSUER))
    assert check(response).outcome is Outcome.PASS
    assert check(respond(LEAF, ISSUER, responder=appointed(ISSUER), by_hash=True)).outcome is (
        Outcome.PASS
    )


def test_a_responder_without_the_purpose_may_not() -> None:
    response = respond(LEAF, ISSUER, responder=appointed(ISSUER, purpose=False))
    assert check(response).outcome is Outcome.NOT_PERFORMED


@pytest.mark.parametrize("issuer", [ROOT, Authority("issuer", issuer=ROOT), Authority("other")])
def test_a_responder_that_somebody_else_appointed_may_not(issuer: Authority) -> None:
    response = respond(LEAF, ISSUER, responder=appointed(issuer))
    assert check(response).outcome is Outcome.NOT_PERFORMED


def test_a_responder_whose_certificate_is_not_there_may_not() -> None:
    response = respond(LEAF, ISSUER, responder=appointed(ISSUER), attach=False)
    assert check(response).outcome is Outcome.NOT_PERFORMED


def test_a_response_ends_with_its_responder() -> None:
    responder = appointed(ISSUER, end=NOW - DAY / 2)
    response = respond(LEAF, ISSUER, responder=responder)
    assert check(response).outcome is Outcome.FAIL


def test_an_expired_responder_of_long_ago_is_refused() -> None:
    responder = appointed(ISSUER, end=NOW - YEAR / 4)
    assert check(respond(LEAF, ISSUER, responder=responder)).outcome is Outcome.FAIL


RUBBISH = [bytes(64 << 11), b"", b"\x30\x00", b"not DER", b"\x30\x03\x0a\x01\x06"]


@pytest.mark.parametrize("der", RUBBISH)
def test_a_response_that_can_not_be_read_is_refused(der: bytes) -> None:
    assert check(respond(LEAF, ISSUER), der).outcome is Outcome.FAIL


def test_a_response_that_says_try_later_is_refused() -> None:
    response = OCSPResponseBuilder.build_unsuccessful(OCSPResponseStatus.TRY_LATER)
    assert "TRY_LATER" in check(response.public_bytes(Encoding.DER)).detail


def test_a_list_of_the_issuer_serves_as_well() -> None:
    assert check(crls=(ISSUER.revoke(),)).outcome is Outcome.PASS
    assert check(crls=(ISSUER.revoke(LEAF),)).outcome is Outcome.FAIL
    assert check(crls=(ROOT.revoke(),)).outcome is Outcome.NOT_PERFORMED


def test_neither_list_nor_response_hides_what_the_other_knows() -> None:
    assert check(respond(LEAF, ISSUER), crls=(ISSUER.revoke(LEAF),)).outcome is Outcome.FAIL
    revoked = respond(LEAF, ISSUER, status=REVOKED)
    assert check(revoked, crls=(ISSUER.revoke(),)).outcome is Outcome.FAIL


def test_each_certificate_but_the_root_is_looked_up() -> None:
    chip = Chip()
    certificates = tuple(issuer.certificate for issuer in chip.issuers)
    responses = chip.responses()
    for missing in range(3):
        checks = Checks()
        some = tuple(item for at, item in enumerate(responses) if at != missing)
        check_revocation(certificates, responses=some, crls=(), at=NOW, checks=checks)
        assert checks.done[0].outcome is Outcome.NOT_PERFORMED
        assert certificates[missing].subject in checks.done[0].detail
    checks = Checks()
    check_revocation(certificates, responses=responses, crls=(), at=NOW, checks=checks)
    assert checks.done[0].outcome is Outcome.PASS


def test_an_issuer_with_rsa_has_answers_too_but_none_that_count() -> None:
    """NVIDIA signs with EC only; other responses are passed over."""
    issuer = Authority("rsa", key=rsa.generate_private_key(65537, 2048), issuer=ROOT)
    leaf = issuer.issue("leaf", ec_key().public_key())
    checks = Checks()
    response = respond(leaf, issuer)
    check_revocation(
        (leaf, issuer.certificate), responses=(response,), crls=(), at=NOW, checks=checks
    )
    assert checks.done[0].outcome is Outcome.NOT_PERFORMED


GOOD = respond(LEAF, ISSUER, responder=appointed(ISSUER))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_response_never_passes_unless_it_says_the_same(at: int, flip: int) -> None:
    """A bit of the encoding around what is signed may differ; what is signed may not."""
    changed = bytearray(GOOD)
    changed[at] ^= flip
    if check(bytes(changed)).outcome is Outcome.PASS:
        signed = load_der_ocsp_response(GOOD).tbs_response_bytes
        assert load_der_ocsp_response(bytes(changed)).tbs_response_bytes == signed


def test_names_of_another_kind_of_string_are_a_bad_response() -> None:
    """The parser reads names late, and complains about bit strings in its own way."""
    changed = [at for at, tag in enumerate(GOOD) if tag == 0x0C]
    assert changed
    for at in changed:
        check(GOOD[:at] + b"\x03" + GOOD[at + 1 :])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_random_responses_never_crash(der: bytes) -> None:
    assert check(der).outcome is Outcome.FAIL
