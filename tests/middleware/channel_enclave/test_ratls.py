"""An enclave whose certificate others can read."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

import secgear
from secgear.middleware.attestation import Anchors
from secgear.middleware.attestation.policy import Policy
from secgear.middleware.channel import Relay
from secgear.middleware.channel.addresses import parse
from secgear.middleware.channel.ratls import Form, examine_certificate, read
from tests.middleware.channel_enclave.conftest import policy_for

APP = """
from secgear import App, Session

app = App("readable", version="1.0")
app.sessions.configure(ra_tls=True)

@app.session
def echo(session: Session) -> None:
    for message in session:
        session.send(message)
"""


def lax(policy: Policy) -> Policy:
    """The same, for those who do without freshness."""
    import msgspec

    return msgspec.structs.replace(
        policy, freshness=msgspec.structs.replace(policy.freshness, report_data="optional")
    )


def certificate_of(address: str) -> bytes:
    """What a client sees that knows TLS and nothing of us."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    place = parse(address)
    with socket.create_connection((place.host, place.port)) as sock:
        connection = SSL.Connection(context, sock)
        connection.set_connect_state()
        connection.do_handshake()
        shown = connection.get_peer_certificate(as_cryptography=True)
    assert shown is not None
    return shown.public_bytes(Encoding.PEM)


def test_foreign_client_reads_and_judges_the_enclaves_certificate(
    tmp_path: Path, anchors: Anchors
) -> None:
    path = tmp_path / "readable.py"
    path.write_text(APP)
    with secgear.launch(path, tee="process") as enclave, Relay(enclave) as relay:
        policy = policy_for(enclave.image.measurement)
        pem = certificate_of(relay.address)
        assert read(pem).form is Form.INTEROPERABLE
        now = datetime.datetime.now(datetime.UTC)
        assert examine_certificate(pem, lax(policy), at=now, anchors=anchors).trusted
        assert not examine_certificate(pem, policy, at=now, anchors=anchors).trusted
        assert certificate_of(relay.address) == pem
        with secgear.connect(relay.address, policy, anchors=anchors) as session:
            session.send(b"and ours talks to it as to any")
            assert session.recv(20) == b"and ours talks to it as to any"


def test_certificate_says_nothing_unless_it_was_asked_to(relay: Relay) -> None:
    with pytest.raises(secgear.errors.EvidenceUnsupported):
        read(certificate_of(relay.address))
