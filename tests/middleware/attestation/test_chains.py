"""Chains to pinned roots: what passes, and by which check each forgery falls."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.certificates import (
    Certificate,
    load_certificate,
    load_pem,
    to_pem,
)
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.checks import Check, Checks, Outcome
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key, opaque

ROOT = Authority("root")
MIDDLE = Authority("middle", issuer=ROOT)
LEAF_KEY = ec_key()
LEAF = MIDDLE.issue("leaf", LEAF_KEY.public_key())
ROOT_LIST, MIDDLE_LIST = ROOT.revoke(), MIDDLE.revoke()


def walk(
    leaf: Certificate = LEAF,
    between: tuple[Certificate | bytes, ...] = (MIDDLE.certificate,),
    roots: tuple[Authority, ...] = (ROOT,),
    crls: tuple[bytes, ...] = (ROOT_LIST, MIDDLE_LIST),
    at: datetime.datetime = NOW,
) -> tuple[Path, tuple[Check, ...]]:
    checks = Checks()
    anchors = [root.anchor(f"fake-{root.name}", "fake") for root in roots]
    return check_path(leaf, between, anchors, at=at, crls=crls, checks=checks), checks.done


def refused(check: str, *args: object, **kwargs: object) -> EvidenceRefused:
    with pytest.raises(EvidenceRefused) as caught:
        walk(*args, **kwargs)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


def test_a_genuine_chain_passes_every_check() -> None:
    path, checks = walk()
    assert [check.name for check in checks] == [
        "certificate-chain",
        "root",
        "validity",
        "revocation",
    ]
    assert {check.outcome for check in checks} == {Outcome.PASS}
    assert path.leaf == LEAF
    assert path.certificates == (LEAF, MIDDLE.certificate, ROOT.certificate)
    assert path.root.name == "fake-root"
    assert path.root.fingerprint == ROOT.certificate.fingerprint
    assert not path.root.builtin


def test_order_and_rubbish_among_the_intermediates_do_not_matter() -> None:
    other = Authority("other")
    path, _ = walk(between=(b"rubbish", other.certificate, ROOT.certificate, MIDDLE.certificate))
    assert path.certificates == (LEAF, MIDDLE.certificate, ROOT.certificate)


def test_a_root_that_is_not_pinned_is_worth_nothing() -> None:
    refused("certificate-chain", roots=(Authority("root"),))
    refused("certificate-chain", roots=())


def test_a_root_of_the_same_name_and_another_key_is_refused() -> None:
    impostor = Authority("root")
    forged = Authority("middle", issuer=impostor)
    leaf = forged.issue("leaf", LEAF_KEY.public_key())
    error = refused("certificate-chain", leaf, (forged.certificate, impostor.certificate))
    assert "signature does not verify" in str(error)


def test_a_missing_intermediate_is_named() -> None:
    assert "CN=leaf" in str(refused("certificate-chain", between=()))


@pytest.mark.parametrize("at", [NOW - YEAR, NOW + YEAR], ids=["before", "after"])
def test_certificates_outside_their_validity_are_refused(at: datetime.datetime) -> None:
    error = refused("validity", at=at)
    assert at.isoformat() in str(error)


def test_an_expired_intermediate_is_refused() -> None:
    old = Authority("old", issuer=ROOT, end=NOW - YEAR / 100)
    refused("validity", old.issue("leaf", LEAF_KEY.public_key()), (old.certificate,))


def test_a_leaf_may_not_issue() -> None:
    leaf = Authority("leaf", issuer=MIDDLE, ca=False)
    below = leaf.issue("below", LEAF_KEY.public_key())
    error = refused("certificate-chain", below, (leaf.certificate, MIDDLE.certificate))
    assert "no certification authority" in str(error)


def test_a_certificate_without_basic_constraints_may_not_issue() -> None:
    key = ec_key()
    bare = Authority("bare")
    bare.key = key
    bare.certificate = ROOT.issue("bare", key.public_key())
    below = bare.issue("below", LEAF_KEY.public_key())
    refused("certificate-chain", below, (bare.certificate,))


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_renewed_authority_the_certificate_that_is_valid_counts(order: int) -> None:
    old = Authority("middle", key=MIDDLE.key, issuer=ROOT, end=NOW - YEAR / 12)
    between = (old.certificate, MIDDLE.certificate)[::order]
    path, _ = walk(between=between)
    assert path.certificates == (LEAF, MIDDLE.certificate, ROOT.certificate)
    then = NOW - YEAR / 10
    walk(between=between, at=then, crls=(_lists_of(ROOT, then), _lists_of(MIDDLE, then)))  # either


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_renewed_root_the_one_that_is_valid_counts(order: int) -> None:
    old = Authority("root", key=ROOT.key, end=NOW - YEAR / 12)
    path, _ = walk(roots=(old, ROOT)[::order])
    assert path.root.fingerprint == ROOT.certificate.fingerprint


def _lists_of(authority: Authority, at: datetime.datetime) -> bytes:
    return authority.revoke(start=at - YEAR / 100, end=at + YEAR / 100)


def test_the_path_length_is_kept() -> None:
    short = Authority("short", issuer=ROOT, path_length=0)
    deep = Authority("deep", issuer=short)
    leaf = deep.issue("leaf", LEAF_KEY.public_key())
    error = refused("certificate-chain", leaf, (deep.certificate, short.certificate))
    assert "more than 0 authorities" in str(error)
    direct = short.issue("leaf", LEAF_KEY.public_key())
    walk(direct, (short.certificate,), crls=(ROOT_LIST, short.revoke()))


def test_a_key_that_may_not_sign_certificates_does_not() -> None:
    key = ec_key()
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    signer = Authority("signer")
    signer.key = key
    signer.certificate = ROOT.issue(
        "signer",
        key.public_key(),
        extensions=[(x509.BasicConstraints(True, None), True), (usage, True)],
    )
    leaf = signer.issue("leaf", LEAF_KEY.public_key())
    assert "may not sign" in str(refused("certificate-chain", leaf, (signer.certificate,)))


def test_a_critical_extension_that_nobody_understands_is_refused() -> None:
    leaf = MIDDLE.issue(
        "leaf", LEAF_KEY.public_key(), extensions=[(opaque("1.2.3.4", b"\x05\x00"), True)]
    )
    assert "1.2.3.4" in str(refused("certificate-chain", leaf))
    harmless = MIDDLE.issue(
        "leaf", LEAF_KEY.public_key(), extensions=[(opaque("1.2.3.4", b"\x05\x00"), False)]
    )
    path, _ = walk(harmless)
    assert path.leaf.extension("1.2.3.4") == b"\x05\x00"


def test_a_weak_digest_is_refused() -> None:
    weak = Authority("weak", issuer=ROOT, digest=hashes.SHA224())
    leaf = weak.issue("leaf", LEAF_KEY.public_key())
    assert "sha224" in str(refused("certificate-chain", leaf, (weak.certificate,)))


def test_rsa_pss_chains_as_amd_makes_them_pass() -> None:
    root = Authority("pss", key=rsa.generate_private_key(65537, 2048), pss=True)
    leaf = root.issue("leaf", LEAF_KEY.public_key())
    walk(leaf, (), (root,), (root.revoke(),))


def test_small_rsa_keys_are_refused() -> None:
    root = Authority("small", key=rsa.generate_private_key(65537, 1024))
    leaf = root.issue("leaf", LEAF_KEY.public_key())
    with pytest.raises(EvidenceMalformed):
        walk(leaf, (), (root,))


def test_revoked_certificates_are_refused() -> None:
    refused("revocation", crls=(ROOT_LIST, MIDDLE.revoke(LEAF)))
    refused("revocation", crls=(ROOT.revoke(MIDDLE.certificate), MIDDLE_LIST))


def test_a_root_that_withdraws_itself_is_refused() -> None:
    refused("revocation", crls=(ROOT.revoke(ROOT.certificate), MIDDLE_LIST))


def test_an_older_list_that_revokes_is_not_outdone_by_a_newer_that_does_not() -> None:
    old = MIDDLE.revoke(LEAF, start=NOW - YEAR, end=NOW - YEAR / 2)
    refused("revocation", crls=(ROOT_LIST, MIDDLE_LIST, old))


def test_a_missing_list_is_said_and_not_passed() -> None:
    _, checks = walk(crls=(MIDDLE_LIST,))
    last = checks[-1]
    assert (last.name, last.outcome) == ("revocation", Outcome.NOT_PERFORMED)
    assert "CN=root" in last.detail
    assert last.fix


def test_a_stale_list_is_refused() -> None:
    stale = MIDDLE.revoke(start=NOW - YEAR, end=NOW - YEAR / 2)
    assert "not current" in str(refused("revocation", crls=(ROOT_LIST, stale)))


def test_a_list_by_another_key_under_the_issuers_name_does_not_count() -> None:
    forged = MIDDLE.revoke(key=ec_key())
    _, checks = walk(crls=(ROOT_LIST, forged))
    assert checks[-1].outcome is Outcome.NOT_PERFORMED


def test_a_list_from_the_future_does_not_count() -> None:
    future = MIDDLE.revoke(start=NOW + YEAR / 12, end=NOW + YEAR)
    refused("revocation", crls=(ROOT_LIST, future))


@pytest.mark.parametrize(
    "extension",
    [
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(
            full_name=None,
            relative_name=None,
            only_contains_user_certs=False,
            only_contains_ca_certs=True,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        ),
        opaque("1.2.3.4", b"\x05\x00"),
    ],
    ids=["delta", "partitioned", "unknown"],
)
def test_a_list_that_is_not_the_whole_list_is_refused(extension: x509.ExtensionType) -> None:
    partial = MIDDLE.revoke(extension=extension)
    assert "partial revocation list" in str(refused("revocation", crls=(ROOT_LIST, partial)))


def test_a_broken_list_is_refused_not_passed_over() -> None:
    refused("revocation", crls=(ROOT_LIST, MIDDLE_LIST[:-1]))
    refused("revocation", crls=(b"",))


def test_serial_number_zero_as_amd_has_it() -> None:
    leaf = _with_serial_zero(LEAF)
    assert leaf.serial == 0
    # The signature is checked over the real bytes: changing the serial number breaks it.
    assert "does not verify" in str(refused("certificate-chain", leaf))


@pytest.mark.parametrize(
    "name", ["snp/gosev-milan-vcek.der", "snp/trustee-test-vcek.der", "snp/virtee-vcek_turin.der"]
)
def test_amds_certificates_load_without_a_warning(vector, name, recwarn) -> None:  # type: ignore[no-untyped-def]
    certificate = load_certificate(vector(name))
    assert certificate.serial == 0
    assert not recwarn.list


def test_many_hostile_intermediates_end_soon() -> None:
    same = [Authority("middle") for _ in range(100)]
    leaf = Authority("middle").issue("leaf", LEAF_KEY.public_key())
    error = refused("certificate-chain", leaf, tuple(one.certificate for one in same))
    assert "too many candidates" in str(error)


def test_circles_end() -> None:
    a_key, b_key = ec_key(), ec_key()
    a, b = Authority("a", key=a_key), Authority("b", key=b_key)
    ca = [(x509.BasicConstraints(True, None), True)]
    a_by_b = b.issue("a", a_key.public_key(), extensions=ca)
    b_by_a = a.issue("b", b_key.public_key(), extensions=ca)
    leaf = a.issue("leaf", LEAF_KEY.public_key())
    refused("certificate-chain", leaf, (a_by_b, b_by_a))


def test_a_chain_that_is_too_long_is_refused() -> None:
    authorities = [ROOT]
    for number in range(12):
        authorities.append(Authority(f"ca{number}", issuer=authorities[-1]))
    leaf = authorities[-1].issue("leaf", LEAF_KEY.public_key())
    between = tuple(authority.certificate for authority in authorities[1:])
    assert "longer than" in str(refused("certificate-chain", leaf, between))


def test_names_of_another_kind_of_string_never_crash() -> None:
    """The parser reads names late, and complains about bit strings in its own way."""
    for at, tag in enumerate(LEAF.der):
        if tag == 0x0C:
            with contextlib.suppress(EvidenceMalformed, EvidenceRefused):
                walk(load_certificate(LEAF.der[:at] + b"\x03" + LEAF.der[at + 1 :]))
    at = MIDDLE_LIST.index(b"\x0c\x06middle")
    refused("revocation", crls=(MIDDLE_LIST[:at] + b"\x03" + MIDDLE_LIST[at + 1 :],))


def test_pem_round_trip() -> None:
    chain = b"".join(to_pem(one) for one in (LEAF, MIDDLE.certificate, ROOT.certificate))
    assert load_pem(chain) == (LEAF, MIDDLE.certificate, ROOT.certificate)
    for broken in (b"", chain[:-40], chain.replace(b"M", b"!"), chain * 5):
        with pytest.raises(EvidenceMalformed):
            load_pem(broken)


def test_keys_of_other_kinds_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    leaf = MIDDLE.issue("leaf", key.public_key())
    assert isinstance(leaf.public_key, ec.EllipticCurvePublicKey)  # any curve that OpenSSL has


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(LEAF.der) - 1), st.integers(1, 255))
def test_no_changed_leaf_passes(position: int, change: int) -> None:
    der = bytearray(LEAF.der)
    der[position] ^= change
    with pytest.raises(EvidenceRefused):
        walk(load_certificate(bytes(der)))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | st.integers(0, len(LEAF.der) - 1).map(lambda n: LEAF.der[:n]))
def test_rubbish_is_no_certificate(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        load_certificate(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(MIDDLE_LIST) - 1), st.integers(1, 255))
def test_no_changed_list_counts(position: int, change: int) -> None:
    der = bytearray(MIDDLE_LIST)
    der[position] ^= change
    try:
        _, checks = walk(crls=(ROOT_LIST, bytes(der)))
    except EvidenceRefused:
        return
    if checks[-1].outcome is Outcome.PASS:  # a bit in the encoding of the signature, unsigned
        changed = x509.load_der_x509_crl(bytes(der))
        original = x509.load_der_x509_crl(MIDDLE_LIST)
        assert changed.tbs_certlist_bytes == original.tbs_certlist_bytes
        assert changed.signature == original.signature


def _with_serial_zero(certificate: Certificate) -> Certificate:
    """The same with serial number zero (one byte), lengths corrected; its signature is void."""
    size = certificate.serial.bit_length() // 8 + 1
    old = b"\x02" + bytes([size]) + certificate.serial.to_bytes(size, "big")
    before, _, after = certificate.tbs[_header(certificate.tbs) :].partition(old)
    tbs = before + b"\x02\x01\x00" + after
    _, _, behind = certificate.der.partition(certificate.tbs)
    return load_certificate(_sequence(_sequence(tbs) + behind))


def _header(der: bytes) -> int:
    return 2 + (der[1] & 0x7F if der[1] & 0x80 else 0)


def _sequence(content: bytes) -> bytes:
    size = len(content).to_bytes(2, "big").lstrip(b"\0")
    long = bytes([0x80 | len(size)]) if len(content) > 127 else b""
    return b"\x30" + long + size + content
