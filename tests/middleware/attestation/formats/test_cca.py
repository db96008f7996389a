"""Arm CCA tokens: what is accepted, and by which check each forgery falls."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors, KeyAnchor, read_anchors
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats import cca
from secgear.middleware.attestation.formats.arm_keys import key_from_jwk
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.arm import (
    IMPLEMENTATION,
    INSTANCE,
    Machine,
    cose_key,
    point,
    signed,
)
from tests.adversary.vendors.aws import ES256, ES384
from tests.adversary.vendors.pki import NOW, Authority, ec_key

MACHINE = Machine()
LEGACY = Machine(legacy=True)
TOKEN = MACHINE.token()
PLATFORM, REALM = 44234, 44241
Vector = Callable[[str], bytes]


def judge(data: bytes = TOKEN, anchors: Anchors = MACHINE.anchors) -> Claims:
    return verify(Evidence("arm.cca", data), at=NOW, anchors=anchors)


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


def tokens(data: bytes = TOKEN) -> dict[int, Any]:
    return dict(cbor2.loads(data).value)


def collection(items: Any, tag: int = 399) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, items))


@pytest.mark.parametrize("machine", [MACHINE, LEGACY])
def test_a_genuine_token_passes_every_check(machine: Machine) -> None:
    claims = judge(machine.token(), machine.anchors)
    assert [check.name for check in claims.checks] == [
        "format",
        "root",
        "platform.signature",
        "binding.realm-key",
        "signature",
    ]
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}
    assert claims.tee == "cca"
    assert not claims.debug
    assert claims.measurements == {"launch": b"\x11" * 32} | {
        f"rem{index}": bytes([index]) * 32 for index in range(4)
    }
    assert claims.report_data == b"challenge".ljust(64, b"\0")
    assert claims.platform == {
        "instance_id": INSTANCE.hex(),
        "implementation_id": IMPLEMENTATION.hex(),
    }
    json.dumps(claims.to_dict())


def test_the_root_is_the_provisioned_key_and_never_built_in() -> None:
    root = judge().root
    assert root.name == "fake-cpak"
    assert root.fingerprint == MACHINE.anchor().fingerprint
    assert not root.builtin


def test_the_platforms_firmware_is_in_the_details() -> None:
    details = judge().details
    assert [item["name"] for item in details["platform"]["software"]] == ["BL", "RMM"]
    assert details["platform"]["software"][0]["measurement"] == "01" * 32
    assert details["realm"]["personalization"] == b"personal".ljust(64, b"\0").hex()


@pytest.mark.parametrize(
    ("lifecycle", "name", "debug"),
    [
        (0x3000, "secured", False),
        (0x30FF, "secured", False),
        (0x0000, "unknown", True),
        (0x1000, "assembly-and-test", True),
        (0x20FF, "provisioning", True),
        (0x4001, "application-debug", True),
        (0x5000, "recoverable-debug", True),
        (0x6000, "decommissioned", True),
    ],
)
def test_every_lifecycle_but_secured_shows_as_debug(lifecycle: int, name: str, debug: bool) -> None:
    claims = judge(MACHINE.token(platform={2395: lifecycle}))
    assert claims.debug is debug
    assert claims.details["platform"]["lifecycle"] == name


@pytest.mark.parametrize("hash_name", ["sha-256", "sha-384", "sha-512"])
def test_the_realm_names_the_digest_that_binds_its_key(hash_name: str) -> None:
    judge(MACHINE.token(realm={44240: hash_name}))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_realm_keys_may_be_on_any_curve_of_cose(curve: ec.EllipticCurve) -> None:
    machine = Machine(realm_key=ec_key(curve))
    algorithm = {"secp256r1": -7, "secp384r1": -35, "secp521r1": -36}[curve.name]
    judge(machine.token(realm_cose={"algorithm": algorithm}), machine.anchors)


def test_a_key_for_any_machine_is_tried_too() -> None:
    judge(anchors=Anchors(keys=(LEGACY.anchor(), MACHINE.anchor())))


def test_without_a_provisioned_key_there_is_no_root() -> None:
    refusal = refused("root", anchors=Anchors())
    last = refusal.checks[-1]
    assert isinstance(last, Check)
    assert INSTANCE.hex() in last.detail
    assert "arm" in last.fix


def test_a_key_provisioned_for_another_machine_is_not_tried() -> None:
    refused("root", anchors=Anchors(keys=(MACHINE.anchor((b"\1" * 33).hex()),)))


def test_a_key_of_another_family_is_not_tried() -> None:
    refused("root", anchors=Anchors(keys=(MACHINE.anchor(family="tpm"),)))
    refused("root", anchors=Anchors((Authority("x").anchor("x", "arm"),)))


def test_another_machines_key_is_refused() -> None:
    refused("platform.signature", anchors=Anchors(keys=(LEGACY.anchor(),)))
    refused("platform.signature", MACHINE.token(key=ec_key()))


def test_a_provisioned_rsa_key_signs_nothing() -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    refused("platform.signature", anchors=Anchors(keys=(KeyAnchor("rsa", "arm", key),)))


def test_a_realm_key_that_the_platform_does_not_vouch_for_is_refused() -> None:
    """A genuine platform token with a realm token of one's own making."""
    own = Machine()
    mixed = tokens() | {REALM: tokens(own.token())[REALM]}
    refused("binding.realm-key", collection(mixed))


