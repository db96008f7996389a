"""Huawei virtCCA tokens: what is accepted, and by which check each forgery falls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import Certificate, to_pem
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.formats import virtcca
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.huawei import IMAGE, NONCE, Kunpeng, rsa_key, spki
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key

Vector = Callable[[str], bytes]


@pytest.fixture(scope="module")
def kunpeng() -> Kunpeng:
    return Kunpeng()


@pytest.fixture(scope="module")
def token(kunpeng: Kunpeng) -> bytes:
    return kunpeng.virtcca()


def judge(
    kunpeng: Kunpeng,
    data: bytes,
    *,
    certificate: object = ...,
    anchors: Anchors | None = None,
    crls: bool = True,
    years: float = 0,
) -> Claims:
    given = kunpeng.certificate if certificate is ... else certificate
    der = given.der if isinstance(given, Certificate) else given
    attachments = {"device-certificate": der} if isinstance(der, bytes) else {}
    return verify(
        Evidence("huawei.virtcca", data, attachments),
        at=NOW + years * YEAR,
        anchors=kunpeng.anchors if anchors is None else anchors,
        collateral=Collateral(crls=(kunpeng.authority.revoke(),) if crls else ()),
    )


def refused(
    check: str,
    kunpeng: Kunpeng,
    data: bytes,
    kind: type[EvidenceRefused] = EvidenceRefused,
    **arguments: object,
) -> EvidenceRefused:
    with pytest.raises(kind) as caught:
        judge(kunpeng, data, **arguments)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


def test_a_genuine_token_passes_every_check(kunpeng: Kunpeng, token: bytes) -> None:
    claims = judge(kunpeng, token)
    assert [check.name for check in claims.checks] == [
        "format",
        "certificate-chain",
        "root",
        "validity",
        "revocation",
        "binding.realm-key",
        "signature",
    ]
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}
    assert claims.tee == "virtcca"
    assert claims.report_data == NONCE
    assert claims.measurements == {"launch": IMAGE} | {
        f"rem{index}": bytes([index]) * 32 for index in range(4)
    }
    assert claims.platform == {"device": "026FAKE"}
    assert (claims.root.name, claims.root.builtin) == ("fake-huawei", False)
    json.dumps(claims.to_dict())


def test_the_device_certificate_may_be_pem(kunpeng: Kunpeng, token: bytes) -> None:
    judge(kunpeng, token, certificate=to_pem(kunpeng.certificate))


def test_without_a_device_certificate_there_is_no_chain(kunpeng: Kunpeng, token: bytes) -> None:
    refusal = refused("certificate-chain", kunpeng, token, certificate=None)
    last = refusal.checks[-1]
    assert isinstance(last, Check)
    assert "device-certificate" in last.fix


@pytest.mark.parametrize("certificate", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_device_certificate_that_is_none_is_refused(
    kunpeng: Kunpeng, token: bytes, certificate: bytes
) -> None:
    refused("format", kunpeng, token, EvidenceMalformed, certificate=certificate)


def test_without_a_revocation_list_revocation_is_not_performed(
    kunpeng: Kunpeng, token: bytes
) -> None:
    claims = judge(kunpeng, token, crls=False)
    assert [check.name for check in claims.not_checked] == ["revocation"]


def test_a_revoked_device_is_refused(kunpeng: Kunpeng, token: bytes) -> None:
    crl = kunpeng.authority.revoke(kunpeng.certificate)
    evidence = Evidence("huawei.virtcca", token, {"device-certificate": kunpeng.certificate.der})
    with pytest.raises(EvidenceRefused, match=r"^revocation"):
        verify(evidence, at=NOW, anchors=kunpeng.anchors, collateral=Collateral(crls=(crl,)))


def test_another_root_is_refused(kunpeng: Kunpeng, token: bytes) -> None:
    refused("certificate-chain", kunpeng, token, anchors=Kunpeng().anchors)
    refused("certificate-chain", kunpeng, token, anchors=Anchors())


def test_an_expired_device_certificate_is_refused(kunpeng: Kunpeng, token: bytes) -> None:
    refused("validity", kunpeng, token, years=0.75)


def test_ones_own_key_beside_a_genuine_certificate_is_refused(kunpeng: Kunpeng) -> None:
    """The token names the key that signs it: a certificate beside it is no proof by itself."""
    own = rsa_key("ak")
    forged = kunpeng.virtcca({44237: spki(own)}, key=own)
    refused("binding.realm-key", kunpeng, forged)


def test_the_certificate_of_another_machine_is_refused(kunpeng: Kunpeng, token: bytes) -> None:
    other = kunpeng.authority.issue("other", rsa_key("ak").public_key())
    refused("binding.realm-key", kunpeng, token, certificate=other)


def test_a_certificate_with_an_ec_key_is_refused(kunpeng: Kunpeng) -> None:
    key = ec_key()
    certificate = kunpeng.authority.issue("ec", key.public_key())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    refused("signature", kunpeng, kunpeng.virtcca({44237: der}), certificate=certificate)


def test_another_key_than_the_certified_is_refused(kunpeng: Kunpeng) -> None:
    refused("signature", kunpeng, kunpeng.virtcca(key=rsa_key("ak")))


@pytest.mark.parametrize(
    "how",
    [{"pkcs1": True}, {"salt": 0}, {"salt": 20}, {"salt": 64}, {"digest": hashes.SHA512()}],
)
def test_other_paddings_than_that_of_ps256_are_refused(
    kunpeng: Kunpeng, how: Mapping[str, object]
) -> None:
    refused("signature", kunpeng, kunpeng.virtcca(how=how))


def test_a_signature_over_something_else_is_refused(kunpeng: Kunpeng) -> None:
    refused("signature", kunpeng, kunpeng.virtcca(aad=b"other"))


@pytest.mark.parametrize("algorithm", [-7, -35, -38, -257, 0, "PS256", None, ...])
def test_other_algorithms_are_not_supported(kunpeng: Kunpeng, algorithm: object) -> None:
    forged = kunpeng.virtcca(algorithm=algorithm)
    refused("format", kunpeng, forged, EvidenceUnsupported)


def test_an_algorithm_outside_the_protected_header_is_not_supported(kunpeng: Kunpeng) -> None:
    forged = kunpeng.virtcca(algorithm=..., unprotected={1: -37})
    refused("format", kunpeng, forged, EvidenceUnsupported)


def test_a_platform_token_is_not_supported(kunpeng: Kunpeng) -> None:
    forged = kunpeng.virtcca(others={44234: b""})
    refused("format", kunpeng, forged, EvidenceUnsupported)


@pytest.mark.parametrize("tokens", [{}, {44242: b""}, {44241: b"", 44242: b""}, None, []])
def test_the_collection_holds_one_token(kunpeng: Kunpeng, tokens: object) -> None:
    refused("format", kunpeng, cbor2.dumps(cbor2.CBORTag(399, tokens)), EvidenceMalformed)


def test_the_payload_is_wrapped_once_more(kunpeng: Kunpeng) -> None:
    for payload in (cbor2.dumps({10: NONCE}), b"", b"\x40", cbor2.dumps(b"\xa0")):
        refused("format", kunpeng, kunpeng.virtcca(payload=payload), EvidenceMalformed)


@pytest.mark.parametrize(
    ("claim", "value"),
    [(10, bytes(32)), (44235, ...), (44238, bytes(20)), (44239, [bytes(32)]), (44237, b""), (1, 1)],
)
def test_claims_out_of_range_are_refused(kunpeng: Kunpeng, claim: int, value: object) -> None:
    refused("format", kunpeng, kunpeng.virtcca({claim: value}), EvidenceMalformed)


@pytest.mark.parametrize(
    ("claim", "value"), [(44236, "sm3"), (44240, "sm3"), (265, "tag:arm.com,2023:realm#1.0.0")]
)
def test_other_hashes_and_profiles_are_not_supported(
    kunpeng: Kunpeng, claim: int, value: object
) -> None:
    refused("format", kunpeng, kunpeng.virtcca({claim: value}), EvidenceUnsupported)


def test_the_key_of_an_authority_below_an_untrusted_one_is_refused(
    kunpeng: Kunpeng, token: bytes
) -> None:
    impostor = Authority(kunpeng.authority.name)
    certificate = impostor.issue("026FAKE", kunpeng.drk.public_key())
    refused("certificate-chain", kunpeng, token, certificate=certificate)


def test_no_flipped_bit_is_accepted(kunpeng: Kunpeng, token: bytes) -> None:
    for at in range(0, len(token), 5):
        for forged in (
            token[:at],
            token[:at] + bytes([token[at] ^ (1 << at % 8)]) + token[at + 1 :],
        ):
            with pytest.raises(EvidenceRefused):
                judge(kunpeng, forged, crls=False)


@given(st.binary(max_size=300))
def test_random_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        virtcca.parse(data)


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_random_claims_are_malformed(data: bytes) -> None:
    message = cbor2.dumps([cbor2.dumps({1: -37}), {}, cbor2.dumps(data), b""])
    with pytest.raises(EvidenceRefused):
        virtcca.parse(cbor2.dumps(cbor2.CBORTag(399, {44241: message})))


def test_vector_is_signed_by_the_key_that_it_names_but_has_no_certificate(vector: Vector) -> None:
    data = bytes.fromhex(vector("virtcca/secgear-virtcca.cbor").decode())
    found = virtcca.parse(data)
    assert found.realm.initial.hex().startswith("7309ec52")
    assert found.realm.key_hash == "sha-256"
    key = load_der_public_key(found.realm.public_key)
    certificate = Authority("own").issue("own", key)
    kunpeng = Kunpeng()
    refused("certificate-chain", kunpeng, data, certificate=None)
    refused("certificate-chain", kunpeng, data, certificate=certificate)
    issued = kunpeng.authority.issue("vector", key)
    assert judge(kunpeng, data, certificate=issued).tee == "virtcca"
    for at in range(0, len(data), 7):
        for forged in (data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]):
            with pytest.raises(EvidenceRefused):
                judge(kunpeng, forged, certificate=issued, crls=False)


def test_hexadecimal_text_is_no_token(vector: Vector) -> None:
    with pytest.raises(EvidenceMalformed):
        virtcca.parse(vector("virtcca/secgear-virtcca.cbor"))
