"""The host's handle of a running enclave: ECALLs in every style, OCALLs, life cycle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import InvalidStateError as _InvalidState
from typing import Any, Self, final

import msgspec

from secgear.base import faults
from secgear.base.exchange import Outgoing
from secgear.base.faults import Refused
from secgear.base.flow import Consumer
from secgear.base.functions import Compiled, Served, compile_function
from secgear.base.image import Image
from secgear.base.interface import Function, Interface, bind, signature
from secgear.base.peer import Peer
from secgear.base.schema import HostTypes
from secgear.base.signature import spread
from secgear.base.tee import Layer, Running
from secgear.base.transport.arena import Arena
from secgear.base.wire import (
    LOG_BURST,
    LOG_RATE,
    VERSION,
    ErrorBody,
    Frame,
    Hello,
    Kind,
    Limits,
    LogRecord,
    Ready,
    clip,
    frame,
)
from secgear.base.workers import Inbox, Workers
from secgear.errors import (
    CallCancelled,
    EnclaveClosed,
    EnclaveInternalError,
    EnclaveLost,
    InterfaceMismatch,
    LaunchFailed,
    OcallFailed,
    ProtocolError,
    UnknownCall,
)

_OCALL_THREADS = 256
_PLATFORM_REQUESTS = 16
"""Requests of one enclave to its platform at once: each of its threads has one at the most."""
_encode = msgspec.msgpack.Encoder().encode
_ready = msgspec.msgpack.Decoder(Ready)
_error_body = msgspec.msgpack.Decoder(ErrorBody)
_log_record = msgspec.msgpack.Decoder(LogRecord)
_logger = logging.getLogger("secgear")


class Stats(msgspec.Struct, frozen=True):
    """Counters of one enclave. pending: calls in flight. calls: calls made so far.

    failed: calls that ended with an exception. ocalls: OCALLs being served now.
    """

    calls: int
    pending: int
    failed: int
    ocalls: int


class _Connection:
    """What every face of the handle shares.

    It does not know the handle, which can be collected while threads still run here.
    """

    def __init__(
        self,
        running: Running,
        image: Image,
        types: HostTypes,
        ocalls: Mapping[str, Callable[..., Any]],
        limits: Limits,
    ) -> None:
        self.running = running
        self.interface = image.interface
        self.owner = os.getpid()
        self.closed = False
        self.calls = 0
        self.failed = 0
        self._name = image.manifest.name
        self._workers = Workers(_OCALL_THREADS, "ocall", elastic=True)
        self._limits = limits
        arena = Arena(running.shared_fd, host=True) if running.shared_fd is not None else None
        self.functions = {
            name: _compiled(description, types)
            for name, description in image.interface.ecalls.items()
        }
        served = {
            name: Served(
                _compiled(description, types),
                _handler(description, ocalls.get(name)),
                tuple(types.raises(description)),
            )
            for name, description in image.interface.ocalls.items()
        }
        self.peer = Peer(
            running.stream,
            arena,
            host=True,
            limits=limits,
            workers=self._workers,
            served=served,
        )
        self._room = threading.BoundedSemaphore(limits.calls)
        self._log_room, self._log_last = LOG_BURST * 2.0, time.monotonic()
        self._asking = threading.BoundedSemaphore(_PLATFORM_REQUESTS)
        self._met = Inbox()
        self._ready: Ready | None = None
        self._refusal: Exception | None = None
        self.peer.refused = self._on_refused
        self.peer.handlers[Kind.READY] = self._on_ready
        self.peer.handlers[Kind.LOG] = self._on_log
        self.peer.handlers[Kind.PLATFORM] = self._on_platform
        self.peer.handlers[Kind.BYE] = lambda _: None
        self._reader = threading.Thread(target=self._read, name="secgear-read", daemon=True)

    # --- life ------------------------------------------------------------------------------------

    def meet(self, timeout: float) -> None:
        """Compare interfaces and wait until the app has started."""
        self._reader.start()
        digest = self.interface.digest()
        hello = Hello(VERSION, digest, self._limits)
        deadline = time.monotonic() + timeout
        self.peer.outbox.send(frame(Kind.HELLO, 0, _encode(hello)))
        done = self._met.serve_until(
            lambda: self._ready is not None or self._refusal is not None, deadline
        )
        if self._refusal is not None:
            raise self._refusal
        if not done or self._ready is None:
            raise LaunchFailed(
                f"{self._name}: its on_start functions did not finish within {timeout:g} seconds; "
                "give launch(timeout=...) more"
            )
        if self._ready.digest != digest or self._ready.version != VERSION:
            raise InterfaceMismatch(f"{self._name}: the enclave runs another interface")

    def _read(self) -> None:
        self.peer.run(self._explain)
        self.running.stop(0.2)
        self._workers.close()
        self._refusal = self._refusal or LaunchFailed(
            f"{self._name}: {self.running.diagnose() or 'the connection ended'} while starting"
        )
        self._met.wake()

    def _explain(self) -> str:
        if self.closed:  # it left because it was told to
            self.peer.fail(EnclaveClosed(f"{self._name}: the enclave was closed"))
        self.running.stop(0.2)
        return f"{self._name}: {self.running.diagnose() or 'the connection was closed'}"

    def close(self, grace: float) -> None:
        """Stop in good order, by force after `grace` seconds. Idempotent."""
        if self.closed or self.owner != os.getpid():
            return
        self.closed = True
        with contextlib.suppress(EnclaveLost):
            self.peer.outbox.post(frame(Kind.CLOSE))
        if self._reader.is_alive() and threading.current_thread() is not self._reader:
            self._reader.join(grace)
        self.peer.fail(EnclaveClosed(f"{self._name}: the enclave was closed"))
        self.running.stop(0)
        self._workers.close()

    # --- calls -----------------------------------------------------------------------------------

    def function(self, name: str) -> Compiled:
        """Raises UnknownCall with the names there are."""
        compiled = self.functions.get(name)
        if compiled is None:
            known = ", ".join(sorted(self.functions)) or "none"
            raise UnknownCall(f"{self._name} has no ECALL {name!r}; it has {known}")
        return compiled

    def begin(
        self,
        compiled: Compiled,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: float | None,
    ) -> Outgoing:
        """Send a call, once there is room for it."""
        if self.owner != os.getpid():
            raise EnclaveLost("this handle belongs to another process; launch one in this process")
        if self.closed:
            raise EnclaveClosed(f"{self._name}: the enclave was closed")
        values = bind(compiled.description, args, kwargs)
        room = self._room
        nested = self.peer.nested
        if not nested:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not room.acquire(timeout=timeout):
                raise CallCancelled(f"{compiled.name}: no room among the calls in flight")
        try:
            self.calls += 1
            pending = self.peer.call(compiled, values, deadline)
        except BaseException:
            self.failed += 1
            if not nested:
                room.release()
            raise

        def settled() -> None:
            self.failed += pending.failed
            if not nested:
                room.release()

        pending.when_done(settled)
        return pending

    # --- what arrives ----------------------------------------------------------------------------

    def _on_ready(self, entry: Frame) -> None:
        if self._ready is not None:
            raise ProtocolError("READY twice")
        ready = _ready.decode(entry.payload)
        self.peer.meet(ready.limits)
        self._ready = ready
        self._met.wake()

    def _on_refused(self, body: ErrorBody) -> None:
        """The enclave would not start."""
        if body.code == InterfaceMismatch.code:
            self._refusal = InterfaceMismatch(clip(body.text))
        else:
            error = faults.restore("on_start", body, {})
            self._refusal = (
                error
                if isinstance(error, EnclaveInternalError)
                else LaunchFailed(f"{self._name}: {error}")
            )
        self._met.wake()

    def _on_platform(self, entry: Frame) -> None:
        if not self._asking.acquire(blocking=False):
            raise ProtocolError("it asks its platform for too much at once")

        # Not on the reading thread: signing takes its time.
        def answer() -> None:
            try:
                with contextlib.suppress(EnclaveLost):
                    reply = self.running.platform(entry.payload)
                    self.peer.outbox.send(frame(Kind.ANSWER, entry.id, reply))
            finally:
                self._asking.release()

        if not self._workers.submit(answer):
            self._asking.release()

    def _on_log(self, entry: Frame) -> None:
        record = _log_record.decode(entry.payload)
        # The enclave keeps to a rate by itself; one that does not must not fill the host's log.
        now = time.monotonic()
        self._log_room = min(LOG_BURST * 2.0, self._log_room + (now - self._log_last) * LOG_RATE)
        self._log_last = now
        if self._log_room < 1:
            return
        self._log_room -= 1
        logger = _logger.getChild(f"enclave.{self._name}")
        # What an enclave says is data: no control characters reach a terminal or a log file.
        message = "".join(char if char.isprintable() else "�" for char in record.message)
        name = "".join(char for char in record.logger if char.isprintable())
        if record.suppressed:
            message += f" ({record.suppressed} records before this one were dropped)"
        logger.log(min(max(record.level, 0), logging.CRITICAL), "%s: %s", name, message)


def _compiled(description: Function, types: HostTypes) -> Compiled:
    annotations = {param.name: types.annotation(param.type) for param in description.params}
    annotations["return"] = types.annotation(description.result)
    classes = {entry.name: getattr(types.errors, entry.name) for entry in description.raises}
    return compile_function(description, annotations, classes)


def _handler(
    description: Function, function: Callable[..., Any] | None
) -> Callable[[dict[str, Any]], Any]:
    name = description.name
    if function is None:

        def missing(_: dict[str, Any]) -> Any:
            how = f"launch(ocalls={{{name!r}: function}})"
            raise Refused(OcallFailed(f"the host has no handler for it; {how}"))

        return missing
    handler = function

    def invoke(values: dict[str, Any]) -> Any:
        args, kwargs = spread(description, values)
        try:
            return handler(*args, **kwargs)
        except Exception:
            _logger.warning("the handler of OCALL %s failed", name, exc_info=True)
            raise

    return invoke


@final
class Enclave:
    """A running enclave.

    ``enclave.f(x)`` is an ECALL that waits. ``enclave.submit.f(x)`` returns a
    `concurrent.futures.Future`, ``enclave.aio.f(x)`` is awaited. An ECALL that returns an iterator
    gives an iterator (an async one through ``aio``) that takes items as they are consumed.

    A context manager; leaving it stops the enclave. Handles that are forgotten stop theirs when
    they are collected, and every enclave ends with the process that launched it.
    """

    def __init__(
        self,
        running: Running,
        image: Image,
        tee: str,
        *,
        types: HostTypes,
        ocalls: Mapping[str, Callable[..., Any]],
        limits: Limits,
        deadline: float | None,
        timeout: float,
    ) -> None:
        self._connection = _Connection(running, image, types, ocalls, limits)
        self._finalizer = weakref.finalize(self, self._connection.close, 0.5)
        self._types = types
        self.image = image
        self.tee = tee
        self._faces = _Faces(self._connection, deadline)
        try:
            self._connection.meet(timeout)
        except BaseException:
            self._finalizer()
            raise

    def __repr__(self) -> str:
        state = "alive" if self.alive else "ended"
        return f"<Enclave {self.image.manifest.name} in {self.tee}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"Enclave has no attribute {name!r}")
        return getattr(self._faces, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._connection.functions})

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """The ECALL `name`, for names that are not known when the program is written."""
        return getattr(self._faces, name)(*args, **kwargs)

    @property
    def submit(self) -> Submit:
        """The same ECALLs, returning futures. Waits only while too many calls are in flight."""
        return self._faces.submit

    @property
    def aio(self) -> Aio:
        """The same ECALLs, to be awaited."""
        return self._faces.aio

    def options(self, *, deadline: float | None) -> _Faces:
        """The same ECALLs with a deadline in seconds from each call's beginning; None for none."""
        return _Faces(self._connection, deadline)

    @property
    def interface(self) -> Interface:
        """What the enclave and this handle agreed on."""
        return self._connection.interface

    @property
    def types(self) -> Any:
        """The app's own types by name, to build arguments with: ``enclave.types.Person(...)``."""
        return self._types.namespace

    @property
    def errors(self) -> Any:
        """The exceptions that ECALLs declare, by name: ``except enclave.errors.NoSuchKey``."""
        return self._types.errors

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The isolation layers of this enclave and whether each holds."""
        return self._connection.running.layers

    @property
    def pid(self) -> int | None:
        """Process id where the TEE has one."""
        return self._connection.running.pid

    @property
    def alive(self) -> bool:
        """Whether calls can be made."""
        return self._connection.peer.lost is None and not self._connection.closed

    @property
    def stats(self) -> Stats:
        """Counters."""
        peer = self._connection.peer
        return Stats(self._connection.calls, peer.pending, self._connection.failed, peer.serving)

    def close(self, grace: float = 5.0) -> None:
        """Cancel what runs, let `on_stop` run, end the enclave; by force after `grace` seconds.

        Pending calls end with EnclaveClosed. Idempotent.
        """
        self._connection.close(grace)
        self._finalizer.detach()


class _Faces:
    """ECALLs as methods, in the three styles, with one deadline."""

    def __init__(self, connection: _Connection, deadline: float | None) -> None:
        self._connection = connection
        self._deadline = deadline
        self.submit = Submit(connection, deadline)
        self.aio = Aio(connection, deadline)

    def __getattr__(self, name: str) -> Any:
        connection, seconds = self._connection, self._deadline
        compiled = connection.function(name)

        def ecall(*args: Any, **kwargs: Any) -> Any:
            deadline = _until(seconds)
            pending = connection.begin(compiled, args, kwargs, deadline)
            return connection.peer.wait(pending, deadline)

        _describe(ecall, compiled)
        self.__dict__[name] = ecall
        return ecall


class Submit:
    """ECALLs that return a `concurrent.futures.Future`; cancelling it cancels the call."""

    def __init__(self, connection: _Connection, deadline: float | None) -> None:
        self._connection = connection
        self._deadline = deadline

    def __getattr__(self, name: str) -> Callable[..., Future[Any]]:
        connection, seconds = self._connection, self._deadline
        compiled = connection.function(name)

        def ecall(*args: Any, **kwargs: Any) -> Future[Any]:
            deadline = _until(seconds)
            return _future(connection, connection.begin(compiled, args, kwargs, deadline), deadline)

        _describe(ecall, compiled)
        self.__dict__[name] = ecall
        return ecall


class Aio:
    """ECALLs to be awaited; one that returns an iterator is an async iterator at once."""

    def __init__(self, connection: _Connection, deadline: float | None) -> None:
        self._connection = connection
        self._deadline = deadline

    def __getattr__(self, name: str) -> Callable[..., Any]:
        connection, seconds = self._connection, self._deadline
        compiled = connection.function(name)
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

        ecall: Callable[..., Any] = items if compiled.description.result_stream else value
        _describe(ecall, compiled)
        self.__dict__[name] = ecall
        return ecall


_END = object()


def _describe(function: Callable[..., Any], compiled: Compiled) -> None:
    function.__name__ = function.__qualname__ = compiled.name
    function.__doc__ = f"{signature(compiled.description)}\n\n{compiled.description.doc}".strip()


def _until(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _future(connection: _Connection, pending: Outgoing, deadline: float | None) -> Future[Any]:
    """A Future for a call that was sent."""
    future: Future[Any] = Future()
    peer = connection.peer
    name = pending.compiled.name
    timer: threading.Timer | None = None
    if deadline is not None:
        from secgear.errors import DeadlineExceeded

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
