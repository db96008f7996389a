"""The one way by which log records leave an enclave: declared, rate-limited, closable.

Inside, it takes what the standard `logging` module is given, and what is printed. The manifest
says down to which level records may leave; ``off`` closes the channel, and since the manifest is
measured, a data owner can see that.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING

import msgspec

from secgear.base.wire import LOG_BURST, LOG_RATE, Kind, LogRecord, clip, frame
from secgear.errors import EnclaveLost

if TYPE_CHECKING:
    from secgear.base.peer import Peer

_encode = msgspec.msgpack.Encoder().encode


def open_channel(peer: Peer, level: str) -> None:
    """Route logging and printing of this process to the host, or to nowhere for ``off``."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    logging.raiseExceptions = False  # a failing handler would print to stderr
    if level == "off":
        logging.disable(logging.CRITICAL)
        sys.stdout = sys.stderr = _Nowhere()
        return
    threshold = logging.getLevelName(level.upper())
    root.addHandler(_ChannelHandler(peer, threshold))
    root.setLevel(threshold)
    sys.stdout = _LineLogger(logging.getLogger("stdout"), logging.INFO)
    sys.stderr = _LineLogger(logging.getLogger("stderr"), logging.WARNING)


class _ChannelHandler(logging.Handler):
    """Sends records as LOG frames, at most `LOG_RATE` a second."""

    def __init__(self, peer: Peer, level: int) -> None:
        super().__init__(level)
        self._peer = peer
        self._tokens = float(LOG_BURST)
        self._last = time.monotonic()
        self._suppressed = 0
        # No exc_info in the text: a traceback's message may hold what must stay inside. Debug
        # images see tracebacks in the error itself.
        self.setFormatter(_MessageOnly())

    def emit(self, record: logging.LogRecord) -> None:
        with self._peer.shielded():
            now = time.monotonic()
            self._tokens = min(float(LOG_BURST), self._tokens + (now - self._last) * LOG_RATE)
            self._last = now
            if self._tokens < 1:
                self._suppressed += 1
                return
            self._tokens -= 1
            suppressed, self._suppressed = self._suppressed, 0
            payload = _encode(
                LogRecord(
                    record.levelno, clip(record.name, 128), clip(self.format(record)), suppressed
                )
            )
            with contextlib.suppress(EnclaveLost):  # nobody listens any more
                self._peer.outbox.send(frame(Kind.LOG, 0, payload))


class _MessageOnly(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return record.getMessage()


class _LineLogger(io.TextIOBase):
    """What is printed becomes log records, a line each."""

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self._logger = logger
        self._level = level
        self._local = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._local, "rest", "") + text).split("\n")
        self._local.rest = rest[-4096:]
        for line in lines:
            if line:
                self._logger.log(self._level, "%s", line)
        return len(text)


class _Nowhere(io.TextIOBase):
    """Takes what is printed and forgets it."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)
