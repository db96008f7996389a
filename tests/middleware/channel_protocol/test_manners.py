"""What an enclave says to clients that do not keep to docs/channel-protocol.md."""

from __future__ import annotations

import contextlib
import datetime
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from OpenSSL import SSL

import secgear
from secgear import errors
from secgear.middleware.channel import Relay
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel_protocol import independent
from tests.middleware.channel_protocol.peers import Client, Server
from tests.middleware.channel_protocol.test_peers import OWNER, enveloped, serving

APP = """
from secgear import App, Session

app = App("manners", version="1.0")


@app.session
def size(session: Session) -> None:
    while True:
        session.send(str(len(session.recv())).encode())


@app.remote
@app.ecall
def one() -> int:
    return 1
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    path = tmp_path_factory.mktemp("app") / "manners.py"
    path.write_text(APP)
    with secgear.launch(path, tee="process") as enclave, Relay(enclave) as relay:
        host, _, port = relay.address.removeprefix("tcp://").rpartition(":")
        yield host, int(port)


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[Client]:
    with Client(socket.create_connection(address)) as made:
        yield made


def anything(*_: object) -> bool:
    return True


def ended(client: Client) -> bool:
    """Whether the other side says goodbye, and then nothing any more."""
    with pytest.raises(SSL.ZeroReturnError):
        client.hear()
    return True


def cut(client: Client) -> bool:
    """Whether nothing comes any more, in good order or not."""
    with pytest.raises((independent.Malformed, SSL.Error)) as caught:
        client.hear()
    return "instead of" not in str(caught.value)


# --- before the attestation is complete ----------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "code", "text"),
    [
        (
            independent.message("CHALLENGE", version=2, nonce=bytes(32)),
            "channel.version",
            "version 2",
        ),
        (
            independent.message("CHALLENGE", version=1, nonce=bytes(31)),
            "channel.handshake",
            "a nonce of 31 bytes",
        ),
        (b"\x05\0\0\0", "channel.handshake", "unknown kind 5"),
        (independent.message("ACCEPT"), "channel.handshake", "ACCEPT is not expected"),
        (independent.message("OPEN", service="", calls=False), "channel.handshake", "OPEN before"),
        (independent.frame("LAST", b"data"), "channel.handshake", "LAST before"),
    ],
    ids=["version", "nonce", "kind", "order", "open", "data"],
)
def test_client_is_told_why_it_is_refused(
    client: Client, frame: bytes, code: str, text: str
) -> None:
    client.shake()
    client.write(frame)
    refusal = client.hear("REFUSE").message
    assert refusal["code"] == code
    assert text in refusal["text"]
    assert ended(client)


@pytest.mark.parametrize("kind", [2, 17], ids=["EVIDENCE", "OPENED"])
def test_large_frame_that_can_not_come_now_is_refused_by_its_header(
    client: Client, kind: int
) -> None:
    client.shake()
    client.write((kind << 24 | 4 << 20).to_bytes(4, "big"))  # and nothing of the 4 MiB
    assert client.hear("REFUSE").message["code"] == "channel.handshake"


def test_who_is_refused_does_not_answer(client: Client) -> None:
    client.shake()
    client.say("REFUSE", code="x", text="")
    assert cut(client)


# --- in a session --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        independent.frame("PART", b""),
        independent.message("CHALLENGE", version=1, nonce=bytes(32)),
        independent.message("FAILED", code="x", text=""),
        independent.message("OPENED", interface=b"", offered=[]),
        independent.message("OPEN", service="", calls=False),
        b"\x63\0\0\0",
        b"\x12\x04\0\x01",  # PART of 256 KiB and a byte
    ],
    ids=["empty-part", "challenge", "failed", "opened", "open", "unknown", "too-long"],
)
def test_frame_that_must_not_come_ends_the_session(client: Client, frame: bytes) -> None:
    client.connect(anything)
    client.write(independent.frame("LAST", b"four"))
    assert client.hear("LAST").payload == b"4"
    client.write(frame)
    assert cut(client)


def test_message_of_too_many_parts_ends_the_session(client: Client) -> None:
    """Each part costs memory, however small it is."""
    client.connect(anything)
    client.write(independent.frame("PART", b"x") * 1000)
    client.write(independent.frame("LAST", b""))
    assert client.hear("LAST").payload == b"1000"
    with contextlib.suppress(OSError):  # it may have hung up by then
        for _ in range(66):
            client.write(independent.frame("PART", b"x") * 1000)
        client.write(independent.frame("LAST", b""))
    assert cut(client)


def test_calls_are_for_no_handler(client: Client) -> None:
    client.connect(anything, opening=False)
    client.say("OPEN", service="size", calls=True)
    with pytest.raises((independent.Malformed, SSL.Error)):
        client.hear("OPENED")


def test_what_is_offered_is_named_in_order(client: Client) -> None:
    client.connect(anything, opening=False)
    client.say("OPEN", service="", calls=True)
    assert client.hear("OPENED").message["offered"] == ["one"]


def test_goodbye_is_answered(client: Client) -> None:
    client.connect(anything)
    client.goodbye()
    assert ended(client)


# --- enclaves that do not keep to it -------------------------------------------------------------


def _unsorted(vendor: SimulatedVendor, report_data: bytes) -> bytes:
    """The same envelope, its members in another order."""
    content, _ = independent.from_cbor(enveloped(vendor, report_data))
    pairs = sorted(
        (independent.to_cbor(name), independent.to_cbor(value)) for name, value in content.items()
    )
    return bytes([0xA0 | len(pairs)]) + b"".join(a + b for a, b in reversed(pairs))


def test_envelope_in_another_encoding_is_refused() -> None:
    vendor = SimulatedVendor()

    def serve(server: Server) -> None:
        server.accept(functools.partial(_unsorted, vendor))

    with (
        serving(serve) as sock,
        pytest.raises(errors.HandshakeFailed, match="deterministic"),
    ):
        secgear.connect(sock, OWNER, anchors=vendor.anchors)


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    width = (size.bit_length() + 7) // 8
    length = bytes([size]) if size < 128 else bytes([0x80 | width]) + size.to_bytes(width, "big")
    return bytes([tag]) + length + content


def _as_gramine_does(certificate: bytes) -> bytes:
    """The signature's algorithm with parameters, which must not be there (RFC 5758, 3.2)."""
    tbs, algorithm, signature = [
        whole for whole, _ in independent.elements(next(independent.elements(certificate))[1])
    ]
    algorithm = _element(0x30, next(independent.elements(algorithm))[1] + b"\5\0")
    members = [whole for whole, _ in independent.elements(next(independent.elements(tbs))[1])]
    members[2] = algorithm
    return _element(0x30, _element(0x30, b"".join(members)) + algorithm + signature)


