"""One lane inside the enclave: a thread that serves the switchless calls that come on it.

A lane's thread waits in the ring, runs app code in between, and answers. What a call of the
stream gets from `Incoming` (cancellation that interrupts it, an identity for `current_call`, a
place in the connection's table) a switchless call gets once somebody asks for it: most never do.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, final

from secgear.base import context, faults
from secgear.base.context import Call
from secgear.base.exchange import Incoming
from secgear.base.faults import Refused
from secgear.base.functions import Compiled, Served
from secgear.base.interface import bind
from secgear.base.link import Link
from secgear.base.marshal import misfit
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
    CutShort,
    Message,
    encode,
)
from secgear.errors import (
    ArgumentError,
    CallCancelled,
    CallError,
    Cancelled,
    EnclaveLost,
    LimitExceeded,
    ProtocolError,
    UnknownCall,
)

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring

_UNBOUND = 1 << 62
_LATER, _LATER_BYTES = 4096, 64 << 20
"""Calls that wait on a lane behind one that makes an OCALL, at the most."""


class Offer(NamedTuple):
    """A function that lanes serve. form: None if it has no fast one."""

    served: Served
    function: Callable[..., Any]
    form: Form | None = None


class Target(NamedTuple):
    """An OCALL that app code on a lane can make. number: its own."""

    number: int
    compiled: Compiled
    form: Form | None


_LOOK = 0.02
"""Seconds after which a call that waits for an OCALL looks whether it was given up."""


def lane_call(lane: int, id: int) -> int:
    """What a call of a lane is called in the connection's table: ids of the stream are smaller."""
    return 1 << 63 | lane << 48 | id


