"""ECALLs over shared memory as methods: calls that wait, futures, awaited ones, batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, final

from secgear.base import styles
from secgear.base.interface import bind
from secgear.base.switchless.batch import Batch
from secgear.base.switchless.futures import Starter, completed
from secgear.base.switchless.host import Busy, Lanes
from secgear.base.switchless.host_lane import Function, Outcome
from secgear.base.switchless.messages import FAST, left

if TYPE_CHECKING:
    from secgear.base.connection import Connection
    from secgear.base.functions import Compiled
    from secgear.base.switchless.stats import SwitchlessStats

_YIELD = 64
"""Awaited calls that were answered at once, after which other tasks have their turn."""


class _Face:
    """Makes a method of each ECALL, once."""

    def __init__(self, connection: Connection, deadline: float | None) -> None:
        self._connection = connection
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        compiled = self._connection.function(name)
        ecall = self._make(compiled)
        styles.describe(ecall, compiled)
        self.__dict__[name] = ecall
        return ecall

    def _make(self, compiled: Compiled) -> Callable[..., Any]:
        raise NotImplementedError


@final
class SwitchlessFace(_Face):
    """``enclave.switchless.f(x)``: the ECALL `f` through shared memory, in the calling thread.

    What can't go that way goes over the stream, with the same outcome: see `stats.fallbacks`.
    """

    def __init__(self, connection: Connection, deadline: float | None) -> None:
        super().__init__(connection, deadline)
        self.submit = SwitchlessSubmit(connection, deadline)
        self.aio = SwitchlessAio(connection, deadline)
        self.map = SwitchlessMap(connection, deadline)

    @property
    def switchless(self) -> SwitchlessFace:
        """Itself, so that one can stand wherever ECALLs are called."""
        return self

    @property
    def stats(self) -> SwitchlessStats:
        """Counters."""
        return self._connection.switchless_stats()

    def _make(self, compiled: Compiled) -> Callable[..., Any]:
        connection, seconds = self._connection, self._deadline
        stream = _counted(connection, styles.caller(connection, compiled, seconds))
        lanes = connection.lanes
        function = lanes.function(compiled.name) if lanes is not None else None
        if lanes is None or function is None:
            return stream
        return _caller(lanes, function, seconds, stream)


def _counted(connection: Connection, stream: Callable[..., Any]) -> Callable[..., Any]:
    """`stream`, counted as a fallback."""

    def ecall(*args: Any, **kwargs: Any) -> Any:
        connection.fallbacks += 1
        return stream(*args, **kwargs)

    return ecall


def _caller(
    lanes: Lanes, function: Function, seconds: float | None, stream: Callable[..., Any]
) -> Callable[..., Any]:
    """A call that waits, the shortest way that its arguments allow."""
    form = function.form
    long = _long_caller(lanes, function, seconds, stream)
    if form is None or form.decode_result is None:
        return long
    name, tag, piece = function.compiled.name, FAST | function.number, lanes.piece
    fewest, most = form.fewest, form.most
    encode, decode = form.encode_arguments, form.decode_result
    pop, push = lanes.free.pop, lanes.free.append
    here, elsewhere = lanes.serving, lanes.incoming

    def ecall(*args: Any, **kwargs: Any) -> Any:
        if here or elsewhere:  # rarely: this thread may serve an OCALL
            return long(*args, **kwargs)
        if kwargs:
            ordered = function.in_order(args, kwargs)
            if ordered is None:
                return long(*args, **kwargs)
            args = ordered
        if not fewest <= len(args) <= most:
            return long(*args)
        try:
            body = encode(args)
        except Exception:  # noqa: BLE001  (the long way says what is wrong)
            return long(*args)
        if len(body) > piece:
            return long(*args)
        rest = seconds
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            lane = pop()
        except IndexError:
            try:
                lane = lanes.take(name, deadline)
            except Busy:
                return stream(*args)
            rest = left(deadline)
        lane.id = id = lane.id + 1
        try:
            message = lane.call(id, tag, body, rest)
        except BaseException as error:  # noqa: BLE001  (raised anew, in the caller's terms)
            message = lanes.cut_short(lane, error)
        if message is None or message[0] != id or message[1] != tag:
            return lanes.finish(lane, function, id, message, deadline)
        push(lane)
        if lanes.waiting:
            lanes.wake()
        try:
            return decode(message[2])
        except Exception as error:  # noqa: BLE001  (whatever a decoder makes of it)
            raise lanes.misfit(name, error) from None

    return ecall


def _long_caller(
    lanes: Lanes, function: Function, seconds: float | None, stream: Callable[..., Any]
) -> Callable[..., Any]:
    """A call with any arguments, from any thread."""
    description = function.compiled.description

    def ecall(*args: Any, **kwargs: Any) -> Any:
        if lanes.elsewhere():
            return stream(*args, **kwargs)
        deadline = None if seconds is None else time.monotonic() + seconds
        values = bind(description, args, kwargs)
        try:
            return lanes.call(function, values, deadline)
        except Busy:
            return stream(*args, **kwargs)

    return ecall


@final
class SwitchlessSubmit(_Face):
    """ECALLs that return a `concurrent.futures.Future`; cancelling it cancels the call."""

    def _make(self, compiled: Compiled) -> Callable[..., Future[Any]]:
        connection, seconds = self._connection, self._deadline
        stream: Callable[..., Future[Any]] = _counted(
            connection, styles.submitter(connection, compiled, seconds)
        )
        lanes = connection.lanes
        function = lanes.function(compiled.name) if lanes is not None else None
        if lanes is None or function is None:
            return stream
        starter = Starter(lanes, function, seconds)

        def ecall(*args: Any, **kwargs: Any) -> Future[Any]:
            if lanes.inside():  # the lane is in the middle of a call, and others may be busy
                return stream(*args, **kwargs)
            begun = starter.begin(args, kwargs)
            return completed(begun) if isinstance(begun, Outcome) else begun.start()

        return ecall


@final
class SwitchlessAio(_Face):
    """ECALLs to be awaited; a short one is done before the event loop could have been left."""

    def _make(self, compiled: Compiled) -> Callable[..., Any]:
        connection, seconds = self._connection, self._deadline
        stream = _counted(connection, styles.awaiter(connection, compiled, seconds))
        lanes = connection.lanes
        function = lanes.function(compiled.name) if lanes is not None else None
        if lanes is None or function is None:
            return stream
        starter = Starter(lanes, function, seconds)
        at_once = 0

        async def ecall(*args: Any, **kwargs: Any) -> Any:
            nonlocal at_once
            if lanes.inside():
                return await stream(*args, **kwargs)
            begun = starter.begin(args, kwargs)
            if not isinstance(begun, Outcome):
                return await asyncio.wrap_future(begun.start())
            at_once += 1
            if at_once % _YIELD == 0:
                await asyncio.sleep(0)
            if begun.error is not None:
                raise begun.error
            return begun.value

        return ecall


@final
class SwitchlessMap(_Face):
    """``map.f(xs, ys)``: one call for each pair, sent ahead of their answers; a list of results.

    They are served one after the other, in order. The first exception is raised when all are done;
    with ``return_exceptions=True`` it stands in the list instead. ``each`` is given the results as
    they come, while the enclave goes on, and the list stays empty.
    """

    def _make(self, compiled: Compiled) -> Callable[..., list[Any]]:
        connection, seconds = self._connection, self._deadline
        stream = _counted(connection, styles.caller(connection, compiled, seconds))
        lanes = connection.lanes
        function = lanes.function(compiled.name) if lanes is not None else None

        def ecall(
            *columns: Iterable[Any],
            return_exceptions: bool = False,
            each: Callable[[Any], object] | None = None,
        ) -> list[Any]:
            calls = zip(*columns, strict=True)
            results: list[Any] = []
            take = results.append if each is None else each
            call = None
            if lanes is None or function is None or lanes.elsewhere():
                call = stream
            elif lanes.nested() is not None:  # the lane is in the middle of a call
                call = _caller(lanes, function, seconds, stream)
            if lanes is None or function is None or call is not None:
                _one_by_one(call or stream, calls, take, return_exceptions=return_exceptions)
                return results
            batch = Batch(
                lanes, function, seconds, stream, take=take, take_errors=return_exceptions
            )
            batch.run(calls)
            if batch.failures and not return_exceptions:
                raise batch.failures[min(batch.failures)]
            return results

        return ecall


def _one_by_one(
    call: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    take: Callable[[Any], object],
    *,
    return_exceptions: bool,
) -> None:
    for args in calls:
        try:
            result = call(*args)
        except Exception as error:
            if not return_exceptions:
                raise
            result = error
        take(result)
