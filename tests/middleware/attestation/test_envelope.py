"""Evidence as a file: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import base64
import json

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import envelope

names = st.text(max_size=12)
plain = st.builds(Evidence, names, st.binary(), st.dictionaries(names, st.binary(), max_size=3))
nested = st.builds(
    Evidence,
    names,
    st.binary(),
    st.dictionaries(names, st.binary(), max_size=3),
    st.dictionaries(names, plain, max_size=3),
)


@given(nested)
def test_both_forms_hold_everything(evidence: Evidence) -> None:
    assert envelope.from_json(envelope.to_json(evidence)) == evidence
    assert envelope.from_cbor(envelope.to_cbor(evidence)) == evidence


def test_the_form_is_the_documented_one() -> None:
    assert json.loads(envelope.to_json(Evidence("f", b"\1", {"a": b"\2"}))) == {
        "secgear-evidence": 1,
        "format": "f",
        "data": base64.b64encode(b"\1").decode(),
        "attachments": {"a": base64.b64encode(b"\2").decode()},
        "parts": {},
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"secgear-evidence": 1, "format": "f"}',
        '{"format": "f", "data": ""}',
        '{"secgear-evidence": 2, "format": "f", "data": ""}',
        '{"secgear-evidence": 1, "format": "f", "data": "!"}',
        '{"secgear-evidence": 1, "format": "f", "data": "", "more": 1}',
        '{"secgear-evidence": 1, "format": "f", "data": "", "parts": {"p": {"secgear-evidence": 1,'
        ' "format": "f", "data": ""}}}',
        '{"secgear-evidence": 1, "format": "f", "data": "", "parts": ' + '{"p": ' * 5000,
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(EvidenceMalformed):
        envelope.from_json(text.encode())


def test_size_and_parts_are_bounded() -> None:
    with pytest.raises(EvidenceMalformed, match="at most"):
        envelope.from_json(bytes(envelope.MAX_SIZE + 1))
    with pytest.raises(EvidenceMalformed, match="at most"):
        envelope.from_cbor(bytes(envelope.MAX_SIZE + 1))
    parts = {str(number): Evidence("f", b"") for number in range(envelope.MAX_PARTS + 1)}
    with pytest.raises(EvidenceMalformed, match="parts"):
        envelope.from_json(envelope.to_json(Evidence("f", b"", {}, parts)))


def test_text_is_no_byte_string_in_cbor() -> None:
    with pytest.raises(EvidenceMalformed):
        envelope.from_cbor(cbor2.dumps({"secgear-evidence": 1, "format": "f", "data": "AAAA"}))


@given(st.binary(max_size=100))
def test_rubbish_is_refused(data: bytes) -> None:
    for read in (envelope.from_json, envelope.from_cbor):
        with pytest.raises(EvidenceMalformed):
            read(data)


def test_deep_envelopes_are_counted_before_anything_recurses_into_them() -> None:
    """Newer interpreters let the decoder nest deeper than Python's own functions."""
    body = envelope._Body("x", b"")
    for _ in range(5000):
        body = envelope._Body("x", b"", parts={"a": body})
    deep = envelope._Envelope("x", b"", parts={"a": body}, version=1)
    with pytest.raises(EvidenceMalformed, match="more than 64 parts"):
        envelope._checked(deep)


def test_more_attachments_than_any_format_has_are_refused() -> None:
    """Hundreds of thousands fit into one request, and writing each down again takes time."""
    many = {f"{number:x}": b"" for number in range(33)}
    for evidence in (
        Evidence("x", b"", many),
        Evidence("x", b"", parts={"a": Evidence("y", b"", many)}),
    ):
        for read, write in (
            (envelope.from_json, envelope.to_json),
            (envelope.from_cbor, envelope.to_cbor),
        ):
            with pytest.raises(EvidenceMalformed, match="more than 32 attachments"):
                read(write(evidence))
