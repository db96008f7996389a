"""One lane on the host: a call at a time, and what the enclave asks meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, final

from secgear.base import context, faults
from secgear.base.context import Call
from secgear.base.faults import Refused
from secgear.base.functions import Compiled, Served
from secgear.base.interface import bind
from secgear.base.link import Link
from secgear.base.marshal import Packed, misfit
from secgear.base.switchless import messages
from secgear.base.switchless.forms import Form
from secgear.base.switchless.messages import (
    BEGIN,
    FAST,
    FAULT,
    NESTED,
    OCALL,
    PART,
    PING,
    WHOLE,
    Courier,
    Message,
    encode,
    left,
)
from secgear.base.workers import Workers
from secgear.errors import CallError, DeadlineExceeded, LimitExceeded, ProtocolError

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring


class Function(NamedTuple):
    """An ECALL as lanes make it. number: its own. form: None if it has no fast one.

    plain: whether it neither takes nor gives a stream, which goes over the stream.
    """

    number: int
    compiled: Compiled
    form: Form | None
    plain: bool

    def fast(self, args: tuple[Any, ...], most: int) -> Any:
        """Arguments in the fast form, None for those it can't take or that are over `most` bytes.

        What is wrong with them, if anything, the ordinary form says.
        """
        form = self.form
        if form is None or not form.fewest <= len(args) <= form.most:
            return None
        try:
            body = form.encode_arguments(args)
        except Exception:  # noqa: BLE001  (see above)
            return None
        return body if len(body) <= most else None

    def in_order(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """Arguments by position, None when one before the last was left out.

        Raises ArgumentError as `bind`.
        """
        params = self.compiled.description.params
        values = bind(self.compiled.description, args, kwargs)
        if any(param.name not in values for param in params[: len(values)]):
            return None
        return tuple(values.values())


class Handler(NamedTuple):
    """An OCALL as the host serves it on lanes. function: takes the arguments by position."""

    served: Served
    function: Callable[..., Any]
    form: Form | None


class Outcome(NamedTuple):
    """How a call ended for its caller.

    in_step: whether the lane can be used at once; if not, the enclave has not done with the call.
    """

    value: Any = None
    error: BaseException | None = None
    in_step: bool = True


@final
class Elsewhere:
    """Work that another thread does while this one may stop waiting for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.done = threading.Event()
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it."""
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001  (raised where the result is asked for)
            self._error = error
        finally:
            self.done.set()

    def result(self) -> Any:
        """What came of it, once `done`."""
        if self._error is not None:
            raise self._error
        return self._value


@final
class HostLane:
    """One lane. Used by one thread at a time: whoever took it from the pool.

    id: of the last call. call: the ring's own, for the shortest way. forsaken: ids of calls that
    were given up, whose answers still come. serving, workers: as of `Lanes`.
    """

    __slots__ = (
        "_asked",
        "_awaiting",
        "_courier",
        "_handlers",
        "_link",
        "_piece",
        "_serving",
        "_unfinished",
        "_workers",
        "call",
        "forsaken",
        "id",
        "number",
        "ring",
    )

    def __init__(
        self,
        number: int,
        ring: Ring,
        piece: int,
        link: Link,
        *,
        handlers: Sequence[Handler],
        serving: dict[int, HostLane],
        workers: Workers,
    ) -> None:
        self.number = number
        self.ring = ring
        self.call = ring.call
        self.id = 0
        self.forsaken: list[range] = []
        self._serving = serving
        self._workers = workers
        self._unfinished: tuple[Elsewhere, Message] | None = None
        self._piece = piece
        self._link = link
        self._handlers = handlers
        self._courier = Courier(ring, piece, link.limits)
        self._asked = 0
        self._awaiting = 0

    # --- calls -----------------------------------------------------------------------------------

    def begin(self) -> int:
        """The id of a new call."""
        self.id += 1
        return self.id

    def fast_call(self, function: Function, body: Any, deadline: float | None) -> Outcome:
        """A call in the fast form; raises as `outcome`."""
        id = self.begin()
        try:
            message = self.call(id, FAST | function.number, body, left(deadline))
        except TimeoutError:
            message = None
        return self.outcome(function, id, message, deadline)

    def slow_call(
        self, function: Function, packed: Packed, deadline: float | None, *, nested: bool
    ) -> Outcome:
        """A call in the ordinary form; raises as `outcome`."""
        id = self.begin()
        flag = NESTED if nested else 0
        try:
            self._courier.send(id, flag | function.number, packed, deadline)
        except TimeoutError:
            return late(function)
        return self.outcome(function, id, self.next(deadline), deadline)

    def outcome(
        self, function: Function, id: int, message: Message | None, deadline: float | None
    ) -> Outcome:
        """How call `id` ends, after `message`, the first that came; None if none came in time.

        Raises ProtocolError, or the ring's ConnectionError, when the lane is lost, and whatever
        interrupts the caller.
        """
        outer, self._awaiting = self._awaiting, id
        try:
            while message is not None:
                if message[1] & OCALL:
                    message = self._serve_and_wait(message, deadline)
                elif message[0] != id and self._is_forsaken(message[0]):
                    if deadline is not None and time.monotonic() >= deadline:
                        break  # there may be no end of them
                    message = self.next(deadline)
                else:
                    return self.value(function, id, message, deadline)
            return late(function)
        finally:
            self._awaiting = outer

    def _is_forsaken(self, id: int) -> bool:
        return any(id in ids for ids in self.forsaken)

    def value(
        self, function: Function, id: int, message: Message, deadline: float | None
    ) -> Outcome:
        """What `message` means as the answer to call `id`; raises as `outcome`."""
        compiled, form = function.compiled, function.form
        kind = messages.kind(message[1])
        if message[0] != id or messages.index(message[1]) != function.number or message[1] & NESTED:
            raise ProtocolError("an answer to a call that was not made")
        if kind == FAST and form is not None and form.decode_result is not None:
            return decoded(function, message[2])
        if kind == FAULT:
            body = messages.fault(message[2])
            return Outcome(error=faults.restore(compiled.name, body, compiled.errors))
        if kind not in {WHOLE, BEGIN}:
            raise ProtocolError("an answer of no kind")
        try:
            arrived = self._courier.receive(message, self._link.limits.message, deadline)
        except LimitExceeded as error:
            error = LimitExceeded(f"{compiled.name}: result: {error}")
            return Outcome(error=error, in_step=kind == WHOLE)
        except TimeoutError:
            return late(function)
        try:
            return Outcome(compiled.result.decode(arrived.body, arrived.attachments))
        except CallError as error:
            return Outcome(error=error)

    # --- OCALLs ----------------------------------------------------------------------------------

    def _serve_and_wait(self, message: Message, deadline: float | None) -> Message | None:
        """Serve an OCALL; the message after it, None if there was none before the deadline.

        A call without a deadline has nothing better to do than to run the handler itself.
        """
        if deadline is None:
            answer = self.serve(message, self._awaiting)
        else:
            elsewhere = Elsewhere(partial(self.serve, message, self._awaiting))
            self._unfinished = elsewhere, message  # so it is, if the caller is interrupted
            if not self._workers.submit(elsewhere.run):
                elsewhere.run()
            if not elsewhere.done.wait(left(deadline)):
                return None
            self._unfinished = None
            answer = elsewhere.result()
        if answer is None:
            return self.next(deadline)
        try:
            return self.call(message[0], message[1], answer, left(deadline))
        except TimeoutError:
            return None

    def next(self, deadline: float | None) -> Message | None:
        """The next message, None when none came before the deadline."""
        try:
            return self.ring.recv(left(deadline))
        except TimeoutError:
            return None

    def serve(self, message: Message, parent: int) -> Any:
        """Serve an OCALL that call `parent` made.

        Returns the answer in its fast form, or None when it has been sent. Raises ProtocolError
        for one that the enclave may not make.
        """
        id, tag, _ = message
        number = messages.index(tag)
        if id <= self._asked or number >= len(self._handlers) or tag & NESTED:
            raise ProtocolError("an OCALL of no function, or one that was made before")
        self._asked = id
        handler = self._handlers[number]
        compiled, form = handler.served.compiled, handler.form
        key = lane_call(self.number, parent)
        before = context.enter(Call(key, compiled.name, self._link))
        outer = self._serving.get(key)
        self._serving[key] = self
        try:
            result = self._handle(message, handler)
            if messages.kind(tag) == FAST and form is not None and form.encode_result is not None:
                try:
                    answer = form.encode_result(result)
                except Exception:  # noqa: BLE001  (the ordinary form says what is wrong)
                    answer = None
                if answer is not None and len(answer) <= self._piece:
                    return answer
            packed = compiled.result.encode(result)
            try:
                self._link.check_size(f"{compiled.name}: result", packed)
            except LimitExceeded as error:
                raise Refused(error) from error
        except BaseException as error:
            body = faults.describe(error, handler.served.raises, enclave=False, debug=False)
            self.ring.send(id, OCALL | FAULT | number, encode(body))
            if not isinstance(error, Exception):  # an interrupt of the caller, not the handler's
                raise
            return None
        finally:
            context.enter(before)
            if outer is None:
                del self._serving[key]
        self._courier.send(id, OCALL | number, packed)
        return None

    def _handle(self, message: Message, handler: Handler) -> Any:
        """Run the handler; arguments that don't fit are `Refused`."""
        compiled, form = handler.served.compiled, handler.form
        _, tag, payload = message
        kind = messages.kind(tag)
        if kind == FAST and form is not None:
            try:
                given = form.decode_arguments(payload)
            except Exception as error:  # noqa: BLE001  (whatever a decoder makes of them)
                raise Refused(misfit(compiled.name, error)) from None
            return handler.function(*given)
        try:
            if kind not in {WHOLE, BEGIN}:
                raise ProtocolError("an OCALL of no kind")
            arrived = self._courier.receive(message, self._link.limits.message)
            values = compiled.arguments.decode(arrived.body, arrived.attachments)
        except CallError as error:
            raise Refused(error) from error
        return handler.served.invoke(values)

    # --- in step ---------------------------------------------------------------------------------

    def recover(self) -> None:
        """Wait until the enclave has done with all that was sent; what still comes is dropped.

        Whatever was left, in whatever state: a PING is answered behind all of it.
        """
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            elsewhere, (id, tag, _) = unfinished
            elsewhere.done.wait()
            answer = elsewhere.result()
            if answer is not None:
                self.ring.send(id, tag, answer)
        id = self.begin()
        self._awaiting = 0
        self.forsaken.clear()
        message = self.call(id, PING, b"")
        while message is None or message[:2] != (id, PING):
            if message is not None and message[0] > id and not message[1] & OCALL:
                raise ProtocolError("an answer to a call that was not made")
            if message is not None and message[1] & OCALL and messages.kind(message[1]) != PART:
                message = self._serve_and_wait(message, None)
            else:
                message = self.next(None)


def decoded(function: Function, payload: bytes) -> Outcome:
    """What a result in its fast form means."""
    decode = function.form.decode_result if function.form is not None else None
    if decode is None:
        raise ProtocolError("a result in a form that the function does not have")
    try:
        return Outcome(decode(payload))
    except Exception as error:  # noqa: BLE001  (whatever a decoder makes of it)
        return Outcome(error=misfit(f"{function.compiled.name}: result", error))


def pack(function: Function, values: dict[str, Any], link: Link) -> Packed:
    """Arguments in the ordinary form. Raises ArgumentError or LimitExceeded."""
    packed = function.compiled.arguments.encode(values)
    link.check_size(function.compiled.name, packed)
    return packed


def late(function: Function) -> Outcome:
    """The call was not answered before its deadline."""
    name = function.compiled.name
    error = DeadlineExceeded(f"{name}: not finished before its deadline")
    return Outcome(error=error, in_step=False)


def lane_call(lane: int, id: int) -> int:
    """What a call of a lane is called in the enclave's table; the inverse is its business."""
    return 1 << 63 | lane << 48 | id
