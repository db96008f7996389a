"""Counters of switchless calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import msgspec

if TYPE_CHECKING:
    from secgear.base.switchless.host import Lanes


@final
class SwitchlessStats(msgspec.Struct, frozen=True):
    """Counters of one enclave's switchless calls, as the host sees them.

    unavailable: why there are none, empty if there are. lanes: workers that serve; busy: of these,
    with a call under way or left behind. calls, batches: made so far. failed: calls that ended
    with an exception. fallbacks: calls that went over the stream instead. waits: times that a
    caller found every worker busy. abandoned: lanes left behind by a caller who gave up, until the
    enclave has done with the call.
    sent, received: messages. spins: waits that ended while spinning; parks: those that went to
    sleep; wakes: times that the enclave was woken. rejected: messages of the enclave that broke
    the rules.
    """

    unavailable: str = ""
    lanes: int = 0
    busy: int = 0
    calls: int = 0
    batches: int = 0
    failed: int = 0
    fallbacks: int = 0
    waits: int = 0
    abandoned: int = 0
    sent: int = 0
    received: int = 0
    spins: int = 0
    parks: int = 0
    wakes: int = 0
    rejected: int = 0


def gather(lanes: Lanes | None, fallbacks: int, unavailable: str) -> SwitchlessStats:
    """The counters now. lanes: None if there are none, and `unavailable` says why."""
    if lanes is None:
        return SwitchlessStats(unavailable=unavailable, fallbacks=fallbacks)
    rings, own = lanes.ring_stats(), lanes.counters
    return SwitchlessStats(
        lanes=lanes.opened,
        busy=lanes.busy,
        calls=lanes.calls,
        batches=own["batches"],
        failed=own["failed"],
        fallbacks=fallbacks,
        waits=own["waits"],
        abandoned=own["abandoned"],
        sent=rings["sent"],
        received=rings["received"],
        spins=rings["spins"],
        parks=rings["parks"],
        wakes=rings["wakes"],
        rejected=rings["rejected"],
    )
