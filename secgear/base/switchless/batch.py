"""Many calls on one lane, sent ahead of their answers: one wake-up for all of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, final

from secgear.base.interface import bind
from secgear.base.marshal import misfit
from secgear.base.shared.host import pin, unpin
from secgear.base.switchless.host import Busy, Lanes
from secgear.base.switchless.host_lane import Function, HostLane, Outcome, late, pack
from secgear.base.switchless.messages import FAST, left
from secgear.errors import SecGearError


class _Late(Exception):
    """The deadline passed. outcome: what the call is told that was not answered."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@final
class Batch:
    """Calls of one function. failures: exceptions by the position of their call.

    stream: makes a call over the stream instead. take: given each result; take_errors: and
    each exception in its place.

    What has been sent and not been answered fits into the ring, or is a single call. So sending
    never waits for an enclave that itself waits for this side to take answers.
    """

    def __init__(
        self,
        lanes: Lanes,
        function: Function,
        seconds: float | None,
        stream: Callable[..., Any],
        *,
        take: Callable[[Any], object],
        take_errors: bool,
    ) -> None:
        self.failures: dict[int, BaseException] = {}
        self._lanes = lanes
        self._function = function
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._stream = stream
        self._give = take
        self._give_errors = take_errors
        self._count = 0
        self._ids: deque[int] = deque()  # sent and not answered
        self._most = lanes.ahead
        self._large: deque[tuple[int, int]] = deque()  # of these, ids and sizes of large ones

    def run(self, calls: Iterable[tuple[Any, ...]]) -> None:
        """Make the calls.

        Raises DeadlineExceeded, EnclaveLost, and whatever `calls` raises; what was sent is given
        up then.
        """
        lanes, name = self._lanes, self._function.compiled.name
        lanes.counters["batches"] += 1
        try:
            lane = lanes.take(name, self._deadline)
        except Busy:
            for args in calls:
                self._alone(lambda args=args: self._stream(*args))  # type: ignore[misc]
            return
        first = lane.id + 1
        try:
            self._pipeline(lane, calls)
        except _Late as left_behind:
            lanes.leave(lane, self._ids[0] if self._ids else first, lane.id)
            lanes.counters["failed"] += len(self._ids)
            raise left_behind.outcome.error or TimeoutError(name) from None
        except BaseException as error:  # noqa: BLE001  (raised anew, in the caller's terms)
            raise lanes.failed(lane, error, first) from None
        lane.forsaken.clear()
        lanes.give(lane)

    def _pipeline(self, lane: HostLane, calls: Iterable[tuple[Any, ...]]) -> None:
        function, lanes, deadline = self._function, self._lanes, self._deadline
        send, ids = lane.ring.send, self._ids
        tag, piece, window = FAST | function.number, lanes.piece, lanes.options.window
        small = self._most // window
        for args in calls:
            body = function.fast(args, piece)
            if body is None:
                while ids:
                    self._receive(lane)
                self._long(lane, args)
                continue
            if len(body) > small:
                self._make_room(lane, len(body))
            elif len(ids) >= window:
                self._receive(lane)
            lane.id = id = lane.id + 1
            if deadline is None:
                send(id, tag, body)
            else:
                self._send(lane, id, tag, body)
            ids.append(id)
        while ids:
            self._receive(lane)

    def _make_room(self, lane: HostLane, size: int) -> None:
        """Take answers until `size` more bytes of large messages fit, or nothing is under way."""
        most = self._most - size
        while self._ids and (
            len(self._ids) >= self._lanes.options.window
            or sum(each for _, each in self._large) > most
        ):
            self._receive(lane)
        self._large.append((lane.id + 1, size))

    def _send(self, lane: HostLane, id: int, tag: int, body: Any) -> None:
        try:
            lane.ring.send(id, tag, body, left(self._deadline))
        except TimeoutError:
            raise _Late(late(self._function)) from None

    def _receive(self, lane: HostLane) -> None:
        """The answer of the call that was sent first."""
        function, deadline = self._function, self._deadline
        id = self._ids[0]
        message = lane.ring.recv() if deadline is None else lane.next(deadline)
        form = function.form
        if (
            message is not None
            and message[0] == id
            and message[1] == FAST | function.number
            and form is not None
            and form.decode_result is not None
        ):
            try:
                value = form.decode_result(message[2])
            except Exception as error:  # noqa: BLE001  (whatever a decoder makes of it)
                self._fail(misfit(f"{function.compiled.name}: result", error))
            else:
                self._count += 1
                self._give(value)
        else:
            outcome = lane.outcome(function, id, message, deadline)
            if not outcome.in_step:
                raise _Late(outcome)
            self._take(outcome)
        self._ids.popleft()
        if self._large and self._large[0][0] <= id:
            self._large.popleft()

    def _long(self, lane: HostLane, args: tuple[Any, ...]) -> None:
        """A call that does not fit among the others."""
        function = self._function
        try:
            values = bind(function.compiled.description, args, {})
        except SecGearError as error:
            self._fail(error)
            return
        pins = pin(values)  # before their references are made
        lent = False
        try:
            packed = pack(function, values, self._lanes.link)
            lent = True
            outcome = lane.slow_call(function, packed, self._deadline, nested=False)
            lent = not outcome.in_step
        except SecGearError as error:
            if lent:
                raise
            self._fail(error)
            return
        finally:
            unpin(pins, lent=lent)
        if not outcome.in_step:
            raise _Late(outcome)
        self._take(outcome)

    def _alone(self, call: Callable[[], Any]) -> None:
        try:
            outcome = Outcome(call())
        except Exception as error:  # noqa: BLE001  (it belongs to whoever looks at the results)
            outcome = Outcome(error=error)
        self._take(outcome)

    def _take(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._fail(outcome.error)
            return
        self._count += 1
        self._give(outcome.value)

    def _fail(self, error: BaseException) -> None:
        self._lanes.counters["failed"] += 1
        self.failures[self._count] = error
        self._count += 1
        if self._give_errors:
            self._give(error)
