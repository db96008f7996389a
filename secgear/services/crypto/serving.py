"""The service as it is run: enclaves, a socket for local clients, a relay for those from afar."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from secgear.middleware.channel import Relay
from secgear.services.crypto.host import Home, Supervisor
from secgear.services.crypto.listener import Listener
from secgear.services.crypto.metrics import exported


class Places(NamedTuple):
    """Where the service listens. attested, metrics: None where there are none."""

    socket: Path
    attested: str | None
    metrics: str | None = None


def serve(
    directory: Path,
    ready: Callable[[Places], None],
    *,
    socket: Path | None = None,
    mode: int = 0o600,
    attested: str | None = None,
    workers: int = 1,
    metrics: str | None = None,
) -> None:
    """Serve until the process is told to end.

    socket: the Unix socket, by default in the directory. mode: its permissions. attested: an
    address for attested channels, as `Relay` takes it. workers: enclaves; each connection is with
    one of them. When one ends, another one is started within a second. metrics: ``host:port``
    where the counters are read.
    Raises CryptoModuleError, ServiceError, ChannelError.
    """
    home = Home(directory)
    home.settings()  # a directory without a module is told before a lock is made in it
    with contextlib.ExitStack() as stack:
        stack.enter_context(home.alone())
        supervisor = stack.enter_context(Supervisor(home, workers))
        place = socket or home.socket
        stack.enter_context(Listener(supervisor, place, mode=mode))
        relay = None
        if attested is not None:
            relay = stack.enter_context(Relay(lambda: supervisor.current()[0], attested))
        counters = None
        if metrics is not None:
            counters = stack.enter_context(exported(supervisor, metrics))
        ready(Places(place, relay.address if relay is not None else None, counters))
        threading.Event().wait()
