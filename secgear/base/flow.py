"""Streams of items with flow control: a producer on one side, a consumer on the other.

The producer may run ahead of the consumer by a window of items, no further, so a stream of any
length needs little memory; large items it sends one by one. A producer does not hold a thread
while it waits for room: a lazy consumer can't starve the enclave.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, final

from secgear.base.marshal import Packed
from secgear.base.workers import Inbox
from secgear.errors import ProtocolError

Wait = Callable[[Inbox, Callable[[], bool], float | None], bool]
Poll = Callable[[Callable[[], None]], bool]


class Pollable(Protocol):
    """An iterator of results that is fed from elsewhere, such as a connection."""

    def poll(self, wake: Callable[[], None]) -> bool:
        """Whether ``next`` would return or raise at once; if not, `wake` is called when it would.

        `wake` may be called more often than that, and after the next `poll`. Several threads may
        ask at once; only one of them goes on to take the next item.
        """
        ...

    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...


AHEAD = 32 << 20
"""Bytes of items sent and not granted anew with which a producer waits. A consumer grants anew at
the latest when it has taken half of that, so that neither waits for the other."""


@final
class Producer:
    """Steps an iterator when the consumer has room.

    pack: makes an item what can be sent. send: sends that; both raise when they can't. finish: told
    once how it ended, None when complete. schedule: runs a task on some thread.

    An iterator that is fed from elsewhere (`Pollable`) holds no thread while it has nothing.
    """

    def __init__(
        self,
        iterator: Iterator[Any],
        window: int,
        *,
        pack: Callable[[Any], Packed],
        send: Callable[[Packed], None],
        finish: Callable[[BaseException | None], None],
        schedule: Callable[[Callable[[], None]], object],
    ) -> None:
        self._iterator = iterator
        self._poll: Poll | None = getattr(iterator, "poll", None)
        self._window = window
        self._pack = pack
        self._send = send
        self._finish = finish
        self._schedule = schedule
        self._lock = threading.Lock()
        self._credit = window
        self._sent: deque[int] = deque()  # bytes of each item that was not granted anew
        self._ahead = 0
        self._running = False
        self._stopped = False
        self._ended = False

    def start(self) -> None:
        """Begin with the window the consumer grants from the outset."""
        self._wake(0)

    def more(self, items: int) -> None:
        """The consumer takes `items` more. Raises ProtocolError beyond the window."""
        if items < 1:
            raise ProtocolError("a stream was granted no items")
        self._wake(items)

    def stop(self) -> None:
        """The consumer wants no more; the iterator is closed on its own thread."""
        self._stopped = True
        self._wake(0)

    def _wake(self, items: int) -> None:
        with self._lock:
            if self._credit + items > self._window:
                raise ProtocolError("a stream was granted more items than its window")
            self._credit += items
            for _ in range(min(items, len(self._sent))):
                self._ahead -= self._sent.popleft()
            if self._running or self._ended:
                return
            self._running = True
        self._schedule(self._step)

    def _has_next(self) -> bool:
        """Whether to go on; if not, the iterator wakes this producer when there is something."""
        if self._poll is None:
            return True
        # Idle before it is asked, or a wake-up in between would find nobody to be woken.
        with self._lock:
            self._running = False
        if not self._poll(lambda: self._wake(0)):
            return False
        with self._lock:
            if self._running:  # somebody woke another thread meanwhile, which goes on
                return False
            self._running = True
            return True

    def _step(self) -> None:
        while True:
            with self._lock:
                stopped = self._stopped
                if not stopped and (not self._credit or self._ahead >= AHEAD):
                    self._running = False
                    return
            if not stopped and not self._has_next():
                return
            with self._lock:
                self._credit -= not stopped
            try:
                if stopped:
                    self._close()
                    self._end(None)
                    return
                packed = self._pack(next(self._iterator))
                with self._lock:
                    self._sent.append(packed.size)
                    self._ahead += packed.size
                self._send(packed)
            except StopIteration:
                self._end(None)
                return
            except BaseException as error:  # noqa: BLE001  (handed to finish, which decides)
                self._close()
                self._end(error)
                return

    def _close(self) -> None:
        close = getattr(self._iterator, "close", None)
        if close is not None:
            with contextlib.suppress(BaseException):  # nobody is left to be told
                close()

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            self._ended = True
        self._finish(error)


@final
class Consumer:
    """Items in the order they were sent; an iterator.

    decode: makes an item from what arrived, in the consuming thread. more, stop: tell the
    producer. wait: how this side waits.
    """

    def __init__(
        self,
        window: int,
        *,
        decode: Callable[[Any], Any],
        more: Callable[[int], None],
        stop: Callable[[], None],
        wait: Wait,
    ) -> None:
        self._window = window
        self._decode = decode
        self._more = more
        self._stop = stop
        self._wait = wait
        self._lock = threading.Lock()
        self._items: deque[tuple[Any, int]] = deque()
        self._granted = window
        self._taken = 0
        self._taken_bytes = 0
        self._ended = False
        self._error: BaseException | None = None
        self._waiting: list[Inbox] = []

    def __iter__(self) -> Consumer:
        return self

    def __next__(self) -> Any:
        grant = 0
        while True:
            with self._lock:
                if self._items:
                    item, size = self._items.popleft()
                    self._taken += 1
                    self._taken_bytes += size
                    # Half a window at a time: one small frame for many items, never a dry pipe.
                    full = self._taken * 2 >= self._window or self._taken_bytes * 2 >= AHEAD
                    if full and not self._ended:
                        grant, self._taken, self._taken_bytes = self._taken, 0, 0
                        self._granted += grant
                    break
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    raise StopIteration
            self.until(None)
        if grant:
            self._more(grant)
        return self._decode(item)

    def ready(self) -> bool:
        """Whether the next item (or the end) is here already."""
        return bool(self._items) or self._ended

    def until(self, deadline: float | None) -> bool:
        """Wait for an item or the end; False when `deadline` (`time.monotonic`) came first."""
        inbox = Inbox()
        with self._lock:
            self._waiting.append(inbox)
        try:
            return self._wait(inbox, self.ready, deadline)
        finally:
            with self._lock:
                self._waiting.remove(inbox)

    def close(self) -> None:
        """Take no more items; the producer is told. Idempotent."""
        with self._lock:
            ended, self._ended = self._ended, True
            self._items.clear()
            waiting = list(self._waiting)
        for inbox in waiting:
            inbox.wake()
        if not ended:
            self._stop()

    def push(self, item: Any, size: int) -> None:
        """An item of `size` bytes is here. Raises ProtocolError when it overran the window."""
        with self._lock:
            if self._ended:
                return
            if not self._granted:
                raise ProtocolError("a stream overran its window")
            self._granted -= 1
            self._items.append((item, size))
            waiting = list(self._waiting)
        for inbox in waiting:
            inbox.wake()

    def end(self, error: BaseException | None) -> None:
        """No more items will come; `error` tells why if it is not the regular end."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self._error = error
            waiting = list(self._waiting)
        for inbox in waiting:
            inbox.wake()