def test_the_realms_choice_of_digest_does_not_loosen_the_binding() -> None:
    key = cose_key(MACHINE.realm_key)
    challenge = hashes.Hash(hashes.SHA256())
    challenge.update(key)
    token = MACHINE.token(realm={44240: "sha-512"}, platform={10: challenge.finalize()})
    refused("binding.realm-key", token)


def test_another_key_than_the_realms_is_refused() -> None:
    refused("signature", MACHINE.token(realm_key=ec_key()))
    refused("signature", MACHINE.token(realm_key=MACHINE.key))


def test_a_realm_token_in_the_platforms_place_is_refused() -> None:
    both = tokens()
    unsupported(collection({PLATFORM: both[REALM], REALM: both[PLATFORM]}))
    unsupported(collection({PLATFORM: both[PLATFORM], REALM: both[PLATFORM]}))


@pytest.mark.parametrize("which", ["realm_cose", "platform_cose"])
@pytest.mark.parametrize("algorithm", [-8, -37, 5, 0, "ES384", None, True])
def test_other_algorithms_are_not_supported(which: str, algorithm: object) -> None:
    unsupported(MACHINE.token(**{which: {"algorithm": algorithm}}))


@pytest.mark.parametrize("which", ["realm_cose", "platform_cose"])
def test_an_algorithm_outside_the_protected_header_is_not_supported(which: str) -> None:
    unsupported(MACHINE.token(**{which: {"protected": {}, "unprotected": {1: -35}}}))
    malformed(MACHINE.token(**{which: {"unprotected": {1: -35}}}))


@pytest.mark.parametrize(
    ("which", "check"), [("realm_cose", "signature"), ("platform_cose", "platform.signature")]
)
@pytest.mark.parametrize(
    "cose",
    [
        {"algorithm": ES256},
        {"algorithm": ES256, "digest": hashes.SHA384(), "size": 48},
        {"algorithm": ES384, "digest": hashes.SHA256()},
        {"aad": b"other"},
        {"context": "Signature"},
        {"size": 49},
    ],
)
def test_confused_algorithms_and_other_contexts_are_refused(
    which: str, check: str, cose: Mapping[str, object]
) -> None:
    refused(check, MACHINE.token(**{which: cose}))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (44237, b"\xa0"),
        (44237, b"\x80"),
        (44237, b"\x04" + bytes(96)),
        (44237, cbor2.dumps({1: 2, -1: 2, -2: bytes(48), -3: bytes(48)})),
        (44237, cbor2.dumps({1: 3, -1: 1, -2: bytes(48), -3: bytes(48)})),
        (44237, cbor2.dumps({1: 2, -1: 2, -2: bytes(48), -3: True})),
    ],
)
def test_realm_keys_that_are_none_are_refused(claim: int, value: bytes) -> None:
    malformed(MACHINE.token(realm={claim: value}))


def test_the_form_of_the_realm_key_is_the_profiles() -> None:
    malformed(MACHINE.token(realm={44237: point(MACHINE.realm_key)}))
    malformed(LEGACY.token(realm={44237: cose_key(LEGACY.realm_key)}))


def test_the_collection_holds_both_tokens_and_nothing_else() -> None:
    both = tokens()
    for items in (
        {},
        {PLATFORM: both[PLATFORM]},
        {REALM: both[REALM]},
        both | {44242: b""},
        {"44234": both[PLATFORM], REALM: both[REALM]},
        {PLATFORM: None, REALM: both[REALM]},
        {PLATFORM: cbor2.loads(both[PLATFORM]), REALM: both[REALM]},
        list(both.values()),
        None,
    ):
        malformed(collection(items))
    malformed(collection(both, tag=398))
    malformed(cbor2.dumps(both))


