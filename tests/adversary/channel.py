"""Attackers of a channel: servers with a key but no enclave, and networks that change bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

from secgear.base.tee import Evidence
from secgear.errors import ChannelError
from secgear.middleware.channel.addresses import parse
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Present
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.tls import Parameters

_HEADER = 5  # bytes of a TLS record before its body


class Impostor:
    """Speaks the server's side to one client, with a key of its own.

    evidence: makes what it presents from the report data that it would need. speak: does anything
    else with the core once TLS stands; then `evidence` is not asked.
    """

    def __init__(
        self,
        evidence: Callable[[bytes], Evidence] | None = None,
        *,
        speak: Callable[[Core], None] | None = None,
        demand: bool = False,
    ) -> None:
        self.client, self._end = socket.socketpair()
        self._core = Core(Role.SERVER, Parameters(), Identity.fresh("impostor"), demand=demand)
        self._evidence = evidence
        self._speak = speak
        self.heard: list[bytes] = []
        self.events: list[object] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until it has done what it does."""
        self._thread.join(10)

    def _run(self) -> None:
        with self._end, contextlib.suppress(ChannelError, OSError):
            spoken = False
            while data := self._end.recv(1 << 16):
                self.heard.append(data)
                for event in self._core.receive(data):
                    self.events.append(event)
                    if isinstance(event, Present):
                        if self._speak is not None:
                            self._speak(self._core)
                            spoken = True
                        elif self._evidence is not None:
                            self._core.present(self._evidence(event.report_data))
                self._end.sendall(self._core.outgoing())
                if spoken:
                    return


class Meddler:
    """A network between a client and a relay that hands on TLS records as `change` says.

    change: given a record's number (from 0, one count for each direction), whether it is the
    client's, and the record; gives the bytes to send instead. None closes the connection.
    """

    def __init__(self, address: str, change: Callable[[int, bool, bytes], bytes | None]) -> None:
        self.client, near = socket.socketpair()
        far = parse(address).connect(10)
        self.seen: list[tuple[bool, bytes]] = []
        self._change = change
        for source, sink, own in ((near, far, True), (far, near, False)):
            threading.Thread(target=self._carry, args=(source, sink, own), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, own: bool) -> None:
        with contextlib.suppress(OSError):
            for number, record in enumerate(_records(source)):
                self.seen.append((own, record))
                changed = self._change(number, own, record)
                if changed is None:
                    break
                sink.sendall(changed)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _records(source: socket.socket) -> Iterator[bytes]:
    held = b""
    while data := source.recv(1 << 16):
        held += data
        while len(held) >= _HEADER and len(held) >= (
            size := _HEADER + int.from_bytes(held[3:_HEADER])
        ):
            yield held[:size]
            held = held[size:]
