"""Arm PSA tokens: what is accepted, and by which check each forgery falls."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors, read_anchors
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats import psa
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.arm import (
    IMPLEMENTATION,
    INSTANCE,
    SECURED,
    Machine,
    component,
    psa_claims,
    psa_legacy_claims,
    signed,
)
from tests.adversary.vendors.aws import ES384, ES512
from tests.adversary.vendors.pki import NOW, ec_key

MACHINE = Machine(key=ec_key(ec.SECP256R1()))
TOKEN = MACHINE.psa()
LEGACY = MACHINE.psa(claims=psa_legacy_claims())
Vector = Callable[[str], bytes]


def judge(data: bytes = TOKEN, anchors: Anchors = MACHINE.anchors) -> Claims:
    return verify(Evidence("arm.psa", data), at=NOW, anchors=anchors)


def refused(
    check: str,
    data: bytes = TOKEN,
    anchors: Anchors = MACHINE.anchors,
    kind: type[EvidenceRefused] = EvidenceRefused,
) -> EvidenceRefused:
    with pytest.raises(kind) as caught:
        judge(data, anchors)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


def malformed(data: bytes) -> str:
    return str(refused("format", data, kind=EvidenceMalformed))


def unsupported(data: bytes) -> str:
    return str(refused("format", data, kind=EvidenceUnsupported))


def test_a_genuine_token_passes_every_check() -> None:
    claims = judge()
    assert [check.name for check in claims.checks] == ["format", "root", "signature"]
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}
    assert claims.tee == "psa"
    assert not claims.debug
    assert claims.report_data == b"nonce".ljust(32, b"\0")
    assert claims.measurements == {"software.BL": b"\1" * 32, "software.PRoT": b"\3" * 32}
    assert claims.platform == {
        "instance_id": INSTANCE.hex(),
        "implementation_id": IMPLEMENTATION.hex(),
    }
    assert claims.details["client_id"] == -3
    assert claims.details["lifecycle"] == "secured"
    assert claims.details["certification_reference"] == "1234567890123-12345"
    assert (claims.root.name, claims.root.builtin) == ("fake-cpak", False)
    json.dumps(claims.to_dict())


def test_the_first_profile_has_the_same_claims_under_other_numbers() -> None:
    claims = judge(LEGACY)
    assert claims.details["profile"] == "PSA_IOT_PROFILE_1"
    assert claims.report_data == b"nonce".ljust(32, b"\0")
    assert claims.platform["instance_id"] == INSTANCE.hex()
    judge(MACHINE.psa({-75000: ...}, claims=psa_legacy_claims()))


def test_the_first_profile_may_say_that_nothing_was_measured() -> None:
    nothing = {-75006: ..., -75007: 1}
    claims = judge(MACHINE.psa(nothing, claims=psa_legacy_claims()))
    assert claims.measurements == {}
    for wrong in (
        {-75007: 1},
        {-75006: ..., -75007: 0},
        {-75006: ..., -75007: True},
        {-75006: ...},
    ):
        malformed(MACHINE.psa(wrong, claims=psa_legacy_claims()))


@pytest.mark.parametrize("boot_seed", [268, 2397])
def test_the_second_profile_kept_its_boot_seed_in_two_places(boot_seed: int) -> None:
    changes = {265: "http://arm.com/psa/2.0.0", 268: ..., boot_seed: b"8" * 8}
    claims = judge(MACHINE.psa(changes))
    assert claims.details["boot_seed"] == (b"8" * 8).hex()
    malformed(MACHINE.psa(changes | {268: b"8" * 8, 2397: b"8" * 8}))


@pytest.mark.parametrize(("curve", "algorithm"), [(ec.SECP384R1(), ES384), (ec.SECP521R1(), ES512)])
def test_stronger_keys_sign_with_their_own_algorithm(
    curve: ec.EllipticCurve, algorithm: int
) -> None:
    machine = Machine(key=ec_key(curve))
    judge(machine.psa(cose={"algorithm": algorithm}), machine.anchors)


def test_components_of_one_name_or_none_are_all_measured() -> None:
    """Two components never fall together under one name: one of them would go unjudged."""
    parts = [component("A", 1), component("A", 2), component("", 3), component("#0", 4)]
    parts.append({2: b"\5" * 32, 5: bytes(32)})
    assert judge(MACHINE.psa({2399: parts})).measurements == {
        "software#0": b"\1" * 32,
        "software#1": b"\2" * 32,
        "software#2": b"\3" * 32,
        "software.#0": b"\4" * 32,
        "software#4": b"\5" * 32,
    }


@pytest.mark.parametrize("lifecycle", [0, 0x10FF, 0x2000, 0x4000, 0x5001, 0x6000])
def test_every_lifecycle_but_secured_shows_as_debug(lifecycle: int) -> None:
    assert judge(MACHINE.psa({2395: lifecycle})).debug
    assert judge(MACHINE.psa({-75002: lifecycle}, claims=psa_legacy_claims())).debug


def test_without_a_provisioned_key_there_is_no_root() -> None:
    refused("root", anchors=Anchors())
    refused("root", anchors=Anchors(keys=(MACHINE.anchor((b"\1" * 33).hex()),)))
    refused("root", MACHINE.psa({256: b"\1" * 33}))


def test_another_key_is_refused() -> None:
    refused("signature", MACHINE.psa(key=ec_key(ec.SECP256R1())))
    refused("signature", anchors=Machine(key=ec_key(ec.SECP256R1())).anchors)


@pytest.mark.parametrize("algorithm", [-8, -37, 5, 0, "ES256", None])
def test_other_algorithms_are_not_supported(algorithm: object) -> None:
    unsupported(MACHINE.psa(cose={"algorithm": algorithm}))
    unsupported(MACHINE.psa(cose={"protected": {}, "unprotected": {1: -7}}))


@pytest.mark.parametrize(
    "cose",
    [
        {"algorithm": ES384},
        {"algorithm": ES384, "digest": hashes.SHA256(), "size": 32},
        {"digest": hashes.SHA384()},
        {"aad": b"other"},
        {"context": "Signature"},
        {"size": 33},
    ],
)
def test_confused_algorithms_and_other_contexts_are_refused(cose: Mapping[str, object]) -> None:
    refused("signature", MACHINE.psa(cose=cose))


def test_a_token_with_a_mac_is_not_supported() -> None:
    token = signed(psa_claims(), MACHINE.key, {}, tag=17)
    assert "MAC" in unsupported(token)


def test_the_tag_of_cose_may_be_left_out() -> None:
    judge(signed(psa_claims(), MACHINE.key, {}, tag=None))
    malformed(signed(psa_claims(), MACHINE.key, {}, tag=98))


@pytest.mark.parametrize(
    "changes",
    [
        {265: "tag:psacertified.org,2024:psa#tfm"},
        {265: "http://arm.com/CCA-SSD/1.0.0"},
        {265: "PSA_IOT_PROFILE_1"},
        {265: 7},
        {265: []},
        {265: ..., -75000: "tag:psacertified.org,2023:psa#tfm"},
    ],
)
def test_other_profiles_are_not_supported(changes: Mapping[int, object]) -> None:
    unsupported(MACHINE.psa(changes))


def test_claims_of_two_profiles_do_not_mix() -> None:
    malformed(MACHINE.psa({265: ...}))
    malformed(MACHINE.psa({-75008: bytes(32)}))
    malformed(MACHINE.psa({-75000: "PSA_IOT_PROFILE_1"}))
    unsupported(MACHINE.psa({265: "PSA_IOT_PROFILE_1"}, claims=psa_legacy_claims()))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (10, bytes(31)),
        (10, bytes(65)),
        (10, [bytes(32)]),
        (10, ...),
        (256, bytes(33)),
        (256, b"\1" * 32),
        (256, ...),
        (268, bytes(7)),
        (268, bytes(33)),
        (2394, "1"),
        (2394, True),
        (2394, 1 << 31),
        (2394, -(1 << 31) - 1),
        (2394, ...),
        (2395, 0x0800),
        (2395, 0x7000),
        (2395, -1),
        (2395, None),
        (2396, bytes(31)),
        (2398, 5),
        (2398, "x" * 257),
        (2399, []),
        (2399, [component()] * 65),
        (2399, [component() | {9: 1}]),
        (2399, ...),
        (2400, b"x"),
        (7777, 0),
        ("x", 0),
    ],
)
def test_claims_out_of_range_are_refused(claim: object, value: object) -> None:
    malformed(MACHINE.psa({claim: value}))


def test_a_claim_twice_is_refused() -> None:
    once = cbor2.dumps(psa_claims())
    twice = bytes([once[0] + 1]) + once[1:] + cbor2.dumps(2395) + cbor2.dumps(SECURED)
    assert "Duplicate map key" in malformed(MACHINE.psa(payload=twice))


@pytest.mark.parametrize("payload", [b"", b"\xa0", b"\x80", b"\xf6", TOKEN])
def test_payloads_that_are_no_claims_are_refused(payload: bytes) -> None:
    malformed(MACHINE.psa(payload=payload))


def test_an_oversized_token_is_refused_unread() -> None:
    assert "at most" in malformed(bytes(psa.MAX_SIZE + 1))


@pytest.mark.parametrize("token", [TOKEN, LEGACY])
def test_no_flipped_bit_is_accepted(token: bytes) -> None:
    for at in range(len(token)):
        for forged in (
            token[:at],
            token[:at] + bytes([token[at] ^ (1 << at % 8)]) + token[at + 1 :],
        ):
            with pytest.raises(EvidenceRefused):
                judge(forged)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        psa.parse(data)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.binary(max_size=70)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.integers(-1, 7), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=100)
@given(st.sampled_from([psa_claims(), psa_legacy_claims()]), st.data())
def test_any_value_in_any_claim_is_read_or_refused(
    claims: dict[int, object], data: st.DataObject
) -> None:
    claim = data.draw(st.sampled_from(sorted(claims)))
    with contextlib.suppress(EvidenceRefused):
        judge(MACHINE.psa({claim: data.draw(_VALUES)}, claims=claims))


def test_vector_parses_and_belongs_to_none_of_the_keys_in_the_corim(vector: Vector) -> None:
    data = vector("cca/veraison-psa-token.cbor")
    token = psa.parse(data)
    assert token.profile == "PSA_IOT_PROFILE_1"
    assert [item.name for item in token.components][:2] == ["BL", "M1"]
    assert token.lifecycle.secured
    assert token.client_id == 2
    corim = vector("cca/veraison-corim-psa-valid.cbor")
    found = re.findall(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", corim, re.DOTALL)
    assert len(found) == 2
    anchors = Anchors()
    for pem in found:
        anchors = anchors.adding(*read_anchors("arm", "corim", pem).keys)
    refused("signature", data, anchors)
    refused("root", data)


def test_no_mutation_of_a_vector_breaks_the_parser(vector: Vector) -> None:
    data = vector("cca/veraison-psa-token.cbor")
    for at in range(0, len(data), 3):
        with pytest.raises(EvidenceMalformed):
            psa.parse(data[:at])
        with contextlib.suppress(EvidenceRefused):
            psa.parse(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
