"""When a thread may be interrupted: where an exception out of nowhere leaves nothing half done.

An exception raised in another thread strikes at whatever that thread is doing. In an app's own
code that is what cancellation means. In the standard library and in this package it could strike
between the taking of a lock and the ``try`` that gives it back (`logging.Handler.handle`,
`threading.Condition`, the import system), and every other call would wait for that lock for ever.
The one place in there that is prepared for it, and where threads spend their time, is the wait of
a `threading.Condition`, on which events, queues, barriers and futures stand.
"""

from __future__ import annotations

import functools
import linecache
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import final

_STANDARD = os.path.dirname(os.__file__) + os.sep  # noqa: PTH120  (pathlib is not loaded here)
_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120
_FIRST, _LAST = 0.002, 0.02
"""Seconds between attempts, at first and at last."""


def interruptible(thread: int) -> bool:
    """Whether the innermost Python function of `thread` is neither ours nor the library's.

    Or it waits for a condition; the caller's ``with`` then gives the condition's lock back.
    """
    frame = sys._current_frames().get(thread)
    if frame is None:
        return False
    if frame.f_code is threading.Condition.wait.__code__:
        return frame.f_lineno in _waiting_lines()
    name = frame.f_code.co_filename
    library = name.startswith(_STANDARD) and "-packages" not in name
    return not (library or name.startswith((_OWN, "<frozen ")))


@functools.cache
def _waiting_lines() -> frozenset[int]:
    """Lines of `threading.Condition.wait` at which it is asleep, inside its ``try``."""
    code = threading.Condition.wait.__code__
    last = max(line for *_, line in code.co_lines() if line)
    lines = linecache.getlines(code.co_filename)[:last]
    numbers = range(code.co_firstlineno, len(lines) + 1)
    begin = next((n for n in numbers if lines[n - 1].lstrip().startswith("try:")), last)
    return frozenset(n for n in numbers if n > begin and "waiter.acquire(" in lines[n - 1])


@final
class Patience:
    """Attempts what can't be done at once again and again, on a thread that lives as needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: deque[Callable[[], bool]] = deque()
        self._running = False

    def add(self, attempt: Callable[[], bool]) -> None:
        """Call `attempt` until it returns True."""
        with self._lock:
            self._attempts.append(attempt)
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._work, name="interrupt", daemon=True).start()

    def _work(self) -> None:
        pause = threading.Event()
        delay = _FIRST
        while True:
            pause.wait(delay)
            with self._lock:
                attempts, self._attempts = self._attempts, deque()
            rest = [attempt for attempt in attempts if not attempt()]
            delay = _FIRST if len(rest) < len(attempts) else min(2 * delay, _LAST)
            with self._lock:
                self._attempts.extendleft(rest)
                if not self._attempts:
                    self._running = False
                    return


patience = Patience()
