"""A module's command: carries frames between standard input and output and a socket.

python relay.py SOCKET
"""

from __future__ import annotations

import os
import socket
import sys
import threading


def main() -> int:
    """Until either side ends."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])

    def back() -> None:
        while data := connection.recv(65536):
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
        os._exit(0)

    threading.Thread(target=back, daemon=True).start()
    while data := os.read(0, 65536):
        connection.sendall(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
