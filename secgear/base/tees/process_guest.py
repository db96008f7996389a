"""The process TEE's half inside: isolates its own process, then serves the app.

Run as a file by a bare interpreter (``python -I -S process_guest.py FD SECGEAR SITE``), because
``-S`` keeps site-packages off the path: apart from the runtime's own packages, only distributions
that the image names can be imported.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    """Arguments: the socket's descriptor, then directories that hold secgear and what it needs."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    standard = list(sys.path[1:])  # without this file's own directory
    sys.path[:] = [*standard, *sys.argv[2:]]
    # The runtime's own modules may leave their byte code for the next start, like any other
    # Python program's; the app's and the measured ones are compiled from what was measured.
    from secgear.base.tees.process_start import start

    sys.dont_write_bytecode = True
    sys.path[:] = standard
    start(sock)


if __name__ == "__main__":
    main()
