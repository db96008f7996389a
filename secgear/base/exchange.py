"""One call in flight, on either side of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, final

from secgear.base.context import Call
from secgear.base.flow import Consumer, Producer
from secgear.base.functions import Compiled, Served
from secgear.base.interrupting import interruptible, patience
from secgear.base.workers import Inbox
from secgear.errors import CallCancelled, Cancelled, DeadlineExceeded, LimitExceeded


@final
class Outgoing:
    """A call that this side made and waits for.

    The outcome is either an exception or what `take` makes a value of, in the caller's thread.
    """

    def __init__(self, id: int, compiled: Compiled) -> None:
        self.id = id
        self.compiled = compiled
        self.producers: dict[int, Producer] = {}
        self.consumer: Consumer | None = None
        self.inbox = Inbox()
        self.done = False
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._take: Callable[[], Any] | None = None
        self._callbacks: list[Callable[[], None]] = []

    def complete(
        self, error: BaseException | None = None, take: Callable[[], Any] | None = None
    ) -> bool:
        """Settle the call; the first outcome counts. Returns whether this was it."""
        with self._lock:
            if self.done:
                return False
            self._error, self._take = error, take
            self.done = True
        self.inbox.wake()
        for callback in self._callbacks:
            callback()
        return True

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call `callback` once the call is settled, from whichever thread settles it."""
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
                return
        callback()

    def release(self, error: BaseException | None) -> None:
        """Let go of the call's streams; `error` is why, if it did not end well."""
        for producer in self.producers.values():
            producer.stop()
        if self.consumer is not None:
            self.consumer.end(error)

    @property
    def failed(self) -> bool:
        """Whether the call is settled with an exception."""
        return self._error is not None

    @property
    def given_up(self) -> bool:
        """Whether it was settled by this side, so that the other one may still be at it."""
        return isinstance(self._error, CallCancelled | DeadlineExceeded | LimitExceeded)

    def result(self) -> Any:
        """The value, decoded now; raises what the call ended with."""
        if self._error is not None:
            raise self._error
        if self._take is None:
            raise RuntimeError("the call is not settled yet")
        return self._take()


@final
class Incoming:
    """A call that this side serves.

    While app code runs, `thread` is set and a cancellation may interrupt that thread, once; the
    framework's own code runs shielded, so that a frame is never half written.

    thread: one that runs the call's app code already, 0 for none.
    """

    def __init__(
        self,
        call: Call,
        served: Served,
        parent: int,
        depth: int,
        interrupt: Callable[[int, bool], None] | None,
        *,
        thread: int = 0,
    ) -> None:
        self.call = call
        self.served = served
        self.parent = parent
        self.depth = depth
        self.producer: Producer | None = None
        self.consumers: dict[int, Consumer] = {}
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._thread = thread
        self._struck = False
        self._told = False
        self._waiting: list[Inbox] = []

    def cancel(self) -> None:
        """The caller has given up: mark, wake what waits, interrupt what computes."""
        self.call.cancel()
        with self._lock:
            waiting = list(self._waiting)
        if self._interrupt is not None and not self._strike():
            patience.add(self._strike)
        for inbox in waiting:
            inbox.wake()
        if self.producer is not None:
            self.producer.stop()

    def _strike(self) -> bool:
        """Interrupt app code where that does no harm; False to try again later."""
        with self._lock:
            thread, interrupt = self._thread, self._interrupt
            if not thread or self._told or interrupt is None:
                return True  # it has ended, or finds out by itself
            if not interruptible(thread):
                return False
            interrupt(thread, True)
            if not interruptible(thread):  # it ran on in between; take it back if there is time
                interrupt(thread, False)
                return False
            self._struck = self._told = True
            return True

    def expose(self, *, again: bool = False) -> None:
        """From here on the thread runs app code. Raises Cancelled if it should not begin.

        again: app code goes on after work of the framework. Then Cancelled is raised only if it
        was not before: what an app does to clean up is left in peace.
        """
        with self._lock:
            if self.call.cancelled and not (again and self._told):
                self._told = True
                raise Cancelled(f"{self.call.function}: given up by its caller")
            self._thread = threading.get_ident()

    def shield(self) -> bool:
        """From here on no interruption strikes; one that was under way is swallowed.

        `Call.cancelled` still tells of it. Returns whether app code was running, so that the
        caller knows whether to `expose` again. An interruption that strikes before the first line
        here does no harm: there is only one for each call.
        """
        exposed = False
        while True:
            try:
                with self._lock:
                    exposed = exposed or self._thread != 0
                    self._thread = 0
                    if self._struck and self._interrupt is not None:
                        self._interrupt(threading.get_ident(), False)
                    self._struck = False
            except Cancelled:
                continue
            return exposed

    def watch(self, inbox: Inbox) -> None:
        """Wake `inbox` too when the call is cancelled."""
        with self._lock:
            self._waiting.append(inbox)

    def unwatch(self, inbox: Inbox) -> None:
        """End `watch`."""
        with self._lock:
            self._waiting.remove(inbox)
