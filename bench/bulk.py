"""Large arrays, tables and streams into and out of an enclave, against memcpy and a socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

import secgear
from bench import peers
from bench.measure import Row, interleaved, rows

BULK = Path(__file__).parent / "apps" / "bulk.py"


def main(*, quick: bool) -> list[Row]:
    """Times for one transfer of the same bytes by each way."""
    size = (32 if quick else 256) << 20
    values = np.random.default_rng(1).random(size // 8)
    target = np.empty_like(values)
    table = pa.table({"a": values, "b": values[::-1].copy()}).slice(0, len(values) // 2)
    batches = table.to_batches(max_chunksize=1 << 16)
    with secgear.launch(BULK) as enclave, peers.unix_socket() as raw:
        data = values.tobytes()
        contenders: dict[str, Callable[[], object]] = {
            "memcpy": lambda: np.copyto(target, values),
            "ecall array in": lambda: enclave.take(values),
            "ecall array out": lambda: enclave.give(len(values)),
            "ecall table in": lambda: enclave.take_table(table),
            "ecall stream of batches in": lambda: enclave.take_stream(iter(batches)),
            "unix socket echo (both ways)": lambda: raw(data),
        }
        samples = interleaved(contenders, rounds=3 if quick else 9, batch=1)
    return rows(f"{size >> 20} MiB", samples, "memcpy")
