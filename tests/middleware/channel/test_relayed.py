"""The enclave's end of a relayed connection, with a host that does as it likes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.base.flow import Consumer
from secgear.base.workers import Inbox
from secgear.errors import ChannelClosed, ChannelError
from secgear.middleware.channel.relayed import MAX_PIECE, RelayedBytes


class Host:
    """What the host carries in."""

    def __init__(self) -> None:
        self.stops = 0
        self.consumer = Consumer(
            1000, decode=lambda item: item, more=lambda _: None, stop=self._stop, wait=_wait
        )
        self.stream = RelayedBytes(self.consumer)

    def _stop(self) -> None:
        self.stops += 1

    def carry(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.consumer.push(piece, len(piece))


def _wait(inbox: Inbox, done: Callable[[], bool], deadline: float | None) -> bool:
    return inbox.serve_until(done, deadline)


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_pieces_are_cut_as_asked_for_and_nothing_is_lost(pieces: list[bytes], size: int) -> None:
    host = Host()
    host.carry(*pieces)
    host.consumer.end(None)
    got = []
    while data := host.stream.recv(size, None):
        assert len(data) <= size
        got.append(data)
    assert b"".join(got) == b"".join(pieces)


def test_empty_pieces_are_no_end() -> None:
    host = Host()
    host.carry(b"", b"", b"x")
    assert host.stream.recv(10, 10) == b"x"


def test_waiting_has_an_end_and_the_stream_goes_on() -> None:
    host = Host()
    with pytest.raises(TimeoutError):
        host.stream.recv(10, 0.02)
    with pytest.raises(TimeoutError):
        host.stream.recv(10, 0)
    host.carry(b"x")
    assert host.stream.recv(10, 0) == b"x"


def test_empty_pieces_do_not_prolong_the_wait() -> None:
    host = Host()
    over = threading.Event()

    def trickle() -> None:
        for _ in range(1000):
            if over.wait(0.002):
                return
            host.consumer.push(b"", 0)

    threading.Thread(target=trickle, daemon=True).start()
    try:
        with pytest.raises(TimeoutError):
            host.stream.recv(10, 0.1)
    finally:
        over.set()


def test_oversized_piece_is_refused() -> None:
    host = Host()
    host.carry(bytes(MAX_PIECE + 1))
    with pytest.raises(ChannelError, match="in one piece"):
        host.stream.recv(10, None)


def test_what_breaks_at_the_host_is_the_connections_end_and_tells_nothing() -> None:
    host = Host()
    host.consumer.end(RuntimeError("words of the host"))
    with pytest.raises(ChannelError, match="the host has dropped the connection") as caught:
        host.stream.recv(10, None)
    assert "words" not in str(caught.value)


def test_closing_ends_both_directions_once() -> None:
    host = Host()
    host.stream.send(b"goodbye")
    host.stream.close()
    host.stream.close()
    assert host.stops == 1
    assert list(host.stream.outflow) == [b"goodbye"]
    assert host.stream.recv(10, None) == b""
    with pytest.raises(ChannelClosed):
        host.stream.send(b"x")


def test_host_that_takes_nothing_makes_the_sender_wait_not_the_memory_grow() -> None:
    host = Host()
    outcomes: list[Any] = []

    def send() -> None:
        try:
            while True:
                host.stream.send(bytes(MAX_PIECE))
                outcomes.append(len(outcomes))
        except ChannelClosed as error:
            outcomes.append(error.code)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    outflow = host.stream.outflow
    held = [len(next(outflow)) for _ in range(20)]
    assert held == [MAX_PIECE] * 20
    sender.join(0.2)
    assert sender.is_alive()
    assert len(outcomes) <= 20 + 5  # a MiB ahead, and the one that waits
    outflow.close()
    sender.join(10)
    assert outcomes[-1] == ChannelClosed.code
    assert host.stops == 1


def test_whoever_waits_for_the_outflow_is_woken_once_there_is_something() -> None:
    host = Host()
    outflow = host.stream.outflow
    woken: list[int] = []
    assert not outflow.poll(lambda: woken.append(1))
    host.stream.send(b"x")
    assert woken == [1]
    assert outflow.poll(lambda: woken.append(2))
    assert next(outflow) == b"x"
    assert not outflow.poll(lambda: woken.append(3))
    host.stream.close()
    assert woken == [1, 3]
    assert outflow.poll(lambda: None)
    with pytest.raises(StopIteration):
        next(outflow)


def test_time_of_use_is_that_of_either_direction() -> None:
    host = Host()
    before = host.stream.used
    host.carry(b"x")
    host.stream.recv(1, None)
    after = host.stream.used
    assert after >= before
    host.stream.send(b"y")
    next(host.stream.outflow)
    assert host.stream.used >= after
