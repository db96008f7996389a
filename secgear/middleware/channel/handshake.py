"""Driving a channel's handshake in a thread that waits, for either side."""

from __future__ import annotations

import contextlib
import time

from secgear.errors import ChannelError, HandshakeFailed, SecGearError, Untrusted
from secgear.middleware.attestation.verdict import Verdict
from secgear.middleware.channel.core import Core, Established, Event, Judge, Present, State
from secgear.middleware.channel.session import ByteStream
from secgear.middleware.channel.trust import Attester, Remote, Trust

_READ = 64 << 10


class Answers:
    """What a handshake's events are answered with: the part of both drivers that does no I/O.

    trust: what the peer's evidence is held against; None on a server that demands none.
    attester: makes this side's evidence; None for a client that has none.
    """

    def __init__(self, core: Core, trust: Trust | None, attester: Attester | None) -> None:
        self._core = core
        self._trust = trust
        self._attester = attester
        self.verdict: Verdict | None = None

    def answer(self, event: Event | None) -> None:
        """Do what `event` asks for.

        Raises Untrusted with the verdict when the peer's evidence is not good enough,
        HandshakeFailed, and whatever making evidence raises; the peer is told before.
        """
        while event is not None:
            try:
                event = self._step(event)
            except Untrusted as error:
                # Which check failed is for this side to know: it would help who forges.
                self._core.refuse(error.code, "the evidence was not trusted")
                raise
            except HandshakeFailed as error:
                self._core.refuse(error.code, str(error))
                raise
            except SecGearError as error:
                self._core.refuse(error.code, "")
                raise

    def _step(self, event: Event) -> Event | None:
        if isinstance(event, Present):
            if self._attester is None:
                raise HandshakeFailed("evidence is asked for, and there is none: pass attester=")
            self._core.present(self._attester(event.report_data))
            return None
        if isinstance(event, Judge):
            return self._core.accept(self._judge(event))
        return None

    def _judge(self, event: Judge) -> Verdict:
        if self._trust is None:
            raise HandshakeFailed("evidence was presented that nobody asked for")
        self.verdict = self._trust.judge(event.evidence, event.report_data)
        return self.verdict

    def remote(self, address: str = "") -> Remote:
        """Who the peer is, once the channel is open."""
        core = self._core
        return Remote(
            verdict=self.verdict,
            certificate=core.peer_certificate,
            key=core.peer_key,
            address=address,
            tls=core.description,
        )


def shake(core: Core, stream: ByteStream, answers: Answers, *, timeout: float) -> list[Event]:
    """Go through the handshake; returns events that came right behind it.

    Raises what `Answers.answer` and `Core.receive` do; HandshakeFailed after `timeout` seconds.
    """
    until = time.monotonic() + timeout
    rest: list[Event] = []
    stands = False  # it may have ended again right behind the handshake
    try:
        while not stands:
            _send(core, stream)
            data = _recv(stream, until)
            for event in core.receive(data):
                if isinstance(event, Present | Judge):
                    answers.answer(event)
                elif not isinstance(event, Established):
                    rest.append(event)
                stands = stands or core.state is State.OPEN
        with contextlib.suppress(ChannelError):  # the end, once it is read, says why
            _send(core, stream)
    except BaseException:
        _tell(core, stream)
        raise
    return rest


def _recv(stream: ByteStream, until: float) -> bytes:
    left = until - time.monotonic()
    try:
        if left > 0:
            return stream.recv(_READ, left)
    except TimeoutError:
        pass
    raise HandshakeFailed("the handshake was not finished in time")


def _send(core: Core, stream: ByteStream) -> None:
    if data := core.outgoing():
        stream.send(data)


def _tell(core: Core, stream: ByteStream) -> None:
    """The alert or refusal that says why, if anybody listens."""
    try:
        _send(core, stream)
    except SecGearError:
        return
    finally:
        stream.close()
