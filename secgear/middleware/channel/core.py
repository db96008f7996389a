"""The channel without I/O: TLS, then evidence bound to it, then frames of the application.

Whoever drives it hands in bytes from the network (`receive`), sends what `outgoing` gives, and
does what the events ask for: `Present` wants evidence, `Judge` wants a verdict. No byte of the
application goes either way before both sides have accepted.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, final

import msgspec
from cryptography import x509

from secgear.base.tee import Evidence
from secgear.errors import ChannelClosed, ChannelError, ChannelTruncated, HandshakeFailed
from secgear.middleware.attestation import envelope
from secgear.middleware.channel.binding import Role, key_digest, report_data
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import (
    ACCEPTED,
    ATTESTATION,
    NONCE_SIZE,
    PART,
    VERSION,
    Accept,
    Challenge,
    Failed,
    Frames,
    Kind,
    Open,
    Opened,
    Presented,
    Refuse,
    clipped,
    decode,
    encode,
    header,
    read_evidence,
    reason,
)
from secgear.middleware.channel.tls import Parameters, Tls

if TYPE_CHECKING:
    from secgear.middleware.attestation.verdict import Verdict

_ZEROS: Final = bytes(NONCE_SIZE)
_FROM_CLIENT: Final = frozenset({Kind.OPEN, Kind.PART, Kind.LAST, Kind.CALLS})
_FROM_SERVER: Final = frozenset({Kind.OPENED, Kind.PART, Kind.LAST, Kind.CALLS, Kind.FAILED})


class State(enum.Enum):
    """How far a channel has come."""

    TLS = enum.auto()
    CHALLENGE = enum.auto()  # the server waits for it
    EVIDENCE = enum.auto()  # the peer's is awaited
    PRESENT = enum.auto()  # the driver's is awaited
    JUDGE = enum.auto()  # the driver's verdict is awaited
    ACCEPT = enum.auto()  # the peer's is awaited
    OPEN = enum.auto()  # for the application
    CLOSED = enum.auto()


_AWAITED: Final = {
    State.CHALLENGE: Kind.CHALLENGE,
    State.EVIDENCE: Kind.EVIDENCE,
    State.ACCEPT: Kind.ACCEPT,
}


class _Refused(HandshakeFailed):
    """The peer has refused; it need not be told."""


class Present(msgspec.Struct, frozen=True):
    """Evidence that carries `report_data` is wanted: call `Core.present`."""

    report_data: bytes


class Judge(msgspec.Struct, frozen=True):
    """A verdict on the peer is wanted: call `Core.accept` or `Core.refuse`.

    report_data: what `evidence` must carry.
    """

    evidence: Evidence
    report_data: bytes


class Established(msgspec.Struct, frozen=True):
    """Both sides have accepted."""


class Received(msgspec.Struct, frozen=True):
    """A frame for the application."""

    kind: Kind
    payload: bytes


class Finished(msgspec.Struct, frozen=True):
    """The peer has closed in good order: all that it sent has arrived."""


Event = Present | Judge | Established | Received | Finished


@final
class Core:
    """One side of a channel.

    identity: the key this side is known by; a server needs one. authorities: certificates (PEM) of
    those who vouch for a server's clients, or of the clients themselves; empty for asking for no
    certificate. demand: a server wants its client's evidence.
    """

    def __init__(
        self,
        role: Role,
        parameters: Parameters,
        identity: Identity | None = None,
        *,
        authorities: tuple[bytes, ...] = (),
        demand: bool = False,
    ) -> None:
        self._server = role is Role.SERVER
        if self._server and identity is None:
            raise ValueError("the server's side of a channel needs a key")
        self.role = role
        self.state = State.TLS
        self._tls = Tls(parameters, identity, authorities, server=self._server)
        self._identity = identity
        self._frames = Frames(self._expect_frame)
        self._demand = demand
        self._nonce = os.urandom(NONCE_SIZE)
        self._peer_nonce = b""
        self._judging: Judge | None = None
        self._own_key_seen = self._server  # a client's by who has asked for its certificate
        if not self._server:
            self._tls.shake()

    # --- bytes -----------------------------------------------------------------------------------

    def outgoing(self) -> bytes:
        """Bytes for the network; empty if there are none now."""
        return self._tls.outgoing()

    def receive(self, data: bytes) -> Iterator[Event]:
        """Bytes from the network; empty when it has ended. Iterate to the end.

        Raises HandshakeFailed, and ChannelError once the channel is open; ChannelTruncated when
        the network ended before the peer's goodbye. After that the channel is closed.
        """
        try:
            if not data:
                if not self._tls.finished:
                    raise self._ended()
                return
            self._tls.feed(data)
            if not self._tls.established:
                if not self._tls.shake():
                    return
                self._begin()
            self._frames.feed(self._tls.read())
            for kind, payload in self._frames:
                if self.state is State.OPEN:
                    yield Received(kind, payload)
                else:
                    yield self._take(kind, payload)
            self._tls.check()
            if self._tls.finished and self.state is not State.CLOSED:
                yield self._goodbye()
        except ChannelError as error:
            if self.state in (State.OPEN, State.CLOSED):
                self.state = State.CLOSED
                raise
            failure = error if isinstance(error, HandshakeFailed) else HandshakeFailed(str(error))
            if not isinstance(error, _Refused):
                self.refuse(failure.code, str(failure))
            self.state = State.CLOSED
            raise failure from (None if failure is error else error)

    def _ended(self) -> ChannelError:
        if self.state is State.OPEN:
            return ChannelTruncated("the connection ended without the peer's goodbye")
        if self.state is State.CLOSED:
            return ChannelClosed("the channel is closed")
        return HandshakeFailed("the connection ended during the handshake")

    def _goodbye(self) -> Finished:
        was, self.state = self.state, State.CLOSED
        self._tls.goodbye()  # closing ends both directions (RFC 8446, section 6.1)
        if was is not State.OPEN:
            raise HandshakeFailed("the peer closed the connection during the handshake")
        if self._frames.pending:
            raise ChannelTruncated("the peer closed the connection in the middle of a frame")
        return Finished()

    # --- the attestation -------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._server:
            self.state = State.CHALLENGE
        else:
            self._tls.write(encode(Challenge(VERSION, self._nonce)))
            self.state = State.EVIDENCE

    def _expect_frame(self, kind: Kind, size: int) -> None:
        """Refuse a frame by its header, so that nothing is kept for it."""
        match self.state:
            case State.OPEN:
                if kind not in (_FROM_CLIENT if self._server else _FROM_SERVER):
                    raise ChannelError(f"{kind.name} in the middle of a session")
                if kind is Kind.PART and not size:
                    raise ChannelError("PART of nothing")
            case State.CLOSED:
                raise ChannelError("frames after the end")
            case _:
                if kind not in ATTESTATION:
                    raise HandshakeFailed(f"{kind.name} before the attestation is complete")
                if kind is not Kind.REFUSE and kind is not _AWAITED.get(self.state):
                    raise HandshakeFailed(f"{kind.name} is not expected now")

    def _take(self, kind: Kind, payload: bytes) -> Event:
        """A frame of the attestation."""
        if self.state is State.CLOSED:  # since its header came
            raise ChannelError("frames after the end")
        message = decode(kind, payload)
        if isinstance(message, Refuse):
            raise _Refused(f"the peer refused: {reason(message)}")
        return self._step(kind, message)

    def _step(self, kind: Kind, message: object) -> Event:
        match self.state, message:
            case State.CHALLENGE, Challenge():
                self._peer_nonce = message.nonce
                self.state = State.PRESENT
                return Present(self._binding(own=True))
            case State.EVIDENCE, Presented():
                return self._on_evidence(message)
            case State.ACCEPT, Accept():
                return self._on_accept()
        raise HandshakeFailed(f"{kind.name} is not expected now")

    def _on_evidence(self, message: Presented) -> Event:
        if not self._server:
            self._peer_nonce = message.nonce
            self._demand = message.demand
            self._own_key_seen = message.client_key
        elif message.nonce != _ZEROS or message.demand or message.client_key:
            raise HandshakeFailed("EVIDENCE of a client with a server's fields")
        self._judging = Judge(read_evidence(message), self._binding(own=False))
        self.state = State.JUDGE
        return self._judging

    def _on_accept(self) -> Event:
        if not self._server:
            self.state = State.OPEN
            return Established()
        return self._open()

    def _open(self) -> Established:
        self._tls.write(ACCEPTED)
        self.state = State.OPEN
        return Established()

    def present(self, evidence: Evidence) -> None:
        """This side's evidence, over the report data that `Present` asked for."""
        self._expect(State.PRESENT)
        nonce = self._nonce if self._server else _ZEROS
        demand = self._server and self._demand
        seen = self._server and self._tls.peer_spki is not None
        self._tls.write(encode(Presented(nonce, envelope.to_cbor(evidence), demand, seen)))
        self.state = State.EVIDENCE if demand else State.ACCEPT

    def accept(self, verdict: Verdict) -> Present | Established | None:
        """The peer was found good; what to do next, None for waiting.

        verdict: about the evidence of `Judge`.
        Raises Untrusted for a verdict of no trust, HandshakeFailed for one about something else.
        """
        self._expect(State.JUDGE)
        judging = self._judging
        if judging is None:
            raise HandshakeFailed("nothing was to be judged")
        _check_verdict(judging, verdict)
        if self._server:
            return self._open()
        if self._demand:
            self.state = State.PRESENT
            return Present(self._binding(own=True))
        self._tls.write(ACCEPTED)
        self.state = State.ACCEPT
        return None

    def refuse(self, code: str, text: str) -> None:
        """The peer is not to be talked to; it is told `code` and `text`."""
        if self._tls.established and self.state is not State.CLOSED:
            with contextlib.suppress(ChannelError):  # it may be TLS itself that has failed
                self._tls.write(encode(clipped(Refuse, code, text)))
                self._tls.goodbye()
        self.state = State.CLOSED

    def _binding(self, *, own: bool) -> bytes:
        nonces = (self._nonce, self._peer_nonce)
        client, server = reversed(nonces) if self._server else nonces
        shown = self._identity is not None and self._own_key_seen
        mine = key_digest(self._identity.spki if self._identity is not None and shown else None)
        theirs = key_digest(self._tls.peer_spki)
        other = Role.CLIENT if self._server else Role.SERVER
        return report_data(
            self.role if own else other,
            client_nonce=client,
            server_nonce=server,
            exporter=self._tls.exporter(client, server),
            own_key=mine if own else theirs,
            peer_key=theirs if own else mine,
        )

    # --- the application -------------------------------------------------------------------------

    def send(self, message: bytes | bytearray | memoryview, *, last: bool = True) -> Iterator[None]:
        """A message, or a part of one unless `last`, in steps: take `outgoing` after each."""
        self._expect(State.OPEN)
        view = memoryview(message).cast("B")
        if not view and not last:
            return
        while True:
            part, view = view[:PART], view[PART:]
            self._write(Kind.LAST if last and not view else Kind.PART, part)
            yield
            if not view:
                return

    def send_calls(self, data: bytes | memoryview) -> None:
        """Bytes of the boundary's protocol, at most `MAX_PART`."""
        self._expect(State.OPEN)
        self._write(Kind.CALLS, data)

    def _write(self, kind: Kind, payload: bytes | memoryview) -> None:
        """A frame in one go: a header of its own would cost a record, more than the copy does."""
        self._tls.write(b"".join((header(kind, len(payload)), payload)))

    def send_control(self, message: Open | Opened | Failed) -> None:
        """What a session is for, and the answer."""
        self._expect(State.OPEN)
        self._tls.write(encode(message))

    def close(self) -> None:
        """Say goodbye. Nothing can be sent after it; idempotent."""
        if self.state is not State.CLOSED:
            self._tls.goodbye()
            self.state = State.CLOSED

    def abandon(self) -> None:
        """Say nothing any more, not even goodbye: the peer is to know that something is missing."""
        self.state = State.CLOSED

    # --- who it is -------------------------------------------------------------------------------

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """The certificate whose key the peer has shown to hold.

        A server's is its own word; a client's was checked against the authorities.
        """
        return self._tls.peer_certificate  # type: ignore[no-any-return]

    @property
    def peer_key(self) -> bytes | None:
        """SHA-256 of the peer's public key, None for a client without certificate."""
        spki = self._tls.peer_spki
        return None if spki is None else key_digest(spki)

    @property
    def description(self) -> dict[str, str]:
        """What TLS agreed on: version, suite, group."""
        return self._tls.description

    def _expect(self, state: State) -> None:
        if self.state is State.CLOSED:
            raise ChannelClosed("the channel is closed")
        if self.state is not state:
            raise HandshakeFailed(f"not now: the channel is at {self.state.name}")


def _check_verdict(judging: Judge, verdict: Verdict) -> None:
    """A verdict counts only for the evidence and the connection that were to be judged."""
    claims = verdict.require()
    digest = hashlib.sha256(envelope.to_cbor(judging.evidence)).digest()
    if verdict.evidence_digest != digest:
        raise HandshakeFailed("the verdict is about other evidence")
    if claims.report_data != judging.report_data.ljust(len(claims.report_data), b"\0"):
        raise HandshakeFailed("the evidence is not about this connection")
