"""Base64url: every value has one text, and only that is read."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.middleware.attestation.base64url import pack, unpack


@given(st.binary(max_size=100))
def test_what_was_packed_is_unpacked(data: bytes) -> None:
    assert unpack(pack(data)) == data


@given(st.text(max_size=30))
def test_any_text_is_the_one_of_its_value_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert pack(unpack(text)) == text


@pytest.mark.parametrize("text", ["AA==", "AB", "A", "A+", "A/==", "AA\n", " AA", "ÄA"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"base64url|ASCII|ascii"):
        unpack(text)
