"""The service as it is run: an enclave, a socket for local clients, a relay for those from afar."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from secgear.errors import CryptoModuleError
from secgear.middleware.channel import Relay
from secgear.services.crypto.host import Home, Supervisor
from secgear.services.crypto.listener import Listener

_LOOK: Final = 1.0  # seconds between looks at whether the enclave lives


class Places(NamedTuple):
    """Where the service listens. attested: of channels, None where there are none."""

    socket: Path
    attested: str | None


def serve(
    directory: Path,
    ready: Callable[[Places], None],
    *,
    socket: Path | None = None,
    mode: int = 0o600,
    attested: str | None = None,
) -> None:
    """Serve until the process is told to end.

    socket: the Unix socket, by default in the directory. mode: its permissions. attested: an
    address for attested channels, as `Relay` takes it. When the enclave ends, another one is
    started within a second, and both addresses lead there.
    Raises CryptoModuleError, ServiceError, ChannelError.
    """
    home = Home(directory)
    home.settings()  # a directory without a module is told before a lock is made in it
    with contextlib.ExitStack() as stack:
        stack.enter_context(home.alone())
        supervisor = stack.enter_context(Supervisor(home))
        place = socket or home.socket
        stack.enter_context(Listener(supervisor, place, mode=mode))
        enclave, generation = supervisor.current()
        relay = Relay(enclave, attested) if attested is not None else None
        try:
            ready(Places(place, relay.address if relay is not None else None))
            pause = threading.Event()
            while not pause.wait(_LOOK):
                with contextlib.suppress(CryptoModuleError):  # it was logged
                    enclave, newest = supervisor.current()
                    if relay is not None and newest != generation:
                        relay.close()
                        relay = Relay(enclave, relay.address)
                    generation = newest
        finally:
            if relay is not None:
                relay.close()
