"""CBOR from the other side is bounded, unambiguous and free of surprises."""

from __future__ import annotations

import contextlib

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import cbor

keys = st.integers(-(2**40), 2**40) | st.text(max_size=8) | st.binary(max_size=8)
items = st.recursive(
    st.none() | st.booleans() | keys | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(items)
def test_what_a_canonical_encoder_writes_is_read(item: object) -> None:
    assert cbor.decode(cbor2.dumps(item, canonical=True), "test") == item


@given(st.binary(max_size=200))
def test_rubbish_is_refused_or_read_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(EvidenceMalformed):
        cbor.decode(data, "test")


@given(items, st.data())
def test_every_truncation_is_refused(item: object, data: st.DataObject) -> None:
    encoded = cbor2.dumps(item)
    with pytest.raises(EvidenceMalformed):
        cbor.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))], "test")


@given(items)
def test_bytes_after_the_end_are_refused(item: object) -> None:
    with pytest.raises(EvidenceMalformed, match="after the end"):
        cbor.decode(cbor2.dumps(item) + b"\x00", "test")


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("a201010102", "Duplicate map key"),
        ("a2613100613101", "Duplicate map key"),
        ("a20101180102", "Duplicate map key"),  # the same number in two encodings
        ("a1f501", "neither integer nor string"),
        ("a1f93c0001", "neither integer nor string"),
        ("a1a10101f5", "neither integer nor string"),
        ("a20101f502", "Duplicate map key"),  # true is 1 to Python
        ("a20101f93c0002", "Duplicate map key"),  # so is 1.0
        ("9f01ff", "indefinite"),
        ("5f4101ff", "indefinite"),
        ("bf0101ff", "indefinite"),
        ("1c", "subtype"),
        ("d81c80", "not accepted"),
        ("d81d00", "not accepted"),
        ("d8236161", "not accepted"),
        ("d9010280", "not accepted"),
        ("9bffffffffffffffff", "premature end"),
        ("5bffffffffffffffff", "premature end"),
        ("bb8000000000000001", "premature end"),
        ("81" * 40 + "00", "nesting depth"),
        ("c1" * 40 + "00", "nesting depth"),
        ("", "premature end"),
        ("62c328", "test"),  # a text that is not UTF-8
    ],
)
def test_ambiguous_and_hostile_items_are_refused(encoded: str, reason: str) -> None:
    with pytest.raises(EvidenceMalformed, match=reason):
        cbor.decode(bytes.fromhex(encoded), "test")


def test_the_size_is_bounded() -> None:
    with pytest.raises(EvidenceMalformed, match="at most 10"):
        cbor.decode(bytes(11), "test", max_size=10)


def test_equal_keys_in_different_maps_are_fine() -> None:
    assert cbor.decode(bytes.fromhex("82a10102a10103"), "test") == [{1: 2}, {1: 3}]
    assert cbor.decode(bytes.fromhex("a201a1010202a10102"), "test") == {1: {1: 2}, 2: {1: 2}}
