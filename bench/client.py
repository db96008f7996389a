"""A data owner for `bench.channel`, in a process of its own as it is in life.

``python -m bench.client ADDRESS MEASUREMENT BYTES``: each line of input is a number of small
messages to exchange, or ``bulk`` for one message of BYTES; a line of output says that it is done.
"""

from __future__ import annotations

import os
import sys

import secgear
from bench.channel import SMALL, owner_anchors, owner_policy


def main(address: str, measurement: str, size: str) -> None:
    """Serve orders until there are no more."""
    small, large = bytes(SMALL), os.urandom(int(size))
    with secgear.connect(address, owner_policy(measurement), anchors=owner_anchors()) as session:
        for order in sys.stdin:
            message, times = (large, 1) if order == "bulk\n" else (small, int(order))
            for _ in range(times):
                session.send(message)
                if int(session.recv()) != len(message):
                    raise RuntimeError("something was lost on the way")
            print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
