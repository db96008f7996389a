"""The data owner's side: connect to an enclave and verify it before a byte is said."""

from __future__ import annotations

import datetime
import socket
import time
from typing import TYPE_CHECKING

from secgear.errors import ChannelError
from secgear.middleware.channel.addresses import parse
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core
from secgear.middleware.channel.handshake import Answers, shake
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.session import ByteStream, Session
from secgear.middleware.channel.streams import SocketBytes
from secgear.middleware.channel.tls import Parameters
from secgear.middleware.channel.trust import Attester, Trust

if TYPE_CHECKING:
    from secgear.base.interface import Interface
    from secgear.middleware.attestation.anchors import Anchors
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.policy import Policy
    from secgear.middleware.attestation.reference import ReferenceValues

DAY = datetime.timedelta(days=1)
TIMEOUT = 30.0


def connect(
    address: str | socket.socket | ByteStream,
    policy: Policy,
    *,
    service: str = "",
    anchors: Anchors | None = None,
    collateral: Collateral | None = None,
    reference_values: ReferenceValues | None = None,
    at: datetime.datetime | None = None,
    parameters: Parameters | None = None,
    identity: Identity | None = None,
    attester: Attester | None = None,
    interface: Interface | None = None,
    timeout: float = TIMEOUT,
    lifetime: datetime.timedelta = DAY,
) -> Session:
    """A session with the enclave at `address`, which was verified and trusted under `policy`.

    address: ``tcp://host:port``, ``host:port``, ``unix:/path``, ``vsock://cid:port``, a connected
    socket or any `ByteStream`. service: the handler to speak to; empty for the only one.
    anchors, collateral, reference_values, at: as in `attestation.examine`; at: now.
    parameters: key exchanges and cipher suites that are good enough, hybrid ones by default.
    identity, attester: this side's key and evidence, for enclaves that ask for them.
    interface: what the enclave must offer for calls; None takes what it says, which is its word
    as much as any result. timeout: seconds for all until the session stands. lifetime: how long
    to rely on the verification; the session ends then.

    Raises Untrusted with the verdict when the evidence is not good enough, HandshakeFailed for
    anything else that the two sides could not agree on, ChannelError when nobody answers,
    ValueError for what is no address. There is no session without evidence.
    """
    trust = Trust(
        policy=policy,
        anchors=anchors,
        collateral=collateral,
        reference_values=reference_values,
        at=at,
    )
    core = Core(Role.CLIENT, parameters or Parameters(), identity)
    answers = Answers(core, trust, attester)
    until = time.monotonic() + timeout
    stream = _stream(address, timeout)
    if isinstance(stream, SocketBytes):
        stream.deadline = until
    events = shake(core, stream, answers, timeout=until - time.monotonic())
    if isinstance(stream, SocketBytes):
        stream.deadline = None
    return Session(
        core,
        stream,
        answers.remote(address if isinstance(address, str) else ""),
        service=service,
        events=events,
        lifetime=lifetime.total_seconds(),
        interface=interface,
    )


def _stream(address: str | socket.socket | ByteStream, timeout: float) -> ByteStream:
    if isinstance(address, socket.socket):
        return SocketBytes(address)
    if not isinstance(address, str):
        return address
    place = parse(address)
    try:
        return SocketBytes(place.connect(timeout))
    except OSError as error:
        raise ChannelError(f"{place}: {error.strerror or error}") from error
