"""Calls that are begun in one thread and may end in another."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, final

from secgear.base.interface import bind
from secgear.base.marshal import Packed
from secgear.base.shared.host import Place, may_go_on, pin, unpin
from secgear.base.switchless.host import Lanes
from secgear.base.switchless.host_lane import Function, HostLane, Outcome, decoded, late, pack
from secgear.base.switchless.messages import FAST, Message
from secgear.errors import CallCancelled

_MISSES = 4
"""Calls in a row that were not answered at once, after which nobody waits for the next."""
_PROBE = 32
"""Every so many calls somebody tries again."""


@final
class Starter:
    """Begins calls of one function.

    Short calls are answered before another thread could have been woken, so whoever begins one
    waits for `Switchless.eager` seconds, unless this function's calls have been longer lately.
    """

    def __init__(self, lanes: Lanes, function: Function, seconds: float | None) -> None:
        self._lanes = lanes
        self._function = function
        self._seconds = seconds
        self._misses = 0
        self._count = 0

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outcome | Begun:
        """The call's outcome if it came at once, else the call.

        Raises ArgumentError, LimitExceeded, EnclaveLost, DeadlineExceeded.
        """
        lanes, function = self._lanes, self._function
        seconds = self._seconds
        deadline = None if seconds is None else time.monotonic() + seconds
        body = None if kwargs else function.fast(args, lanes.piece)
        if body is None:
            values = bind(function.compiled.description, args, kwargs)
            pins = pin(values)  # before their references are made
            try:
                packed = pack(function, values, lanes.link)
            except BaseException:
                unpin(pins, lent=False)
                raise
            return Begun(lanes, function, packed, deadline, pins=pins)
        # A message that is cut short by a timeout costs the lane, so a large one is not tried.
        lane = lanes.try_take() if len(body) <= lanes.ahead // 2 else None
        if lane is None:
            return Begun(lanes, function, body, deadline)
        id, tag = lane.begin(), FAST | function.number
        try:
            with lanes.guarding(lane, id):
                message = lane.call(id, tag, body, self._patience())
        except TimeoutError:
            # There was no room for it, on a lane that nobody uses: that one is left, and the call,
            # of which the enclave has nothing, waits for another.
            return Begun(lanes, function, body, deadline)
        if message is not None and message[0] == id and message[1] == tag:
            self._misses = 0
            lanes.give(lane)
            return decoded(function, message[2])
        self._misses += 1
        return Begun(lanes, function, body, deadline, lane=lane, id=id, message=message)

    def _patience(self) -> float:
        self._count += 1
        if self._misses >= _MISSES and self._count % _PROBE:
            return 0.0
        return self._lanes.options.eager


@final
class Begun:
    """A call that somebody has to wait for: `start` lets a thread do that.

    message: what has come of it, if it was sent (by `lane`, as `id`).
    """

    def __init__(
        self,
        lanes: Lanes,
        function: Function,
        arguments: Packed | Any,
        deadline: float | None,
        *,
        lane: HostLane | None = None,
        id: int = 0,
        message: Message | None = None,
        pins: Sequence[Place] = (),
    ) -> None:
        self._lanes = lanes
        self._function = function
        self._arguments = arguments
        self._deadline = deadline
        self._lane = lane
        self._id = id
        self._message = message
        self._lock = threading.Lock()
        self._pins = pins
        self._cancelled = False
        self._done = False

    def start(self) -> Future[Any]:
        """A future for it; cancelling that cancels the call."""
        future: Future[Any] = Future()
        future.add_done_callback(self._dropped)
        if self._lane is None and self._deadline is not None:
            # Every thread that would look at the clock may be waiting for another call.
            rest = max(0.0, self._deadline - time.monotonic())
            timer = threading.Timer(rest, self._expire, (future,))
            timer.daemon = True
            timer.start()
            future.add_done_callback(lambda _: timer.cancel())
        waiting = self._lanes.queue if self._lane is None else self._lanes.pool
        if not waiting.submit(lambda: self._work(future)):
            self._work(future)  # no thread can be had: then it is this one
        return future

    def _expire(self, future: Future[Any]) -> None:
        with self._lock:
            if self._lane is not None:  # it was sent, and who waits for it has an eye on the clock
                return
            self._cancelled = True
        self._unpin(lent=False)
        settle(future, late(self._function))

    def _work(self, future: Future[Any]) -> None:
        try:
            value = self._wait()
        except BaseException as error:  # noqa: BLE001  (it belongs to whoever asks the future)
            self._unpin(lent=self._lane is not None and may_go_on(error))
            settle(future, Outcome(error=error))
        else:
            self._unpin(lent=False)
            settle(future, Outcome(value))

    def _wait(self) -> Any:
        lanes, function, deadline = self._lanes, self._function, self._deadline
        lane = self._lane
        if lane is not None:
            try:
                return lanes.wait(lane, function, self._id, self._message, deadline)
            finally:
                self._end()
        with self._lock:
            cancelled = self._cancelled
        if cancelled:
            raise CallCancelled(f"{function.compiled.name}: cancelled")
        lane = lanes.take(function.compiled.name, deadline, wait=True)
        with self._lock:
            self._lane, self._id = lane, lane.id + 1
            cancelled = self._cancelled
        if cancelled:
            lanes.give(lane)
            raise CallCancelled(f"{function.compiled.name}: cancelled")
        try:
            return lanes.send_and_wait(lane, function, self._arguments, deadline)
        finally:
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._done = True

    def _dropped(self, future: Future[Any]) -> None:
        if not future.cancelled():
            return
        with self._lock:
            self._cancelled = True
            lane = self._lane
            if lane is not None and not self._done:
                self._lanes.revoke(lane, self._id)
        if lane is None:  # and it will not be
            self._unpin(lent=False)

    def _unpin(self, *, lent: bool) -> None:
        with self._lock:
            pins, self._pins = self._pins, ()
        unpin(pins, lent=lent)


def settle(future: Future[Any], outcome: Outcome) -> None:
    """Give a future its outcome, unless it was cancelled meanwhile."""
    with contextlib.suppress(InvalidStateError):
        if future.cancelled():
            return
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)


def completed(outcome: Outcome) -> Future[Any]:
    """A future that has its outcome already."""
    future: Future[Any] = Future()
    settle(future, outcome)
    return future
