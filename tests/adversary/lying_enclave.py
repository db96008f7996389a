"""An enclave that lies: a script on the other end of the host's handle."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from secgear.base.image import Image
from secgear.base.tee import Availability as Available
from secgear.base.tee import LaunchConfig, Layer, Running, Tee
from secgear.base.transport import arena, ring
from secgear.base.transport.geometry import Geometry
from secgear.base.transport.stream import SocketStream
from secgear.base.wire import VERSION, Decoder, Frame, Hello, Kind, Limits, Ready, Violation, frame

Script = Callable[["LyingEnclave", Frame], None]
LaneScript = Callable[["LyingEnclave", Any, tuple[int, int, bytes]], None]


class LyingEnclave(Running):
    """Answers HELLO properly, then hands every frame to `script`.

    lane: does the same with every message of a switchless lane; None for no lanes.
    """

    def __init__(
        self,
        digest: bytes,
        script: Script,
        *,
        shared: bool = True,
        switchless: int = 0,
        lane: LaneScript | None = None,
    ) -> None:
        ours, self.socket = socket.socketpair()
        self.stream = SocketStream(ours)
        self.shared_fd = arena.create(8 << 20) if shared else None
        self.switchless_fd = arena.shared_file("lying", switchless) if switchless else None
        self.memory = mmap.mmap(self.switchless_fd, switchless) if self.switchless_fd else None
        self._lane = lane
        self._geometry: Geometry | None = None
        self.layers: tuple[Layer, ...] = ()
        self.pid = None
        self.requests: list[bytes] = []
        self._digest = digest
        self._script = script
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, data: bytes) -> None:
        """Write raw bytes to the host; it may have hung up."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def hang_up(self) -> None:
        """Close the stream."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _run(self) -> None:
        decoder = Decoder(Limits())
        with contextlib.suppress(OSError):
            while data := self.socket.recv(1 << 16):
                decoder.feed(data)
                for entry in decoder.frames():
                    assert not isinstance(entry, Violation), entry
                    if entry.kind is Kind.HELLO:
                        hello = msgspec.msgpack.decode(entry.payload, type=Hello)
                        self._geometry = hello.geometry
                        lanes = hello.geometry.lanes if self._lane and hello.geometry else 0
                        ready = Ready(VERSION, self._digest, Limits(), lanes)
                        self.say(frame(Kind.READY, 0, msgspec.msgpack.encode(ready)))
                    if entry.kind is Kind.LANE:
                        threading.Thread(target=self._serve, args=(entry.id,), daemon=True).start()
                    self._script(self, entry)

    def _serve(self, number: int) -> None:
        geometry, lane = self._geometry, self._lane
        assert geometry is not None
        assert lane is not None
        assert self.memory is not None
        place = geometry.lane(memoryview(self.memory), number)
        end = ring.open_lane(place, geometry.rings, host=False)
        with contextlib.suppress(ConnectionError):
            while True:
                message = end.recv()
                if message is not None:
                    lane(self, end, message)

    def platform(self, request: bytes) -> bytes:
        """Remember what was asked."""
        self.requests.append(request)
        return b"answer"

    def diagnose(self) -> str:
        """Nothing is known of it."""
        return ""

    def stop(self, grace: float) -> None:
        """Close both ends."""
        self.stream.close()
        self.hang_up()
        with self._lock:  # several threads stop it, and a descriptor closed twice is another's
            fds = [self.shared_fd, self.switchless_fd]
            self.shared_fd = self.switchless_fd = None
        for fd in fds:
            if fd is not None:
                os.close(fd)


class LyingTee(Tee):
    """A TEE that launches lying enclaves."""

    name, protects, strength, simulated = "lying", "nobody", 1, True

    def __init__(
        self, script: Script, *, shared: bool = True, lane: LaneScript | None = None
    ) -> None:
        self._script = script
        self._shared = shared
        self._lane = lane

    def probe(self) -> Available:
        """Always there."""
        return Available(True, "for tests")

    def launch(self, image: Image, config: LaunchConfig) -> LyingEnclave:
        """Start one."""
        return LyingEnclave(
            image.interface.digest(),
            self._script,
            shared=self._shared,
            switchless=config.switchless_size,
            lane=self._lane,
        )


def quiet(_: LyingEnclave, __: Frame) -> None:
    """A script that says nothing."""
