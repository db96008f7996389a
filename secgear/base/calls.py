"""The calling half of a connection: calls that this side makes and what comes back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, final

import msgspec

from secgear.base import context, faults
from secgear.base.assembly import Parcel
from secgear.base.exchange import Outgoing
from secgear.base.functions import Compiled
from secgear.base.link import Link, encode
from secgear.base.wire import (
    ARGUMENTS,
    VALUE,
    CallHead,
    ErrorBody,
    Flag,
    Frame,
    Kind,
    ValueHead,
    frame,
)
from secgear.errors import (
    ArgumentError,
    CallCancelled,
    DeadlineExceeded,
    EnclaveLost,
    LimitExceeded,
    ProtocolError,
)

_value_head = msgspec.msgpack.Decoder(ValueHead)


@final
class Calls:
    """Calls made by this side."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._ids = itertools.count(1)
        self._last_id = 0

    def call(
        self, compiled: Compiled, values: dict[str, Any], deadline: float | None = None
    ) -> Outgoing:
        """Send a call; returns at once, or when its attachments have gone.

        values: arguments by name, streams as iterables. deadline: as for `wait`.
        Raises ArgumentError, LimitExceeded or EnclaveLost.
        """
        link = self._link
        sources = {
            index: as_iterator(compiled.name, name, values[name])
            for name, index in compiled.stream_names.items()
        }
        plain = {name: value for name, value in values.items() if name not in compiled.stream_names}
        packed = compiled.arguments.encode(plain)
        link.check_size(compiled.name, packed)
        serving = context.serving()
        parent = serving.id if serving is not None and serving.owner is link else 0
        with link.lock:
            if link.lost is not None:
                raise type(link.lost)(*link.lost.args)
            id = self._last_id = next(self._ids)
            pending = link.outgoing[id] = Outgoing(id, compiled)
        try:
            for index, source in sources.items():
                pending.producers[index] = link.producer(
                    source,
                    compiled.streams[index],
                    id,
                    index,
                    parent=parent,
                    failed=lambda error: self.give_up(pending, error),
                )
            sizes = tuple(len(view) for view in packed.attachments)
            head = CallHead(compiled.name, parent, sizes, tuple(sources), msgspec.Raw(packed.body))
            link.outbox.message(
                frame(Kind.CALL, id, encode(head), flags=Flag.OURS),
                packed.attachments,
                flags=Flag.OURS,
                index=ARGUMENTS,
                id=id,
                give_up=lambda: (
                    pending.done or (deadline is not None and time.monotonic() >= deadline)
                ),
                deadline=deadline,
            )
        except BaseException as error:
            self._settle(id)
            link.outbox.post(frame(Kind.CANCEL, id, flags=Flag.OURS))  # a part may have gone
            if isinstance(error, EnclaveLost) and link.lost is not None:
                raise type(link.lost)(*link.lost.args) from None  # which knows why
            raise
        for producer in pending.producers.values():
            producer.start()
        return pending

    def wait(self, pending: Outgoing, deadline: float | None = None) -> Any:
        """The value of a call. In a thread that serves a call, serves what is nested meanwhile.

        deadline: on the clock of `time.monotonic`. Raises DeadlineExceeded when it passed; the
        call is cancelled then, and also when this wait is interrupted.
        """
        name = pending.compiled.name
        try:
            if not self._link.block(pending.inbox, lambda: pending.done, deadline):
                self.give_up(pending, DeadlineExceeded(f"{name}: not finished before its deadline"))
        except BaseException:
            self.give_up(pending, CallCancelled(f"{name}: cancelled"))
            raise
        return pending.result()

    def give_up(self, pending: Outgoing, error: BaseException) -> None:
        """End a call from this side and tell the other one."""
        if pending.complete(error):
            self._settle(pending.id)
            pending.release(error)
            self._link.outbox.post(frame(Kind.CANCEL, pending.id, flags=Flag.OURS))
            if self._link.arena is not None:
                self._link.arena.wake()

    def expected(self, id: int) -> Outgoing | None:
        """The call of ours that a frame is about; None when it has ended meanwhile.

        Raises ProtocolError for a call that was never made.
        """
        if not 0 < id <= self._last_id:
            raise ProtocolError("a frame about a call that was never made")
        with self._link.lock:
            return self._link.outgoing.get(id)

    def on_result(self, entry: Frame) -> None:
        """RESULT: a value, or the beginning of a stream."""
        pending = self.expected(entry.id)
        if pending is None:
            return
        compiled = pending.compiled

        def refuse(error: LimitExceeded) -> None:
            self.give_up(pending, LimitExceeded(f"{compiled.name}: result: {error}"))

        try:
            head = _value_head.decode(entry.payload)
        except RecursionError:
            refuse(LimitExceeded("the value is nested too deeply"))
            return
        if bool(entry.flags & Flag.STREAM) is not compiled.description.result_stream:
            raise ProtocolError(f"{compiled.name}: a stream where a value is declared, or reverse")
        if compiled.description.result_stream:
            if pending.done:
                raise ProtocolError(f"{compiled.name}: a second result")
            consumer = self._link.consumer(
                compiled.result, entry.id, 0, lambda: self._forget(entry.id)
            )
            pending.consumer = consumer
            pending.complete(take=lambda: consumer)
            return

        def deliver(parcel: Parcel) -> None:
            self._settle(entry.id)
            pending.complete(take=lambda: compiled.result.decode(head.value, parcel.take()))
            pending.release(None)

        key = (True, entry.id, VALUE)
        try:
            self._link.assembly.begin(key, head.sizes, len(entry.payload), deliver, refuse)
        except LimitExceeded as error:
            refuse(error)
        if pending.done:  # given up meanwhile: the rest may never come
            self._link.assembly.drop(key)

    def on_error(self, entry: Frame, body: ErrorBody) -> None:
        """ERROR of a call of ours, before its result or in the middle of its stream."""
        pending = self.expected(entry.id)
        if pending is None:
            return
        error = faults.restore(pending.compiled.name, body, pending.compiled.errors)
        self._settle(entry.id)
        pending.complete(error)
        pending.release(error)

    def on_end(self, entry: Frame) -> None:
        """END of the stream that a call of ours returned."""
        pending = self.expected(entry.id)
        if pending is not None:
            if pending.consumer is None:
                raise ProtocolError(f"{pending.compiled.name}: the end of no stream")
            self._settle(entry.id)
            pending.release(None)

    def _settle(self, id: int) -> None:
        with self._link.lock:
            self._link.outgoing.pop(id, None)
        self._link.assembly.forget(True, id)

    def _forget(self, id: int) -> None:
        """Our consumer has stopped: what still comes belongs to nobody."""
        with self._link.lock:
            pending = self._link.outgoing.pop(id, None)
        self._link.assembly.forget(True, id)
        if pending is not None:
            pending.release(None)


def as_iterator(function: str, name: str, value: Any) -> Iterator[Any]:
    """An iterator over `value`. Raises ArgumentError when it has none."""
    try:
        return iter(value)
    except TypeError:
        raise ArgumentError(
            f"{function}: {name} is a stream; it takes an iterable, not {type(value).__name__}"
        ) from None
