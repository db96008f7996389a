"""What evidence has to carry: every field counts, and each in its own place."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.middleware.channel.binding import NO_KEY, Role, key_digest, report_data
from secgear.middleware.channel.core import Judge, Present
from tests.middleware.channel.pairs import SERVER, opened

FIELDS = ("client_nonce", "server_nonce", "exporter", "own_key", "peer_key")
GIVEN = {name: bytes([number]) * 32 for number, name in enumerate(FIELDS, 1)}


def test_it_is_what_the_specification_says() -> None:
    said = b"secgear channel v1\0S" + b"".join(GIVEN[name] for name in FIELDS)
    assert report_data(Role.SERVER, **GIVEN) == hashlib.sha512(said).digest()


def test_roles_differ() -> None:
    assert report_data(Role.SERVER, **GIVEN) != report_data(Role.CLIENT, **GIVEN)


@given(st.sampled_from(FIELDS), st.integers(0, 255))
def test_every_bit_of_every_field_counts(name: str, bit: int) -> None:
    changed = bytearray(GIVEN[name])
    changed[bit // 8] ^= 1 << bit % 8
    assert report_data(Role.SERVER, **GIVEN) != report_data(
        Role.SERVER, **{**GIVEN, name: bytes(changed)}
    )


@pytest.mark.parametrize("one", FIELDS)
@pytest.mark.parametrize("other", FIELDS)
def test_no_field_stands_for_another(one: str, other: str) -> None:
    if one != other:
        swapped = {**GIVEN, one: GIVEN[other], other: GIVEN[one]}
        assert report_data(Role.SERVER, **GIVEN) != report_data(Role.SERVER, **swapped)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_fields_of_another_size_are_refused(name: str, size: int) -> None:
    """Or what one lacks the next could have."""
    with pytest.raises(ValueError, match="32 bytes"):
        report_data(Role.SERVER, **{**GIVEN, name: bytes(size)})


def test_no_key_is_no_keys_digest() -> None:
    assert key_digest(None) == NO_KEY == bytes(32)
    assert key_digest(b"") != NO_KEY


def test_evidence_is_asked_for_over_all_of_the_connection() -> None:
    """Over both nonces, the exporter and the keys of this connection, as TLS itself tells them."""
    pair = opened(demand=True)
    asked = next(event for event in pair.events["S"] if isinstance(event, Present))
    judged = next(event for event in pair.events["S"] if isinstance(event, Judge))
    client, server = pair.client._nonce, pair.server._nonce
    exporter = pair.client._tls.exporter(client, server)
    key = key_digest(SERVER.spki)
    common = {"client_nonce": client, "server_nonce": server, "exporter": exporter}
    assert asked.report_data == report_data(Role.SERVER, own_key=key, peer_key=NO_KEY, **common)
    assert judged.report_data == report_data(Role.CLIENT, own_key=NO_KEY, peer_key=key, **common)


def test_every_connection_has_nonces_of_its_own() -> None:
    one, other = opened(), opened()
    nonces = {end._nonce for pair in (one, other) for end in pair.ends.values()}
    assert len(nonces) == 4
    assert bytes(32) not in nonces
