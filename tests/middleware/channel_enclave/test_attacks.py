"""Whoever sits between a data owner and the enclave: each attack is refused, and named."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import secgear
from secgear import errors
from secgear.base.tee import Evidence
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchors, Policy, Verdict, load_policy
from secgear.middleware.channel import Relay, Session
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Judge, Present
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import (
    Accept,
    Challenge,
    Kind,
    Presented,
    encode,
    header,
)
from secgear.middleware.channel.tls import Parameters
from tests.adversary.channel import Impostor, Meddler
from tests.middleware.channel_enclave.conftest import policy_for

Connect = Callable[..., Session]


@pytest.fixture
def genuine(relay: Relay) -> Callable[[bytes], Evidence]:
    """Evidence of the real enclave for a nonce, as anybody gets it who asks."""

    def evidence(nonce: bytes) -> Evidence:
        core = Core(Role.CLIENT, Parameters())
        core._nonce = nonce
        with socket.create_connection(_place(relay)) as connection:
            connection.sendall(core.outgoing())
            while data := connection.recv(1 << 16):
                for event in core.receive(data):
                    if isinstance(event, Judge):
                        return event.evidence
                connection.sendall(core.outgoing())
        raise AssertionError("no evidence came")

    return evidence


def _place(relay: Relay) -> tuple[str, int]:
    host, _, port = relay.address.removeprefix("tcp://").rpartition(":")
    return host, int(port)


def _signed(image: Any, report_data: bytes, platform: SimulatedPlatform | None = None) -> Evidence:
    """Evidence as this machine's simulated platform signs it for anybody who reads its key."""
    platform = platform or SimulatedPlatform(home())
    return Evidence("secgear.process.cwt", platform.evidence(image, (), report_data))


def _failed(caught: pytest.ExceptionInfo[errors.Untrusted]) -> set[str]:
    verdict = caught.value.verdict
    assert isinstance(verdict, Verdict)
    return {check.name for check in verdict.reasons}


# --- who is not the enclave ----------------------------------------------------------------------


def test_man_in_the_middle_with_evidence_of_the_real_enclave(
    connect: Connect, genuine: Callable[[bytes], Evidence]
) -> None:
    """The oldest of them: relay the challenge to the real one, and its evidence back."""
    nonces: list[bytes] = []

    def borrow(_: bytes) -> Evidence:
        return genuine(nonces[0])

    attacker = Impostor(borrow)
    attacker_core = attacker._core
    nonces_seen = attacker_core._step

    def step(kind: Kind, message: object) -> Any:
        if isinstance(message, Challenge):
            nonces.append(message.nonce)
        return nonces_seen(kind, message)

    attacker_core._step = step  # type: ignore[method-assign]
    with pytest.raises(errors.Untrusted) as caught:
        connect(attacker.client)
    assert nonces
    assert _failed(caught) == {"freshness"}


def test_evidence_of_an_earlier_session(
    connect: Connect, genuine: Callable[[bytes], Evidence]
) -> None:
    kept = genuine(b"n" * 32)
    with pytest.raises(errors.Untrusted) as caught:
        connect(Impostor(lambda _: kept).client)
    assert _failed(caught) == {"freshness"}


def test_evidence_of_a_certificate_only(connect: Connect, enclave: Any, tmp_path: Path) -> None:
    """As RA-TLS has it: about the key, but about no connection; whoever has the key can use it."""

    def of_the_key(attacker: list[Impostor]) -> Evidence:
        identity = attacker[0]._core._identity
        assert identity is not None
        digest = hashlib.sha256(identity.spki).digest()
        return _signed(enclave.image, digest.ljust(64, b"\0"))

    attackers: list[Impostor] = []
    attackers.append(Impostor(lambda _: of_the_key(attackers)))
    with pytest.raises(errors.Untrusted) as caught:
        connect(attackers[0].client)
    assert _failed(caught) == {"freshness"}


def test_own_root_that_issues_anything(connect: Connect, enclave: Any, tmp_path: Path) -> None:
    own = SimulatedPlatform(tmp_path / "own")
    attacker = Impostor(lambda data: _signed(enclave.image, data, own))
    with pytest.raises(errors.Untrusted) as caught:
        connect(attacker.client)
    assert _failed(caught) == {"certificate-chain"}


def test_diversion_to_a_genuine_enclave_of_another_program(
    policy: Policy, anchors: Anchors, source: Path, tmp_path: Path
) -> None:
    tampered = tmp_path / "talker.py"
    tampered.write_text(source.read_text().replace("session.send(message)", "session.send(b'')"))
    with secgear.launch(tampered, tee="process") as other, Relay(other) as relay:
        with pytest.raises(errors.Untrusted) as caught:
            secgear.connect(relay.address, policy, anchors=anchors)
        assert _failed(caught) == {"policy.measurement"}
        # The same door is good for whoever trusts that program.
        own = policy_for(other.image.measurement)
        secgear.connect(relay.address, own, anchors=anchors).close()


