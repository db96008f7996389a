"""Measuring on a noisy machine: interleave, take medians, print ratios and spread."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Sample(NamedTuple):
    """Times of one contender, in seconds for one operation."""

    p10: float
    median: float
    p90: float


class Row(NamedTuple):
    """One line of a table: a contender, what it did, how long, against whom."""

    name: str
    what: str
    sample: Sample
    ratio: float
    against: str


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, batch: int
) -> dict[str, Sample]:
    """Run each contender `batch` times in turn, `rounds` times over."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            for _ in range(batch):
                run()
            times[name].append((time.perf_counter() - start) / batch)
    return {name: sample(values) for name, values in times.items()}


def sample(values: list[float]) -> Sample:
    """Percentiles of a contender's rounds."""
    ordered = sorted(values)
    count = len(ordered)
    return Sample(ordered[count // 10], statistics.median(ordered), ordered[count * 9 // 10])


def rows(what: str, samples: Mapping[str, Sample], against: str) -> list[Row]:
    """A row for each contender; the ratio is its median over that of `against`."""
    base = samples[against].median
    return [Row(name, what, one, one.median / base, against) for name, one in samples.items()]


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    model = ""
    with open("/proc/cpuinfo", encoding="utf-8") as info:  # noqa: PTH123
        model = next((line.split(":")[1].strip() for line in info if "model name" in line), "")
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def human(seconds: float) -> str:
    """A time with a unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
