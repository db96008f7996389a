"""Provisioned keys of Arm machines: reading them."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.errors import CollateralError
from secgear.middleware.attestation.formats.arm_keys import key_from_jwk

# RFC 7517, appendix A.1: the example of a P-256 key.
JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    "use": "enc",
    "kid": "1",
}


def test_a_jwk_is_read_with_its_subject() -> None:
    anchor = key_from_jwk("cpak", json.dumps(JWK).encode(), b"\1\2")
    assert isinstance(anchor.key, ec.EllipticCurvePublicKey)
    assert anchor.key.public_numbers().x.to_bytes(32, "big").hex().startswith("30a0424c")
    assert (anchor.name, anchor.family, anchor.subject) == ("cpak", "arm", "0102")
    assert key_from_jwk("any", json.dumps(JWK).encode()).subject == ""


@pytest.mark.parametrize(
    "jwk",
    [
        b"",
        b"{}",
        b"[]",
        b'{"kty":"EC","crv":"P-384","x":"AA","y":"AA"}',
        b'{"kty":"EC","crv":"P-999","x":"AA","y":"AA"}',
        b'{"kty":"EC","crv":"P-256","x":"@","y":"\\u00e9"}',
        b'{"kty":"RSA","n":"AA","e":"AQAB"}',
        json.dumps({"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}).encode(),
        json.dumps({"kty": "oct", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}).encode(),
    ],
)
def test_a_jwk_that_is_no_ec_key_is_unusable_collateral(jwk: bytes) -> None:
    with pytest.raises(CollateralError):
        key_from_jwk("cpak", jwk)
