"""Remembering what was verified, without forgetting the time.

Whether certificates, revocation lists and documents are good depends on the time only through the
dates in them. Between two neighbouring dates the outcome is the same, so a success is remembered
for the open interval between the dates around it, and for nothing else; failures never are.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from cryptography import x509

from secgear.middleware.attestation.certificates import Certificate
from secgear.middleware.attestation.checks import Check, Checks, Outcome
from secgear.middleware.attestation.collateral import Collateral

T = TypeVar("T")

_LIMIT = 64  # entries; each holds on to its collateral
_REMEMBERED = 1 << 20  # bytes of collateral; Intel's has some fifty thousand
_FIRST = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_LAST = datetime.datetime.max.replace(tzinfo=datetime.UTC)


class Same:
    """Collateral as a key: the object, not its content, which would be compared each time."""

    def __init__(self, collateral: Collateral) -> None:
        self.collateral = collateral

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.collateral is other.collateral

    def __hash__(self) -> int:
        return id(self.collateral)


@dataclass(frozen=True, slots=True)
class _Success(Generic[T]):
    after: datetime.datetime
    before: datetime.datetime
    checks: tuple[Check, ...]
    value: T


class Memory(Generic[T]):
    """Successes by what they depend on besides the time."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, _Success[T]] = {}
        self._lock = threading.Lock()

    def recall(self, key: Hashable, at: datetime.datetime, checks: Checks) -> T | None:
        """The value, after recording its checks again; None if nothing is known for `at`."""
        found = self._kept.get(key)
        if found is None or not found.after < at < found.before:
            return None
        for check in found.checks:
            if check.outcome is Outcome.PASS:
                checks.passed(check.name, check.detail)
            else:
                checks.not_performed(check.name, check.detail, check.fix)
        return found.value

    def keep(
        self,
        key: Hashable,
        at: datetime.datetime,
        dates: Iterable[datetime.datetime],
        checks: tuple[Check, ...],
        value: T,
        *,
        size: int = 0,
    ) -> None:
        """Remember a success at `at`. dates: all that could have mattered.

        size: bytes of what the entry holds on to; somebody may have sent much of it.
        """
        if size > _REMEMBERED:
            return
        after, before = _FIRST, _LAST
        for date in dates:
            if date <= at:
                after = max(after, date)
            if date >= at:
                before = min(before, date)
        with self._lock:
            if len(self._kept) >= _LIMIT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = _Success(after, before, checks, value)

    def cache_clear(self) -> None:
        """Forget everything, as `functools` names it."""
        with self._lock:
            self._kept.clear()


def dates_of(
    certificates: Iterable[Certificate], collateral: Collateral
) -> Iterator[datetime.datetime]:
    """The dates in certificates and in the revocation lists of `collateral`, which do parse."""
    for certificate in certificates:
        yield certificate.parsed.not_valid_before_utc
        yield certificate.parsed.not_valid_after_utc
    for der in collateral.crls:
        crl = x509.load_der_x509_crl(der)
        yield crl.last_update_utc
        yield crl.next_update_utc or crl.last_update_utc
