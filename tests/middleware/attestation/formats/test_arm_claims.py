"""Claim sets of Arm's tokens: what is read, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.formats import arm_claims
from tests.adversary.vendors.arm import Machine, changed, component

MACHINE = Machine()
REALM = MACHINE.realm()
PLATFORM = MACHINE.platform(REALM)


def refused(
    parse: Callable[[bytes], object],
    claims: Mapping[Any, Any],
    claim: object,
    value: object,
    kind: type[EvidenceRefused],
) -> None:
    with pytest.raises(kind, match=r"^format: "):
        parse(cbor2.dumps(changed(claims, {claim: value})))


def test_genuine_claims_are_read_as_they_are() -> None:
    platform = arm_claims.platform(cbor2.dumps(PLATFORM))
    assert platform.config == PLATFORM[2401]
    assert platform.lifecycle.secured
    assert platform.components[0].to_dict() == {
        "name": "BL",
        "measurement": "01" * 32,
        "version": "1.0",
        "signer": "02" * 32,
        "algorithm": "sha-256",
    }
    realm = arm_claims.realm(cbor2.dumps(REALM))
    assert realm.public_key == REALM[44237]
    assert realm.key_hash == "sha-256"


def test_the_verification_service_may_be_absent() -> None:
    claims = changed(PLATFORM, {2400: ...})
    assert arm_claims.platform(cbor2.dumps(claims)).service == ""


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (265, "tag:psacertified.org,2023:psa#tfm"),
        (265, "http://arm.com/CCA-SSD/2.0.0"),
        (265, ...),
        (265, 1),
        (265, ["http://arm.com/CCA-SSD/1.0.0"]),
        (2402, "sha-1"),
    ],
)
def test_other_platform_profiles_are_not_supported(claim: object, value: object) -> None:
    refused(arm_claims.platform, PLATFORM, claim, value, EvidenceUnsupported)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (265, "tag:arm.com,2023:realm#2.0.0"),
        (265, ""),
        (265, None),
        (44236, "sha-1"),
        (44240, "md5"),
        (44240, "shake_128"),
    ],
)
def test_other_realm_profiles_are_not_supported(claim: object, value: object) -> None:
    refused(arm_claims.realm, REALM, claim, value, EvidenceUnsupported)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (10, bytes(31)),
        (10, "text"),
        (10, ...),
        (256, bytes(33)),
        (256, b"\2" + bytes(32)),
        (256, b"\1" + bytes(31)),
        (256, ...),
        (2396, bytes(33)),
        (2401, "cfg"),
        (2401, bytes(1025)),
        (2395, -1),
        (2395, True),
        (2395, 0x0100),
        (2395, 0x3100),
        (2395, 0x7000),
        (2395, 1 << 80),
        (2395, 12288.0),
        (2399, []),
        (2399, {}),
        (2399, [1]),
        (2399, [component()] * 65),
        (2399, [{2: bytes(32)}]),
        (2399, [{5: bytes(32)}]),
        (2399, [component() | {3: "?"}]),
        (2399, [component() | {"1": "?"}]),
        (2399, [component() | {2: bytes(20)}]),
        (2399, [component() | {1: 7}]),
        (2399, [component() | {4: "x" * 257}]),
        (2400, b"bytes"),
        (2402, 256),
        (9999, 1),
        ("2395", 1),
    ],
)
def test_platform_claims_out_of_range_are_refused(claim: object, value: object) -> None:
    refused(arm_claims.platform, PLATFORM, claim, value, EvidenceMalformed)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        (10, bytes(63)),
        (10, bytes(65)),
        (10, ...),
        (44235, bytes(63)),
        (44235, None),
        (44238, bytes(20)),
        (44238, b""),
        (44239, [bytes(32)] * 3),
        (44239, [bytes(32)] * 5),
        (44239, [bytes(32)] * 3 + [None]),
        (44239, bytes(128)),
        (44237, b""),
        (44237, bytes(1025)),
        (44236, 5),
        (44240, ...),
        (9999, 1),
        (True, 1),
    ],
)
def test_realm_claims_out_of_range_are_refused(claim: object, value: object) -> None:
    refused(arm_claims.realm, REALM, claim, value, EvidenceMalformed)


@pytest.mark.parametrize("payload", [b"", b"\xa0", b"\x80", b"\xf6", b"\x01", b"\xa1\x01"])
def test_payloads_that_are_no_claims_are_refused(payload: bytes) -> None:
    for parse in (arm_claims.platform, arm_claims.realm):
        with pytest.raises(EvidenceRefused):
            parse(payload)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    for parse in (arm_claims.platform, arm_claims.realm):
        with pytest.raises(EvidenceRefused):
            parse(data)
