"""The host's half of switchless calls: lanes to take, and what becomes of those left behind."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import msgspec

from secgear.base import context
from secgear.base.functions import Compiled, Served
from secgear.base.interface import Interface
from secgear.base.marshal import Packed, misfit
from secgear.base.peer import Peer
from secgear.base.shared.host import may_go_on, pin, unpin
from secgear.base.switchless.forms import form
from secgear.base.switchless.host_lane import (
    Function,
    Handler,
    HostLane,
    Outcome,
    pack,
)
from secgear.base.switchless.messages import Message
from secgear.base.switchless.options import Switchless
from secgear.base.transport import ring
from secgear.base.transport.geometry import Geometry
from secgear.base.wire import Abandon, Kind, frame
from secgear.base.workers import Workers
from secgear.errors import CallError, DeadlineExceeded, EnclaveLost, ProtocolError

_TELL = 2.0
"""Seconds until the stream must have told why a lane has ended."""
_encode = msgspec.msgpack.Encoder().encode


class Busy(Exception):
    """Every worker is busy, or there is none: the call goes over the stream."""


@final
class Lanes:
    """Every lane of one enclave.

    memory: shared with the enclave, divided as `geometry` says. count: lanes it serves.
    workers: threads of this side, for what can't wait. free: lanes to take; the last one that was
    given back comes first, because its worker may still be awake.
    serving: lanes on which an OCALL is being served, by the id of the call that made it.
    incoming: OCALLs that came over the stream and are being served. pool: threads
    that wait for the answers of calls under way; queue: those that wait for a lane first.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        geometry: Geometry,
        count: int,
        peer: Peer,
        *,
        options: Switchless,
        workers: Workers,
        interface: Interface,
        functions: Mapping[str, Compiled],
        served: Mapping[str, Served],
        handlers: Mapping[str, Callable[..., Any]],
    ) -> None:
        self.options = options
        self.piece = geometry.piece
        self.ahead = geometry.ahead
        self.free: list[HostLane] = []
        self.waiting = 0
        self.serving: dict[int, HostLane] = {}
        self.counters: Counter[str] = Counter()
        self.link = peer.link
        self.incoming = peer.link.incoming
        # Of their own, so that those who wait for a lane never take the thread of one who has it.
        self.pool = Workers(count, "switchless", elastic=True)
        self.queue = Workers(count, "switchless-queue", elastic=True)
        self._functions = {
            name: Function(
                number,
                compiled,
                form(compiled.description, compiled.types, interface.types),
                not compiled.streams and not compiled.description.result_stream,
            )
            for number, (name, compiled) in enumerate(sorted(functions.items()))
        }
        self._handlers = [
            Handler(
                one,
                handlers[name],
                form(one.compiled.description, one.compiled.types, interface.types),
            )
            for name, one in sorted(served.items())
        ]
        self._memory = memory
        self._geometry = geometry
        self._count = count
        self._peer = peer
        self._workers = workers
        self._owner = os.getpid()
        self._all: list[HostLane] = []
        self._changed = threading.Condition()
        self._dead = 0
        self._closed = False
        _in_forked_children(self)

    # --- taking and giving back ------------------------------------------------------------------

    def take(self, name: str, deadline: float | None, *, wait: bool = False) -> HostLane:
        """A lane for one call, `give` it back. Waits for one, or raises `Busy`, by choice.

        wait: whatever the options say. Raises DeadlineExceeded or EnclaveLost.
        """
        with self._changed:
            self.waiting += 1
            try:
                while True:
                    self._check()
                    with contextlib.suppress(IndexError):
                        return self.free.pop()
                    if len(self._all) < self._count:
                        return self._open()
                    if self._dead >= self._count:
                        raise Busy
                    if self.options.when_busy == "stream" and not wait:
                        raise Busy
                    self.counters["waits"] += 1
                    rest = None if deadline is None else deadline - time.monotonic()
                    if rest is not None and rest <= 0:
                        raise DeadlineExceeded(f"{name}: not finished before its deadline")
                    self._changed.wait(rest)
            finally:
                self.waiting -= 1

    def try_take(self) -> HostLane | None:
        """A lane for one call if there is one at once. Raises EnclaveLost."""
        with contextlib.suppress(IndexError):
            return self.free.pop()
        with self._changed:
            self._check()
            return self._open() if len(self._all) < self._count else None

    def give(self, lane: HostLane) -> None:
        """A lane is free again."""
        self.free.append(lane)
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Somebody who waits should look again."""
        with self._changed:
            self._changed.notify()

    def _check(self) -> None:
        if self._owner != os.getpid():
            raise EnclaveLost("this handle belongs to another process; launch one in this process")
        lost = self._peer.lost
        if lost is not None:
            raise type(lost)(*lost.args)
        if self._closed:
            raise EnclaveLost("the enclave was closed")

    def _open(self) -> HostLane:
        number, geometry = len(self._all), self._geometry
        geometry.populate(self._memory, number)
        memory = geometry.lane(memoryview(self._memory), number)
        end = ring.open_lane(memory, geometry.rings, host=True)
        lane = HostLane(
            number,
            end,
            geometry.piece,
            self.link,
            handlers=self._handlers,
            serving=self.serving,
            workers=self._workers,
        )
        self._all.append(lane)
        self._peer.outbox.post(frame(Kind.LANE, number))
        return lane

    # --- calls -----------------------------------------------------------------------------------

    def nested(self) -> HostLane | None:
        """The lane whose OCALL this thread serves, so that its calls are nested in it."""
        serving = context.serving()
        if serving is None or serving.owner is not self.link:
            return None
        return self.serving.get(serving.id)

    def inside(self) -> bool:
        """Whether this thread serves an OCALL of this enclave, whichever way it came."""
        serving = context.serving()
        return serving is not None and serving.owner is self.link

    def elsewhere(self) -> bool:
        """Whether this thread serves an OCALL that came over the stream: so must its calls go."""
        return self.inside() and self.nested() is None

    def function(self, name: str) -> Function | None:
        """An ECALL as lanes make it, None for one that takes or gives a stream."""
        function = self._functions[name]
        return function if function.plain else None

    def call(self, function: Function, values: dict[str, Any], deadline: float | None) -> Any:
        """A call with any arguments, nested or not. Raises `Busy`."""
        pins = pin(values)  # before their references are made
        lent = False
        try:
            packed = pack(function, values, self.link)
            lane = self.nested()
            nested = lane is not None
            if lane is None:
                lane = self.take(function.compiled.name, deadline)
            lent = True
            result = self.send_and_wait(lane, function, packed, deadline, nested=nested)
            lent = False
        except Exception as error:
            lent = lent and may_go_on(error)
            raise
        finally:
            unpin(pins, lent=lent)
        return result

    def send_and_wait(
        self,
        lane: HostLane,
        function: Function,
        arguments: Any,
        deadline: float | None,
        *,
        nested: bool = False,
    ) -> Any:
        """A call on a lane that was taken, or is served. arguments: `Packed`, or the fast form."""
        first = lane.id + 1
        with self.guarding(lane, first, nested=nested):
            if isinstance(arguments, Packed):
                outcome = lane.slow_call(function, arguments, deadline, nested=nested)
            else:
                outcome = lane.fast_call(function, arguments, deadline)
        return self.settle(lane, outcome, first, nested=nested)

    def finish(
        self,
        lane: HostLane,
        function: Function,
        id: int,
        message: Message | None,
        deadline: float | None,
    ) -> Any:
        """The result of call `id`, of which `message` came first; None if none came in time."""
        with self.guarding(lane, id):
            outcome = lane.outcome(function, id, message, deadline)
        return self.settle(lane, outcome, id)

    def wait(
        self,
        lane: HostLane,
        function: Function,
        id: int,
        message: Message | None,
        deadline: float | None,
    ) -> Any:
        """As `finish`, but if none came yet, it is waited for."""
        with self.guarding(lane, id):
            if message is None:
                message = lane.next(deadline)
            outcome = lane.outcome(function, id, message, deadline)
        return self.settle(lane, outcome, id)

    def misfit(self, name: str, error: Exception) -> CallError:
        """A result that is not of its type."""
        self.counters["failed"] += 1
        return misfit(f"{name}: result", error)

    def settle(self, lane: HostLane, outcome: Outcome, first: int, *, nested: bool = False) -> Any:
        """Give the lane back and the outcome of call `first` to the caller."""
        if not outcome.in_step:
            self.leave(lane, first, lane.id, nested=nested)
        elif not nested:
            lane.forsaken.clear()
            self.give(lane)
        if outcome.error is not None:
            self.counters["failed"] += 1
            raise outcome.error
        return outcome.value

    @contextlib.contextmanager
    def guarding(self, lane: HostLane, first: int, *, nested: bool = False) -> Iterator[None]:
        """Whatever interrupts call `first` leaves its lane; a lost one ends the connection."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001  (raised anew, in the caller's terms)
            raise self.failed(lane, error, first, nested=nested) from None

    def failed(
        self, lane: HostLane, error: BaseException, first: int, *, nested: bool = False
    ) -> BaseException:
        """What the caller is told of `error`, which ended call `first` and those after it."""
        self.counters["failed"] += 1
        if isinstance(error, ConnectionError | ProtocolError):
            return self.lost(error)
        if lane.id >= first or not nested:  # else it had not even begun
            self.leave(lane, first, max(first, lane.id), nested=nested)
        return error

    def cut_short(self, lane: HostLane, error: BaseException) -> Message | None:
        """`error` ended a call: None when the enclave did not even take it in time.

        Raises what the caller is told of anything else.
        """
        if not isinstance(error, TimeoutError):
            raise self.failed(lane, error, lane.id) from None
        return None

    def lost(self, error: Exception) -> EnclaveLost:
        """Why a lane ended: the connection did, or the enclave broke the rules, and then it does.

        The ring learns of the end before the stream does, which knows the reason.
        """
        end = time.monotonic() + _TELL
        while self._peer.lost is None and not isinstance(error, ProtocolError | ring.broken()):
            if time.monotonic() > end:
                break
            time.sleep(0.002)
        if self._peer.lost is None:
            self._peer.break_off(error)
        lost = self._peer.lost
        return type(lost)(*lost.args) if lost is not None else EnclaveLost(str(error))

    def leave(self, lane: HostLane, first: int, last: int, *, nested: bool = False) -> None:
        """The calls `first` to `last` were given up: tell the enclave, and let somebody wait.

        What still comes of these is told apart by its id, by whoever goes on with the lane.
        nested: that is the call around them; else it is a handler that does not know yet.
        """
        lane.forsaken.append(range(first, last + 1))  # before the enclave could answer
        self._peer.outbox.post(frame(Kind.ABANDON, 0, _encode(Abandon(lane.number, first, last))))
        if nested:
            return
        self.counters["abandoned"] += 1
        if not self._workers.submit(lambda: self._recover(lane)):
            self.counters["leaked"] += 1

    def revoke(self, lane: HostLane, id: int) -> None:
        """A call is given up by somebody else than who waits for it: that thread will be told."""
        self._peer.outbox.post(frame(Kind.ABANDON, 0, _encode(Abandon(lane.number, id, id))))

    def _recover(self, lane: HostLane) -> None:
        self.counters["pings"] += 1
        try:
            lane.recover()
        except ProtocolError as error:
            self.lost(error)
        except ConnectionError as error:
            if isinstance(error, ring.broken()):
                self.lost(error)
            with self._changed:  # a message was cut short: nobody can use this lane any more
                self._dead += 1
                self._changed.notify_all()
        else:
            self.give(lane)

    # --- the end ---------------------------------------------------------------------------------

    @property
    def opened(self) -> int:
        """Lanes that are served."""
        return len(self._all)

    @property
    def calls(self) -> int:
        """Calls made so far."""
        return sum(lane.id for lane in self._all) - self.counters["pings"]

    @property
    def busy(self) -> int:
        """Lanes that calls are under way on, or that were left behind."""
        return len(self._all) - len(self.free) - self._dead

    def ring_stats(self) -> Counter[str]:
        """Counters of all rings together."""
        total: Counter[str] = Counter()
        for lane in list(self._all):
            total.update(lane.ring.stats())
        return total

    def close(self) -> None:
        """End every lane; who waits in one is thrown out."""
        with self._changed:
            self._closed = True
            self.free.clear()
            self._changed.notify_all()
            lanes = list(self._all)
        for lane in lanes:
            lane.ring.close()
        self.pool.close()
        self.queue.close()

    def _forked(self) -> None:
        """In a forked child: the lanes are the parent's."""
        self.free.clear()
        self._changed = threading.Condition()


_living: weakref.WeakSet[Lanes] = weakref.WeakSet()


def _forget() -> None:
    for lanes in list(_living):
        lanes._forked()


def _in_forked_children(lanes: Lanes) -> None:
    """A child's calls must end in an error before they touch what its parent uses."""
    if not _living:
        _register()
    _living.add(lanes)


def _register(done: list[bool] = []) -> None:  # noqa: B006  (once in the life of a process)
    if not done:
        done.append(True)
        os.register_at_fork(after_in_child=_forget)
