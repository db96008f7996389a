"""Lanes for the tests of the ring: both ends in this process, or the enclave's in another."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from secgear.base.transport import ring

if TYPE_CHECKING:
    from secgear.base.transport._ring import Handler, Ring

SMALL = ring.Geometry(slots=8, arena=1 << 14, limit=1 << 20)


class Lane:
    """Shared memory and the ends that were opened on it."""

    def __init__(self, geometry: ring.Geometry = SMALL) -> None:
        self.geometry = geometry
        self.fd = os.memfd_create("lane")
        os.ftruncate(self.fd, geometry.size)
        self.memory = mmap.mmap(self.fd, geometry.size)
        self._ends: list[Ring] = []
        self._children: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []

    def open(self, *, host: bool, spin: int = 200, bell: tuple[int, int] | None = None) -> Ring:
        end = ring.open_lane(self.memory, self.geometry, host=host, spin=spin, bell=bell)
        self._ends.append(end)
        return end

    def pair(self, spin: int = 200) -> tuple[Ring, Ring]:
        return self.open(host=True, spin=spin), self.open(host=False, spin=spin)

    def child(self, what: str, *, cpu: int | None = None) -> subprocess.Popen[str]:
        """The enclave's end in another process: a function of peer.py by name."""
        command = [sys.executable, str(Path(__file__).with_name("peer.py")), what, str(self.fd)]
        child = subprocess.Popen(
            [*command, *map(str, self.geometry), "" if cpu is None else str(cpu)],
            pass_fds=[self.fd],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._children.append(child)
        return child

    def thread(self, target: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)
        return thread

    def echo(self, handler: Handler | None = None, spin: int = 200) -> Ring:
        """A host's end; the enclave's answers in a thread of this process."""
        host, enclave = self.pair(spin)
        self.thread(lambda: enclave.serve(handler or (lambda id, tag, payload: payload)))
        return host

    def close(self) -> None:
        for end in self._ends:
            end.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        for child in self._children:
            child.kill()
            child.communicate()
        self.memory.close()
        os.close(self.fd)


@pytest.fixture
def lane() -> Iterator[Lane]:
    made = Lane()
    yield made
    made.close()
