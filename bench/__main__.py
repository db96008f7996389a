"""Run the benchmarks: ``python -m bench [start calls bulk memory] [--quick] [--json]``."""

from __future__ import annotations

import argparse
import json
import sys

from bench import bulk, calls, memory, start
from bench.measure import Row, human, machine

TIMED = {"start": start.main, "calls": calls.main, "bulk": bulk.main}


def main() -> None:
    """Tables for people, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*TIMED, "memory", []], default=[])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller data")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    names = options.names or [*TIMED, "memory"]
    document: dict[str, object] = {"machine": machine()}
    if not options.json:
        print(", ".join(f"{key} {value}" for key, value in machine().items()))
    for name in names:
        if not options.json:
            print(f"\n== {name}", flush=True)
        if name == "memory":
            try:
                sizes = memory.main(quick=options.quick)
            except PermissionError:
                print("memory: needs root; an enclave hides its maps", file=sys.stderr)
                continue
            document[name] = sizes
            if not options.json:
                for what, size in sizes.items():
                    print(f"{what:34} {size:8.1f} MiB")
            continue
        table = TIMED[name](quick=options.quick)
        document[name] = [row._asdict() | row.sample._asdict() for row in table]
        if not options.json:
            _show(table)
    if options.json:
        json.dump(document, sys.stdout, indent=2, default=str)


def _show(table: list[Row]) -> None:
    what = ""
    for row in table:
        if row.what != what:
            what = row.what
            print(f"{what:34} {'p10':>9} {'median':>9} {'p90':>9}   ratio")
        times = " ".join(f"{human(value):>9}" for value in row.sample)
        print(f"  {row.name:32} {times}   {row.ratio:.2f}x {row.against}")


if __name__ == "__main__":
    main()
