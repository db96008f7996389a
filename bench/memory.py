"""What an idle enclave costs: memory of its process and of the host."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import secgear
from bench.calls import ECHO

COUNT = 10


def main(*, quick: bool) -> dict[str, float]:
    """MiB for each of `COUNT` idle enclaves. PSS shares out pages that several processes map."""
    del quick
    with contextlib.ExitStack() as stack:
        stack.enter_context(secgear.launch(ECHO))  # what the host loads only once
        before = _memory(os.getpid())
        enclaves = [stack.enter_context(secgear.launch(ECHO)) for _ in range(COUNT)]
        after = _memory(os.getpid())
        own = [_memory(enclave.pid) for enclave in enclaves if enclave.pid is not None]
    return {
        "host, private": (after["Private"] - before["Private"]) / COUNT,
        "enclave, proportional (PSS)": sum(one["Pss"] for one in own) / len(own),
        "enclave, private (USS)": sum(one["Private"] for one in own) / len(own),
    }


def _memory(pid: int) -> dict[str, float]:
    """MiB by kind. Needs root for an enclave, which shows nothing to others."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    sizes: dict[str, float] = {"Pss": 0.0, "Private": 0.0}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        if name == "Pss":
            sizes["Pss"] = int(rest.split()[0]) / 1024
        elif name in {"Private_Clean", "Private_Dirty"}:
            sizes["Private"] += int(rest.split()[0]) / 1024
    return sizes
