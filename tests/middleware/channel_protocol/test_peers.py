"""Another implementation talks to ours, and ours to it."""

from __future__ import annotations

import contextlib
import datetime
import functools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

import secgear
from secgear import errors
from secgear.base.tee import Evidence
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchor, builtin_anchors, envelope, examine, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.channel import CLASSIC, HYBRID, Identity, Parameters, Relay
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel_protocol import independent
from tests.middleware.channel_protocol.make_vectors import POLICY
from tests.middleware.channel_protocol.peers import Client, Server

OWNER = load_policy(POLICY % (b"m" * 48).hex().encode())
APP = """
from secgear import App, Session

app = App("echo", version="1.0")

@app.session
def echo(session: Session) -> None:
    for message in session:
        session.send(message)
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Address and measurement of an enclave that sends back what it gets."""
    path = tmp_path_factory.mktemp("app") / "echo.py"
    path.write_text(APP)
    with secgear.launch(path, tee="process") as enclave, Relay(enclave) as relay:
        host, _, port = relay.address.removeprefix("tcp://").rpartition(":")
        yield (host, int(port)), enclave.image.measurement


def carries(evidence: bytes, report_data: bytes) -> bool:
    return independent.token_report_data(evidence) == report_data


def test_another_implementations_client_talks_to_an_enclave(
    echo: tuple[tuple[str, int], bytes],
) -> None:
    address, measurement = echo
    root = SimulatedPlatform(home()).root.public_bytes(Encoding.PEM)
    anchors = builtin_anchors().adding(Anchor("mine", "simulated", load_pem(root)[0]))
    policy = load_policy(
        POLICY.replace(b"[allow]", b"[allow]\ndebug = true") % measurement.hex().encode()
    )

    def trusts(evidence: bytes, report_data: bytes) -> bool:
        now = datetime.datetime.now(datetime.UTC)
        verdict = examine(
            envelope.from_cbor(evidence), policy, at=now, report_data=report_data, anchors=anchors
        )
        return verdict.trusted and carries(evidence, report_data)

    with Client(socket.create_connection(address)) as client:
        client.connect(trusts, "echo")
        for message in (b"", b"hello", bytes(100_000)):
            parts = [message[:4], message[4:]] if len(message) > 4 else [message]
            for part in parts[:-1]:
                client.write(independent.frame("PART", part))
            client.write(independent.frame("LAST", parts[-1]))
            got = b""
            while (frame := client.hear("PART", "LAST")).kind == "PART":
                got += frame.payload
            assert got + frame.payload == message
        client.goodbye()


def test_another_implementations_client_refuses_in_our_words(
    echo: tuple[tuple[str, int], bytes],
) -> None:
    with (
        Client(socket.create_connection(echo[0])) as client,
        pytest.raises(independent.Malformed, match="not trusted"),
    ):
        client.connect(lambda *_: False)


def enveloped(vendor: SimulatedVendor, report_data: bytes) -> bytes:
    """Evidence as another implementation packs it."""
    made = vendor.evidence(report_data=report_data)
    members = {"format": made.format, "data": made.data, "attachments": {}, "parts": {}}
    return independent.to_cbor({"secgear-evidence": 1, **members})


@contextlib.contextmanager
def serving(
    serve: Callable[[Server], object],
    setting: Callable[[SSL.Context], object] | None = None,
    *,
    changed: Callable[[bytes], bytes] | None = None,
) -> Iterator[socket.socket]:
    """The client's end of a connection to another implementation's server.

    changed: what becomes of its certificate.
    """
    identity = Identity.fresh("another")
    certificate: Any = identity.certificate
    if changed is not None:
        der = changed(certificate.public_bytes(Encoding.DER))
        certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
    mine, other = socket.socketpair()
    given = () if setting is None else (setting,)

    def run() -> None:
        ended = (independent.Malformed, OSError, SSL.Error)
        with (
            Server(other, identity.key, certificate, *given) as server,
            contextlib.suppress(*ended),
        ):
            serve(server)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield mine
    finally:
        mine.close()
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("identity", [None, Identity.fresh()], ids=["nobody", "not-asked"])
def test_our_client_talks_to_another_implementations_server(identity: Identity | None) -> None:
    vendor = SimulatedVendor()
    heard: list[Any] = []

    def serve(server: Server) -> None:
        heard.append(server.accept(functools.partial(enveloped, vendor)))
        server.say("OPENED", interface=b"", offered=[])
        heard.append(server.hear("LAST").payload)
        server.write(independent.frame("PART", b"and back "))
        server.write(independent.frame("LAST", b"again"))
        server.goodbye()

    with (
        serving(serve) as sock,
        secgear.connect(
            sock, OWNER, anchors=vendor.anchors, service="some", identity=identity
        ) as session,
    ):
        session.send(b"there")
        assert session.recv(20) == b"and back again"
        assert list(session) == []
    assert heard == [{"service": "some", "calls": False}, b"there"]


