"""Statistics over a stream of any length. Everything in this file runs inside the enclave."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa

from secgear import App

app = App("streaming-stats", version="1.0", requires=["numpy", "pyarrow"])


class Summary(msgspec.Struct):
    """What is known after some batches: how many values, their mean and standard deviation."""

    count: int
    mean: float
    deviation: float


@app.ecall
def summarise(batches: Iterator[pa.RecordBatch]) -> Iterator[Summary]:
    """After each batch of a column ``value``, the summary of everything so far.

    Keeps three numbers, whatever the length of the stream. Batches are combined by the formula of
    Chan, Golub and LeVeque, which does not lose precision as sums of squares do.
    """
    count, mean, squares = 0, 0.0, 0.0
    for batch in batches:
        values = batch.column("value").to_numpy(zero_copy_only=False)
        if len(values) == 0:
            continue
        total = count + len(values)
        delta = float(np.mean(values)) - mean
        squares += float(np.var(values)) * len(values) + delta**2 * count * len(values) / total
        mean += delta * len(values) / total
        count = total
        yield Summary(count, mean, math.sqrt(squares / count))


@app.ecall
def peak_memory() -> int:
    """The most memory this enclave has used so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
