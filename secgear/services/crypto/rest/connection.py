"""HTTP/1.1 on a stream of bytes, in the hands of h11 and within limits.

What could be understood in two ways is refused, and the connection ends: there may be something
between the client and this enclave that understands it the other way (RFC 9112, section 11.2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

import h11

from secgear.services.crypto.rest.refusals import Refusal

MAX_HEAD: Final = 16 << 10  # bytes of request line and headers together
MAX_HEADERS: Final = 64
MAX_BODY: Final = 8 << 20  # bytes
MAX_STRANGE: Final = 64 << 10  # bytes of a body from somebody who has not logged in
_TOO_LONG: Final = "a request of yours has at most {} bytes"
MAX_REQUESTS: Final = 100_000  # of one connection
ARRIVAL: Final = 60.0  # seconds in which a request has to arrive, from its first byte on
IDLE: Final = 300.0  # seconds between requests


class Peer(Protocol):
    """Who is at the other end of a connection."""

    def recv(self, timeout: float) -> bytes:
        """Some bytes, none at the end. Raises TimeoutError after `timeout` seconds."""
        ...

    def send(self, data: bytes) -> None:
        """All of `data`. Raises ChannelError when nobody is there any more."""
        ...


class Asked(NamedTuple):
    """A request as it arrived, whole. headers: names in lower case, the last of each."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class Reply(NamedTuple):
    """The answer. kind: its media type, nothing for an empty body."""

    status: int
    body: bytes = b""
    kind: str = ""


def serve(
    peer: Peer,
    answer: Callable[[Asked], Reply],
    refuse: Callable[[Refusal], Reply],
    known: Callable[[Mapping[str, str]], bool],
    *,
    arrival: float = ARRIVAL,
    idle: float = IDLE,
) -> None:
    """Serve a connection until it ends.

    refuse: makes a reply of what is wrong with a request. known: whether these headers are those of
    somebody who has logged in; others' bodies have at most `MAX_STRANGE`.

    Raises ChannelError when the connection breaks.
    """
    reader = _Reader(peer, known, arrival, idle)
    for number in range(1, MAX_REQUESTS + 1):
        last = number == MAX_REQUESTS
        try:
            asked = reader.request()
        except h11.RemoteProtocolError as error:
            # Its hint is a status; its text would quote what came.
            reader.reply(refuse(Refusal(error.error_status_hint, "this is no HTTP/1.1")), last=True)
            return
        except Refusal as refusal:
            reader.reply(refuse(refusal), last=True)
            return
        except TimeoutError:
            if reader.begun:
                reader.reply(refuse(Refusal(408, "the request did not arrive in time")), last=True)
            return
        if asked is None:
            return
        if not reader.reply(answer(asked), last=last):
            return


class _Reader:
    """One connection: requests come out of it, replies go in."""

    def __init__(
        self, peer: Peer, known: Callable[[Mapping[str, str]], bool], arrival: float, idle: float
    ) -> None:
        self._peer = peer
        self._known = known
        self._arrival, self._idle = arrival, idle
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._until: float | None = None
        self._head_only = False  # HEAD: the answer's length is told, and its body is not sent

    @property
    def begun(self) -> bool:
        """Whether a part of a request is there."""
        return self._until is not None

    def request(self) -> Asked | None:
        """The next request, None at the end. Raises RemoteProtocolError, Refusal, TimeoutError."""
        self._until = None
        if self._connection.trailing_data[0]:
            self._until = time.monotonic() + self._arrival
        head: h11.Request | None = None
        headers: dict[str, str] = {}
        body: list[bytes] = []
        size = limit = 0
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                if head is not None and self._connection.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[]))
                self._feed()
            elif isinstance(event, h11.Request):
                head = event
                self._head_only = head.method == b"HEAD"
                headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                limit = MAX_BODY if self._known(headers) else MAX_STRANGE
                _check(head, limit)
            elif isinstance(event, h11.Data):
                size += len(event.data)
                if size > limit:
                    raise Refusal(413, _TOO_LONG.format(limit))
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return Asked(
                    head.method.decode(), head.target.decode("latin-1"), headers, b"".join(body)
                )
            else:  # ConnectionClosed, or PAUSED behind an upgrade that nobody offers
                return None

    def reply(self, reply: Reply, *, last: bool) -> bool:
        """Send a reply. Whether the connection goes on."""
        connection = self._connection
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        headers = [("cache-control", "no-store"), ("x-content-type-options", "nosniff")]
        if reply.kind:
            headers.append(("content-type", reply.kind))
        if reply.status != 204:
            headers.append(("content-length", str(len(reply.body))))
        if last:
            headers.append(("connection", "close"))
        pieces = [connection.send(h11.Response(status_code=reply.status, headers=headers))]
        if reply.body and not self._head_only:
            pieces.append(connection.send(h11.Data(data=reply.body)))
        pieces.append(connection.send(h11.EndOfMessage()))
        self._peer.send(b"".join(piece for piece in pieces if piece))
        if {connection.our_state, connection.their_state} != {h11.DONE}:
            return False
        connection.start_next_cycle()
        return True

    def _send(self, event: h11.InformationalResponse) -> None:
        data = self._connection.send(event)
        if data:
            self._peer.send(data)

    def _feed(self) -> None:
        """More bytes for h11, none at the end. Raises TimeoutError."""
        now = time.monotonic()
        if self._until is not None and now >= self._until:
            raise TimeoutError
        wait = self._idle if self._until is None else self._until - now
        part = self._peer.recv(wait)
        if part and self._until is None:
            self._until = time.monotonic() + self._arrival
        self._connection.receive_data(part)


def _check(head: h11.Request, limit: int) -> None:
    """Refuse a request that could be meant in another way, or that is too big."""
    if head.http_version not in (b"1.0", b"1.1"):
        raise Refusal(505, "this is HTTP/1.1")
    names = [name for name, _ in head.headers]
    size = len(head.target) + sum(len(name) + len(value) for name, value in head.headers)
    if size > MAX_HEAD:  # h11 looks only as long as more is to come
        raise Refusal(431, f"a request's head has at most {MAX_HEAD} bytes")
    if len(names) > MAX_HEADERS:
        raise Refusal(431, f"a request has at most {MAX_HEADERS} headers")
    if b"transfer-encoding" in names and (
        b"content-length" in names or head.http_version != b"1.1"
    ):
        raise Refusal(400, "where the body ends is said in two ways")
    for name in (b"x-vault-token", b"x-vault-namespace", b"host", b"content-type"):
        if names.count(name) > 1:
            raise Refusal(400, "a header comes twice")
    for name, value in head.headers:
        if name == b"content-length" and (len(value) > 16 or int(value) > limit):
            raise Refusal(413, _TOO_LONG.format(limit))
