"""One client of a module in a process of its own: signs until the time is up.

``python -m bench.crypto_client LIBRARY SOCKET rsa2048|ecdsap256 SECONDS``; prints how many it made.
Begins when it reads a line, so that many of them begin at once.
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.crypto import SIGNATURES, make
from bench.cryptoki import USER
from bench.modules import PIN, client


def main() -> None:
    """See above."""
    socket, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        module = client(Path(folder) / "client.so", socket)
        module.open()
        module.login(USER, PIN)
        mechanism, data = SIGNATURES[name].mechanism, SIGNATURES[name].data
        sign = partial(module.sign, mechanism, make(module, name), data)
        print("ready", flush=True)
        sys.stdin.readline()
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            sign()
            count += 1
        print(count, flush=True)


if __name__ == "__main__":
    main()
