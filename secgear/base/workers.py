"""Threads that serve calls, without deadlock when calls nest.

An ECALL may make an OCALL whose handler makes an ECALL again. If every thread of the enclave then
waits for an OCALL, nobody is left to serve the inner ECALL. So a thread that waits on behalf of a
call serves the calls that are nested in it: they name it as their parent.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import final

Task = Callable[[], None]

_IDLE = 5.0
"""Seconds an idle thread of an elastic pool waits for more work before it leaves."""


@final
class Inbox:
    """What a waiting thread listens to: nested tasks, and the end of its wait."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def task(self, task: Task) -> None:
        """A nested call to serve meanwhile."""
        self._queue.put(task)

    def wake(self) -> None:
        """The waiter should look at its condition again."""
        self._queue.put(None)

    def serve_until(self, done: Callable[[], bool], deadline: float | None = None) -> bool:
        """Serve nested tasks until `done()`, which is looked at after each `wake`.

        deadline: on the clock of `time.monotonic`. Returns False when it passed first.
        """
        while not done():
            timeout = None if deadline is None else deadline - time.monotonic()
            if timeout is not None and timeout <= 0:
                return False
            try:
                task = self._queue.get(timeout=timeout)
            except queue.Empty:
                continue
            if task is not None:
                task()
        return True

    def drain(self) -> list[Task]:
        """Tasks that came too late to be served here."""
        rest: list[Task] = []
        while True:
            try:
                task = self._queue.get_nowait()
            except queue.Empty:
                return rest
            if task is not None:
                rest.append(task)


@final
class Workers:
    """A pool of daemon threads.

    maximum: threads at the most. elastic: threads leave when idle (the host's pool, which is
    mostly unused); otherwise they stay (the enclave's).
    """

    def __init__(self, maximum: int, name: str, *, elastic: bool) -> None:
        self._maximum = maximum
        self._name = name
        self._timeout = _IDLE if elastic else None
        self._condition = threading.Condition()
        self._tasks: deque[tuple[int, Task]] = deque()
        self._blocked: dict[int, list[Inbox]] = {}
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, task: Task, parent: int = 0) -> bool:
        """Run `task` on a free thread, or on the one that waits on behalf of call `parent`.

        What `task` raises is lost. Returns False, and runs nothing, after `close` or when there
        is no thread and none can be started.
        """
        with self._condition:
            if self._closed:
                return False
            waiting = self._blocked.get(parent) if parent else None
            if waiting and self._idle <= len(self._tasks) and self._threads >= self._maximum:
                waiting[-1].task(task)
                return True
            self._tasks.append((parent, task))
            if self._idle >= len(self._tasks):
                self._condition.notify()
            elif self._threads < self._maximum:
                self._threads += 1
                try:
                    threading.Thread(
                        target=self._work, name=f"{self._name}-{self._threads}", daemon=True
                    ).start()
                except RuntimeError:  # the system gives us no more threads
                    self._threads -= 1
                    if not self._threads:
                        self._tasks.pop()
                        return False
            return True

    def cede(self) -> None:
        """One thread fewer from now on; one stays in any case."""
        with self._condition:
            self._maximum = max(1, self._maximum - 1)
            self._condition.notify()

    def wait(
        self, call: int, inbox: Inbox, done: Callable[[], bool], deadline: float | None = None
    ) -> bool:
        """Wait in this thread until `done()`, serving what is nested in `call`.

        Whoever makes `done()` true must call `inbox.wake()` afterwards. deadline: on the clock of
        `time.monotonic`. Returns False when it passed first.
        """
        with self._condition:
            waiting = self._blocked.setdefault(call, [])
            waiting.append(inbox)
            if self._tasks:
                mine = [entry for entry in self._tasks if entry[0] == call]
                for entry in mine:
                    self._tasks.remove(entry)
                    inbox.task(entry[1])
        try:
            return inbox.serve_until(done, deadline)
        finally:
            with self._condition:
                waiting.remove(inbox)
                if not waiting:
                    del self._blocked[call]
            for task in inbox.drain():
                self.submit(task, call)

    def close(self) -> None:
        """Take no more tasks; threads leave when those that are queued are done."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._idle += 1
                while not self._tasks and not self._closed and self._threads <= self._maximum:
                    if not self._condition.wait(self._timeout) and not self._tasks:
                        break
                self._idle -= 1
                if not self._tasks:
                    self._threads -= 1
                    return
                _, task = self._tasks.popleft()
            with contextlib.suppress(BaseException):  # this thread serves others after it
                task()
