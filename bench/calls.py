"""ECALL round trips and calls in flight, against a raw socket, a pipe and gRPC."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import secgear
from bench import peers
from bench.measure import Row, interleaved, rows, sample

ECHO = Path(__file__).parent / "apps" / "echo.py"


def main(*, quick: bool) -> list[Row]:
    """Round trips by payload, then throughput by calls in flight."""
    result: list[Row] = []
    rounds = 20 if quick else 60
    with (
        secgear.launch(ECHO) as enclave,
        peers.unix_socket() as raw,
        peers.pipe() as pipe,
        peers.grpc_unix() as (grpc, grpc_future),
    ):
        for size, label, batch in ((8, "8 B", 50), (4096, "4 KiB", 50), (1 << 20, "1 MiB", 4)):
            data = bytes(size)
            contenders: dict[str, Callable[[], object]] = {
                "unix socket": partial(raw, data),
                "mp.Pipe": partial(pipe, data),
                "grpc": partial(grpc, data),
                "ecall": partial(enclave.echo, data),
            }
            if size == 8:
                contenders["ecall add(int, int)"] = lambda: enclave.add(1, 2)
            samples = interleaved(contenders, rounds=rounds, batch=batch)
            result += rows(f"round trip {label}", samples, "unix socket")
        for width in (1, 4, 16, 64):
            count = 200 if quick else 1000
            times: dict[str, list[float]] = {"grpc future": [], "ecall submit": []}
            for _ in range(3 if quick else 7):
                times["grpc future"].append(_in_flight(grpc_future, width, count))
                times["ecall submit"].append(_in_flight(enclave.submit.echo, width, count))
            samples = {name: sample(values) for name, values in times.items()}
            result += rows(f"{width} in flight, 8 B, each", samples, "grpc future")
    return result


def _in_flight(submit: Callable[[bytes], Any], width: int, count: int) -> float:
    """Seconds a call takes when `width` of them are always under way."""
    data = bytes(8)
    waiting: deque[Any] = deque()
    start = time.perf_counter()
    for _ in range(count):
        if len(waiting) == width:
            waiting.popleft().result()
        waiting.append(submit(data))
    while waiting:
        waiting.popleft().result()
    return (time.perf_counter() - start) / count
