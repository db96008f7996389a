"""Streams numbers through the enclave, a batch at a time. This file is the untrusted side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

import secgear

APP = Path(__file__).with_name("stats.py")
BATCHES = 200
ROWS = 100_000


def batches() -> Iterator[pa.RecordBatch]:
    """160 MB of measurements, made while they are sent."""
    random = np.random.default_rng(seed=1)
    for _ in range(BATCHES):
        yield pa.record_batch({"value": random.normal(20.0, 5.0, ROWS)})


def main() -> None:
    with secgear.launch(APP, tee="auto") as enclave:
        before = enclave.peak_memory()
        for number, summary in enumerate(enclave.summarise(batches()), start=1):
            if number % 50 == 0:
                print(
                    f"{summary.count:>12,} values   mean {summary.mean:.3f}"
                    f"   deviation {summary.deviation:.3f}"
                )
        grown = enclave.peak_memory() - before
        sent = BATCHES * ROWS * 8
        print(f"{sent / 1e6:.0f} MB went through; the enclave grew by {grown / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
