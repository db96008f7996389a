"""What runs inside the enclave: loads the app of a verified image and serves its calls.

The same for every TEE. A TEE's own guest part isolates itself, calls `load`, finishes isolating
and calls `serve`, which returns when the host has closed the connection.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import itertools
import mmap
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from secgear.base import context, faults
from secgear.base import typedesc as td
from secgear.base.app import App, Ecall
from secgear.base.functions import Compiled, Served, compile_function
from secgear.base.image import Image
from secgear.base.interface import bind
from secgear.base.logs import open_channel
from secgear.base.peer import Peer
from secgear.base.shared import lease_with
from secgear.base.shared.enclave import end_leases, install, lease
from secgear.base.signature import spread
from secgear.base.switchless.enclave import Lanes, offers_and_targets
from secgear.base.switchless.enclave_lane import Offer
from secgear.base.switchless.limits import largest_arguments
from secgear.base.tee import Guest, Stream
from secgear.base.transport import ring
from secgear.base.transport.arena import Arena
from secgear.base.transport.geometry import Geometry
from secgear.base.wire import (
    PLATFORM_REQUESTS,
    VERSION,
    ErrorBody,
    Frame,
    Hello,
    Kind,
    Limits,
    Ready,
    frame,
)
from secgear.base.workers import Inbox, Workers
from secgear.errors import (
    Cancelled,
    EnclaveLost,
    GuestError,
    ImageError,
    InterfaceMismatch,
    ProtocolError,
)

_STOP_GRACE = 2.0
"""Seconds that calls have to notice their cancellation before `on_stop` runs."""
_PLATFORM_TIMEOUT = 30.0

_hello = msgspec.msgpack.Decoder(Hello)
_encode = msgspec.msgpack.Encoder().encode


def load(image: Image) -> App:
    """Import the app from the image's own bytes; its finders are installed already.

    Raises ImageError when the module holds no app, InterfaceMismatch when the app that was
    imported is not the one that was measured.
    """
    entry = image.manifest.entry
    module = importlib.import_module(entry)
    apps = {id(value): value for value in vars(module).values() if isinstance(value, App)}
    if len(apps) != 1:
        raise ImageError(f"{entry}: expected one App in the module, found {len(apps)}")
    app: App = next(iter(apps.values()))
    if app.interface.digest() != image.interface.digest():
        raise InterfaceMismatch(
            f"{entry}: the app declares another interface here than when it was built; does its "
            "interface depend on the environment?"
        )
    return app


def serve(
    app: App,
    image: Image,
    stream: Stream,
    arena: Arena | None,
    make_guest: Callable[[Callable[[bytes], bytes]], Guest],
    *,
    switchless: mmap.mmap | None = None,
) -> None:
    """Serve calls until the connection ends.

    make_guest: given how to ask the platform, makes the TEE's services for the app.
    switchless: what the TEE shares with the host for switchless calls and buffers.
    """
    _Runtime(app, image, stream, arena, make_guest, switchless=switchless).run()


class _Runtime:
    def __init__(
        self,
        app: App,
        image: Image,
        stream: Stream,
        arena: Arena | None,
        make_guest: Callable[[Callable[[bytes], bytes]], Guest],
        *,
        switchless: mmap.mmap | None,
    ) -> None:
        self._app = app
        self._image = image
        self._memory = switchless
        self._lanes: Lanes | None = None
        self._digest = image.interface.digest()
        self._limits = _limits(image.manifest.memory)
        self._workers = Workers(image.manifest.threads, "ecall", elastic=False)
        self._served = {
            name: Served(
                compile_function(ecall.described.function, ecall.described.types, {}),
                _invoker(ecall),
                ecall.raises,
                largest_arguments(ecall.described.function, app.interface.types),
            )
            for name, ecall in app.ecalls.items()
        }
        self._ocalls: dict[str, Compiled] = {
            name: compile_function(
                ocall.described.function,
                ocall.described.types,
                {kind.__name__: kind for kind in ocall.raises},
            )
            for name, ocall in app.ocalls.items()
        }
        self._open: dict[str, Served] = {}  # nothing can be called before HELLO was accepted
        self._debug = image.manifest.debug
        self._peer = Peer(
            stream,
            arena,
            host=False,
            limits=self._limits,
            workers=self._workers,
            served=self._open,
            debug=self._debug,
            interrupt=_interrupt,
        )
        self._platform = _Platform(self._peer)
        self._peer.handlers[Kind.HELLO] = self._on_hello
        self._peer.handlers[Kind.CLOSE] = self._on_close
        self._peer.handlers[Kind.ANSWER] = self._platform.answer
        self._closing = False
        lease_with(lease)
        context.install(make_guest(self._platform.request), self._ocall)
        level = "debug" if self._debug else image.manifest.log
        open_channel(self._peer, level)

    def run(self) -> None:
        self._peer.run()

    def _ocall(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lane = context.lane()
        if lane is not None:
            result = lane.ocall(name, args, kwargs)
            if result is not NotImplemented:
                return result
        compiled = self._ocalls[name]
        values = bind(compiled.description, args, kwargs)
        with self._peer.shielded():
            return self._peer.wait(self._peer.call(compiled, values))

    def _on_hello(self, entry: Frame) -> None:
        hello = _hello.decode(entry.payload)
        if self._open:
            raise ProtocolError("HELLO twice")
        if hello.version != VERSION or hello.digest != self._digest:
            error = InterfaceMismatch(
                f"the enclave speaks protocol {VERSION} and has the interface "
                f"{self._digest.hex()[:16]}…; the host asked for protocol {hello.version} and "
                f"{hello.digest.hex()[:16]}…"
            )
            body = ErrorBody(error.code, str(error))
            self._peer.outbox.post(frame(Kind.ERROR, 0, _encode(body)))
            return
        self._peer.meet(hello.limits)
        if hello.geometry is not None:
            self._share(hello.geometry)
        self._open.update(self._served)
        self._workers.submit(self._start)

    def _share(self, geometry: Geometry) -> None:
        """Take the host's shared memory for what it says it is, if it can be that."""
        memory = self._memory
        if memory is None:
            raise ProtocolError("a geometry for memory that is not shared")
        geometry.check(len(memory))
        install(geometry.pool(memoryview(memory)), geometry.token)
        # An app's `threads` is how many functions of it run at once, however they are called.
        count = min(geometry.lanes, self._image.manifest.threads - 1)
        if not ring.available() or count < 1:
            return
        offers, targets = offers_and_targets(
            [Offer(self._served[name], ecall.function) for name, ecall in self._app.ecalls.items()],
            self._ocalls,
            self._image.interface.types,
        )
        self._lanes = lanes = Lanes(
            memory,
            geometry,
            count,
            self._peer.link,
            offers=offers,
            targets=targets,
            interrupt=_interrupt,
            opened=self._workers.cede,
        )
        self._peer.handlers[Kind.LANE] = lanes.on_lane
        self._peer.handlers[Kind.ABANDON] = lanes.on_abandon
        self._peer.nest(lanes.find)
        self._peer.when_lost = lanes.close

    def _start(self) -> None:
        with contextlib.suppress(EnclaveLost):
            try:
                for starter in self._app.starters:
                    starter()
            except BaseException as error:  # noqa: BLE001  (described under the rules of `faults`)
                self._open.clear()
                body = faults.describe(error, (), enclave=True, debug=self._debug)
                self._peer.outbox.send(frame(Kind.ERROR, 0, _encode(body)))
                return
            lanes = self._lanes.count if self._lanes is not None else 0
            ready = Ready(VERSION, self._digest, self._limits, lanes)
            self._peer.outbox.send(frame(Kind.READY, 0, _encode(ready)))

    def _on_close(self, _: Frame) -> None:
        if not self._closing:
            self._closing = True
            # Not the reading thread: a stopper may make OCALLs, whose results must be read.
            threading.Thread(target=self._stop, name="stop", daemon=True).start()

    def _stop(self) -> None:
        self._open.clear()
        self._peer.cancel_all()
        lanes = self._lanes
        if lanes is not None:
            lanes.cancel_all()
        waited = threading.Event()
        for _ in range(int(_STOP_GRACE / 0.01)):
            if not self._peer.serving and (lanes is None or not lanes.running):
                break
            waited.wait(0.01)
        for stopper in self._app.stoppers:
            # One stopper's failure is no reason to skip the others.
            with contextlib.suppress(BaseException):
                stopper()
        with contextlib.suppress(EnclaveLost):
            self._peer.outbox.send(frame(Kind.BYE))
        self._peer.fail(EnclaveLost("closed"))
        os._exit(0)


