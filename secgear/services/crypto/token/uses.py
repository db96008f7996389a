"""Uses of keys on their way into the audit trail, some at a time.

A use is written with others, at the latest `DELAY` seconds after it happened, or when `MOST` wait.
What waits is lost when the enclave is killed: up to `MOST` uses of the last `DELAY` seconds. While
the host does not keep them, keys can't be used once `MOST` are waiting.
"""

from __future__ import annotations

import logging
import threading
from typing import Final, final

from secgear.errors import CryptoModuleError
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.vault import Vault

MOST: Final = 256
DELAY: Final = 1.0  # seconds
_logger = logging.getLogger(__name__)


@final
class Uses:
    """The uses that wait, of all slots."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[Event] = []
        self._timer: threading.Timer | None = None

    def __repr__(self) -> str:
        return f"<Uses, {len(self._waiting)} waiting>"

    def add(self, event: Event) -> None:
        """A key is used. Raises CryptokiError when that can't be recorded."""
        with self._lock:
            full = len(self._waiting) >= MOST
        if full:
            self.flush()
        with self._lock:
            if len(self._waiting) >= 2 * MOST:  # others were faster, and it is not kept
                raise CryptokiError(Rv.DEVICE_ERROR)
            self._waiting.append(event)
            if self._timer is None:
                self._timer = threading.Timer(DELAY, self._due)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what waits. Raises CryptokiError when the host does not keep it; it still waits."""
        with self._writing:
            with self._lock:
                some = self._waiting[:]
            if not some:
                return
            self._vault.transact(lambda draft: _write(draft, some))
            with self._lock:
                del self._waiting[: len(some)]

    def _due(self) -> None:
        with self._lock:
            self._timer = None
        try:
            self.flush()
        except (CryptokiError, CryptoModuleError):
            # The next call of anybody meets the same, and is told; here nobody is.
            _logger.error("uses of keys could not be written to the audit trail")


def _write(draft: Draft, events: list[Event]) -> None:
    for event in events:
        draft.record(event)
