"""Makes many short calls, over the stream and without a switch. This file is the untrusted side."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import secgear
from secgear import Switchless

APP = Path(__file__).with_name("lookups.py")
NAMES = [f"patient {number}" for number in range(2000)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    options = Switchless(workers=1, shared=16 << 20)
    with secgear.launch(APP, switchless=options) as enclave:
        one_by_one = [enclave.pseudonym(name) for name in NAMES]  # switchless by default
        batch = enclave.switchless.map.pseudonym(NAMES)
        print("the same pseudonyms either way:", one_by_one == batch)

        lookup = enclave.switchless.pseudonym
        spent = seconds(lambda: [lookup(name) for name in NAMES])
        print(f"one by one: {spent / len(NAMES) * 1e6:.1f} us each")
        spent = seconds(lambda: enclave.switchless.map.pseudonym(NAMES))
        print(f"in a batch: {spent / len(NAMES) * 1e6:.1f} us each")

        with enclave.shared(8 * 1_000_000) as buffer:
            values = buffer.array("f8")
            values[:] = np.linspace(0, 10, len(values))
            print(f"a million numbers, read in place: mean {enclave.average(buffer):.3f}")
            del values

        stats = enclave.switchless.stats
        print(f"{stats.calls} switchless calls in {stats.batches} batches and one by one,")
        print(f"{stats.fallbacks} of them over the stream, {stats.rejected} messages rejected")


if __name__ == "__main__":
    main()
