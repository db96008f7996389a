"""Bytes over sockets: who waits is woken, who takes nothing is named."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

import secgear
from secgear.errors import ChannelClosed, ChannelError
from secgear.middleware.channel.streams import SocketBytes
from tests.middleware.channel.pairs import POLICY


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def fill(sock: socket.socket) -> None:
    """Until the kernel takes no more."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))


def test_bytes_arrive_and_their_end(ends: tuple[socket.socket, socket.socket]) -> None:
    stream, far = SocketBytes(ends[0]), ends[1]
    far.sendall(b"abc")
    assert stream.recv(2, 1) == b"ab"
    assert stream.recv(2, None) == b"c"
    with pytest.raises(TimeoutError):
        stream.recv(2, 0.01)
    far.close()
    assert stream.recv(2, None) == b""


def test_large_data_goes_out_whole(ends: tuple[socket.socket, socket.socket]) -> None:
    data = bytes(range(256)) * 20_000
    sender = threading.Thread(target=SocketBytes(ends[0]).send, args=(data,))
    sender.start()
    got = b""
    while len(got) < len(data):
        got += ends[1].recv(1 << 16)
    sender.join(10)
    assert got == data


def test_peer_that_takes_nothing_is_named(ends: tuple[socket.socket, socket.socket]) -> None:
    stream = SocketBytes(ends[0], stall=0.05)
    with pytest.raises(ChannelError, match="taken nothing"):
        stream.send(bytes(10_000_000))
    assert stream.stalled


def test_peer_that_has_gone_is_an_error(ends: tuple[socket.socket, socket.socket]) -> None:
    stream = SocketBytes(ends[0])
    ends[1].close()
    with pytest.raises(ChannelError, match="sending failed"):
        stream.send(b"x")
    assert not stream.stalled


def test_closing_wakes_who_waits(ends: tuple[socket.socket, socket.socket]) -> None:
    stream = SocketBytes(ends[0])
    outcomes: list[object] = []

    def wait() -> None:
        try:
            outcomes.append(stream.recv(1, None))
        except ChannelClosed as error:
            outcomes.append(error.code)

    waiting = threading.Thread(target=wait)
    waiting.start()
    stream.close()
    stream.close()
    waiting.join(10)
    assert outcomes in ([b""], [ChannelClosed.code])
    with pytest.raises(ChannelClosed):
        stream.recv(1, None)
    with pytest.raises(ChannelClosed):
        stream.send(b"x")


def test_connecting_to_who_takes_nothing_ends_in_time(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """The kernel's buffer is full before the first byte of TLS."""
    fill(ends[0])
    began = time.monotonic()
    with pytest.raises(ChannelError, match="taken nothing"):
        secgear.connect(ends[0], POLICY, timeout=0.2)
    assert time.monotonic() - began < 20


def test_connecting_to_who_says_nothing_ends_in_time(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    with pytest.raises(ChannelError, match="not finished in time"):
        secgear.connect(ends[0], POLICY, timeout=0.1)
    assert ends[1].recv(1 << 16)
    assert ends[0].fileno() == -1
