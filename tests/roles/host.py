"""A host in a process of its own: it has the enclave and the relay.

    python -m tests.roles.host LOG

LOG: the file for all that it logs, at the finest level.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import secgear
from secgear.middleware.channel import Relay
from tests.roles.part import Part, footprint, play, resident

_TALKER = Path(__file__).with_name("talker.py")


class Host:
    """Starts the process. A context manager; `address`, `measurement` and `enclave` (its pid)."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "host.log"
        self.words = folder / "host.stderr"
        self._part = Part("tests.roles.host", str(self.log), stderr=self.words)
        try:
            started = self._part.ask("start")
        except BaseException:
            self._part.close()
            raise
        self.pid = self._part.pid
        self.address: str = started["address"]
        self.measurement = bytes.fromhex(started["measurement"])
        self.enclave: int = started["enclave"]
        self.close = self._part.close
        self.kill = self._part.kill

    def state(self) -> dict[str, dict[str, int]]:
        """What the host, its relay and its enclave hold now."""
        found: dict[str, dict[str, int]] = self._part.ask("state")
        return found

    def kill_enclave(self) -> None:
        """End it as a power cut would."""
        os.kill(self.enclave, signal.SIGKILL)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Deeds:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._enclave: Any = None
        self._relay: Any = None

    def start(self) -> dict[str, Any]:
        self._enclave = self._stack.enter_context(secgear.launch(_TALKER, tee="process"))
        self._relay = self._stack.enter_context(Relay(self._enclave, limit=128, per_client=128))
        return {
            "address": self._relay.address,
            "measurement": self._enclave.image.measurement.hex(),
            "enclave": self._enclave.pid,
        }

    def state(self) -> dict[str, Any]:
        inside = self._enclave.held()
        return {
            "host": {**footprint(), "resident": resident(os.getpid())},
            "enclave": {**inside, "resident": resident(self._enclave.pid)},
            "relay": {"active": self._relay.stats.active, "failed": self._relay.stats.failed},
        }


def main() -> None:
    """Play the part."""
    logging.basicConfig(filename=sys.argv[1], level=logging.DEBUG)
    with contextlib.ExitStack() as stack:
        deeds = _Deeds(stack)
        play({"start": deeds.start, "state": deeds.state})


if __name__ == "__main__":
    main()
