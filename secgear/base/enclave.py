"""The host's handle of a running enclave: ECALLs in every style, OCALLs, life cycle."""

from __future__ import annotations

import socket
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Self, final

import msgspec

from secgear.base.connection import Connection
from secgear.base.faces import Aio, Faces, Submit
from secgear.base.handover import HAND_OVER_ECALL
from secgear.base.handover.host import HandedOver, HandOvers
from secgear.base.image import Image
from secgear.base.interface import Interface
from secgear.base.schema import HostTypes
from secgear.base.shared.host import SharedBuffer
from secgear.base.switchless.faces import SwitchlessFace
from secgear.base.switchless.options import Switchless
from secgear.base.tee import Layer, Running
from secgear.base.wire import Limits
from secgear.errors import HandOverRefused


class Stats(msgspec.Struct, frozen=True):
    """Counters of one enclave. pending: calls in flight. calls: calls made so far.

    failed: calls that ended with an exception. ocalls: OCALLs being served now.
    """

    calls: int
    pending: int
    failed: int
    ocalls: int


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
        switchless: Switchless | None = None,
    ) -> None:
        self._connection = Connection(
            running,
            image.manifest.name,
            image.interface,
            types,
            ocalls=ocalls,
            limits=limits,
            switchless=switchless,
        )
        self._finalizer = weakref.finalize(self, self._connection.close, 0.5)
        self._types = types
        self.image = image
        self.tee = tee
        self._faces = Faces(self._connection, deadline)
        self._hand_overs: HandOvers | None = None
        try:
            self._connection.meet(timeout)
            if HAND_OVER_ECALL in image.interface.ecalls:
                self._hand_overs = HandOvers(self._connection)
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

    @property
    def switchless(self) -> SwitchlessFace:
        """The same ECALLs through shared memory, without a context switch; all styles, and `map`.

        Without shared memory, or where an ECALL takes or gives an iterator, they go over the
        stream, counted in ``switchless.stats.fallbacks``.
        """
        return self._faces.switchless

    def shared(self, size: int) -> SharedBuffer:
        """A buffer of `size` bytes that this enclave reads without a copy on the way.

        Pass it where an ECALL takes a `secgear.Shared`. Without shared memory its bytes travel
        with each call. Raises LimitExceeded when there is no room among the shared buffers.
        """
        return self._connection.pool.buffer(size)

    def hand_over(
        self,
        sock: socket.socket,
        name: str,
        note: bytes = b"",
        *,
        when_over: Callable[[HandedOver], None] = lambda _: None,
    ) -> HandedOver:
        """Give a client's connection to the app's handler `name` of ``@app.connection``.

        From here on the enclave reads and writes it. `sock` stays yours, to be closed when it is
        over; meanwhile don't read or write it. note: for the handler, from you.
        when_over: told, on a thread of the enclave's handle, when the enclave has it no more,
        because it has closed it or because the enclave has ended.
        Raises HandOverRefused when the app does not take it, EnclaveLost.
        """
        if self._hand_overs is None:
            raise HandOverRefused(f"{self.image.manifest.name} takes no connections")
        return self._hand_overs.hand_over(sock, name, note, when_over)

    def options(self, *, deadline: float | None) -> Faces:
        """The same ECALLs with a deadline in seconds from each call's beginning; None for none."""
        return Faces(self._connection, deadline)

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
        connection, lanes = self._connection, self._connection.lanes
        peer = connection.peer
        calls, pending, failed = connection.calls, peer.pending, connection.failed
        if lanes is not None:
            calls += lanes.calls
            pending += lanes.busy
            failed += lanes.counters["failed"]
        return Stats(calls, pending, failed, peer.serving + len(lanes.serving if lanes else ()))

    def close(self, grace: float = 5.0) -> None:
        """Cancel what runs, let `on_stop` run, end the enclave; by force after `grace` seconds.

        Pending calls end with EnclaveClosed. Idempotent.
        """
        self._connection.close(grace)
        self._finalizer.detach()