@pytest.mark.parametrize(
    ("allow", "failing"),
    [
        ("simulated test_roots", "policy.debug"),
        ("debug test_roots", "policy.simulated"),
        ("debug simulated", "policy.root"),
    ],
)
def test_what_the_policy_does_not_allow(
    connect: Connect, enclave: Any, allow: str, failing: str
) -> None:
    policy = policy_for(enclave.image.measurement, allow)
    with pytest.raises(errors.Untrusted) as caught:
        connect(policy=policy)
    assert failing in _failed(caught)


def test_production_policy_and_no_added_root(connect: Connect) -> None:
    strict = load_policy(b'name = "strict"\n[accept]\ntees = ["snp", "tdx"]\n')
    with pytest.raises(errors.Untrusted):
        connect(policy=strict, anchors=None)


# --- who keeps to no protocol --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (encode(Accept()), "ACCEPT is not expected now"),
        (encode(Challenge(1, b"n" * 32)), "CHALLENGE is not expected now"),
        (header(Kind.LAST, 4) + b"data", "LAST before the attestation is complete"),
        (header(Kind.OPENED, 0), "OPENED before the attestation is complete"),
        (encode(Presented(b"n" * 32, b"", demand=False, client_key=False)), "EVIDENCE"),
        (encode(Presented(b"n" * 32, b"\xa0", demand=False, client_key=False)), "EVIDENCE"),
        (b"\x63\0\0\0", "unknown kind 99"),
        (header(Kind.EVIDENCE, (1 << 24) - 1), "bytes announced"),
    ],
)
def test_no_evidence_no_channel(connect: Connect, what: bytes, message: str) -> None:
    with pytest.raises(errors.HandshakeFailed, match=message):
        connect(Impostor(speak=lambda core: core._tls.write(what)).client)


def test_reflection_of_the_clients_own_bytes(connect: Connect) -> None:
    mine, mirror = socket.socketpair()

    def reflect() -> None:
        with mirror, contextlib.suppress(OSError):
            while data := mirror.recv(1 << 16):
                mirror.sendall(data)

    threading.Thread(target=reflect, daemon=True).start()
    with pytest.raises(errors.HandshakeFailed, match="TLS"):
        connect(mine)


def test_reflection_of_a_clients_own_evidence(
    connect: Connect, enclave: Any, anchors: Anchors
) -> None:
    """Between enclaves of one program: what one says of itself is nothing the other could say."""

    stolen: list[Evidence] = []

    def attester(report_data: bytes) -> Evidence:
        stolen.append(_signed(enclave.image, report_data))
        return stolen[-1]

    # First, from a session that asks for it; the impostor is trusted by this client's policy.
    collector = Impostor(lambda data: _signed(enclave.image, data), demand=True)
    with pytest.raises(errors.HandshakeFailed):
        connect(collector.client, attester=attester, timeout=2)
    assert stolen
    with pytest.raises(errors.Untrusted) as caught:
        connect(Impostor(lambda _: stolen[0]).client)
    assert _failed(caught) == {"freshness"}


def test_role_is_part_of_what_evidence_says() -> None:
    """Client's and server's evidence of one and the same connection differ in nothing else."""
    client, server = (
        Core(Role.CLIENT, Parameters()),
        Core(Role.SERVER, Parameters(), Identity.fresh(), demand=True),
    )
    presents: list[bytes] = []
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            if data := one.outgoing():
                for event in other.receive(data):
                    if isinstance(event, Present):
                        presents.append(event.report_data)
                        other.present(Evidence("x", b""))
    assert len(presents) == 1
    assert client._binding(own=True) != server._binding(own=True)
    assert client._binding(own=False) == server._binding(own=True) == presents[0]


def test_client_that_is_asked_for_evidence_and_has_none(connect: Connect, enclave: Any) -> None:

    attacker = Impostor(lambda data: _signed(enclave.image, data), demand=True)
    with pytest.raises(errors.HandshakeFailed, match="attester="):
        connect(attacker.client)


def test_silence_ends_in_time(connect: Connect) -> None:
    mine, other = socket.socketpair()
    with other, pytest.raises(errors.HandshakeFailed, match="not finished in time"):
        connect(mine, timeout=0.5)


# --- who changes what is carried -----------------------------------------------------------------


