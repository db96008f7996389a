"""Driving a handshake: each way it can end has a name, and the peer is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear import errors
from secgear.base.tee import Evidence
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.client import connect
from secgear.middleware.channel.core import Core, Established, Finished, Received, State
from secgear.middleware.channel.handshake import Answers, shake
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import Failed, clipped
from secgear.middleware.channel.streams import SocketBytes
from secgear.middleware.channel.tls import Parameters
from secgear.middleware.channel.trust import Remote, Trust
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel.ends import in_thread
from tests.middleware.channel.pairs import POLICY, Pair

VENDOR = SimulatedVendor()
TRUST = Trust(policy=POLICY, anchors=VENDOR.anchors)
CLIENT = Identity.fresh("client")


def evidence(report_data: bytes) -> Evidence:
    return VENDOR.evidence(report_data=report_data)


class Server:
    """The server's side of one handshake, on a thread; `outcome` waits for how it ended."""

    def __init__(
        self,
        *,
        attester: Callable[[bytes], Evidence] = evidence,
        trust: Trust | None = None,
        authorities: tuple[bytes, ...] = (),
        after: Callable[[Core], None] = lambda core: None,
    ) -> None:
        self.near, far = socket.socketpair()
        self.core = Core(
            Role.SERVER,
            Parameters(),
            Identity.fresh("server"),
            demand=trust is not None,
            authorities=authorities,
        )
        self.answers = Answers(self.core, trust, attester)

        def run() -> Any:
            stream = SocketBytes(far)
            rest = shake(self.core, stream, self.answers, timeout=20)
            after(self.core)
            if data := self.core.outgoing():
                stream.send(data)
            return rest

        self.outcome = in_thread(run)


def join(server: Server, **given: Any) -> Any:
    given = {"anchors": VENDOR.anchors, "timeout": 20} | given
    return connect(server.near, POLICY, **given)


def test_both_know_who_is_there() -> None:
    server = Server(trust=TRUST, authorities=(CLIENT.certificate.public_bytes(Encoding.PEM),))
    session = join(server, identity=CLIENT, attester=evidence)
    assert server.outcome() == []
    seen, shown = server.answers.remote("from there"), session.peer
    for remote in (seen, shown):
        assert isinstance(remote, Remote)
        assert remote.claims is not None
        assert remote.claims.tee == "process"
        assert remote.tls["version"] == "TLSv1.3"
    assert seen.certificate == CLIENT.certificate
    assert seen.address == "from there"
    session.close()


def test_evidence_that_is_not_trusted_is_named_here_and_not_there() -> None:
    """Which check failed is for this side to know."""
    server = Server(attester=lambda data: evidence(bytes(64)))
    with pytest.raises(errors.Untrusted) as caught:
        join(server)
    verdict: Any = caught.value.verdict
    assert [check.name for check in verdict.reasons] == ["freshness"]
    outcome = server.outcome()
    assert isinstance(outcome, errors.HandshakeFailed)
    assert "attestation.untrusted" in str(outcome)
    assert "freshness" not in str(outcome)


def test_client_that_is_not_trusted_is_told_so() -> None:
    server = Server(trust=TRUST)
    session = None
    with contextlib.suppress(errors.ChannelError):
        session = join(server, attester=lambda data: evidence(bytes(64)))
    assert session is None
    assert isinstance(server.outcome(), errors.Untrusted)


def test_client_without_evidence_is_told_how_to_have_some() -> None:
    with pytest.raises(errors.HandshakeFailed, match="attester="):
        join(Server(trust=TRUST))


def test_making_evidence_that_fails_is_told_without_its_reason() -> None:
    def fails(_: bytes) -> Evidence:
        raise errors.GuestError("the platform's serial number is 42")

    server = Server(attester=fails)
    with pytest.raises(errors.HandshakeFailed) as caught:
        join(server)
    assert errors.GuestError.code in str(caught.value)
    assert "42" not in str(caught.value)
    assert isinstance(server.outcome(), errors.GuestError)


@pytest.mark.parametrize("silent", ["from the beginning", "after half of it"])
def test_silence_ends_in_time(silent: str) -> None:
    near, far = socket.socketpair()
    if silent != "from the beginning":
        far.send(b"\x16\x03\x03\x00\x7a\x02")
    with far, pytest.raises(errors.HandshakeFailed, match="not finished in time"):
        connect(near, POLICY, timeout=0.2)
    assert near.fileno() < 0


def test_drops_of_bytes_do_not_extend_the_time() -> None:
    """A byte now and then keeps nobody waiting for longer than the timeout."""
    near, far = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            far.send(b"\x16\x03\x03\x40\x00")
            while not stop.wait(0.02):
                far.send(b"\x02")

    dripping = in_thread(drip)
    with pytest.raises(errors.HandshakeFailed):
        connect(near, POLICY, timeout=0.5)
    stop.set()
    assert dripping() is None


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x28"]
)
def test_what_is_no_channel_is_named(data: bytes) -> None:
    near, far = socket.socketpair()
    far.send(data)
    with far, pytest.raises(errors.HandshakeFailed, match="TLS"):
        connect(near, POLICY, timeout=20)


def test_refusal_right_behind_the_handshake_is_told_in_its_words() -> None:
    """An enclave that has no room for this client says so and leaves, all in one."""

    def leave(core: Core) -> None:
        core.send_control(clipped(Failed, "session.too-many", "enough"))  # type: ignore[arg-type]
        core.close()

    for _ in range(5):
        server = Server(after=leave)
        session = join(server)
        with pytest.raises(errors.ChannelError, match=r"session\.too-many: enough"):
            session.recv(20)
        assert server.outcome() == []


def test_goodbye_in_the_same_breath_as_the_handshakes_end_is_heard() -> None:
    """All of the server's last words in one piece, and nobody to take an answer to them."""
    pair = Pair()
    for one, other in ("CS", "SC", "CS"):
        pair.hand(other, pair.ends[one].outgoing())
        if pair.server.state is State.OPEN:
            break
    while pair.server.state is not State.OPEN:
        for one, other in ("SC", "CS"):
            pair.hand(other, pair.ends[one].outgoing())
    refusal = clipped(Failed, "session.too-many", "enough")
    assert isinstance(refusal, Failed)
    pair.server.send_control(refusal)
    pair.server.close()

    class Last:
        def recv(self, size: int, timeout: float | None) -> bytes:
            return pair.server.outgoing()

        def send(self, data: bytes) -> None:
            raise errors.ChannelError("sending failed: Broken pipe")

        def close(self) -> None:
            raise AssertionError("it stands")

    rest = shake(pair.client, Last(), Answers(pair.client, TRUST, None), timeout=20)
    assert [type(event) for event in rest] == [Received, Finished]


def test_answer_to_nothing_is_nothing() -> None:
    core = Core(Role.CLIENT, Parameters())
    answers = Answers(core, None, None)
    answers.answer(None)
    answers.answer(Established())
    assert answers.verdict is None


@pytest.mark.parametrize("address", ["", "nonsense", "tcp://", "http://x:1", "unix:"])
def test_what_is_no_address_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match="address"):
        secgear.connect(address, POLICY)


def test_nobody_there_is_an_error_with_the_place(tmp_path: Any) -> None:
    with pytest.raises(errors.ChannelError, match="nobody: No such file"):
        secgear.connect(f"unix:{tmp_path}/nobody", POLICY)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() <= before + 1
