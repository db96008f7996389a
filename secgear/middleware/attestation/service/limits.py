"""Limits on what clients may ask for: a token bucket for each address, memory, a bounded queue.

All are per instance: n instances behind a balancer let n times as much through.
"""

from __future__ import annotations

import contextlib
import ipaddress
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.service.settings import Rate

T = TypeVar("T")

MAX_CLIENTS: Final = (
    16_384  # addresses that are remembered; the one unseen for longest is forgotten
)


class Buckets:
    """One token bucket for each client address; an IPv6 /64 counts as one client."""

    def __init__(self, rate: Rate, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, amount: int = 1) -> None:
        """Take one token, or with amount 0 only look. Raises Problem (429) if there is none."""
        key, now = _network(client), self._clock()
        with self._lock:
            level, since = self._levels.pop(key, (float(self._rate.burst), now))
            level = min(self._rate.burst, level + (now - since) * self._rate.per_second)
            enough = level >= 1
            self._levels[key] = (level - amount if enough else level, now)
            if len(self._levels) > MAX_CLIENTS:
                self._levels.popitem(last=False)
        if not enough:
            wait = (1 - level) / self._rate.per_second
            raise Problem(
                429,
                "rate.limited",
                "Too many requests from this address",
                headers={"Retry-After": str(int(wait) + 1)},
            )


class Space:
    """Memory for bodies: so many bytes for one client address, so many for all together."""

    def __init__(self, each: int, total: int) -> None:
        self._each = each
        self._free = total
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def use(self, client: str) -> Iterator[Callable[[int], None]]:
        """Gives a function that takes bytes, which are given back at the end.

        It raises Problem: 429 if the address has too many already, 503 if all together have.
        For one event loop.
        """
        key, taken = _network(client), 0

        def take(amount: int) -> None:
            nonlocal taken
            if self._held[key] + amount > self._each:
                raise Problem(
                    429,
                    "rate.limited",
                    "Too much at once from this address",
                    headers={"Retry-After": "1"},
                )
            if amount > self._free:
                raise _busy()
            self._held[key] += amount
            self._free -= amount
            taken += amount

        try:
            yield take
        finally:
            self._free += taken
            self._held[key] -= taken
            if not self._held[key]:
                del self._held[key]


class Threads:
    """Some threads for work that blocks, with a bounded queue in front."""

    def __init__(self, count: int, queue: int) -> None:
        self._count = count
        self._queue = queue
        self._inside = 0
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, done in a thread. Raises Problem (503) if the queue is full."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._count)
        # Counted here and not asked of the limiter, where a burst shows only after it has passed.
        if self._inside >= self._count + self._queue:
            raise _busy()
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._inside -= 1


def _busy() -> Problem:
    return Problem(503, "service.busy", "Too much work is waiting", headers={"Retry-After": "1"})


def _network(client: str) -> str:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return client
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
