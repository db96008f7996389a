"""The vectors in tests/vectors/own, and an opener that shares no code with ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from secgear.base.tee import Evidence
from secgear.errors import EnvelopeRefused
from secgear.middleware import envelopes
from secgear.middleware.envelopes import CLASSIC, HYBRID, EnclaveKey, EnclaveKeyPair, Opener
from tests.middleware.envelopes import independent

PLACE = Path(__file__).parents[2] / "vectors" / "own" / "envelopes.json"
VECTORS: list[dict[str, Any]] = json.loads(PLACE.read_text())["vectors"]


def ids(vector: dict[str, Any]) -> str:
    return f"{vector['suite'].partition('/')[0]}-{vector['name']}"


def pair_of(vector: dict[str, Any]) -> EnclaveKeyPair:
    key = EnclaveKey(
        suite=vector["suite"],
        public=bytes.fromhex(vector["public_key"]),
        not_after=vector["not_after"],
        context=bytes.fromhex(vector["context"]),
        purposes=tuple(vector["purposes"]),
        evidence=Evidence("none", b""),
    )
    return EnclaveKeyPair(bytes.fromhex(vector["private_key"]), key)


def test_vectors_are_of_both_suites() -> None:
    assert {vector["suite"] for vector in VECTORS} == {HYBRID, CLASSIC}
    assert len(VECTORS) == 8


@pytest.mark.parametrize("vector", VECTORS, ids=ids)
def test_vector_opens(vector: dict[str, Any]) -> None:
    pair = pair_of(vector)
    assert pair.key.report_data.hex() == vector["report_data"]
    assert pair.key.id.hex() == vector["key_id"]
    envelope, associated = (bytes.fromhex(vector[name]) for name in ("envelope", "associated"))
    opener = Opener(pair, purpose=vector["purpose"], associated=associated)
    assert b"".join(opener.stream([envelope])).hex() == vector["data"]
    assert opener.envelope_id.hex() == vector["envelope_id"]
    with pytest.raises(EnvelopeRefused):
        envelopes.open(pair, envelope, purpose="audit", associated=associated)


@pytest.mark.parametrize("vector", VECTORS, ids=ids)
def test_another_implementation_opens_the_vector(vector: dict[str, Any]) -> None:
    secret, envelope, associated = (
        bytes.fromhex(vector[name]) for name in ("private_key", "envelope", "associated")
    )
    opened = independent.open_envelope(secret, envelope, vector["purpose"].encode(), associated)
    assert opened.data.hex() == vector["data"]
    assert opened.content_key.hex() == vector["content_key"]
    with pytest.raises(InvalidTag):
        independent.open_envelope(secret, envelope, b"audit", associated)


def test_another_implementation_opens_what_we_seal_now(
    pair: EnclaveKeyPair, recipient: envelopes.TrustedKey
) -> None:
    import cbor2

    secret = cbor2.loads(pair.to_secret())["secret"]
    envelope = envelopes.seal(recipient, bytes(300_000), purpose="p", associated=b"a")
    assert independent.open_envelope(secret, envelope, b"p", b"a").data == bytes(300_000)
