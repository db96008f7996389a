"""Another implementation talks to ours, and ours to it."""

from __future__ import annotations

import contextlib
import datetime
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear import errors
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchor, builtin_anchors, envelope, examine, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.channel import Identity, Relay
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel_protocol import independent
from tests.middleware.channel_protocol.make_vectors import POLICY
from tests.middleware.channel_protocol.peers import Client, Server

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


@pytest.mark.parametrize("honest", [True, False], ids=["honest", "of-another-connection"])
def test_our_client_talks_to_another_implementations_server(honest: bool, tmp_path: Path) -> None:
    vendor = SimulatedVendor()
    policy = load_policy(POLICY % (b"m" * 48).hex().encode())
    identity = Identity.fresh("another")
    heard: list[Any] = []

    def attest(report_data: bytes) -> bytes:
        made = vendor.evidence(report_data=report_data if honest else bytes(64))
        members = {"format": made.format, "data": made.data, "attachments": {}, "parts": {}}
        return independent.to_cbor({"secgear-evidence": 1, **members})

    def serve(sock: socket.socket) -> None:
        with (
            Server(sock, identity.key, identity.certificate) as server,
            contextlib.suppress(independent.Malformed, OSError),
        ):
            heard.append(server.accept(attest))
            server.say("OPENED", interface=b"", offered=[])
            heard.append(server.hear("LAST").payload)
            server.write(independent.frame("PART", b"and back "))
            server.write(independent.frame("LAST", b"again"))
            server.goodbye()

    mine, other = socket.socketpair()
    thread = threading.Thread(target=serve, args=(other,))
    thread.start()
    try:
        if honest:
            with secgear.connect(mine, policy, anchors=vendor.anchors, service="some") as session:
                session.send(b"there")
                assert session.recv(20) == b"and back again"
                assert list(session) == []
            assert heard == [{"service": "some", "calls": False}, b"there"]
        else:
            with pytest.raises(errors.Untrusted):
                secgear.connect(mine, policy, anchors=vendor.anchors)
            assert heard == []
    finally:
        thread.join(20)
