"""The enclave's end of a lane in a own process: ``peer.py FUNCTION FD SLOTS ARENA LIMIT CPU``."""

from __future__ import annotations

import mmap
import os
import sys
from typing import TYPE_CHECKING

from secgear.base.transport import ring

if TYPE_CHECKING:
    from secgear.base.transport._ring import Ring


def echo(end: Ring) -> None:
    end.serve(lambda id, tag, payload: payload)


def deaf(end: Ring) -> None:
    """Take a message, answer nothing."""
    end.recv()
    print("taken", flush=True)
    sys.stdin.read()


def flood(end: Ring) -> None:
    """Send large messages for ever."""
    while True:
        end.send(1, 1, bytes(100_000))


def main() -> None:
    what, fd, slots, arena, limit, cpu = sys.argv[1:]
    geometry = ring.Geometry(int(slots), int(arena), int(limit))
    if cpu:
        os.sched_setaffinity(0, {int(cpu)})
    memory = mmap.mmap(int(fd), geometry.size)
    print("ready", flush=True)
    globals()[what](ring.open_lane(memory, geometry, host=False))


if __name__ == "__main__":
    main()
