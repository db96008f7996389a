"""Evaluates one Rego query: a process of its own, so that it can be ended.

Reads JSON from stdin: path, module, query, input, data. Writes JSON: ``{"results": […]}``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

_MEMORY = 1 << 30  # bytes that an evaluation may take


def main() -> None:
    """Errors of the engine go to stderr as they are: the exit code tells."""
    # The engine prints parse errors to stdout; the answer has a descriptor of its own.
    answer = os.dup(1)
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.path.extend(request["path"])
    from regopy import Interpreter  # type: ignore[import-untyped]  # it ships no types

    engine = Interpreter()
    _limit_memory()
    engine.set_input(request["input"])
    engine.add_data(request["data"])
    engine.add_module("policy", request["module"])
    output = engine.query(request["query"])
    results = [list(result.expressions) for result in output.results] if output.ok() else []
    with os.fdopen(answer, "w") as stream:
        json.dump({"results": results}, stream, default=str)


def _limit_memory() -> None:
    """Once the engine is there: its allocator begins by reserving more than it will ever use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
