"""A host that lies: raw frames to a real enclave, and all that it answers."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from secgear.base.image import Image
from secgear.base.tee import LaunchConfig
from secgear.base.tees.process import ProcessTee
from secgear.base.transport import ring
from secgear.base.transport.geometry import Geometry
from secgear.base.wire import (
    VERSION,
    CallHead,
    Decoder,
    ErrorBody,
    Flag,
    Frame,
    Hello,
    Kind,
    Limits,
    Ready,
    ValueHead,
    frame,
)

_encode = msgspec.msgpack.encode


class LyingHost:
    """Starts an enclave, and from then on writes whatever it likes.

    meet: say a proper HELLO and wait for READY. timeout: seconds of silence that are a hang.
    geometry: of memory for switchless calls, None for none.
    """

    def __init__(
        self,
        image: Image,
        *,
        meet: bool = True,
        timeout: float = 20,
        geometry: Geometry | None = None,
    ) -> None:
        size = geometry.size if geometry is not None else 0
        self.running = ProcessTee().launch(image, LaunchConfig(switchless_size=size))
        self.memory: mmap.mmap | None = None
        if self.running.switchless_fd is not None:
            self.memory = mmap.mmap(self.running.switchless_fd, size)
        self.geometry = geometry
        self.lanes = 0
        self.image = image
        self.digest = image.interface.digest()
        self._decoder = Decoder(Limits())
        stream: Any = self.running.stream
        self._socket = stream._socket
        self._socket.settimeout(timeout)
        self._id = 1 << 40
        if meet:
            hello = Hello(VERSION, self.digest, Limits(), geometry)
            self.send(frame(Kind.HELLO, 0, _encode(hello)))
            ready = self.until(lambda entry: entry.kind is Kind.READY)
            self.lanes = msgspec.msgpack.decode(ready.payload, type=Ready).lanes

    def lane(self, number: int) -> Any:
        """The host's end of a lane, which the enclave is told to serve."""
        assert self.geometry is not None
        assert self.memory is not None
        place = self.geometry.lane(memoryview(self.memory), number)
        end = ring.open_lane(place, self.geometry.rings, host=True)
        self.send(frame(Kind.LANE, number))
        return end

    def send(self, data: bytes) -> None:
        """Write all of `data`."""
        self._socket.sendall(data)

    def frames(self) -> Iterator[Frame]:
        """What the enclave says; ends with EOFError when it hangs up."""
        while True:
            for entry in self._decoder.frames():
                assert isinstance(entry, Frame), entry
                yield entry
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError
            self._decoder.feed(data)

    def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The first frame that is `wanted`; those before it are dropped."""
        for entry in self.frames():
            if wanted(entry):
                return entry
        raise AssertionError

    def receive(self) -> Frame:
        """The next frame."""
        return self.until(lambda _: True)

    def begin(
        self,
        id: int,
        function: str,
        arguments: Any,
        sizes: tuple[int, ...] = (),
        streams: tuple[int, ...] = (),
    ) -> None:
        """Send a CALL and do not wait."""
        head = CallHead(function, 0, sizes, streams, msgspec.Raw(_encode(arguments)))
        self.send(frame(Kind.CALL, id, _encode(head), flags=Flag.OURS))

    def call(self, function: str, **arguments: Any) -> Any:
        """A well-formed call: its value, or an ErrorBody."""
        self._id += 1
        mine = self._id
        self.begin(mine, function, arguments)
        answer = self.until(
            lambda entry: entry.id == mine and entry.kind in {Kind.RESULT, Kind.ERROR}
        )
        if answer.kind is Kind.ERROR:
            return msgspec.msgpack.decode(answer.payload, type=ErrorBody)
        return msgspec.msgpack.decode(msgspec.msgpack.decode(answer.payload, type=ValueHead).value)

    def fault(self, id: int) -> str:
        """The code of the ERROR that must come next, about `id`."""
        entry = self.receive()
        assert (entry.kind, entry.id) == (Kind.ERROR, id), entry
        return msgspec.msgpack.decode(entry.payload, type=ErrorBody).code

    def resident(self) -> int:
        """KiB of memory that the enclave holds."""
        text = Path(f"/proc/{self.running.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])

    def stop(self) -> None:
        """Kill the enclave."""
        self.running.stop(0)
