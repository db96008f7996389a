"""An ECALL over the stream, in each style of calling it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import InvalidStateError as _InvalidState
from typing import Any

from secgear.base.connection import Connection
from secgear.base.exchange import Outgoing
from secgear.base.flow import Consumer
from secgear.base.functions import Compiled
from secgear.base.interface import bind, signature
from secgear.errors import CallCancelled, DeadlineExceeded

_END = object()


def caller(connection: Connection, compiled: Compiled, seconds: float | None) -> Callable[..., Any]:
    """A call that waits."""

    def ecall(*args: Any, **kwargs: Any) -> Any:
        deadline = _until(seconds)
        pending = connection.begin(compiled, args, kwargs, deadline)
        return connection.peer.wait(pending, deadline)

    return ecall


def submitter(
    connection: Connection, compiled: Compiled, seconds: float | None
) -> Callable[..., Future[Any]]:
    """A call that returns a future; cancelling it cancels the call."""

    def ecall(*args: Any, **kwargs: Any) -> Future[Any]:
        deadline = _until(seconds)
        return _future(connection, connection.begin(compiled, args, kwargs, deadline), deadline)

    return ecall


def awaiter(
    connection: Connection, compiled: Compiled, seconds: float | None
) -> Callable[..., Any]:
    """A call to be awaited; one that returns an iterator is an async iterator at once."""
    streams = compiled.stream_names

    async def value(*args: Any, **kwargs: Any) -> Any:
        deadline = _until(seconds)
        loop = asyncio.get_running_loop()
        if streams:
            kwargs = bind(compiled.description, args, kwargs)
            args = ()
            for stream in streams.keys() & kwargs.keys():
                kwargs[stream] = _from_async(kwargs[stream], loop)
        # Off the loop: encoding large arguments or waiting for room must not stop it.
        pending = await asyncio.to_thread(connection.begin, compiled, args, kwargs, deadline)
        return await asyncio.wrap_future(_future(connection, pending, deadline))

    async def items(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        stream: Consumer = await value(*args, **kwargs)
        try:
            while True:
                item = (
                    next(stream, _END)
                    if stream.ready()
                    else await asyncio.to_thread(next, stream, _END)
                )
                if item is _END:
                    return
                yield item
        finally:
            stream.close()

    return items if compiled.description.result_stream else value


def describe(function: Callable[..., Any], compiled: Compiled) -> None:
    """Give a method the name and the documentation of its ECALL."""
    function.__name__ = function.__qualname__ = compiled.name
    function.__doc__ = f"{signature(compiled.description)}\n\n{compiled.description.doc}".strip()


def _until(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _future(connection: Connection, pending: Outgoing, deadline: float | None) -> Future[Any]:
    """A Future for a call that was sent."""
    future: Future[Any] = Future()
    peer = connection.peer
    name = pending.compiled.name
    timer: threading.Timer | None = None
    if deadline is not None:
        late = DeadlineExceeded(f"{name}: not finished before its deadline")
        timer = threading.Timer(
            max(0.0, deadline - time.monotonic()), lambda: peer.give_up(pending, late)
        )
        timer.daemon = True
        timer.start()

    def settle() -> None:
        if timer is not None:
            timer.cancel()
        with contextlib.suppress(_InvalidState):
            try:
                value = pending.result()
            except BaseException as error:  # noqa: BLE001  (it belongs to whoever asks the future)
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(value)

    def dropped(done: Future[Any]) -> None:
        if done.cancelled():
            peer.give_up(pending, CallCancelled(f"{name}: cancelled"))

    future.add_done_callback(dropped)
    # Decoding a large result belongs on a worker, not on the thread that reads.
    # A failure has nothing to decode, and no busy worker may hold it up.
    pending.when_done(lambda: settle() if pending.failed else connection.peer.defer(settle))
    return future


def _from_async(source: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """An async iterable as a plain iterator for the thread that feeds the stream."""
    if not hasattr(source, "__aiter__"):
        return source

    def items() -> Iterator[Any]:
        iterator = aiter(source)

        async def step() -> Any:
            return await anext(iterator, _END)

        while (item := asyncio.run_coroutine_threadsafe(step(), loop).result()) is not _END:
            yield item

    return items()