def _key_in_another_encoding(certificate: bytes) -> bytes:
    """The point compressed (SEC 1, section 2.3.3): the same key, other bytes to be hashed."""
    spki = independent.subject_public_key_info(certificate)
    algorithm, (_, bits) = independent.elements(next(independent.elements(spki))[1])
    x, y = bits[2:34], bits[34:]
    point = b"\0" + bytes([2 + (y[-1] & 1)]) + x
    other = _element(0x30, algorithm[0] + _element(3, point))
    tbs, *rest = [
        whole for whole, _ in independent.elements(next(independent.elements(certificate))[1])
    ]
    members = [whole for whole, _ in independent.elements(next(independent.elements(tbs))[1])]
    members[6] = other
    return _element(0x30, _element(0x30, b"".join(members)) + b"".join(rest))


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL X509")  # `cryptography` has no such ones
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (_as_gramine_does, "its encoding is not DER"),
        (_key_in_another_encoding, "its key is not in the usual encoding"),
    ],
    ids=["algorithm", "key"],
)
def test_certificate_in_another_encoding_is_refused(
    changed: Callable[[bytes], bytes], message: str
) -> None:
    vendor = SimulatedVendor()
    with (
        serving(lambda s: s.accept(functools.partial(enveloped, vendor)), changed=changed) as sock,
        pytest.raises(errors.HandshakeFailed, match=message),
    ):
        secgear.connect(sock, OWNER, anchors=vendor.anchors)


@pytest.mark.parametrize(
    "say",
    [
        lambda server: server.say("OPENED", interface=b"", offered=["b", "a"]),
        lambda server: server.say("OPENED", interface=b"", offered=["a", "a"]),
        lambda server: server.say("ACCEPT"),
        lambda server: server.write(independent.frame("PART", b"")),
        lambda server: server.write(independent.frame("CALLS", b"x")),
    ],
    ids=["order", "twice", "accept", "empty", "calls"],
)
def test_client_ends_what_a_server_may_not_say(say: Callable[[Server], Any]) -> None:
    vendor = SimulatedVendor()

    def serve(server: Server) -> None:
        server.accept(functools.partial(enveloped, vendor))
        say(server)
        server.hear("LAST")

    with serving(serve) as sock, pytest.raises(errors.ChannelError):
        secgear.connect(sock, OWNER, anchors=vendor.anchors).recv(20)


def test_policy_of_the_vectors_is_no_policy_of_anything_else() -> None:
    """The peers above are trusted by their evidence, not because nothing is checked."""
    from secgear.middleware.attestation import examine

    vendor = SimulatedVendor()
    now = datetime.datetime.now(datetime.UTC)
    evidence = vendor.evidence(report_data=bytes(64))
    judged = functools.partial(examine, evidence, OWNER, at=now, report_data=bytes(64))
    assert judged(anchors=vendor.anchors).trusted
    assert not judged(anchors=SimulatedVendor().anchors).trusted
