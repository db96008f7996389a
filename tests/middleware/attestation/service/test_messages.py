"""Reading requests: whatever the bytes, a claim or one of two refusals, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.base64url import pack
from secgear.middleware.attestation.service.appraiser import Claim
from secgear.middleware.attestation.service.binding import MAX_USER_DATA, NONCE_SIZE, report_data
from secgear.middleware.attestation.service.messages import read_attest
from secgear.middleware.attestation.service.problems import Problem

NONCE = b"n" * NONCE_SIZE
EVIDENCE = Evidence("acme.chip", b"data", {"chain": b"c"}, {"gpu0": Evidence("acme.gpu", b"g")})
GOOD: dict[str, Any] = {
    "evidence": json.loads(envelope.to_json(EVIDENCE)),
    "nonce": pack(NONCE),
    "policy": "p",
    "audience": "a",
    "user_data": pack(b"key"),
    "result": "cwt",
}
BYTES = json.dumps(GOOD).encode()
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def read(body: bytes) -> Claim | None:
    """The claim, or None if it was refused as it should be; any other exception is a bug."""
    try:
        return read_attest(body)
    except EvidenceMalformed:
        return None
    except Problem as problem:
        if (problem.status, problem.code) != (400, "request.invalid") or len(problem.detail) > 300:
            raise
        return None


def test_a_request_is_read_as_it_was_meant() -> None:
    assert read_attest(BYTES) == Claim(EVIDENCE, NONCE, "p", "a", b"key", "cwt")


@pytest.mark.parametrize("missing", ["evidence", "nonce", "policy", "audience"])
def test_what_is_missing_is_missed(missing: str) -> None:
    body = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(Problem, match="not in the form"):
        read_attest(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("size", "fits"), [(0, False), (1, True), (MAX_USER_DATA, True), (MAX_USER_DATA + 1, False)]
)
def test_user_data_is_bounded(size: int, fits: bool) -> None:
    body = GOOD | {"user_data": pack(bytes(size))}
    assert (read(json.dumps(body).encode()) is not None) is fits


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    assert read(body) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), ANY)
def test_any_value_in_any_place(field: str, value: Any) -> None:
    read(json.dumps(GOOD | {field: value}).encode())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(BYTES) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_any_change_in_a_good_request(at: int, put: bytes, cut: int) -> None:
    read(BYTES[:at] + put + BYTES[at + cut :])


@pytest.mark.parametrize("place", ["%s", '{"evidence":%s}', '{"evidence":{"parts":%s}}'])
@pytest.mark.parametrize("deep", [b"[" * 500_000, b'{"a":' * 500_000, b'{"parts":' * 100_000])
def test_depth_without_end(place: str, deep: bytes) -> None:
    assert read(place.encode() % deep) is None


@given(st.binary(min_size=1, max_size=100), st.binary(min_size=1, max_size=100))
def test_report_data_stands_for_nonce_and_user_data(one: bytes, other: bytes) -> None:
    assert report_data(NONCE) == NONCE
    assert len(report_data(NONCE, one)) == 64
    assert (report_data(NONCE, one) == report_data(NONCE, other)) is (one == other)
    assert report_data(NONCE, one) != report_data(bytes(32), one)


def test_report_data_is_the_one_that_is_documented() -> None:
    """As docs/attestation/service.md says it: attesters in other languages rely on that."""
    import hashlib

    inner = hashlib.sha256(b"key").digest()
    assert (
        report_data(NONCE, b"key")
        == hashlib.sha512(b"secgear attest v1\x00" + NONCE + inner).digest()
    )


@pytest.mark.parametrize("nonce", [b"", b"n" * 31, b"n" * 33])
def test_nonces_of_other_lengths_are_refused(nonce: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        report_data(nonce)
