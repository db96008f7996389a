"""Wrapped secrets open for the key, the name and the request they were wrapped for."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import AttestationError
from secgear.middleware.attestation.broker.release import (
    CLASSIC,
    HYBRID,
    SUITES,
    ReleaseKey,
    check_public,
    wrap,
)

KEYS = {suite: ReleaseKey(suite) for suite in SUITES}


@pytest.mark.parametrize("suite", SUITES)
@settings(max_examples=30, deadline=None)
@given(secret=st.binary(max_size=500), name=st.text(max_size=20), request_=st.binary(max_size=64))
def test_the_key_opens_what_was_wrapped_to_it(
    suite: str, secret: bytes, name: str, request_: bytes
) -> None:
    key = KEYS[suite]
    released = wrap(secret, name, suite, key.public, request_)
    assert key.open(released, request_) == secret


@pytest.mark.parametrize("suite", SUITES)
def test_nothing_else_opens_it(suite: str) -> None:
    key = KEYS[suite]
    released = wrap(b"secret", "repo/kind/tag", suite, key.public, b"nonce")
    assert b"secret" not in released.sealed
    flipped = bytearray(released.sealed)
    flipped[-1] ^= 1
    for other, request in (
        (msgspec.structs.replace(released, name="repo/kind/other"), b"nonce"),
        (released, b"another nonce"),
        (msgspec.structs.replace(released, sealed=bytes(flipped)), b"nonce"),
        (msgspec.structs.replace(released, sealed=released.sealed[:-1]), b"nonce"),
        (msgspec.structs.replace(released, sealed=b""), b"nonce"),
        (msgspec.structs.replace(released, suite="none"), b"nonce"),
    ):
        with pytest.raises(AttestationError):
            key.open(other, request)
    with pytest.raises(AttestationError):
        ReleaseKey(suite).open(released, b"nonce")


@pytest.mark.parametrize("suite", SUITES)
def test_report_data_is_the_one_that_is_documented(suite: str) -> None:
    """As docs/attestation/broker.md says it: enclaves in other languages rely on that."""
    key, nonce = KEYS[suite], b"n" * 32
    inner = hashlib.sha256(suite.encode() + b"\0" + key.public).digest()
    expected = hashlib.sha512(b"secgear release v1\0" + nonce + inner).digest()
    assert key.report_data(nonce) == expected
    with pytest.raises(ValueError, match="32 bytes"):
        key.report_data(nonce[1:])


def test_suites_are_not_mixed() -> None:
    with pytest.raises(AttestationError):
        wrap(b"", "n", CLASSIC, KEYS[HYBRID].public, b"")
    with pytest.raises(AttestationError):
        wrap(b"", "n", HYBRID, KEYS[CLASSIC].public, b"")
    with pytest.raises(AttestationError, match="no suite"):
        wrap(b"", "n", "none", KEYS[CLASSIC].public, b"")
    with pytest.raises(AttestationError, match="no suite"):
        ReleaseKey("none")


@pytest.mark.parametrize("suite", SUITES)
@given(data=st.binary(max_size=40))
def test_rubbish_is_no_key(suite: str, data: bytes) -> None:
    if suite == CLASSIC and len(data) == 32:
        return
    with pytest.raises(AttestationError):
        check_public(suite, data)


def test_an_encapsulation_key_that_fips_203_forbids_is_refused() -> None:
    bad = b"\xff" * 1184 + KEYS[CLASSIC].public
    with pytest.raises(AttestationError):
        check_public(HYBRID, bad)


def test_the_low_order_point_wraps_nothing() -> None:
    with pytest.raises(AttestationError):
        wrap(b"secret", "n", CLASSIC, bytes(32), b"")


def test_repr_shows_no_key() -> None:
    assert repr(KEYS[HYBRID]) == f"ReleaseKey({HYBRID!r})"
