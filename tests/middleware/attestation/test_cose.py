"""COSE_Sign1: what verifies, and what must not."""

from __future__ import annotations

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import cose

KEYS = {
    -7: ec.generate_private_key(ec.SECP256R1()),
    -35: ec.generate_private_key(ec.SECP384R1()),
    -36: ec.generate_private_key(ec.SECP521R1()),
}


def sign(
    algorithm: int,
    key: ec.EllipticCurvePrivateKey | None = None,
    *,
    protected: bytes | None = None,
    unprotected: dict[object, object] | None = None,
    aad: bytes = b"",
    payload: bytes = b"payload",
) -> bytes:
    key = key or KEYS[algorithm]
    if protected is None:
        protected = cbor2.dumps({cose.ALG: algorithm})
    digest = {-7: hashes.SHA256, -35: hashes.SHA384, -36: hashes.SHA512}[algorithm]()
    to_sign = cbor2.dumps(["Signature1", protected, aad, payload])
    r, s = decode_dss_signature(key.sign(to_sign, ec.ECDSA(digest)))
    size = (key.curve.key_size + 7) // 8
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return cbor2.dumps(cbor2.CBORTag(18, [protected, unprotected or {}, payload, signature]))


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_genuine_signature_verifies(algorithm: int) -> None:
    message = cose.parse(sign(algorithm), "test")
    assert cose.verify(message, KEYS[algorithm].public_key()) is None
    assert message.payload == b"payload"


def test_external_data_is_covered() -> None:
    message = cose.parse(sign(-7, aad=b"context"), "test")
    key = KEYS[-7].public_key()
    assert cose.verify(message, key, b"context") is None
    assert cose.verify(message, key) == "the signature does not verify"


def test_untagged_is_read_and_other_tags_are_not() -> None:
    array = cbor2.loads(sign(-35)).value
    assert cose.verify(cose.parse(cbor2.dumps(array), "test"), KEYS[-35].public_key()) is None
    with pytest.raises(EvidenceMalformed, match="tag 98"):
        cose.parse(cbor2.dumps(cbor2.CBORTag(98, array)), "test")


def test_the_algorithm_must_be_signed_over() -> None:
    message = cose.parse(sign(-7, protected=b"", unprotected={1: -7}), "test")
    assert "algorithm None" in str(cose.verify(message, KEYS[-7].public_key()))


@pytest.mark.parametrize("named", [0, -8, -37, -257, -47, None, "ES256", True, [], 5])
def test_other_algorithms_are_refused(named: object) -> None:
    message = cose.parse(sign(-7, protected=cbor2.dumps({1: named})), "test")
    assert "none of ES256" in str(cose.verify(message, KEYS[-7].public_key()))


def test_curve_and_algorithm_must_fit() -> None:
    message = cose.parse(sign(-7, KEYS[-35]), "test")
    assert "secp384r1" in str(cose.verify(message, KEYS[-35].public_key()))


@pytest.mark.parametrize("signature", [b"", bytes(95), bytes(97), bytes(96), b"\xff" * 96])
def test_degenerate_signatures_are_refused(signature: bytes) -> None:
    protected, headers, payload, _ = cbor2.loads(sign(-35)).value
    message = cose.parse(cbor2.dumps([protected, headers, payload, signature]), "test")
    assert cose.verify(message, KEYS[-35].public_key()) is not None


@pytest.mark.parametrize(
    "item",
    [
        [],
        [b"", {}, b""],
        [b"", {}, None, b""],  # a detached payload
        [b"", [], b"", b""],
        [b"\x01", {}, b"", b""],  # a protected header that is no map
        [cbor2.dumps({1: -7}), {1: -35}, b"", b""],  # the algorithm twice
        [cbor2.dumps({1: -7, 2: [1]}), {}, b"", b""],  # critical parameters
        {},
        7,
    ],
)
def test_other_shapes_are_refused(item: object) -> None:
    with pytest.raises(EvidenceMalformed):
        cose.parse(cbor2.dumps(item), "test")


@given(st.integers(0, 2000), st.integers(1, 255))
def test_no_changed_message_verifies(position: int, change: int) -> None:
    original = _MESSAGE
    data = bytearray(original)
    data[position % len(data)] ^= change
    try:
        message = cose.parse(bytes(data), "test")
    except EvidenceMalformed:
        return
    assert cose.verify(message, KEYS[-35].public_key()) is not None


_MESSAGE = sign(-35)


def test_keys_come_from_maps_and_points() -> None:
    for curve, key in ((1, KEYS[-7]), (2, KEYS[-35]), (3, KEYS[-36])):
        numbers = key.public_key().public_numbers()
        size = (key.curve.key_size + 7) // 8
        x, y = numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")
        public = key.public_key()
        assert cose.key_from_map({1: 2, -1: curve, -2: x, -3: y}, "key") == public
        assert cose.key_from_point(b"\x04" + x + y, "key") == public
        for broken in ({1: 1}, {1: 2, -1: 9}, {1: 2, -1: curve, -2: x, -3: True}, {}):
            with pytest.raises(EvidenceMalformed):
                cose.key_from_map(broken, "key")
        for point in (b"\x04" + x + x, b"\x02" + x, b"", bytes(1 + 2 * size)):
            with pytest.raises(EvidenceMalformed):
                cose.key_from_point(point, "key")