def test_the_tag_of_the_inner_tokens_may_be_left_out() -> None:
    claims = MACHINE.realm()
    realm = signed(claims, MACHINE.realm_key, {}, tag=None)
    judge(collection(tokens() | {REALM: realm}))
    malformed(collection(tokens() | {REALM: signed(claims, MACHINE.realm_key, {}, tag=98)}))


def test_a_token_or_a_claim_twice_is_refused() -> None:
    both = tokens()
    head = b"\xd9\x01\x8f\xa3"
    pairs = [cbor2.dumps(key) + cbor2.dumps(both[key]) for key in (PLATFORM, REALM, REALM)]
    assert "Duplicate map key" in malformed(head + b"".join(pairs))
    once = cbor2.dumps(MACHINE.realm())
    twice = bytes([once[0] + 1]) + once[1:] + cbor2.dumps(44238) + cbor2.dumps(bytes(32))
    realm = signed({}, MACHINE.realm_key, {}, payload=twice)
    assert "Duplicate map key" in malformed(collection(both | {REALM: realm}))


def test_an_oversized_token_is_refused_unread() -> None:
    assert "at most" in malformed(bytes(cca.MAX_SIZE + 1))


@pytest.mark.parametrize("machine", [MACHINE, LEGACY])
def test_no_flipped_bit_is_accepted(machine: Machine) -> None:
    token = machine.token()
    for at in range(0, len(token), 3):
        with pytest.raises(EvidenceRefused):
            judge(
                token[:at] + bytes([token[at] ^ (1 << at % 8)]) + token[at + 1 :], machine.anchors
            )
        with pytest.raises(EvidenceRefused):
            judge(token[:at], machine.anchors)


@given(st.binary(max_size=300))
def test_random_bytes_are_malformed(data: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        cca.parse(data)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.binary(max_size=70)
    | st.text(max_size=5)
    | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-1, 7) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=100)
@given(st.sampled_from(["realm", "platform"]), st.data())
def test_any_value_in_any_claim_is_read_or_refused(which: str, data: st.DataObject) -> None:
    claims = MACHINE.realm() if which == "realm" else MACHINE.platform(MACHINE.realm())
    claim = data.draw(st.sampled_from(sorted(claims)))
    with contextlib.suppress(EvidenceRefused):
        judge(MACHINE.token(**{which: {claim: data.draw(_VALUES)}}))


def corim_key(vector: Vector) -> Anchors:
    corim = vector("cca/veraison-corim-cca-platform-valid.cbor")
    found = re.search(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", corim, re.DOTALL)
    assert found
    return read_anchors("arm", "corim", found.group())


def test_vector_of_an_emulated_machine_verifies_under_its_key(vector: Vector) -> None:
    instance = bytes.fromhex("0107060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918")
    data = vector("cca/trustee-cca-example-token.cbor")
    for name in ("cca/trustee-cpak-pub.json", "cca/secgear-cpak.json"):
        key = key_from_jwk("emulated", vector(name), instance)
        claims = judge(data, Anchors(keys=(key,)))
        assert not claims.root.builtin
        assert len(claims.details["platform"]["software"]) == 13
        assert claims.details["platform"]["lifecycle"] == "secured"
        assert claims.platform["instance_id"] == instance.hex()
        assert claims.measurements["launch"][:4].hex() == "ae87fbf7"
    refused("platform.signature", data, corim_key(vector))


@pytest.mark.parametrize("name", ["veraison-cca-good.cbor", "veraison-e2e-cca-evidence.cbor"])
def test_vectors_verify_under_the_key_in_their_corim_only(vector: Vector, name: str) -> None:
    data = vector(f"cca/{name}")
    claims = judge(data, corim_key(vector))
    assert claims.details["realm"]["profile"] == "tag:arm.com,2023:realm#1.0.0"
    assert claims.measurements["launch"] == b"C" * 64
    other = key_from_jwk("other", vector("cca/secgear-cpak.json"))
    refused("platform.signature", data, Anchors(keys=(other,)))


@pytest.mark.parametrize(
    "name", ["trustee-cca-example-token.cbor", "veraison-e2e-cca-evidence.cbor"]
)
def test_no_mutation_of_a_vector_is_accepted(vector: Vector, name: str) -> None:
    data = vector(f"cca/{name}")
    anchors = corim_key(vector).adding(key_from_jwk("k", vector("cca/secgear-cpak.json")))
    judge(data, anchors)
    for at in range(0, len(data), 7):
        for forged in (data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]):
            with pytest.raises(EvidenceRefused):
                judge(forged, anchors)


def test_the_verdict_does_not_depend_on_the_time() -> None:
    for years in (-50, 50):
        at = NOW + years * datetime.timedelta(days=365)
        verify(Evidence("arm.cca", TOKEN), at=at, anchors=MACHINE.anchors)
