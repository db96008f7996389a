"""The host's relay: it carries the bytes of channels between the network and an enclave.

It is not trusted and can't be: it sees ciphertext, and can delay, drop and end connections. What
it limits, it limits for the host's own sake.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self, final

import msgspec

from secgear.errors import ChannelError, SecGearError
from secgear.middleware.channel.addresses import Address, parse
from secgear.middleware.channel.app import SESSION_ECALL
from secgear.middleware.channel.relayed import MAX_PIECE
from secgear.middleware.channel.streams import SocketBytes

if TYPE_CHECKING:
    from secgear.base.enclave import Enclave

_logger = logging.getLogger(__name__)


class Stats(msgspec.Struct, frozen=True):
    """Counters of a relay.

    active: connections now. refused: beyond a limit. failed: that ended for another reason than
    one side's closing. received, sent: bytes from and to clients.
    """

    accepted: int
    active: int
    refused: int
    failed: int
    received: int
    sent: int


@final
class Relay:
    """Listens for clients of an enclave. A context manager; leaving it ends all connections.

    enclave: whose, or what gives one of several equal ones for each connection.
    address: where to listen, as for `connect`; port 0 takes a free one, see `address`.
    limit: connections at once. per_client: at once from one address, which of IPv6 is the first
    64 bits, as whoever has one has them all (Unix sockets have none).
    stall: seconds that a client may take nothing before it is dropped.
    Raises ChannelError when the enclave's app takes no sessions or the address can't be had,
    ValueError for what is no address.
    """

    def __init__(
        self,
        enclave: Enclave | Callable[[], Enclave],
        address: str = "tcp://127.0.0.1:0",
        *,
        limit: int = 256,
        per_client: int = 64,
        stall: float = 60.0,
    ) -> None:
        self._pick = enclave if callable(enclave) else lambda: enclave
        interface = self._pick().interface
        if SESSION_ECALL not in interface.ecalls:
            raise ChannelError(
                f"{interface.name} takes no sessions: declare a handler with @app.session"
            )
        self._limit = limit
        self._per_client = per_client
        self._stall = stall
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._active: dict[object, socket.socket] = {}
        self._clients: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._closed = False
        self._place = place = parse(address)
        try:
            self._listener = place.listen()
        except OSError as error:
            raise ChannelError(f"{place}: {error.strerror or error}") from error
        self.address = str(_bound(place, self._listener))
        self._poller = _Poller()
        self._thread = threading.Thread(target=self._accept, name="relay", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Relay {self.address}, {len(self._active)} connections>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stats(self) -> Stats:
        """Counters."""
        with self._lock:
            count = self._counts
            return Stats(
                accepted=count["accepted"],
                active=len(self._active),
                refused=count["refused"],
                failed=count["failed"],
                received=count["received"],
                sent=count["sent"],
            )

    def collect(self) -> Iterator[Any]:
        """The counters for Prometheus: ``prometheus_client.REGISTRY.register(relay)``."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = self.stats
        yield GaugeMetricFamily("secgear_relay_active", "Connections now.", value=stats.active)
        for name, text in (
            ("accepted", "Connections so far."),
            ("refused", "Connections beyond a limit."),
            ("failed", "Connections that broke."),
            ("received", "Bytes from clients."),
            ("sent", "Bytes to clients."),
        ):
            yield CounterMetricFamily(f"secgear_relay_{name}", text, value=getattr(stats, name))

    def close(self) -> None:
        """Stop listening and end all connections. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            active = list(self._active.values())
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept, which close() does not
        self._listener.close()
        for connection in active:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._place.tidy()
        with self._lock:
            self._left.wait_for(lambda: not self._active, 5)
        self._poller.close()

    # --- connections -----------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, source = self._listener.accept()
            except OSError as error:
                if self._closed:
                    return
                # Out of descriptors, or a client that was gone at once: neither lasts.
                _logger.warning("accepting a connection failed: %s", error.strerror)
                threading.Event().wait(0.1)
                continue
            self._admit(connection, str(source[0]) if isinstance(source, tuple) else "")

    def _admit(self, connection: socket.socket, client: str) -> None:
        origin = _origin(client)
        with self._lock:
            full = (
                self._closed
                or len(self._active) >= self._limit
                or bool(origin and self._clients[origin] >= self._per_client)
            )
            self._counts["refused" if full else "accepted"] += 1
            if not full:
                self._active[connection] = connection
                self._clients[origin] += 1
        if full:
            connection.close()
            return
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            threading.Thread(
                target=self._carry, args=(connection, client), name="relay-out", daemon=True
            ).start()
        except RuntimeError:  # the system gives us no more threads
            self._leave(connection, client, failed=True)

    def _carry(self, connection: socket.socket, client: str) -> None:
        stream = SocketBytes(connection, stall=self._stall)
        inbound = _Inbound(connection, self._poller, lambda size: self._count("received", size))
        failed = False
        try:
            for piece in self._pick().call(SESSION_ECALL, client, inbound):
                stream.send(piece)
                self._count("sent", len(piece))
        except ChannelError:
            failed = stream.stalled  # or the client is gone
        except SecGearError as error:
            failed = True
            _logger.warning("a relayed connection broke: %s", error.code)
        finally:
            self._leave(connection, client, failed=failed)
            stream.close()

    def _leave(self, connection: socket.socket, client: str, *, failed: bool) -> None:
        self._poller.forget(connection)
        origin = _origin(client)
        with self._lock:
            self._active.pop(connection, None)
            self._left.notify_all()
            self._counts["failed"] += failed
            self._clients[origin] -= 1
            if not self._clients[origin]:
                del self._clients[origin]
        connection.close()

    def _count(self, name: str, size: int) -> None:
        with self._lock:
            self._counts[name] += size


@final
class _Inbound:
    """What a client says, for the boundary to take as it has room; holds no thread meanwhile."""

    def __init__(
        self, connection: socket.socket, poller: _Poller, count: Callable[[int], None]
    ) -> None:
        self._connection = connection
        self._poller = poller
        self._count = count

    def poll(self, wake: Callable[[], None]) -> bool:
        """See `secgear.base.flow.Pollable`."""
        poll = select.poll()
        try:
            poll.register(self._connection, select.POLLIN)
        except (OSError, ValueError):  # closed meanwhile, which reading it tells
            return True
        return bool(poll.poll(0)) or not self._poller.watch(self._connection, wake)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        try:
            data = self._connection.recv(MAX_PIECE)
        except BlockingIOError:
            return b""  # the kernel thought better of it
        except OSError:
            data = b""
        if not data:
            raise StopIteration
        self._count(len(data))
        return data

    def close(self) -> None:
        """The enclave takes no more."""
        self._poller.forget(self._connection)


@final
class _Poller:
    """One thread that waits for all sockets to become readable."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._lock = threading.Lock()
        self._waiting: dict[int, Callable[[], None]] = {}
        self._known: set[int] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="relay-in", daemon=True)
        self._thread.start()

    def watch(self, connection: socket.socket, wake: Callable[[], None]) -> bool:
        """Have `wake` called once there is something to read; False if that can't be."""
        with self._lock:
            number = connection.fileno()
            if number < 0 or self._closed:
                return False
            self._waiting[number] = wake
            events = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
            try:
                if number in self._known:
                    self._epoll.modify(number, events)
                else:
                    self._epoll.register(number, events)
                    self._known.add(number)
            except OSError:
                del self._waiting[number]
                return False
            return True

    def forget(self, connection: socket.socket) -> None:
        """Wait for it no more; before its descriptor is closed."""
        with self._lock:
            number = connection.fileno()
            self._waiting.pop(number, None)
            if number in self._known:
                self._known.discard(number)
                with contextlib.suppress(OSError, ValueError):  # closed with the relay
                    self._epoll.unregister(number)

    def close(self) -> None:
        """End the thread; whoever waits is woken."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for wake in waiting:
            wake()
        os.eventfd_write(self._bell, 1)
        self._thread.join(5)
        if not self._thread.is_alive():  # or it would read from what others open next
            self._epoll.close()
            os.close(self._bell)

    def _run(self) -> None:
        while not self._closed:
            for number, _ in self._epoll.poll():
                with self._lock:
                    wake = self._waiting.pop(number, None)
                if wake is not None:
                    wake()


def _origin(client: str) -> str:
    """What a client at that address counts as."""
    if ":" not in client:
        return client
    address = ipaddress.IPv6Address(client.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def _bound(place: Address, listener: socket.socket) -> Address:
    if place.kind == "unix":
        return place
    return msgspec.structs.replace(place, port=listener.getsockname()[1])