def test_our_client_refuses_evidence_about_another_connection() -> None:
    vendor = SimulatedVendor()
    heard: list[Any] = []

    def serve(server: Server) -> None:
        heard.append(server.accept(lambda _: enveloped(vendor, bytes(64))))

    with serving(serve) as sock, pytest.raises(errors.Untrusted):
        secgear.connect(sock, OWNER, anchors=vendor.anchors)
    assert heard == []


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not-trusted"])
def test_client_shows_its_evidence_only_to_whom_it_trusts(trusted: bool) -> None:
    vendor, foreign = SimulatedVendor(), SimulatedVendor()
    shown: list[bytes] = []
    heard: list[Any] = []

    def serve(server: Server) -> None:
        own = vendor if trusted else foreign
        heard.append(server.accept(functools.partial(enveloped, own), demand=True))

    def attester(report_data: bytes) -> Evidence:
        shown.append(report_data)
        return vendor.evidence(report_data=report_data)

    expected = errors.HandshakeFailed if trusted else errors.Untrusted
    with serving(serve) as sock, pytest.raises(expected):
        secgear.connect(sock, OWNER, anchors=vendor.anchors, attester=attester)
    assert len(shown) == len(heard) == int(trusted)
    if trusted:
        assert carries(heard[0]["evidence"], shown[0])
        assert (heard[0]["nonce"], heard[0]["demand"]) == (bytes(32), False)


# --- less than the two sides can do --------------------------------------------------------------


def _older(context: SSL.Context) -> None:
    context.set_max_proto_version(SSL.TLS1_2_VERSION)


def _weaker_suite(context: SSL.Context) -> None:
    context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")


def _classic_group(context: SSL.Context) -> None:
    context.set_tmp_ecdh(ec.SECP256R1())


LESS = pytest.mark.parametrize(
    "setting", [_older, _weaker_suite, _classic_group], ids=["version", "suite", "group"]
)


@LESS
def test_server_that_offers_less_gets_not_even_a_challenge(setting: Any) -> None:
    heard: list[Any] = []
    with serving(lambda server: heard.append(server.accept(lambda _: b"")), setting) as sock:
        with pytest.raises(errors.HandshakeFailed, match="TLS: "):
            secgear.connect(sock, OWNER)
        assert heard == []


@LESS
def test_client_that_offers_less_gets_no_evidence(
    echo: tuple[tuple[str, int], bytes], setting: Any
) -> None:
    asked: list[bytes] = []

    def trusts(evidence: bytes, _: bytes) -> bool:
        asked.append(evidence)
        return False

    with Client(socket.create_connection(echo[0]), setting) as client:
        client.floor = ()
        with pytest.raises((independent.Malformed, SSL.Error)) as caught:
            client.connect(trusts)
    assert "not trusted" not in str(caught.value)
    assert asked == []


def test_who_accepts_the_classic_group_gets_it() -> None:
    """So what is refused above is refused for being below the floor."""
    vendor = SimulatedVendor()

    def serve(server: Server) -> None:
        server.accept(functools.partial(enveloped, vendor))
        server.say("OPENED", interface=b"", offered=[])
        server.write(independent.frame("LAST", b"here"))

    parameters = Parameters(groups=(*HYBRID, *CLASSIC))
    with serving(serve, _classic_group) as sock:
        session = secgear.connect(sock, OWNER, anchors=vendor.anchors, parameters=parameters)
        assert session.peer.tls["group"] == "secp256r1"
        assert session.recv(20) == b"here"
