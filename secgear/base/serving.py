"""The serving half of a connection: calls that the other side makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import msgspec

from secgear.base import context, faults
from secgear.base.assembly import Parcel
from secgear.base.calls import as_iterator
from secgear.base.context import Call
from secgear.base.exchange import Incoming
from secgear.base.faults import Refused
from secgear.base.flow import Poll, Producer
from secgear.base.functions import Served
from secgear.base.link import Link, encode
from secgear.base.marshal import Packed
from secgear.base.wire import (
    ARGUMENTS,
    VALUE,
    CallHead,
    ErrorBody,
    Flag,
    Frame,
    Kind,
    ValueHead,
    Violation,
    frame,
)
from secgear.errors import (
    ArgumentError,
    CallError,
    Cancelled,
    EnclaveLost,
    LimitExceeded,
    ProtocolError,
    UnknownCall,
)

_call_head = msgspec.msgpack.Decoder(CallHead)
_NOTHING = encode(ValueHead((), msgspec.Raw(b"\xc0")))
_END = object()


@final
class Serving:
    """Calls served by this side.

    served: the functions it offers. interrupt: (thread, strike or clear) raises Cancelled in a
    thread that runs app code; None on the host, whose handlers are not interrupted.
    closing: this side ends the connection, which is what calls that are cut short are told.
    switchless_parent: finds a call being served that did not come over the stream.
    """

    def __init__(
        self,
        link: Link,
        served: Mapping[str, Served],
        interrupt: Callable[[int, bool], None] | None,
    ) -> None:
        self.closing = False
        self.switchless_parent: Callable[[int], Incoming | None] = lambda _: None
        self._link = link
        self._served = served
        self._interrupt = interrupt

    def on_call(self, entry: Frame) -> None:
        """CALL: check it against every limit, then hand it to a worker."""
        link = self._link
        if not entry.flags & Flag.OURS or entry.id == 0:
            raise ProtocolError("CALL with an id that its sender does not own")
        with link.lock:
            if entry.id in link.incoming:
                raise ProtocolError("CALL with an id that is in use")
        try:
            head = _call_head.decode(entry.payload)
            incoming = self._admit(entry.id, head)
        except ValueError as error:  # msgspec's errors are ValueErrors, broken UTF-8 as well
            self._refuse(entry.id, ProtocolError("malformed call"))
            raise ProtocolError(f"malformed call: {error}") from error
        except RecursionError:
            self._refuse(entry.id, LimitExceeded("the arguments are nested too deeply"))
            return
        except CallError as error:
            self._refuse(entry.id, error)
            return
        with link.lock:
            link.incoming[entry.id] = incoming

        def refuse(error: CallError) -> None:
            self._finish(entry.id)
            self._refuse(entry.id, error)

        def deliver(parcel: Parcel) -> None:
            if not link.workers.submit(
                lambda: self._serve(entry.id, incoming, head.arguments, parcel), head.parent
            ):
                refuse(LimitExceeded("no thread can be started to serve it"))

        key = (False, entry.id, ARGUMENTS)
        try:
            link.assembly.begin(key, head.sizes, len(entry.payload), deliver, refuse)
        except CallError as error:
            refuse(error)

    def skipped(self, violation: Violation) -> None:
        """A frame was skipped; if it was a call, its caller must not wait for ever."""
        if violation.frame_kind == Kind.CALL and violation.id:
            with self._link.lock:
                known = violation.id in self._link.incoming
            if not known:
                self._refuse(violation.id, ProtocolError(violation.reason))

    def _admit(self, id: int, head: CallHead) -> Incoming:
        link = self._link
        served = self._served.get(head.function)
        if served is None:
            raise UnknownCall("no such function here")
        if served.largest is not None and len(head.arguments) > served.largest:
            raise ArgumentError(
                f"arguments of {len(head.arguments)} bytes, where their types allow "
                f"{served.largest} at the most"
            )
        parent = self._parent(head.parent) if head.parent and not link.host else None
        with link.lock:
            count = len(link.incoming)
        # Room is kept for nested calls: those before them can't end without them.
        if count >= link.limits.calls * (2 if parent is not None else 1):
            raise LimitExceeded("too many calls at once")
        depth = parent.depth + 1 if parent is not None else 0
        if depth > link.limits.depth:
            raise LimitExceeded("calls are nested too deeply")
        streams = served.compiled.streams
        if len(head.streams) != len(streams) or set(head.streams) != set(streams):
            raise ArgumentError("its stream parameters are missing")
        # On the host, an OCALL's parent is the ECALL that it was made in; what its handler calls
        # names that same ECALL, which is the one that waits inside.
        call = Call(head.parent if link.host else id, head.function, link)
        incoming = Incoming(call, served, head.parent, depth, self._interrupt)
        for index, codec in streams.items():
            incoming.consumers[index] = link.consumer(codec, id, index, lambda: None)
        return incoming

    def _parent(self, id: int) -> Incoming | None:
        with self._link.lock:
            parent = self._link.incoming.get(id)
        return parent if parent is not None else self.switchless_parent(id)

    def on_cancel(self, entry: Frame) -> None:
        """CANCEL: the caller has given up."""
        with self._link.lock:
            incoming = self._link.incoming.get(entry.id)
        if incoming is not None:
            incoming.cancel()
            if self._link.assembly.drop((False, entry.id, ARGUMENTS)):
                self._finish(entry.id)  # it has not begun, and the rest won't come

    def _serve(self, id: int, incoming: Incoming, arguments: msgspec.Raw, parcel: Parcel) -> None:
        served = incoming.served
        compiled = served.compiled
        before = context.enter(incoming.call)
        try:
            try:
                values: dict[str, Any] = compiled.arguments.decode(arguments, parcel.take())
            except CallError as error:
                raise Refused(error) from error
            for name, index in compiled.stream_names.items():
                values[name] = incoming.consumers[index]
            result = self._exposed(incoming, lambda: served.invoke(values))
            if compiled.description.result_stream:
                self._serve_stream(id, incoming, result)
                return
            packed = compiled.result.encode(result)
            try:
                self._link.check_size(f"{compiled.name}: result", packed)
            except LimitExceeded as error:
                raise Refused(error) from error
            self._link.send_value(
                Kind.RESULT,
                id,
                packed,
                flags=Flag(0),
                index=VALUE,
                give_up=lambda: incoming.call.cancelled,
            )
            self._finish(id)
        except BaseException as error:  # noqa: BLE001  (described under the rules of `faults`)
            if not (isinstance(error, EnclaveLost) and self._link.lost is not None):
                self._fault(id, incoming, error)
        finally:
            context.enter(before)

    def _exposed(self, incoming: Incoming, work: Callable[[], Any]) -> Any:
        """Run app code, which a cancellation may interrupt; nothing after it can be."""
        try:
            incoming.expose()
            return work()
        finally:
            incoming.shield()

    def _serve_stream(self, id: int, incoming: Incoming, result: Any) -> None:
        link = self._link
        function = incoming.call.function
        codec = incoming.served.compiled.result
        steps = _AppIterator(as_iterator(function, "result", result), incoming, self._exposed)

        def pack(item: Any) -> Packed:
            packed = codec.encode(item)
            try:
                link.check_size(f"{function}: item", packed)
            except LimitExceeded as error:
                raise Refused(error) from error
            return packed

        def send(packed: Packed) -> None:
            link.send_value(
                Kind.ITEM,
                id,
                packed,
                flags=Flag(0),
                index=0,
                give_up=lambda: incoming.call.cancelled,
            )

        def finish(error: BaseException | None) -> None:
            if error is None:
                self._finish(id)
                link.safely(frame(Kind.END, id))
            else:
                self._fault(id, incoming, error)

        producer = Producer(
            steps,
            link.peer_limits.window,
            pack=pack,
            send=send,
            finish=finish,
            schedule=lambda task: link.workers.submit(task, incoming.parent),
        )
        incoming.producer = producer
        link.outbox.send(frame(Kind.RESULT, id, _NOTHING, flags=Flag.STREAM))
        producer.start()
        if incoming.call.cancelled:
            producer.stop()

    def _fault(self, id: int, incoming: Incoming, error: BaseException) -> None:
        self._finish(id)
        if self.closing and isinstance(error, Cancelled):
            return
        link = self._link
        body = faults.describe(
            error, incoming.served.raises, enclave=not link.host, debug=link.debug
        )
        link.safely(frame(Kind.ERROR, id, encode(body)))

    def _refuse(self, id: int, error: CallError) -> None:
        self._link.outbox.post(frame(Kind.ERROR, id, encode(ErrorBody(error.code, str(error)))))

    def _finish(self, id: int) -> None:
        link = self._link
        with link.lock:
            incoming = link.incoming.pop(id, None)
        link.assembly.forget(False, id)
        if incoming is not None:
            for consumer in incoming.consumers.values():
                consumer.close()


@final
class _AppIterator:
    """An iterator that an app returned; each step runs as app code of its call."""

    def __init__(
        self,
        iterator: Iterator[Any],
        incoming: Incoming,
        exposed: Callable[[Incoming, Callable[[], Any]], Any],
    ) -> None:
        self._iterator = iterator
        self._incoming = incoming
        self._exposed = exposed
        self.poll: Poll | None = getattr(iterator, "poll", None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        before = context.enter(self._incoming.call)
        try:
            item = self._exposed(self._incoming, lambda: next(self._iterator, _END))
        finally:
            context.enter(before)
        if item is _END:
            raise StopIteration
        return item

    def close(self) -> None:
        """Close a generator, so that its ``finally`` runs."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            before = context.enter(self._incoming.call)
            try:
                close()
            finally:
                context.enter(before)
