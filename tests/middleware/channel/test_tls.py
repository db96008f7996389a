"""TLS without I/O: limits of a key, certificates that are not what they should be, the exporter."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.errors import ChannelError, HandshakeFailed
from secgear.middleware.channel import tls
from secgear.middleware.channel.core import Received
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.tls import Parameters, Tls
from tests.middleware.channel.pairs import opened

SERVER = Identity.fresh("server")


def joined(client: Identity | None = None, **given: Any) -> tuple[Tls, Tls]:
    one = Tls(Parameters(), client, server=False)
    other = Tls(Parameters(), SERVER, server=True, **given)
    one.shake()
    for _ in range(3):
        other.feed(one.outgoing())
        if other.established or other.shake():
            break
        one.feed(other.outgoing())
        one.shake()
    one.feed(other.outgoing())
    one.read()
    return one, other


def signed(key: Any, name: str = "x") -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


# --- what a key carries --------------------------------------------------------------------------


def test_sender_stops_before_its_key_is_worn(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = opened()
    monkeypatch.setattr(tls, "LIMIT", pair.client._tls._sent + 2 * tls.OVERHEAD + 3000)
    for _ in range(2):
        for _ in pair.client.send(bytes(1000)):
            pair.carry()
    with pytest.raises(ChannelError, match="make a new one"):
        list(pair.client.send(bytes(1000)))


def test_receiver_does_not_rely_on_the_sender_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before the limit is still handed out."""
    pair = opened()
    monkeypatch.setattr(tls, "LIMIT", pair.server._tls._received + 2 * tls.OVERHEAD)
    pair.client._tls._sent = -(1 << 40)
    for _ in range(3):
        for _ in pair.client.send(b"x"):
            pair.carry()
    assert "make a new one" in str(pair.errors["S"])
    assert sum(isinstance(event, Received) for event in pair.events["S"]) <= 2


def test_small_records_wear_a_key_as_full_ones_do() -> None:
    one, _ = joined()
    before = one._sent
    one.write(b"x")
    assert one._sent - before == 1 + tls.OVERHEAD
    before = one._sent
    one.write(bytes(3 * (16 << 10)))
    assert one._sent - before == 3 * (16 << 10) + 3 * tls.OVERHEAD


# --- records -------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=40_000), min_size=1, max_size=4))
def test_what_is_written_is_read(pieces: list[bytes]) -> None:
    one, other = joined()
    for piece in pieces:
        one.write(piece)
    other.feed(one.outgoing())
    assert b"".join(other.read()) == b"".join(pieces)
    other.check()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200), st.integers(0, 7))
def test_one_changed_bit_is_an_error(at: int, bit: int) -> None:
    one, other = joined()
    one.write(bytes(180))
    record = bytearray(one.outgoing())
    record[at % len(record)] ^= 1 << bit
    other.feed(bytes(record))
    assert other.read() == []
    if at % len(record) in (3, 4):  # of the length: perhaps more has to come
        other.feed(bytes(1 << 16))
        other.read()
    with pytest.raises(ChannelError, match="TLS: "):
        other.check()


def test_goodbye_is_heard_and_failed_connections_say_none() -> None:
    one, other = joined()
    one.goodbye()
    other.feed(one.outgoing())
    assert other.read() == []
    assert other.finished
    with pytest.raises(ChannelError, match="TLS"):
        one.write(b"after it")
    one.goodbye()


# --- who is there --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "ed25519", "rsa"],
)
def test_keys_of_every_kind_are_read_as_they_are_written(key: Any) -> None:
    client = Identity(key, signed(key))
    _, other = joined(client, authorities=(client.certificate.public_bytes(Encoding.PEM),))
    assert other.peer_spki == client.spki


def test_nobody_is_known_who_has_shown_nothing() -> None:
    one, other = joined(Identity.fresh("not asked for"))
    assert other.peer_spki is None
    assert other.peer_certificate is None
    assert one.peer_spki == SERVER.spki


def test_key_in_another_encoding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hashes the certificate's own bytes would bind another key than who encodes it anew."""
    one, _ = joined()
    key = SERVER.certificate.public_key()

    class Odd:
        tbs_certificate_bytes = SERVER.certificate.tbs_certificate_bytes.replace(
            SERVER.spki, b"\x02" + SERVER.spki[1:]
        )

        def public_key(self) -> Any:
            return key

    monkeypatch.setattr(Tls, "peer_certificate", Odd())
    with pytest.raises(HandshakeFailed, match="not in the usual encoding"):
        _ = one.peer_spki


def test_certificate_that_can_not_be_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = joined()

    class Broken:
        def public_key(self) -> Any:
            raise ValueError("an unsupported curve")

    monkeypatch.setattr(Tls, "peer_certificate", Broken())
    with pytest.raises(HandshakeFailed, match="certificate: ValueError"):
        _ = one.peer_spki


def test_authority_that_is_none_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="PEM"):
        Tls(Parameters(), SERVER, (b"no certificate",), server=True)


# --- the exporter --------------------------------------------------------------------------------


def test_both_ends_export_the_same_and_no_other_connection_does() -> None:
    one, other = joined()
    another, _ = joined()
    nonces = (b"c" * 32, b"s" * 32)
    assert one.exporter(*nonces) == other.exporter(*nonces)
    assert one.exporter(*nonces) != another.exporter(*nonces)
    assert one.exporter(*nonces) != one.exporter(*reversed(nonces))


def test_description_tells_what_was_agreed() -> None:
    one, other = joined()
    assert one.description == other.description
    assert one.description["version"] == "TLSv1.3"
