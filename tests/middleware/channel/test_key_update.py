"""KeyUpdate (RFC 8446, section 4.6.3), which another TLS sends: the command line's `openssl`."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from secgear.errors import ChannelError
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Present
from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.messages import NONCE_SIZE, VERSION, Challenge, encode
from secgear.middleware.channel.tls import CLASSIC, HYBRID, Parameters
from tests.adversary.vendors.simulated import SimulatedVendor

ANSWERED = b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate"
SENT = b">>> TLS 1.3, Handshake [length 0005], KeyUpdate"


class Other:
    """`openssl s_client`, and all that it has printed."""

    def __init__(self, port: int) -> None:
        program = shutil.which("openssl")
        if program is None:
            pytest.skip("there is no openssl command, which can ask for new keys")
        self._process = subprocess.Popen(
            [program, "s_client", "-connect", f"127.0.0.1:{port}", "-msg", "-groups", "X25519"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.printed = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 1 << 16):
            self.printed += data

    def type(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def until(self, holds: Callable[[bytes], bool]) -> None:
        end = time.monotonic() + 30
        while not holds(self.printed):
            assert time.monotonic() < end, self.printed[-2000:]
            time.sleep(0.01)

    def end(self) -> None:
        self._process.kill()
        self._process.wait(10)
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(30)
        yield made


def test_new_keys_are_answered_with_new_keys_and_nothing_is_lost(listener: socket.socket) -> None:
    core = Core(Role.SERVER, Parameters(groups=(*HYBRID, *CLASSIC)), Identity.fresh())
    asked: list[Present] = []
    evidence = SimulatedVendor().evidence(report_data=bytes(64))

    def serve() -> None:
        line, _ = listener.accept()
        with line, contextlib.suppress(OSError):
            while data := line.recv(1 << 16):
                with contextlib.suppress(ChannelError):  # which is told
                    for event in core.receive(data):
                        if isinstance(event, Present):
                            asked.append(event)
                            core.present(evidence)
                line.sendall(core.outgoing())

    other = Other(listener.getsockname()[1])
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        other.until(lambda printed: b"NewSessionTicket" in printed or b"---\nread R" in printed)
        for number in range(1, 4):
            other.type(b"K\n")
            other.until(lambda printed, number=number: printed.count(SENT) == number)
        # OpenSSL answers before the next that it has to say, as it must.
        other.type(encode(Challenge(VERSION, os.urandom(NONCE_SIZE))))
        other.until(lambda printed: evidence.data[:64] in printed)
        assert len(asked) == 1
        answered = other.printed.index(ANSWERED)
        assert answered < other.printed.index(evidence.data[:64])
        # Under new keys in both directions once more.
        other.type(encode(Challenge(VERSION, os.urandom(NONCE_SIZE))))
        other.until(lambda printed: b"channel.handshake" in printed)
    finally:
        other.end()
        server.join(10)
