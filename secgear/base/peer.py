"""The connection: calls in both directions over one stream, the same code on both sides.

One thread reads and never waits for anything but the stream: it parses, copies attachments to
private memory and hands work to `Workers`. Values are decoded by whoever needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, final

import msgspec

from secgear.base import context, faults
from secgear.base.calls import Calls
from secgear.base.exchange import Incoming, Outgoing
from secgear.base.flow import Consumer, Producer
from secgear.base.functions import Compiled, Served
from secgear.base.link import Link
from secgear.base.outbox import Outbox
from secgear.base.serving import Serving
from secgear.base.tee import Stream
from secgear.base.transport.arena import Arena
from secgear.base.wire import (
    Decoder,
    ErrorBody,
    Flag,
    Frame,
    Kind,
    Limits,
    More,
    ValueHead,
    Violation,
)
from secgear.base.workers import Workers
from secgear.errors import EnclaveLost, LimitExceeded, ProtocolError

_READ = 256 << 10
_value_head = msgspec.msgpack.Decoder(ValueHead)
_error_body = msgspec.msgpack.Decoder(ErrorBody)
_more = msgspec.msgpack.Decoder(More)

Handler = Callable[[Frame], None]


@final
class Peer:
    """One side of a connection.

    host: which side; the host ends the connection at the first violation, the enclave skips what
    it can and serves on. served: functions this side offers. debug: tracebacks may cross.
    interrupt: see `Serving`. handlers: what to do with kinds of frames that are no calls.
    refused: told of an ERROR that is about no call: the enclave won't start.
    when_lost: told once that the connection has ended.
    """

    def __init__(
        self,
        stream: Stream,
        arena: Arena | None,
        *,
        host: bool,
        limits: Limits,
        workers: Workers,
        served: Mapping[str, Served],
        debug: bool = False,
        interrupt: Callable[[int, bool], None] | None = None,
    ) -> None:
        self._link = Link(stream, arena, host=host, limits=limits, workers=workers, debug=debug)
        self._calls = Calls(self._link)
        self._serving = Serving(self._link, served, interrupt)
        self.violations = 0
        self.handlers: dict[Kind, Handler] = {}
        self.refused: Callable[[ErrorBody], None] | None = None
        self.when_lost: Callable[[], None] = lambda: None
        self._dispatch: dict[Kind, Handler] = {
            Kind.CALL: self._serving.on_call,
            Kind.RESULT: self._calls.on_result,
            Kind.ERROR: self._on_error,
            Kind.CANCEL: self._serving.on_cancel,
            Kind.DATA: self._on_data,
            Kind.CREDIT: self._on_credit,
            Kind.ITEM: self._on_item,
            Kind.MORE: self._on_more,
            Kind.END: self._on_end,
            Kind.STOP: self._on_stop,
        }

    # --- life ------------------------------------------------------------------------------------

    def run(self, explain: Callable[[], str] = lambda: "") -> None:
        """Read until the connection ends; every pending call ends with it.

        explain: asked why, once the stream has ended by itself.
        """
        decoder = Decoder(self._link.limits)
        try:
            while data := self._link.stream.recv(_READ):
                decoder.feed(data)
                for entry in decoder.frames():
                    if isinstance(entry, Violation):
                        self._serving.skipped(entry)
                        self._violate(ProtocolError(entry.reason))
                    else:
                        self._take(entry)
                if self._link.outbox.overrun and self._link.host:
                    raise ProtocolError("it asks for more and more, but reads no answers")
        except ProtocolError as error:
            self.fail(EnclaveLost(f"the connection broke the protocol: {error}"))
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody may wait for ever)
            self.fail(EnclaveLost(f"reading from the connection failed: {type(error).__name__}"))
        else:
            self.fail(EnclaveLost(explain() or "the connection was closed"))

    def fail(self, error: EnclaveLost) -> None:
        """End the connection: every pending call and stream ends with `error`. Idempotent."""
        link = self._link
        with link.lock:
            if link.lost is not None:
                return
            link.lost = error
            outgoing, link.outgoing = list(link.outgoing.values()), {}
            incoming, link.incoming = list(link.incoming.values()), {}
        for pending in outgoing:
            own = type(error)(*error.args)  # one each: raising an exception writes into it
            pending.complete(own)
            pending.release(own)
        for call in incoming:
            for consumer in call.consumers.values():
                consumer.end(type(error)(*error.args))
            call.cancel()
        self.when_lost()
        link.outbox.close()  # last: who is thrown out of a write knows less of the reason

    @property
    def lost(self) -> EnclaveLost | None:
        """Why the connection ended, None while it lives."""
        return self._link.lost

    @property
    def serving(self) -> int:
        """Calls that this side is serving now."""
        return len(self._link.incoming)

    @property
    def pending(self) -> int:
        """Calls that this side waits for."""
        return len(self._link.outgoing)

    @property
    def outbox(self) -> Outbox:
        """Where frames go out."""
        return self._link.outbox

    @property
    def link(self) -> Link:
        """What switchless calls of the same connection share with it."""
        return self._link

    def nest(self, find: Callable[[int], Incoming | None]) -> None:
        """`find` knows calls being served that did not come over the stream, by id."""
        self._serving.switchless_parent = find

    def break_off(self, error: Exception) -> None:
        """End the connection because the other side broke the protocol elsewhere."""
        self.violations += 1
        self.fail(EnclaveLost(f"the connection broke the protocol: {error}"))
        self._link.stream.close()  # wakes the thread that reads, which sees to the rest

    def meet(self, limits: Limits) -> None:
        """The other side is ready and has said what it accepts."""
        self._link.peer_limits = limits
        self.refused = None

    def shielded(self) -> AbstractContextManager[None]:
        """See `Link.shielded`."""
        return self._link.shielded()

    def cancel_all(self) -> None:
        """Cancel every call being served; the end of the connection follows."""
        self._serving.closing = True
        with self._link.lock:
            incoming = list(self._link.incoming.values())
        for call in incoming:
            call.cancel()

    # --- calling ---------------------------------------------------------------------------------

    def call(
        self, compiled: Compiled, values: dict[str, Any], deadline: float | None = None
    ) -> Outgoing:
        """See `Calls.call`."""
        return self._calls.call(compiled, values, deadline)

    def wait(self, pending: Outgoing, deadline: float | None = None) -> Any:
        """See `Calls.wait`."""
        return self._calls.wait(pending, deadline)

    def give_up(self, pending: Outgoing, error: BaseException) -> None:
        """See `Calls.give_up`."""
        self._calls.give_up(pending, error)

    @property
    def nested(self) -> bool:
        """Whether this thread serves a call of this connection, so that its calls are nested."""
        serving = context.serving()
        return serving is not None and serving.owner is self._link

    def defer(self, task: Callable[[], None]) -> None:
        """Run `task` on a worker; in this thread when there are none any more."""
        if not self._link.workers.submit(task):
            task()

    # --- what arrives ----------------------------------------------------------------------------

    def _take(self, entry: Frame) -> None:
        handler = self._dispatch.get(entry.kind) or self.handlers.get(entry.kind)
        try:
            if handler is None:
                raise ProtocolError(f"{entry.kind.name} is not expected here")
            handler(entry)
        except (ProtocolError, ValueError, RecursionError) as error:
            self._violate(error)  # msgspec's errors are ValueErrors, those of broken UTF-8 as well

    def _violate(self, error: Exception) -> None:
        self.violations += 1
        if self._link.host:
            raise ProtocolError(str(error)) from error

    def _on_error(self, entry: Frame) -> None:
        body = _error_body.decode(entry.payload)
        if entry.id == 0 and self.refused is not None:
            self.refused(body)
        elif entry.flags & Flag.OURS:
            consumer = self._stream_in(entry)
            if consumer is not None:
                consumer.end(faults.restore("stream", body, {}))
        else:
            self._calls.on_error(entry, body)

    def _on_data(self, entry: Frame) -> None:
        key = (not entry.flags & Flag.OURS, entry.id, entry.index)
        self._link.assembly.data(key, entry.flags, entry.payload)

    def _on_credit(self, entry: Frame) -> None:
        if self._link.arena is None:
            raise ProtocolError("CREDIT without shared memory")
        self._link.arena.credit(entry.id)

    def _on_item(self, entry: Frame) -> None:
        consumer = self._stream_in(entry)
        if consumer is None:
            return

        def refuse(error: LimitExceeded) -> None:
            consumer.end(LimitExceeded(f"an item of a stream: {error}"))

        try:
            head = _value_head.decode(entry.payload)
        except RecursionError:
            refuse(LimitExceeded("it is nested too deeply"))
            return
        size = len(entry.payload) + sum(head.sizes)
        key = (not entry.flags & Flag.OURS, entry.id, entry.index)
        try:
            self._link.assembly.begin(
                key,
                head.sizes,
                len(entry.payload),
                lambda parcel: consumer.push((head.value, parcel), size),
                refuse,
            )
        except LimitExceeded as error:
            refuse(error)

    def _on_end(self, entry: Frame) -> None:
        if not entry.flags & Flag.OURS:
            self._calls.on_end(entry)
            return
        consumer = self._stream_in(entry)
        if consumer is not None:
            consumer.end(None)

    def _on_more(self, entry: Frame) -> None:
        grant = _more.decode(entry.payload)
        producer = self._stream_out(entry)
        if producer is not None:
            producer.more(grant.items)

    def _on_stop(self, entry: Frame) -> None:
        producer = self._stream_out(entry)
        if producer is not None:
            producer.stop()

    def _stream_in(self, entry: Frame) -> Consumer | None:
        """The stream that a frame of its producer is about."""
        if not entry.flags & Flag.OURS:
            pending = self._calls.expected(entry.id)
            return pending.consumer if pending is not None and entry.index == 0 else None
        with self._link.lock:
            incoming = self._link.incoming.get(entry.id)
        return incoming.consumers.get(entry.index) if incoming is not None else None

    def _stream_out(self, entry: Frame) -> Producer | None:
        """The stream that a frame of its consumer is about."""
        if not entry.flags & Flag.OURS:
            pending = self._calls.expected(entry.id)
            return pending.producers.get(entry.index) if pending is not None else None
        with self._link.lock:
            incoming = self._link.incoming.get(entry.id)
        return incoming.producer if incoming is not None and entry.index == 0 else None
