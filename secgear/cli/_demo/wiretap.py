"""A host that keeps what it carries: records every byte between the network and its relays."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Final, Self, final

from secgear.middleware.channel.addresses import parse

_READ: Final = 1 << 16
INWARD, OUTWARD = "to-the-enclave", "from-the-enclave"


@final
class Wiretap:
    """Listens, hands everything on to `target`, an address, and writes it to `folder`.

    Two files a connection, one a direction: 0001.to-the-enclave, 0001.from-the-enclave. `target`
    may be changed; that counts from the next connection on. A context manager.
    """

    def __init__(self, folder: Path, target: str) -> None:
        self.target = target
        self._folder = folder
        self._count = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="wiretap", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                self._count += 1
                try:
                    far = parse(self.target).connect(10)
                except OSError:
                    near.close()
                    continue
                path = self._folder / f"{self._count:04}"
                threading.Thread(target=_connect, args=(near, far, path), daemon=True).start()


def _connect(near: socket.socket, far: socket.socket, path: Path) -> None:
    """Carry both ways until both have ended."""
    with near, far:
        inward = threading.Thread(
            target=_carry, args=(near, far, path.with_suffix(f".{INWARD}")), daemon=True
        )
        inward.start()
        _carry(far, near, path.with_suffix(f".{OUTWARD}"))
        inward.join()


def _carry(source: socket.socket, sink: socket.socket, path: Path) -> None:
    source.settimeout(None)
    with path.open("wb", buffering=0) as record, contextlib.suppress(OSError):
        while data := source.recv(_READ):
            record.write(data)  # first, so that what has arrived is what is recorded
            sink.sendall(data)
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with contextlib.suppress(OSError):
            end.shutdown(how)
