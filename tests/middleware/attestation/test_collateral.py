"""Collateral as a value: saved, read, merged, bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import CollateralError
from secgear.middleware.attestation import collateral as module
from secgear.middleware.attestation.collateral import Collateral, Document, from_json

blobs = st.lists(st.binary(max_size=8), max_size=3).map(tuple)
documents = st.lists(
    st.builds(Document, st.text(max_size=5), st.binary(max_size=8), st.text(max_size=5), blobs),
    max_size=3,
).map(tuple)
sets = st.builds(Collateral, blobs, blobs, blobs, documents)


@given(sets)
def test_a_file_holds_everything(collateral: Collateral) -> None:
    assert from_json(collateral.to_json()) == collateral


@given(sets, sets)
def test_merging_keeps_each_item_once(one: Collateral, other: Collateral) -> None:
    both = one.merged(other)
    assert set(both.crls) == set(one.crls) | set(other.crls)
    assert len(set(both.documents)) == len(both.documents)
    assert both.merged(both, other) == both
    assert both.digest == both.merged(one).digest


def test_documents_are_found_by_kind() -> None:
    a, b = Document("kind.a", b"1"), Document("kind.b", b"2", "name")
    assert Collateral(documents=(a, b)).documents_of("kind.b") == (b,)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"secgear-collateral": 2}', '{"secgear-collateral": 1, "x": 1}'],
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(CollateralError):
        from_json(text.encode())


def test_files_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Collateral(crls=tuple(bytes([n >> 8, n & 255]) for n in range(module.MAX_ITEMS + 1)))
    with pytest.raises(CollateralError, match="more than"):
        from_json(many.to_json())
    monkeypatch.setattr(module, "MAX_SIZE", 10)
    with pytest.raises(CollateralError, match="at most 10"):
        from_json(Collateral().to_json())


@given(st.binary(max_size=100))
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(CollateralError):
        from_json(data)
