"""How much there was to do: calls counted inside, by what they were and what came of them.

Nothing in here is about who called, with which key or which data.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import Final, final

import msgspec

from secgear.services.crypto.pkcs11.calls import CALLS
from secgear.services.crypto.pkcs11.rv import Rv

BOUNDS: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Upper ends of the histogram's buckets, in seconds; the last bucket has none."""
UNKNOWN: Final = "unknown"
"""The name of calls that there are none of, and of messages that are no calls."""


class Counts(msgspec.Struct, frozen=True):
    """Since the enclave has started. calls: by name. errors: answers that were none, by CKR_ name.

    seconds: in all calls together. buckets: how many calls took up to each of `BOUNDS`, and longer.
    """

    calls: dict[str, int]
    errors: dict[str, int]
    seconds: float
    buckets: list[int]


@final
class Tally:
    """Counts calls, on whatever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[int] = Counter()
        self._errors: Counter[Rv] = Counter()
        self._seconds = 0.0
        self._buckets = [0] * (len(BOUNDS) + 1)

    def add(self, call: int, rv: Rv, seconds: float) -> None:
        """A call was answered. call: its id, 0 for what is none."""
        bucket = bisect_left(BOUNDS, seconds)
        with self._lock:
            self._calls[call] += 1
            if rv:
                self._errors[rv] += 1
            self._seconds += seconds
            self._buckets[bucket] += 1

    def counts(self) -> Counts:
        """All of it, at one moment."""
        with self._lock:
            return Counts(
                {CALLS[id].name if id else UNKNOWN: n for id, n in self._calls.items()},
                {f"CKR_{rv.name}": number for rv, number in self._errors.items()},
                self._seconds,
                list(self._buckets),
            )
