"""Run the benchmarks: ``python -m bench [NAME...] [--quick] [--json]``."""

from __future__ import annotations

import argparse
import json
import sys

from bench import (
    attestation,
    bulk,
    calls,
    channel,
    crypto,
    envelopes,
    memory,
    rest,
    ring,
    sdf,
    sealing,
    service,
    start,
    switchless,
)
from bench.measure import Row, human, machine

TIMED = {
    "start": start.main,
    "calls": calls.main,
    "bulk": bulk.main,
    "ring": ring.main,
    "switchless": switchless.main,
    "attestation": attestation.main,
    "envelopes": envelopes.main,
    "channel": channel.main,
    "sealing": sealing.main,
    "crypto": crypto.main,
    "rest": rest.main,
    "sdf": sdf.main,
}


def main() -> None:
    """Tables for people, or one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*TIMED, "service", "memory", []], default=[])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller data")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    names = options.names or [*TIMED, "service", "memory"]
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
        if name == "service":
            loads = service.main(quick=options.quick)
            document[name] = [load._asdict() for load in loads]
            if not options.json:
                _show_loads(loads)
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


def _show_loads(loads: list[service.Load]) -> None:
    print(f"{'clients':>7}  {'':10} {'requests/s':>10} {'p50':>9} {'p99':>9}   ratio")
    for load in loads:
        print(
            f"{load.clients:7}  {load.what:10} {load.rate:10.0f} {human(load.p50):>9} "
            f"{human(load.p99):>9}   {load.ratio:.2f}x health"
        )


if __name__ == "__main__":
    main()
