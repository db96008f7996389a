"""Ledgers of replays: an envelope is opened once.

A ledger only grows until keys expire. When it is full it refuses what is new: to forget an
envelope would be to let it in again.
"""

from __future__ import annotations

import datetime
import threading
from typing import Protocol

from secgear.errors import EnvelopeRefused, Replayed

_START = datetime.datetime.fromtimestamp(0, datetime.UTC)


class ReplayLedger(Protocol):
    """Remembers which envelopes were opened.

    One that is kept outside the enclave has to be authentic, and must not be rolled back.
    """

    def record(
        self,
        key_id: bytes,
        envelope_id: bytes,
        *,
        expires: datetime.datetime,
        at: datetime.datetime,
    ) -> None:
        """Remember an envelope before its data is used, in one step with looking it up.

        key_id, envelope_id: together they name it. expires: when its key does, after which nobody
        opens it. at: now. Raises Replayed if it was remembered, EnvelopeRefused if it can't be.
        """
        ...


class MemoryLedger:
    """A ledger in this process's memory, for keys that live there, too. Safe for threads.

    capacity: number of envelopes that it holds; each takes some 200 bytes.
    """

    def __init__(self, capacity: int = 1_000_000) -> None:
        self._capacity = capacity
        self._seen: dict[bytes, set[bytes]] = {}
        self._expiry: dict[bytes, datetime.datetime] = {}
        self._horizon = _START  # keys that expired until then are forgotten, and refused
        self._size = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryLedger({self._size} of {self._capacity})"

    def __len__(self) -> int:
        return self._size

    def record(
        self,
        key_id: bytes,
        envelope_id: bytes,
        *,
        expires: datetime.datetime,
        at: datetime.datetime,
    ) -> None:
        """See `ReplayLedger`. A clock that is put back brings no forgotten envelope back."""
        with self._lock:
            seen = self._seen.get(key_id, set())
            if envelope_id in seen:
                raise Replayed("the envelope was opened before")
            if expires <= max(at, self._horizon):
                raise EnvelopeRefused("the key of the envelope has expired")
            if self._size >= self._capacity:
                self._forget_expired(at)
            if self._size >= self._capacity:
                raise EnvelopeRefused(
                    f"the ledger is full: {self._capacity} envelopes were opened; make a new key, "
                    "or a larger ledger"
                )
            self._seen.setdefault(key_id, seen).add(envelope_id)
            self._expiry[key_id] = max(expires, self._expiry.get(key_id, _START))
            self._size += 1

    def _forget_expired(self, at: datetime.datetime) -> None:
        for key_id in [one for one, expires in self._expiry.items() if expires <= at]:
            self._horizon = max(self._horizon, self._expiry.pop(key_id))
            self._size -= len(self._seen.pop(key_id))
