"""Enclaves that are kept running: each by a thread of its own, and each without the others."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, final

from secgear.base.enclave import Enclave
from secgear.errors import SecGearError

LOOK: Final = 0.5  # seconds between looks at whether an enclave lives
_RESTARTS: Final = 5  # within a minute; more means that restarting does not help
_MINUTE: Final = 60.0
_logger = logging.getLogger(__name__)


@final
class Worker:
    """One of a module's enclaves, and the next one when it has ended.

    start: a new enclave, and a number that no other one has. changed: the condition that all
    workers of a module share. Raises what `start` does, the first time.
    """

    def __init__(
        self, start: Callable[[Worker], tuple[Enclave, int]], changed: threading.Condition
    ) -> None:
        self._start = start
        self._changed = changed
        self._starts: deque[float] = deque(maxlen=_RESTARTS)
        self._told = self._wanted = 0
        self._closed = False
        self.failure = ""
        self.load = 0
        self._enclave, self._generation = start(self)
        self._thread = threading.Thread(target=self._attend, name="enclave", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Worker at {self._generation}>"

    @property
    def running(self) -> tuple[Enclave, int] | None:
        """The enclave and its number, if it lives; with the condition held."""
        return (self._enclave, self._generation) if self._enclave.alive else None

    def tell(self, epoch: int) -> None:
        """The enclave is to hear that the store has come to this epoch; with the condition held."""
        self._wanted = max(self._wanted, epoch)

    def news(self, epoch: int, load: int) -> int:
        """What the enclave asks: how far the store is, once that is beyond what it knows.

        load: how many clients it has.
        """
        with self._changed:
            self._told, self.load = epoch, load
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._wanted > epoch, LOOK)
            return max(self._wanted, epoch)

    def heard(self, epoch: int) -> bool:
        """Whether it has, or is dead and will read everything; with the condition held."""
        return self._told >= epoch or self._closed or not self._enclave.alive

    def close(self) -> None:
        """Stop the enclave. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._enclave.close()

    def _attend(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or not self._enclave.alive, LOOK)
                if self._closed:
                    return
                if self._enclave.alive:
                    continue
            self._restart()

    def _restart(self) -> None:
        now = time.monotonic()
        if len(self._starts) == _RESTARTS and now - self._starts[0] < _MINUTE:
            self._failed("it ends again and again")
            return
        self._starts.append(now)
        _logger.warning("an enclave has ended; starting another one")
        with self._changed:
            self._told = self.load = 0
        try:
            enclave, generation = self._start(self)
        except SecGearError as error:
            self._failed(str(error))
            return
        with self._changed:
            self._enclave, self._generation, self.failure = enclave, generation, ""
            self._changed.notify_all()

    def _failed(self, why: str) -> None:
        with self._changed:
            if self.failure != why:
                _logger.error("an enclave can't be started: %s", why)
            self.failure = why
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed, LOOK)
