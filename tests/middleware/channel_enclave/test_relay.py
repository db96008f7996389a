"""The relay: bounded whatever its clients do, and it cleans up after itself."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

import secgear
from secgear import errors
from secgear.middleware.attestation import Anchors, Policy
from secgear.middleware.channel import Relay
from secgear.middleware.channel.relay import _origin
from tests.middleware.channel_enclave.test_sessions import Connect, _until

AHEAD = 24 << 20
"""More than all buffers between a client and a handler hold: 16 pieces of 256 KiB at the boundary,
what the channel reads ahead, and the sockets'."""


def test_client_goes_no_faster_than_the_enclave_takes(
    connect: Connect, enclave: Any, relay: Relay
) -> None:
    session = connect(service="deaf")

    def send() -> None:
        with contextlib.suppress(errors.ChannelError):
            session.send_stream(bytes(1 << 18) for _ in iter(int, 1))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        _until(lambda: relay.stats.received > 1 << 16)  # a piece is what one recv() has given
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert relay.stats.received < AHEAD
            time.sleep(0.02)
        assert sender.is_alive()
        with connect(service="echo") as other:  # nobody else waits for it
            other.send(b"x")
            assert other.recv(10) == b"x"
    finally:
        session.abort()
        enclave.open_gate()
    sender.join(10)
    assert not sender.is_alive()
    _until(lambda: relay.stats.active == 0)
    _until(lambda: enclave.state()[0] == 0)


def test_client_that_takes_nothing_is_dropped_and_counted(
    enclave: Any, policy: Policy, anchors: Anchors
) -> None:
    with Relay(enclave, stall=0.2) as relay:
        session = secgear.connect(relay.address, policy, anchors=anchors, service="floods")
        next(session.recv_stream(10))
        _until(lambda: relay.stats.active == 0)
        assert relay.stats.failed == 1
        assert relay.stats.sent < AHEAD
        _until(lambda: enclave.state()[0] == 0)
        with pytest.raises(errors.ChannelTruncated):
            for _ in session.recv_stream(10):
                pass


def test_client_that_leaves_is_no_failure(enclave: Any, policy: Policy, anchors: Anchors) -> None:
    with Relay(enclave) as relay:
        secgear.connect(relay.address, policy, anchors=anchors, service="floods").abort()
        with secgear.connect(relay.address, policy, anchors=anchors, service="echo") as session:
            session.send(b"x")
            assert session.recv(10) == b"x"
        _until(lambda: relay.stats.active == 0)
        assert not relay._poller._known  # or the next with that number would be polled in vain
        assert relay.stats.accepted == 2
        assert relay.stats.failed == 0


def test_bytes_that_are_no_tls_reach_nobody(enclave: Any, relay: Relay) -> None:
    host, _, port = relay.address.removeprefix("tcp://").rpartition(":")
    for hello in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(100_000), b"\x16\x03\x01\xff\xff" * 99):
        line = socket.create_connection((host, int(port)), 10)
        with line, contextlib.suppress(OSError):
            line.sendall(hello)
            line.shutdown(socket.SHUT_WR)
            while line.recv(1 << 16):
                pass
    _until(lambda: relay.stats.active == 0)
    _until(lambda: enclave.state()[0] == 0)
    assert relay.stats.accepted == 3


def test_counters_for_prometheus_are_those_of_the_relay(connect: Connect, relay: Relay) -> None:
    registry = prometheus_client.CollectorRegistry()
    registry.register(relay)  # type: ignore[arg-type]
    with connect(service="echo") as session:
        session.send(bytes(100_000))
        session.recv(10)
        _until(lambda: relay.stats.sent > 100_000)  # counted once it is gone
        values = _values(prometheus_client.generate_latest(registry).decode())
        assert values["secgear_relay_active"] == 1
        assert values["secgear_relay_accepted_total"] == 1
        assert values["secgear_relay_received_total"] > 100_000
        assert values["secgear_relay_sent_total"] > 100_000
    _until(lambda: relay.stats.active == 0)
    values = _values(prometheus_client.generate_latest(registry).decode())
    assert values["secgear_relay_active"] == values["secgear_relay_failed_total"] == 0


def _values(text: str) -> dict[str, float]:
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_relay_comes_back_at_the_same_socket_file(enclave: Any, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/relay"
    with Relay(enclave, address):
        with pytest.raises(errors.ChannelError, match="in use"):
            Relay(enclave, address)
        assert (tmp_path / "relay").is_socket()
    assert not (tmp_path / "relay").exists()
    with Relay(enclave, address) as again:
        assert again.address == address


def test_relay_over_vsock(enclave: Any, policy: Policy, anchors: Anchors) -> None:
    if not hasattr(socket, "AF_VSOCK"):
        pytest.skip("this Python has no vsock")
    try:
        relay = Relay(enclave, "vsock://1:0")
    except errors.ChannelError as error:
        pytest.skip(f"this kernel has no vsock to itself (vsock_loopback): {error}")
    with relay:
        try:
            session = secgear.connect(relay.address, policy, anchors=anchors, service="echo")
        except errors.HandshakeFailed:
            raise
        except errors.ChannelError as error:
            pytest.skip(f"this kernel has no vsock to itself (vsock_loopback): {error}")
        with session:
            session.send(b"x")
            assert session.recv(10) == b"x"


def test_closing_the_relay_leaves_no_descriptor_and_no_thread(
    enclave: Any, policy: Policy, anchors: Anchors
) -> None:
    def relayed() -> None:
        with Relay(enclave) as relay:
            sessions = [
                secgear.connect(relay.address, policy, anchors=anchors, service="echo")
                for _ in range(3)
            ]
            for session in sessions:
                session.send(b"x")
        for session in sessions:
            session.abort()

    relayed()
    _until(lambda: not _relays_threads())
    before = _descriptors()
    for _ in range(5):
        relayed()
    _until(lambda: not _relays_threads())
    assert _descriptors() <= before


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _relays_threads() -> list[str]:
    return [it.name for it in threading.enumerate() if it.name.startswith("relay")]


@pytest.mark.parametrize(
    ("client", "origin"),
    [
        ("", ""),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("3", "3"),
    ],
)
def test_who_has_many_addresses_is_one_client(client: str, origin: str) -> None:
    assert _origin(client) == origin