class _Platform:
    """Requests of the guest to its TEE, over the same stream."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._ids = itertools.count(1)
        self._waiting: dict[int, tuple[Inbox, list[bytes]]] = {}
        self._turn = threading.BoundedSemaphore(PLATFORM_REQUESTS)

    def request(self, payload: bytes) -> bytes:
        """The platform's answer. Raises GuestError when there is none in time."""
        until = time.monotonic() + _PLATFORM_TIMEOUT
        if not self._turn.acquire(timeout=_PLATFORM_TIMEOUT):
            raise GuestError("the platform is too busy to answer")
        try:
            return self._request(payload, until)
        finally:
            self._turn.release()

    def _request(self, payload: bytes, until: float) -> bytes:
        id = next(self._ids)
        inbox, answers = Inbox(), list[bytes]()
        self._waiting[id] = (inbox, answers)
        try:
            with self._peer.shielded():
                self._peer.outbox.send(frame(Kind.PLATFORM, id, payload))
                inbox.serve_until(lambda: bool(answers), until)
        finally:
            del self._waiting[id]
        if not answers:
            raise GuestError("the platform did not answer")
        return answers[0]

    def answer(self, entry: Frame) -> None:
        """An ANSWER frame has arrived."""
        waiting = self._waiting.get(entry.id)
        if waiting is None:
            raise ProtocolError("ANSWER to nothing")
        inbox, answers = waiting
        answers.append(entry.payload)
        inbox.wake()


def _limits(memory: int) -> Limits:
    """What an enclave with `memory` bytes accepts: never more than it could hold."""
    defaults = Limits()
    return Limits(
        attached=min(defaults.attached, max(memory // 2, 1 << 20)),
        assembling=min(defaults.assembling, max(memory // 2, 1 << 20)),
    )


def _invoker(ecall: Ecall) -> Callable[[dict[str, Any]], Any]:
    def invoke(values: dict[str, Any]) -> Any:
        args, kwargs = spread(ecall.described.function, values)
        return ecall.function(*args, **kwargs)

    def with_leases(values: dict[str, Any]) -> Any:
        try:
            return invoke(values)
        finally:
            end_leases(values)

    shares = any(param.type == td.SHARED for param in ecall.described.function.params)
    return with_leases if shares else invoke


def _interrupt(thread: int, strike: bool) -> None:
    """Raise Cancelled in `thread` at its next bytecode, or take that back."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(Cancelled) if strike else None
    )