@final
class Lane:
    """One lane. Everything but `abandon`, `find` and `close` belongs to its own thread.

    offers: functions by their number. targets: OCALLs by name. interrupt: as for `Serving`.
    """

    def __init__(
        self,
        number: int,
        ring: Ring,
        piece: int,
        link: Link,
        *,
        offers: Sequence[Offer],
        targets: Mapping[str, Target],
        interrupt: Callable[[int, bool], None],
    ) -> None:
        self.closing = False
        self._number = number
        self._ring = ring
        self._piece = piece
        self._link = link
        self._offers = offers
        self._targets = targets
        self._interrupt = interrupt
        self._courier = Courier(ring, piece, link.limits)
        self._fast: dict[int, tuple[Any, Any, Any, int]] = {}
        self._lock = threading.Lock()
        self._thread = 0
        self._running = 0  # id of the call whose app code runs, or waits for an OCALL
        self._offer = offers[0] if offers else None
        self._depth = 0
        self._special = False  # the call that runs is known to others, or calls wait behind it
        self._incoming: Incoming | None = None
        self._outer: list[tuple[int, Incoming | None]] = []  # calls that wait for an OCALL
        self._given_up: list[tuple[int, int]] = []
        self._refused = 0  # id of the call whose parts are dropped
        self._later: deque[Message] = deque()
        self._later_bytes = 0
        self._asked = 0  # id of the last OCALL
        self._fill()

    # --- serving ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the lane is closed; the thread's whole life. Raises ProtocolError."""
        self._thread = threading.get_ident()
        context.serve_lane(self)
        handler = self._handler()
        while True:
            try:
                self._ring.serve(handler)
            except Cancelled:  # struck when the call was over: nobody waits for it any more
                self._running = self._depth = 0
                self._outer.clear()
                self._settle()
            else:
                return

    def _fill(self) -> None:
        """Functions that the handler serves without looking twice."""
        for number, offer in enumerate(self._offers):
            form = offer.form
            if form is not None and form.encode_result is not None:
                largest = offer.served.largest
                self._fast[FAST | number] = (
                    form.decode_arguments,
                    offer,
                    form.encode_result,
                    _UNBOUND if largest is None else largest,
                )

    def _handler(self) -> Callable[[int, int, bytes], Any]:
        """Serves one message. What it costs is what a switchless call costs: no locks, no tables.

        A call is cancelled by a thread that looks at `_running` under `_lock` and then sets
        `_special`; this one clears `_running` and then looks at `_special`. The interpreter lock
        puts these in one order, so one of the two sees the other.
        """
        find = self._fast.get
        piece = self._piece

        def handler(id: int, tag: int, payload: bytes) -> Any:
            found = find(tag)
            if found is None:
                return self._slow(id, tag, payload)
            decode, offer, pack, largest = found
            if len(payload) > largest:
                return self._slow(id, tag, payload)
            try:
                arguments = decode(payload)
            except Exception:  # noqa: BLE001  (the slow way says what is wrong)
                return self._slow(id, tag, payload)
            try:
                self._offer = offer
                self._running = id
                result = offer.function(*arguments)
                self._running = 0
                if self._special:
                    self._settle()
            except BaseException as error:  # noqa: BLE001  (described under the rules of `faults`)
                self._failed(id, tag, offer, error)
                return self._go_on()
            try:
                answer = pack(result)
            except Exception:  # noqa: BLE001  (as above)
                answer = None
            if answer is None or len(answer) > piece or self._later:
                self._answer(id, tag, offer, result)
                return self._go_on()
            return answer

        return handler

    def _slow(self, id: int, tag: int, payload: bytes) -> Any:
        """Whatever the handler can't serve at once. Raises ProtocolError."""
        kind = messages.kind(tag)
        if tag & OCALL:
            return None  # the answer to an OCALL whose call was given up
        if kind == PING:
            return b""
        if kind == PART and id == self._refused:
            return None
        if kind not in {FAST, WHOLE, BEGIN}:
            raise ProtocolError("a message that nothing led to")
        if tag & NESTED:  # its OCALL's handler did not know yet that the call had ended
            self._refuse(id, tag, None, CallCancelled("the call around it was given up"))
            return None
        self._serve((id, tag, payload))
        return self._go_on()

    def _serve(self, message: Message) -> None:
        """Serve a call in any form, at any depth, and answer it."""
        id, tag, _ = message
        number = messages.index(tag)
        offer = self._offers[number] if number < len(self._offers) else None
        try:
            if offer is None:
                raise ProtocolError("a call of no function")
            if self._running and self._depth >= self._link.limits.depth:
                raise LimitExceeded("calls are nested too deeply")
            work = self._arguments(message, offer)
            if self.closing:
                raise UnknownCall("no such function here")
            if self._is_given_up(id):
                raise CallCancelled("cancelled by the caller")
        except (CallError, TimeoutError, MemoryError) as error:
            self._refuse(id, tag, offer, error)
            return
        with self._lock:
            outer = self._running, self._incoming, self._offer
            self._running, self._incoming, self._offer = id, None, offer
            self._special = False
        nested = outer[0] != 0
        if nested:
            self._outer.append(outer[:2])
            self._depth += 1
        try:
            try:
                result = work()
                self._running = 0
                if self._special:
                    self._settle()
            except BaseException as error:  # noqa: BLE001  (described under the rules of `faults`)
                self._failed(id, tag, offer, error)
            else:
                self._answer(id, tag, offer, result)
        finally:
            if nested:
                self._depth -= 1
                self._outer.pop()
            with self._lock:
                self._running, self._incoming, self._offer = outer
                self._special = outer[1] is not None

    def _arguments(self, message: Message, offer: Offer) -> Callable[[], Any]:
        """The call, ready to be run. Raises CallError for arguments that don't fit."""
        _, tag, payload = message
        name, largest = offer.served.compiled.name, offer.served.largest
        most = self._link.limits.message if largest is None else largest
        if messages.kind(tag) == FAST:
            form = offer.form
            if form is None:
                raise ProtocolError(f"{name}: it has no fast form")
            if len(payload) > most:
                raise ArgumentError(
                    f"{name}: arguments of {len(payload)} bytes, where their types allow {most} "
                    "at the most"
                )
            try:
                arguments = form.decode_arguments(payload)
            except Exception as error:  # noqa: BLE001  (whatever a decoder makes of them)
                raise _named(misfit(name, error), offer.served.compiled) from None
            return lambda: offer.function(*arguments)
        arrived = self._courier.receive(message, most, given_up=lambda: self.closing)
        values = offer.served.compiled.arguments.decode(arrived.body, arrived.attachments)
        return lambda: offer.served.invoke(values)

    # --- answering -------------------------------------------------------------------------------

    def _answer(self, id: int, tag: int, offer: Offer, result: Any) -> None:
        """Send a result that can't go as the handler's own."""
        compiled, form = offer.served.compiled, offer.form
        number = messages.index(tag)
        try:
            if messages.kind(tag) == FAST and form is not None and form.encode_result is not None:
                try:
                    answer = form.encode_result(result)
                except Exception:  # noqa: BLE001  (the ordinary form says what is wrong)
                    answer = None
                if answer is not None and len(answer) <= self._piece:
                    self._ring.send(id, FAST | number, answer)
                    return
            packed = compiled.result.encode(result)
            try:
                self._link.check_size(f"{compiled.name}: result", packed)
            except LimitExceeded as error:
                raise Refused(error) from error
        except BaseException as error:  # noqa: BLE001  (described under the rules of `faults`)
            self._fault(id, tag, offer, error)
        else:
            self._courier.send(id, number, packed)

    def _failed(self, id: int, tag: int, offer: Offer, error: BaseException) -> None:
        self._running = 0
        self._settle()
        if not (self.closing and isinstance(error, Cancelled)):
            self._fault(id, tag, offer, error)

    def _refuse(self, id: int, tag: int, offer: Offer | None, error: BaseException) -> None:
        """Answer a call that does not begin, and drop what still comes of it."""
        if messages.kind(tag) == BEGIN:
            self._refused = id
        self._fault(id, tag, offer, Refused(_as_call_error(error)))
        if isinstance(error, CutShort):
            self._ring.send(error.ping[0], error.ping[1], b"")

    def _fault(self, id: int, tag: int, offer: Offer | None, error: BaseException) -> None:
        raises = offer.served.raises if offer is not None else ()
        body = faults.describe(error, raises, enclave=True, debug=self._link.debug)
        self._ring.send(id, FAULT | messages.index(tag), encode(body))

    def _go_on(self) -> None:
        """Serve what came while the outermost call waited for an OCALL."""
        while self._later:
            id, tag, payload = self._later.popleft()
            self._later_bytes -= len(payload)
            if messages.kind(tag) == PING:
                self._ring.send(id, tag, b"")
            else:
                self._serve((id, tag, payload))

    # --- OCALLs ----------------------------------------------------------------------------------

    def ocall(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make an OCALL in the call that runs. Raises as it would over the stream.

        Returns NotImplemented for one that goes over the stream, because it takes or gives one.
        """
        target = self._targets.get(name)
        return NotImplemented if target is None else self._ocall(target, args, kwargs)

    def _ocall(self, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        form = target.form
        body = None
        if form is not None and not kwargs and form.fewest <= len(args) <= form.most:
            try:
                body = form.encode_arguments(args)
            except Exception:  # noqa: BLE001  (the ordinary form says what is wrong)
                body = None
        self._asked = id = self._asked + 1
        running, known = self._running, self._incoming
        if known is not None:  # the framework's own work is not to be interrupted
            known.shield()
        try:
            if body is not None and len(body) <= self._piece:
                tag = OCALL | FAST | target.number
                message = self._ring.call(id, tag, body, _LOOK)
            else:
                description = target.compiled.description
                packed = target.compiled.arguments.encode(bind(description, args, kwargs))
                self._link.check_size(description.name, packed)
                self._courier.send(id, OCALL | target.number, packed)
                message = self._ring.recv(_LOOK)
            while message is None or not self._is_about(message, id, target):
                if message is not None:  # first: somebody may wait for its answer
                    self._meanwhile(message)
                if self.closing or self._abandoned(running):
                    raise _given_up(target)
                message = self._ring.recv(_LOOK)
            return self._outcome(message, target, running)
        finally:
            known = self._incoming
            if known is not None:
                known.shield()
                known.expose(again=True)

    def _is_about(self, message: Message, id: int, target: Target) -> bool:
        """Whether a message answers the OCALL `id`. Raises ProtocolError when it pretends to."""
        if not message[1] & OCALL or message[0] < id:
            return False
        if message[0] > id or messages.index(message[1]) != target.number:
            raise self._broken("an answer to an OCALL that was not made")
        return True

    def _meanwhile(self, message: Message) -> None:
        """What comes before the answer: nested calls, calls for later, answers that are late."""
        tag = message[1]
        kind = messages.kind(tag)
        if tag & OCALL or (kind == PART and message[0] == self._refused):
            return
        if tag & NESTED and kind in {FAST, WHOLE, BEGIN}:
            self._serve((message[0], tag & ~NESTED, message[2]))
        elif (
            kind in {FAST, PING}
            and len(self._later) < _LATER
            and self._later_bytes + len(message[2]) <= _LATER_BYTES
        ):
            self._later.append(message)
            self._later_bytes += len(message[2])
        else:
            raise self._broken("a message that nothing led to")

    def _outcome(self, message: Message, target: Target, running: int) -> Any:
        compiled, form = target.compiled, target.form
        kind = messages.kind(message[1])
        if kind == FAST and form is not None and form.decode_result is not None:
            try:
                return form.decode_result(message[2])
            except Exception as error:  # noqa: BLE001  (whatever a decoder makes of it)
                raise misfit(f"{compiled.name}: result", error) from None
        if kind == FAULT:
            raise faults.restore(compiled.name, messages.fault(message[2]), compiled.errors)
        if kind not in {WHOLE, BEGIN}:
            raise self._broken("an answer of no kind")
        try:
            arrived = self._courier.receive(
                message,
                self._link.limits.message,
                given_up=lambda: self.closing or self._abandoned(running),
            )
        except TimeoutError:
            raise _given_up(target) from None
        except CutShort as error:  # and with it the call that waits for this answer
            self._later.append(error.ping)
            raise _given_up(target) from None
        except ProtocolError as error:
            raise self._broken(str(error)) from error
        return compiled.result.decode(arrived.body, arrived.attachments)

    def _broken(self, reason: str) -> EnclaveLost:
        """The host broke the protocol while app code waits for it: the lane is of no use."""
        self._ring.close()
        return EnclaveLost(f"the host broke the protocol: {reason}")

    # --- what others see of the call that runs ---------------------------------------------------

    def current(self) -> Call | None:
        """The call that this thread serves."""
        incoming = self._known(self._running) if self._running else None
        return incoming.call if incoming is not None else None

    def _known(self, id: int) -> Incoming | None:
        """The call `id`, if it is the one that runs, as the connection's table has it."""
        with self._lock:
            if self._running != id or not id or self._offer is None:
                return None
            if self._incoming is None:
                served = self._offer.served
                key = lane_call(self._number, id)
                call = Call(key, served.compiled.name, self._link)
                self._incoming = Incoming(
                    call, served, 0, self._depth, self._interrupt, thread=self._thread
                )
                with self._link.lock:
                    self._link.incoming[key] = self._incoming
            self._special = True
            return self._incoming

    def _settle(self) -> None:
        """The call that ran is over: nothing strikes this thread any more."""
        with self._lock:
            incoming, self._incoming = self._incoming, None
            self._special = False
        if incoming is not None:
            incoming.shield()
            with self._link.lock:
                self._link.incoming.pop(incoming.call.id, None)

    def find(self, id: int) -> Incoming | None:
        """The call `id` while it runs; for the thread that reads the stream."""
        return self._known(id)

    @property
    def running(self) -> bool:
        """Whether app code runs."""
        return self._running != 0

    def abandon(self, first: int, last: int) -> None:
        """The caller gave up the calls `first` to `last`: those that run and those to come."""
        with self._lock:
            self._given_up = [*self._given_up, (first, last)][-_LATER:]
            self._fast.clear()  # the slow way looks at the list
            running = self._running
            outer = [incoming for id, incoming in self._outer if first <= id <= last]
        if first <= running <= last:
            outer.append(self._known(running))
        for incoming in outer:
            if incoming is not None:
                incoming.cancel()

    def _is_given_up(self, id: int) -> bool:
        with self._lock:
            if not self._running:  # ids of a lane only grow, and nothing older waits
                self._given_up = [entry for entry in self._given_up if entry[1] >= id]
            if not self._given_up and not self._fast and not self.closing:
                self._fill()
        return self._abandoned(id)

    def _abandoned(self, id: int) -> bool:
        return any(first <= id <= last for first, last in self._given_up)

    def close(self, *, cancel: bool) -> None:
        """Serve no more; cancel: interrupt what runs."""
        self.closing = True
        if cancel:
            with self._lock:
                self._fast.clear()  # the slow way looks at `closing`
            incoming = self._known(self._running)
            if incoming is not None:
                incoming.cancel()
        else:
            self._ring.close()


def _given_up(target: Target) -> Cancelled:
    return Cancelled(f"{target.compiled.name}: its call was given up by the caller")


def _as_call_error(error: BaseException) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, MemoryError):
        return LimitExceeded("the enclave has no memory for its arguments")
    return CallCancelled("its arguments did not come")


def _named(error: CallError, compiled: Compiled) -> CallError:
    """The error with parameters by name, where the fast form counts them."""
    text = str(error)
    for number, param in enumerate(compiled.description.params):
        text = text.replace(f"`$[{number}]", f"`$.{param.name}")
    return type(error)(text)
