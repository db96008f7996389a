"""A peer may change its keys at any time, and ask for new ones of the other side."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import threading

import pytest

from secgear.middleware.channel import CLASSIC, HYBRID, Identity, Parameters
from secgear.middleware.channel.binding import Role
from secgear.middleware.channel.core import Core, Present
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.channel_protocol import independent


def _serve(listener: socket.socket) -> None:
    """One connection, up to the evidence."""
    core = Core(Role.SERVER, Parameters(groups=(*HYBRID, *CLASSIC)), Identity.fresh())
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(30)
        while data := connection.recv(1 << 16):
            for event in core.receive(data):
                if isinstance(event, Present):
                    core.present(SimulatedVendor().evidence(report_data=event.report_data))
            connection.sendall(core.outgoing())


def _read(output: int, until: bytes) -> bytes:
    """What comes out up to and with `until`. Raises AssertionError when it does not in time."""
    heard = b""
    while until not in heard:
        assert select.select([output], [], [], 30)[0], f"nothing more after {heard[-200:]!r}"
        piece = os.read(output, 1 << 16)
        assert piece, f"the end after {heard[-200:]!r}"
        heard += piece
    return heard


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl: apt-get install openssl"
)
def test_keys_change_in_the_middle_of_a_connection() -> None:
    """By the openssl command, which here is an implementation of another age as well."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
        thread.start()
        command = ["openssl", "s_client", "-tls1_3", "-msg", "-connect"]
        command.append(f"127.0.0.1:{listener.getsockname()[1]}")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            output = client.stdout.fileno()
            try:
                _read(output, b"Verify return code")
                client.stdin.write(b"K\n")  # a new key for what the client says, and one asked for
                client.stdin.flush()
                _read(output, b">>> TLS 1.3, Handshake [length 0005], KeyUpdate")
                challenge = independent.message("CHALLENGE", version=1, nonce=b"n" * 32)
                client.stdin.write(challenge)
                client.stdin.flush()
                heard = _read(output, b"secgear-evidence")
                assert b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate" in heard
            finally:
                client.kill()
        thread.join(30)