def _echoes(session: Session, count: int, patience: float = 10) -> None:
    for number in range(count):
        session.send(f"message {number}".encode())
        assert session.recv(patience) == f"message {number}".encode(), "another message came"


@pytest.mark.parametrize("own", [True, False], ids=["to-the-enclave", "from-the-enclave"])
@pytest.mark.parametrize("how", ["flip", "drop", "double", "swap", "cut", "append"])
def test_changed_records_end_the_session(
    connect: Connect, relay: Relay, how: str, own: bool
) -> None:
    held: list[bytes] = []
    active = threading.Event()

    def change(_: int, client: bool, record: bytes) -> bytes | None:
        if client is not own or not active.is_set():
            return record
        match how:
            case "flip":
                return record[:-1] + bytes([record[-1] ^ 1])
            case "drop" if not held:
                held.append(record)
                return b""
            case "double":
                return record + record
            case "swap":
                held.append(record)
                return b"" if len(held) % 2 else record + held[-2]
            case "cut":
                return None
            case "append":
                return record + b"\x17\x03\x03\x00\x11" + bytes(17)
        return record

    meddler = Meddler(relay.address, change)
    session = connect(meddler.client, service="echo")
    _echoes(session, 2)
    active.set()
    with pytest.raises((errors.ChannelError, TimeoutError)) as caught:
        _echoes(session, 4, patience=1.5)
    # Only who withholds everything, and nothing else, can make it a matter of waiting.
    assert not caught.errisinstance(TimeoutError) or how in ("drop", "swap")


def test_record_of_another_session_is_refused(connect: Connect, relay: Relay) -> None:
    first_records: list[bytes] = []
    other = Meddler(relay.address, lambda _, __, record: record)
    with connect(other.client, service="echo") as session:
        session.send(b"of another session")
        session.recv(10)
    first_records = [record for own, record in other.seen if not own]
    active = threading.Event()

    def change(_: int, client: bool, record: bytes) -> bytes | None:
        return first_records[-2] if active.is_set() and not client else record

    session = connect(Meddler(relay.address, change).client, service="echo")
    _echoes(session, 1)
    active.set()
    session.send(b"x")
    with pytest.raises(errors.ChannelError, match="TLS"):
        session.recv(10)


def test_truncation_is_no_clean_end(connect: Connect, relay: Relay) -> None:
    """An attacker who cuts the connection can't make it look like the end of the data."""
    stop = threading.Event()
    meddler = Meddler(
        relay.address, lambda _, client, record: None if stop.is_set() and not client else record
    )
    session = connect(meddler.client, service="echo")
    _echoes(session, 1)
    stop.set()
    session.send(b"x")
    with pytest.raises(errors.ChannelTruncated):
        list(session)


def test_host_that_hands_in_nonsense_gets_an_end_and_no_crash(
    enclave: Any, connect: Connect
) -> None:
    for pieces in ([b""] * 100, [b"\0" * 1000], [b"\x16\x03\x01\xff\xff"], [bytes(300_000)], []):
        assert isinstance(list(enclave.secgear_session("x" * 10_000, iter(pieces))), list)
    with connect(service="echo") as session:
        _echoes(session, 1)


# --- what evidence can be accepted with ----------------------------------------------------------


def test_verdict_about_something_else_opens_nothing(
    enclave: Any, anchors: Anchors, policy: Policy
) -> None:
    """The core itself insists, whatever drives it."""
    import datetime

    from secgear.middleware.attestation import examine

    client = Core(Role.CLIENT, Parameters())
    server = Core(Role.SERVER, Parameters(), Identity.fresh())
    judge: list[Judge] = []
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            if data := one.outgoing():
                for event in other.receive(data):
                    if isinstance(event, Present):
                        other.present(_signed(enclave.image, event.report_data))
                    if isinstance(event, Judge):
                        judge.append(event)
    now = datetime.datetime.now(datetime.UTC)
    elsewhere = _signed(enclave.image, bytes(64))
    about_other = examine(elsewhere, policy, at=now, report_data=bytes(64), anchors=anchors)
    assert about_other.trusted
    with pytest.raises(errors.HandshakeFailed, match="about other evidence"):
        client.accept(about_other)
    right = examine(
        judge[0].evidence, policy, at=now, report_data=judge[0].report_data, anchors=anchors
    )
    assert right.trusted
    with pytest.raises(errors.HandshakeFailed, match="not about this connection"):
        client.accept(msgspec.structs.replace(about_other, evidence_digest=right.evidence_digest))
    untrusted = examine(judge[0].evidence, policy, at=now, report_data=bytes(64), anchors=anchors)
    with pytest.raises(errors.Untrusted):
        client.accept(untrusted)
    client.accept(right)
