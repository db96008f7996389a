"""The enclave's half of calls over a session: the app's functions, for one client."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Final

import msgspec

from secgear.base.functions import Served
from secgear.base.peer import Peer
from secgear.base.wire import VERSION, ErrorBody, Frame, Hello, Kind, Limits, Ready, frame
from secgear.base.workers import Workers
from secgear.errors import EnclaveLost, InterfaceMismatch, ProtocolError
from secgear.middleware.channel.lines import CallStream
from secgear.middleware.channel.session import Session

LIMITS: Final = Limits(
    message=8 << 20, attached=1 << 30, assembling=1 << 30, calls=64, depth=4, window=16
)
"""What one client may ask for at once; it is a stranger more often than the host."""
_THREADS = 4
_hello = msgspec.msgpack.Decoder(Hello)
_encode = msgspec.msgpack.Encoder().encode


def answer(session: Session, served: Mapping[str, Served], digest: bytes) -> None:
    """Serve calls until the session ends. digest: of the app's interface."""
    workers = Workers(_THREADS, "channel", elastic=True)
    opened: dict[str, Served] = {}
    peer = Peer(
        CallStream(session), None, host=False, limits=LIMITS, workers=workers, served=opened
    )

    def on_hello(entry: Frame) -> None:
        hello = _hello.decode(entry.payload)
        if opened:
            raise ProtocolError("HELLO twice")
        if hello.version != VERSION or hello.digest != digest:
            body = ErrorBody(InterfaceMismatch.code, "the enclave has another interface")
            peer.outbox.post(frame(Kind.ERROR, 0, _encode(body)))
            return
        peer.meet(hello.limits)
        opened.update(served)
        peer.outbox.post(frame(Kind.READY, 0, _encode(Ready(VERSION, digest, LIMITS))))

    def leave() -> None:
        with contextlib.suppress(EnclaveLost):
            peer.outbox.send(frame(Kind.BYE))
        session.close()

    def on_close(_: Frame) -> None:
        opened.clear()
        peer.cancel_all()
        peer.defer(leave)  # the thread that reads must not wait for what it writes

    peer.handlers[Kind.HELLO] = on_hello
    peer.handlers[Kind.CLOSE] = on_close
    try:
        peer.run()
    finally:
        peer.fail(EnclaveLost("the session ended"))
        workers.close()
