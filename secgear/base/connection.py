"""The host's side of a connection to an app: interfaces compared, ECALLs sent, OCALLs served."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, final

import msgspec

from secgear.base import faults
from secgear.base.exchange import Outgoing
from secgear.base.faults import Refused
from secgear.base.functions import Compiled, Served, compile_function
from secgear.base.interface import Function, Interface, bind
from secgear.base.peer import Peer
from secgear.base.schema import HostTypes
from secgear.base.shared.host import Pool, may_go_on, pin, unpin
from secgear.base.signature import spread
from secgear.base.switchless.host import Lanes
from secgear.base.switchless.limits import largest_arguments
from secgear.base.switchless.options import Switchless
from secgear.base.switchless.stats import SwitchlessStats, gather
from secgear.base.tee import Running
from secgear.base.transport import ring
from secgear.base.transport.arena import Arena
from secgear.base.transport.geometry import Geometry
from secgear.base.wire import (
    LOG_BURST,
    LOG_RATE,
    PLATFORM_REQUESTS,
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
    SecGearError,
    UnknownCall,
)

_OCALL_THREADS = 256
_PLATFORM_REQUESTS = 4 * PLATFORM_REQUESTS
"""Requests of one enclave to its platform at once: more than it makes, since it may have had an
answer, and asked again, before the thread that gave it has counted that."""
_encode = msgspec.msgpack.Encoder().encode
_ready = msgspec.msgpack.Decoder(Ready)
_log_record = msgspec.msgpack.Decoder(LogRecord)
_logger = logging.getLogger("secgear")


@final
class Connection:
    """The host's side of a connection to an app: what every face of a handle shares.

    running: where the app runs, and the stream to it. name: the app's, for messages. ocalls: the
    host's handlers. It does not know its handle, which can be collected while threads still run.
    switchless: how calls through shared memory were asked for, None if they were not.
    lanes: where they go, None if there are none: `no_lanes` says why. fallbacks: those that went
    over the stream instead.
    """

    def __init__(
        self,
        running: Running,
        name: str,
        interface: Interface,
        types: HostTypes,
        *,
        ocalls: Mapping[str, Callable[..., Any]],
        limits: Limits,
        switchless: Switchless | None = None,
    ) -> None:
        self.running = running
        self.interface = interface
        self.owner = os.getpid()
        self.closed = False
        self.calls = 0
        self.failed = 0
        self.name = name
        self.lanes: Lanes | None = None
        self.no_lanes = "" if switchless is not None else "not asked for when it was launched"
        self.fallbacks = 0
        self._switchless = switchless
        self._memory: mmap.mmap | None = None
        self._geometry: Geometry | None = None
        self.pool = Pool(None)
        if switchless is not None:
            self._share(switchless)
        self._workers = Workers(_OCALL_THREADS, "ocall", elastic=True)
        self._limits = limits
        arena = Arena(running.shared_fd, host=True) if running.shared_fd is not None else None
        self.functions = {
            name: _compiled(description, types) for name, description in interface.ecalls.items()
        }
        self._handlers = {
            name: _handler(description, ocalls.get(name))
            for name, description in interface.ocalls.items()
        }
        self._served = served = {
            name: Served(
                _compiled(description, types),
                _invoker(description, self._handlers[name]),
                tuple(types.raises(description)),
                largest_arguments(description, interface.types),
            )
            for name, description in interface.ocalls.items()
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

    def _share(self, options: Switchless) -> None:
        fd, geometry = self.running.switchless_fd, options.geometry
        if fd is None:
            self.no_lanes = ring.reason() or "this TEE shares no memory for it"
            return
        self._memory = memory = mmap.mmap(fd, geometry.size)
        if geometry.shared:
            self.pool = Pool(memory, geometry.size - geometry.shared, geometry.shared)
        self._geometry = msgspec.structs.replace(geometry, token=self.pool.token)
        self.no_lanes = ring.reason()

    # --- life ------------------------------------------------------------------------------------

    def meet(self, timeout: float) -> None:
        """Compare interfaces and wait until the app has started."""
        self._reader.start()
        digest = self.interface.digest()
        hello = Hello(VERSION, digest, self._limits, self._geometry)
        deadline = time.monotonic() + timeout
        self.peer.outbox.send(frame(Kind.HELLO, 0, _encode(hello)))
        done = self._met.serve_until(
            lambda: self._ready is not None or self._refusal is not None, deadline
        )
        if self._refusal is not None:
            raise self._refusal
        if not done or self._ready is None:
            raise LaunchFailed(
                f"{self.name}: its on_start functions did not finish within {timeout:g} seconds; "
                "give launch(timeout=...) more"
            )
        if self._ready.digest != digest or self._ready.version != VERSION:
            raise InterfaceMismatch(f"{self.name}: the enclave runs another interface")
        self._open_lanes(self._ready.lanes)

    def _open_lanes(self, count: int) -> None:
        memory, geometry, options = self._memory, self._geometry, self._switchless
        if memory is None or geometry is None or options is None or self.no_lanes:
            return
        if not 0 <= count <= geometry.lanes:
            raise ProtocolError(f"{self.name}: the enclave serves lanes that there are none of")
        if not count:
            self.no_lanes = (
                "the enclave serves no lanes: it lacks the native ring, or its app has a single "
                "thread, App(threads=1)"
            )
            return
        self.lanes = lanes = Lanes(
            memory,
            geometry,
            count,
            self.peer,
            options=options,
            workers=self._workers,
            interface=self.interface,
            functions=self.functions,
            served=self._served,
            handlers=self._handlers,
        )
        self.peer.when_lost = lanes.close
        if self.peer.lost is not None:  # meanwhile
            lanes.close()

    def _read(self) -> None:
        self.peer.run(self._explain)
        self.running.stop(0.2)
        self._workers.close()
        self._refusal = self._refusal or LaunchFailed(
            f"{self.name}: {self.running.diagnose() or 'the connection ended'} while starting"
        )
        self._met.wake()

    def _explain(self) -> str:
        if self.closed:  # it left because it was told to
            self.peer.fail(EnclaveClosed(f"{self.name}: the enclave was closed"))
        self.running.stop(0.2)
        return f"{self.name}: {self.running.diagnose() or 'the connection was closed'}"

    def ended(self, timeout: float) -> bool:
        """Whether the enclave has ended, and why is known; waits for it, `timeout` seconds."""
        self._reader.join(timeout)
        return not self._reader.is_alive()

    def close(self, grace: float) -> None:
        """Stop in good order, by force after `grace` seconds. Idempotent."""
        if self.closed or self.owner != os.getpid():
            return
        self.closed = True
        with contextlib.suppress(EnclaveLost):
            self.peer.outbox.post(frame(Kind.CLOSE))
        if self._reader.is_alive() and threading.current_thread() is not self._reader:
            self._reader.join(grace)
        self.peer.fail(EnclaveClosed(f"{self.name}: the enclave was closed"))
        self.running.stop(0)
        self._workers.close()

    # --- calls -----------------------------------------------------------------------------------

    def function(self, name: str) -> Compiled:
        """Raises UnknownCall with the names there are."""
        compiled = self.functions.get(name)
        if compiled is None:
            known = ", ".join(sorted(self.functions)) or "none"
            raise UnknownCall(f"{self.name} has no ECALL {name!r}; it has {known}")
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
            raise EnclaveClosed(f"{self.name}: the enclave was closed")
        values = bind(compiled.description, args, kwargs)
        room = self._room
        nested = self.peer.nested
        if not nested:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not room.acquire(timeout=timeout):
                raise CallCancelled(f"{compiled.name}: no room among the calls in flight")
        pins = pin(values)
        try:
            self.calls += 1
            pending = self.peer.call(compiled, values, deadline)
        except BaseException as error:
            self.failed += 1
            unpin(pins, lent=may_go_on(error))
            if not nested:
                room.release()
            raise

        def settled() -> None:
            self.failed += pending.failed
            unpin(pins, lent=pending.given_up)
            if not nested:
                room.release()

        pending.when_done(settled)
        return pending

    # --- what arrives ----------------------------------------------------------------------------

    def switchless_stats(self) -> SwitchlessStats:
        """Counters of calls through shared memory."""
        return gather(self.lanes, self.fallbacks, self.no_lanes)

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
                else LaunchFailed(f"{self.name}: {error}")
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
        logger = _logger.getChild(f"enclave.{self.name}")
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


def _handler(description: Function, function: Callable[..., Any] | None) -> Callable[..., Any]:
    """The host's function for an OCALL, whose failures are logged; one that says there is none."""
    name = description.name

    def missing(*_: Any, **__: Any) -> Any:
        how = f"launch(ocalls={{{name!r}: function}})"
        raise Refused(OcallFailed(f"the host has no handler for it; {how}"))

    if function is None:
        return missing
    handler = function

    def logged(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except SecGearError as error:  # says what it is: a counter's witness that is away
            _logger.warning("the handler of OCALL %s failed: %s", name, error)
            raise
        except Exception:
            _logger.warning("the handler of OCALL %s failed", name, exc_info=True)
            raise

    return logged


def _invoker(
    description: Function, function: Callable[..., Any]
) -> Callable[[dict[str, Any]], Any]:
    def invoke(values: dict[str, Any]) -> Any:
        args, kwargs = spread(description, values)
        return function(*args, **kwargs)

    return invoke
