"""A session: messages, streams and calls over a channel, for threads that wait.

The same class on both sides. One thread may send while another receives.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, final

from secgear.errors import ChannelClosed, ChannelError
from secgear.middleware.channel.arrivals import Arrivals
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Event, State
from secgear.middleware.channel.messages import (
    Failed,
    Kind,
    Open,
    Opened,
    clipped,
)
from secgear.middleware.channel.trust import Remote

if TYPE_CHECKING:
    from secgear.base.interface import Interface
    from secgear.middleware.channel.calling import Calls

T = TypeVar("T")

CLOSING = 5.0
"""Seconds that `close` waits for a message that is on its way, and for goodbye to go."""
TOO_OLD = "the peer was verified too long ago; connect again"
_READ = 256 << 10
_LONGEST = 3600.0  # seconds of one wait; poll(2) counts milliseconds in an int


class ByteStream(Protocol):
    """What a channel runs over: any reliable, ordered bytes."""

    def recv(self, size: int, timeout: float | None) -> bytes:
        """Up to `size` bytes, empty at the end. Raises TimeoutError after `timeout` seconds."""
        ...

    def send(self, data: bytes) -> None:
        """All of `data`; waits for room. Raises ChannelError when nobody is there any more."""
        ...

    def close(self) -> None:
        """Both directions, waking whoever waits. Idempotent."""
        ...


@final
class Session:
    """One verified connection. A context manager; iterating gives messages until the end.

    `secgear.connect` makes the client's, a handler gets the enclave's. peer: who is there.
    lifetime: seconds after which a verification no longer counts and the session ends.
    """

    def __init__(
        self,
        core: Core,
        stream: ByteStream,
        peer: Remote,
        *,
        service: str = "",
        events: Iterable[Event] = (),
        lifetime: float,
        interface: Interface | None = None,
    ) -> None:
        self._core = core
        self._stream = stream
        self.peer = peer
        self._service = service
        self._expires = time.monotonic() + lifetime
        self._interface = interface
        self._lock = threading.Lock()  # the core
        self._sending = threading.RLock()  # the order of what goes out
        self._receiving = threading.Lock()
        self._opening = threading.Lock()
        self._arrivals = Arrivals(core, events)
        self._wish: Open | None = None  # as it went out
        # What for. The client says so before anything else; a server's handler knows.
        self._for_calls: bool | None = None if core.role is Role.CLIENT else False
        self._described = Opened()
        self._calls: Calls | None = None

    def __repr__(self) -> str:
        return f"<Session, {self._core.role.name.lower()}'s side, {self._core.state.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()  # the peer must not take what was sent so far for all there is

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more; what has arrived can still be taken."""
        return self._core.state is State.CLOSED

    # --- messages --------------------------------------------------------------------------------

    def send(self, message: bytes | bytearray | memoryview) -> None:
        """One message; arrives whole. Waits while the peer takes nothing.

        Raises ChannelClosed, ChannelError.
        """
        view = memoryview(message).cast("B")
        self._open(calls=False)
        with self._sending:
            self._send_parts(view, last=True)

    def send_stream(self, parts: Iterable[bytes | bytearray | memoryview]) -> None:
        """One message of any length, from parts as they come; both sides need little memory.

        When `parts` raises, the session is ended: what was sent so far is no message.
        """
        self._open(calls=False)
        source = iter(parts)
        with self._sending:
            while (part := self._next_of(source)) is not None:
                self._send_parts(part, last=False)
            self._send_parts(b"", last=True)

    def _next_of(self, source: Iterator[bytes | bytearray | memoryview]) -> memoryview | None:
        try:
            return memoryview(next(source)).cast("B")
        except StopIteration:
            return None
        except BaseException:  # also an error of another session that the parts come from
            self.abort()
            raise

    def recv(self, timeout: float | None = None) -> bytes:
        """The next message.

        Raises ChannelClosed when the peer has closed in good order, ChannelTruncated when the
        connection broke or ended within a message, TimeoutError after `timeout` seconds (nothing
        is lost, the session goes on), ChannelError for a message over `arrivals.MAX_MESSAGE`.
        """
        until = _after(timeout)
        self._open(calls=False, until=until)
        with _held(self._receiving, until):
            return self._wait(self._arrivals.message, until)

    def recv_stream(self, timeout: float | None = None) -> Iterator[bytes]:
        """The next message in parts, as they arrive. Take them all before anything else.

        timeout: seconds to wait for each part. Errors as in `recv`.
        """
        self._open(calls=False, until=_after(timeout))
        with _held(self._receiving, _after(timeout)):
            last = False
            while not last:
                part, last = self._wait(self._arrivals.part, _after(timeout))
                yield part

    def __iter__(self) -> Iterator[bytes]:
        while True:
            try:
                message = self.recv()
            except ChannelClosed:
                return
            yield message

    def close(self) -> None:
        """Say goodbye and leave. Idempotent.

        A message that another thread is sending goes first, if the peer takes it within `CLOSING`
        seconds; otherwise the session is aborted.
        """
        if self._calls is not None:
            self._calls.close()
        with contextlib.suppress(TimeoutError, ChannelError), _held(self._sending, _after(CLOSING)):
            with self._lock:
                self._core.close()
            self._flush_in_time()
        self.abort()

    def _flush_in_time(self) -> None:
        """Goodbye, if there is room for it or somebody makes some."""
        watch = threading.Timer(CLOSING, self._stream.close)
        watch.daemon = True
        try:
            watch.start()
            self._flush()
        except RuntimeError:  # the system gives us no more threads
            return
        finally:
            watch.cancel()

    def abort(self) -> None:
        """Leave without goodbye: the peer is told that something is missing."""
        with self._lock:
            self._core.abandon()
        self._stream.close()

    # --- calls -----------------------------------------------------------------------------------

    @property
    def call(self) -> Any:
        """ECALLs of the enclave at the other end: ``session.call.count("…")``.

        As methods of `secgear.Enclave`, with ``submit`` and ``aio``. A session is for calls or
        for messages, whichever is used first.
        """
        return self._for_calling().faces

    @property
    def interface(self) -> Interface:
        """The interface of the app at the other end; makes this a session for calls."""
        return self._for_calling().interface

    @property
    def types(self) -> Any:
        """The app's own types by name, as `secgear.Enclave.types`; as `interface`."""
        return self._for_calling().types.namespace

    @property
    def errors(self) -> Any:
        """The exceptions that ECALLs declare, as `secgear.Enclave.errors`; as `interface`."""
        return self._for_calling().types.errors

    def _for_calling(self) -> Calls:
        if self._calls is None:
            from secgear.middleware.channel.calling import Calls

            described = self._open(calls=True)
            with self._opening:
                if self._calls is None:
                    self._calls = Calls(self, described, self._interface)
        return self._calls

    def send_calls(self, data: bytes | memoryview) -> None:
        """Bytes of the boundary's protocol, for `call` and what serves it."""
        with self._sending:
            with self._lock:
                self._core.send_calls(data)
            self._flush()

    def recv_calls(self) -> bytes:
        """As above; empty at the end in good order."""
        with self._receiving:
            try:
                kind, payload = self._wait(self._arrivals.take)
            except ChannelClosed:
                return b""
        if kind is not Kind.CALLS:
            self.abort()
            raise self._arrivals.broken(f"{kind.name} in a session for calls")
        return payload

    # --- beginning and end -----------------------------------------------------------------------

    def await_open(self) -> Open:
        """What the client wants, on the server's side."""
        with self._receiving:
            message = self._wait(lambda: self._arrivals.control(Kind.OPEN))
        if not isinstance(message, Open):
            raise ChannelError("OPEN is no OPEN")
        return message

    def opened(self, answer: Opened) -> None:
        """Answer OPEN: here we are."""
        self._send_control(answer)

    def failed(self, code: str, text: str) -> None:
        """Tell the client that it won't be served any more, and leave."""
        with contextlib.suppress(ChannelError):
            message = clipped(Failed, code, text)
            if isinstance(message, Failed):
                self._send_control(message)
        self.close()

    def _send_control(self, message: Open | Opened | Failed) -> None:
        with self._sending:
            with self._lock:
                self._core.send_control(message)
            self._flush()

    def _open(self, *, calls: bool, until: float | None = None) -> Opened:
        """On the client's side, once, before anything else: say what the session is for."""
        if self._for_calls is calls:
            return self._described
        # A lock of its own: a receiver must not wait for somebody's long message.
        with _held(self._opening, until):
            if self._for_calls is None and (self._wish is None or self._wish.calls is calls):
                if self._wish is None:
                    self._wish = Open("" if calls else self._service, calls=calls)
                    with contextlib.suppress(ChannelError):  # the end, once it is read, says why
                        self._send_control(self._wish)
                with _held(self._receiving, until):
                    message = self._wait(lambda: self._arrivals.control(Kind.OPENED), until)
                if isinstance(message, Opened):
                    self._for_calls, self._described = self._wish.calls, message
        if self._for_calls is not calls:
            used, other = ("messages", "calls") if calls else ("calls", "messages")
            raise ChannelError(f"this session is for {used}; open another one for {other}")
        return self._described

    # --- the way in and out ----------------------------------------------------------------------

    def _send_parts(self, message: bytes | memoryview, *, last: bool) -> None:
        if time.monotonic() >= self._expires:
            self.abort()
            raise ChannelError(TOO_OLD)
        try:
            steps = self._core.send(message, last=last)
            while True:
                with self._lock:
                    if next(steps, steps) is steps:
                        return
                self._flush()
        except ChannelError:  # the connection is of no use; why, may still be there to be read
            raise
        except BaseException:  # what went so far must not become the next message's beginning
            self.abort()
            raise

    def _flush(self) -> None:
        with self._sending:
            with self._lock:
                data = self._core.outgoing()
            if data:
                self._stream.send(data)

    def _wait(self, take: Callable[[], T | None], until: float | None = None) -> T:
        """What `take` gives, once enough has arrived for it."""
        try:
            while (taken := take()) is None:
                self._receive(until)
        except ChannelError:
            self.abort()
            raise
        return taken

    def _receive(self, until: float | None) -> None:
        now = time.monotonic()
        if now >= self._expires:
            # No ChannelClosed: whoever iterates must not take it for the end of what was said.
            raise ChannelError(TOO_OLD)
        ends = min(self._expires, now + _LONGEST, until if until is not None else math.inf)
        try:
            data = self._stream.recv(_READ, max(0.0, ends - now))
        except TimeoutError:
            if until is not None and time.monotonic() >= until:
                raise
            return  # to look at the time again
        with self._lock:
            self._arrivals.feed(data)
        # An answer to a key update can wait for whoever is sending just now.
        if self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(ChannelError):
                    self._flush()
            finally:
                self._sending.release()


class _Lock(Protocol):
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...


def _after(timeout: float | None) -> float | None:
    """The moment `timeout` seconds from now, on the clock of `time.monotonic`."""
    return None if timeout is None else time.monotonic() + timeout


@contextlib.contextmanager
def _held(lock: _Lock, until: float | None) -> Iterator[None]:
    """`lock`, if it can be had until then. Raises TimeoutError."""
    if not lock.acquire(timeout=-1 if until is None else max(0.0, until - time.monotonic())):
        raise TimeoutError("another thread is at it for too long")
    try:
        yield
    finally:
        lock.release()
