"""Takes and gives arrays, tables and streams of batches."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from secgear import App

app = App("bulk", version="1", requires=["numpy", "pyarrow"], memory=8 << 30)
kept: dict[str, np.ndarray] = {}


@app.ecall
def take(values: np.ndarray) -> int:
    """An array in; its length out."""
    return len(values)


@app.ecall
def give(size: int) -> np.ndarray:
    """An array of `size` doubles out."""
    if "values" not in kept or len(kept["values"]) != size:
        kept["values"] = np.zeros(size)
    return kept["values"]


@app.ecall
def take_table(table: pa.Table) -> int:
    """A table in; its row count out."""
    return int(table.num_rows)


@app.ecall
def take_stream(batches: Iterator[pa.RecordBatch]) -> int:
    """Record batches in; their rows out."""
    return sum(batch.num_rows for batch in batches)
