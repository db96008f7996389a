"""What has arrived, in whatever pieces: messages are whole, and the end is told again and again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear import errors
from secgear.middleware.channel.arrivals import Arrivals
from secgear.middleware.channel.core import Established, Event, Finished, Received, State
from secgear.middleware.channel.messages import Failed, Kind, Open, Opened, encode

_HEADER = 4


class _Core:
    """What a core would give, one after the other."""

    def __init__(self) -> None:
        self.state = State.OPEN
        self.next: list[Event | Exception] = []

    def receive(self, _: bytes) -> Any:
        for event in self.next:
            if isinstance(event, Exception):
                raise event
            yield event


def made(*events: Event | Exception) -> Arrivals:
    core: Any = _Core()
    arrivals = Arrivals(core)
    core.next = list(events)
    arrivals.feed(b"x")
    return arrivals


def part(data: bytes) -> Received:
    return Received(Kind.PART, data)


def last(data: bytes) -> Received:
    return Received(Kind.LAST, data)


@given(st.lists(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=5), max_size=6))
def test_messages_are_put_together_and_kept_apart(messages: list[list[bytes]]) -> None:
    events = [event for parts in messages for event in (*map(part, parts[:-1]), last(parts[-1]))]
    arrivals = made(*events)
    assert [arrivals.message() for _ in messages] == [b"".join(parts) for parts in messages]
    assert arrivals.message() is None


@given(st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=9), st.data())
def test_giving_up_anywhere_loses_nothing(parts: list[bytes], data: st.DataObject) -> None:
    core: Any = _Core()
    arrivals = Arrivals(core)
    *some, end = parts
    for piece in some:
        core.next = [part(piece)]
        arrivals.feed(b"x")
        if data.draw(st.booleans()):
            assert arrivals.message() is None
    core.next = [last(end)]
    arrivals.feed(b"x")
    if data.draw(st.booleans()):
        assert arrivals.message() == b"".join(parts)
    else:
        taken, done = b"", False
        while not done:
            found = arrivals.part()
            assert found is not None
            taken, done = taken + found[0], found[1]
        assert taken == b"".join(parts)


def test_nothing_is_none() -> None:
    arrivals = made()
    for take in (arrivals.take, arrivals.message, arrivals.part):
        assert take() is None
    assert arrivals.control(Kind.OPEN) is None


def test_what_came_before_an_error_is_taken_first() -> None:
    arrivals = made(last(b"x"), errors.ChannelError("a bad record"), last(b"never"))
    assert arrivals.message() == b"x"
    for _ in range(2):
        with pytest.raises(errors.ChannelError, match="a bad record"):
            arrivals.message()


def test_every_error_is_one_of_its_own() -> None:
    """Raising writes the traceback into it: two threads must not share one."""
    arrivals = made(errors.ChannelTruncated("cut"))
    caught = []
    for _ in range(2):
        with pytest.raises(errors.ChannelTruncated) as error:
            arrivals.take()
        caught.append(error.value)
    assert caught[0] is not caught[1]


def test_goodbye_is_a_clean_end_between_messages_only() -> None:
    with pytest.raises(errors.ChannelClosed):
        made(Finished()).message()
    with pytest.raises(errors.ChannelTruncated):
        made(part(b"x"), Finished()).message()
    streamed = made(part(b"x"), Finished())
    assert streamed.part() == (b"x", False)
    with pytest.raises(errors.ChannelTruncated):
        streamed.part()


def test_rest_of_a_message_in_parts_is_no_message() -> None:
    arrivals = made(part(b"x"), last(b"y"), last(b"z"))
    assert arrivals.part() == (b"x", False)
    for _ in range(2):
        with pytest.raises(errors.ChannelError, match="to its end"):
            arrivals.message()


@pytest.mark.parametrize("kind", [Kind.CALLS, Kind.OPEN, Kind.OPENED])
def test_other_frames_break_the_protocol(kind: Kind) -> None:
    for take in ("message", "part"):
        arrivals = made(Received(kind, b""), last(b"never"))
        for _ in range(2):
            with pytest.raises(errors.ChannelError, match="broke the protocol"):
                getattr(arrivals, take)()


def test_attestation_does_not_begin_again() -> None:
    with pytest.raises(errors.ChannelError, match="begins again"):
        made(Established()).take()


@pytest.mark.parametrize(("kind", "message"), [(Kind.OPEN, Open("x")), (Kind.OPENED, Opened())])
def test_control_is_the_one_that_was_expected(kind: Kind, message: Open | Opened) -> None:
    payload = encode(message)[_HEADER:]
    assert made(Received(kind, payload)).control(kind) == message
    other = Kind.OPEN if kind is Kind.OPENED else Kind.OPENED
    with pytest.raises(errors.ChannelError, match="instead of"):
        made(Received(kind, payload)).control(other)


def test_failure_of_the_other_side_is_told_in_its_words() -> None:
    arrivals = made(Received(Kind.FAILED, encode(Failed("session.failed", "so"))[_HEADER:]))
    with pytest.raises(errors.ChannelError, match=r"session\.failed: so"):
        arrivals.message()


def test_malformed_failure_is_refused_by_name() -> None:
    with pytest.raises(errors.HandshakeFailed, match="FAILED"):
        made(Received(Kind.FAILED, b"\xff")).message()


def test_closed_core_is_the_end() -> None:
    core: Any = _Core()
    core.state = State.CLOSED
    with pytest.raises(errors.ChannelClosed):
        Arrivals(core).take()
