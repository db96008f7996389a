"""Ledgers of replays: an envelope is opened once.

A ledger only grows until keys expire. When it is full it refuses what is new: to forget an
envelope would be to let it in again.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from secgear.errors import EnvelopeRefused, Replayed

_START = datetime.datetime.fromtimestamp(0, datetime.UTC)


class Entry(NamedTuple):
    """An envelope that was opened. expires: when its key does."""

    key_id: bytes
    envelope_id: bytes
    expires: datetime.datetime


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
        self.horizon = _START  # keys that expired until then are forgotten, and refused
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
            if expires <= max(at, self.horizon):
                raise EnvelopeRefused("the key of the envelope has expired")
            if self._size >= self._capacity:
                self._forget_expired(at)
            if self._size >= self._capacity:
                raise EnvelopeRefused(
                    f"the ledger is full: {self._capacity} envelopes were opened; make a new key, "
                    "or a larger ledger"
                )
            self._add(Entry(key_id, envelope_id, expires))

    def restore(self, entry: Entry) -> None:
        """Remember what was recorded by an earlier process; twice is once, and room is made."""
        with self._lock:
            if entry.envelope_id not in self._seen.get(entry.key_id, ()):
                self._add(entry)

    def withdraw(self, entry: Entry) -> None:
        """Forget an envelope whose data was not given out."""
        with self._lock:
            seen = self._seen.get(entry.key_id, set())
            if entry.envelope_id in seen:
                seen.remove(entry.envelope_id)
                self._size -= 1

    def entries(self) -> Iterator[Entry]:
        """All that is remembered."""
        with self._lock:
            for key_id, seen in self._seen.items():
                for envelope_id in seen:
                    yield Entry(key_id, envelope_id, self._expiry[key_id])

    def _add(self, entry: Entry) -> None:
        self._seen.setdefault(entry.key_id, set()).add(entry.envelope_id)
        self._expiry[entry.key_id] = max(entry.expires, self._expiry.get(entry.key_id, _START))
        self._size += 1

    def _forget_expired(self, at: datetime.datetime) -> None:
        for key_id in [one for one, expires in self._expiry.items() if expires <= at]:
            self.horizon = max(self.horizon, self._expiry.pop(key_id))
            self._size -= len(self._seen.pop(key_id))
