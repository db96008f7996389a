"""Sessions for threads: messages stay whole, ends have a name, and nothing waits for ever."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear import errors
from secgear.middleware.channel import arrivals
from secgear.middleware.channel import session as module
from secgear.middleware.channel.messages import PART, Failed, Kind, Open, Opened, encode, header
from tests.middleware.channel.ends import Ends, answer, in_thread, last, part, spoken

OPENED = encode(Opened())


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


# --- messages ------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=8))
def test_messages_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    ends = Ends()
    for message in messages:
        ends.client.send(message)
    ends.client.close()
    assert list(ends.server) == messages
    ends.close()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=300), max_size=5), min_size=1, max_size=5))
def test_streams_are_messages(streams: list[list[bytes]]) -> None:
    ends = Ends()
    for parts in streams:
        ends.client.send_stream(parts)
    for parts in streams:
        assert b"".join(ends.server.recv_stream(10)) == b"".join(parts)
    ends.close()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_sent(ends: Ends, kind: type) -> None:
    ends.client.send(kind(b"as it is"))
    assert ends.server.recv(10) == b"as it is"


def test_timeout_in_the_middle_of_a_message_loses_none_of_it() -> None:
    """Who delays a message's second half must not make it look like a message of its own."""
    client, server = spoken()
    server.say(OPENED, part(b"pay nothing to "), part(b"anybody but "))
    with pytest.raises(TimeoutError):
        client.recv(0.1)
    server.say(last(b"alice"))
    assert client.recv(10) == b"pay nothing to anybody but alice"
    client.abort()


def test_stream_goes_on_where_a_message_was_not_waited_for() -> None:
    client, server = spoken()
    server.say(OPENED, part(b"first "), part(b"second "))
    with pytest.raises(TimeoutError):
        client.recv(0.1)
    server.say(part(b"third "), last(b"end"))
    assert b"".join(client.recv_stream(10)) == b"first second third end"
    client.abort()


def test_rest_of_a_stream_is_no_message() -> None:
    client, server = spoken()
    server.say(OPENED, part(b"all but "), last(b"the end"))
    for piece in client.recv_stream(10):
        assert piece == b"all but "
        break
    with pytest.raises(errors.ChannelError, match="to its end"):
        client.recv(10)


def test_timeout_in_a_stream_leaves_the_rest_of_it() -> None:
    client, server = spoken()
    server.say(OPENED, part(b"one "))
    stream = client.recv_stream(0.1)
    assert next(stream) == b"one "
    with pytest.raises(TimeoutError):
        next(stream)
    server.say(last(b"two"))
    assert list(client.recv_stream(10)) == [b"two"]
    client.abort()


def test_goodbye_in_the_middle_of_a_message_is_truncation() -> None:
    client, server = spoken()
    server.say(OPENED, part(b"all my money goes to "))
    server.close()
    with pytest.raises(errors.ChannelTruncated):
        list(client)


def test_goodbye_in_the_middle_of_a_stream_is_truncation() -> None:
    client, server = spoken()
    server.say(OPENED, part(b"half"))
    server.close()
    stream = client.recv_stream(10)
    assert next(stream) == b"half"
    with pytest.raises(errors.ChannelTruncated):
        next(stream)


def test_error_of_the_parts_ends_the_session_and_is_not_swallowed(ends: Ends) -> None:
    def parts() -> Iterator[bytes]:
        yield b"some"
        raise KeyError("where they come from")

    with pytest.raises(KeyError):
        ends.client.send_stream(parts())
    with pytest.raises(errors.ChannelTruncated):
        ends.server.recv(10)


def test_error_of_another_session_ends_the_one_it_was_piped_to(ends: Ends) -> None:
    """What was cut there must not become the beginning of the next message here."""
    source, server = spoken()
    server.say(OPENED, part(b"half of something "))
    pipe = in_thread(lambda: ends.client.send_stream(source.recv_stream(10)))
    server._socket.close()
    assert isinstance(pipe(), errors.ChannelTruncated)
    with pytest.raises(errors.ChannelError):
        ends.client.send(b"spliced")
    with pytest.raises(errors.ChannelTruncated):
        ends.server.recv(10)


# --- limits --------------------------------------------------------------------------------------


def test_message_of_too_many_bytes_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_MESSAGE", 1000)
    client, server = spoken()
    server.say(OPENED, last(bytes(1000)), part(bytes(999)), part(b"xy"))
    assert client.recv(10) == bytes(1000)
    with pytest.raises(errors.ChannelError, match=r"use recv_stream\(\)"):
        client.recv(10)
    with pytest.raises(errors.ChannelError, match="recv_stream"):
        client.recv(10)


def test_message_of_too_many_parts_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_PARTS", 5)
    client, server = spoken()
    server.say(OPENED, *[part(b"x")] * 4, last(b"x"))
    assert client.recv(10) == b"xxxxx"
    server.say(*[part(b"x")] * 6)
    with pytest.raises(errors.ChannelError, match=r"use recv_stream\(\)"):
        client.recv(10)


def test_stream_has_no_such_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "MAX_MESSAGE", 10)
    monkeypatch.setattr(arrivals, "MAX_PARTS", 5)
    client, server = spoken()
    server.say(OPENED, *[part(b"xyz")] * 50, last(b"."))
    assert b"".join(client.recv_stream(10)) == b"xyz" * 50 + b"."
    client.abort()


def test_nothing_is_received_once_the_verification_is_too_old() -> None:
    """Also by who had been waiting before: nobody wakes it but the time itself."""
    client, server = spoken(lifetime=0.3)
    server.say(OPENED, last(b"in time"))
    assert client.recv() == b"in time"
    waiting = in_thread(client.recv)
    outcome = waiting()
    assert type(outcome) is errors.ChannelError  # an iteration must not end with it in order
    assert "too long ago" in str(outcome)
    with pytest.raises(errors.ChannelError):
        client.send(b"x")


def test_years_are_no_timeout_too_long_for_the_system() -> None:
    client, server = spoken(lifetime=1e9)
    server.say(OPENED, last(b"x"), last(b"y"))
    assert client.recv(1e8) == b"x"
    waiting = in_thread(client.recv)
    assert waiting() == b"y"
    client.abort()


def test_nothing_is_sent_once_the_verification_is_too_old() -> None:
    client, server = spoken(lifetime=0)
    server.say(OPENED)
    with pytest.raises(errors.ChannelError):
        client.send(b"x")


# --- opening -------------------------------------------------------------------------------------


def test_client_says_what_for_once_and_waits_for_the_answer() -> None:
    ends = Ends(answered=False)
    sending = in_thread(lambda: ends.client.send(b"x"))
    assert ends.server.await_open() == Open()
    ends.server.opened(Opened())
    assert sending() is None
    assert ends.server.recv(10) == b"x"
    ends.close()


def test_timeout_holds_for_an_answer_to_open_that_does_not_come() -> None:
    client, server = spoken()
    for _ in range(2):
        with pytest.raises(TimeoutError):
            client.recv(0.1)
    server.say(OPENED, last(b"at last"))
    assert client.recv(10) == b"at last"
    client.abort()


def test_open_is_said_once_whatever_happens_meanwhile() -> None:
    ends = Ends(answered=False)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            ends.client.recv(0.05)
    answer(ends.server).join(10)
    ends.client.send(b"x")
    assert ends.server.recv(10) == b"x"
    ends.close()


def test_who_waits_for_the_answer_does_not_hold_up_another_ones_timeout() -> None:
    client, _server = spoken()
    waiting = in_thread(client.recv)
    with pytest.raises(TimeoutError):
        client.recv(0.1)
    client.close()
    assert isinstance(waiting(), errors.ChannelClosed)


@pytest.mark.parametrize(
    ("frame", "match"),
    [
        (last(b"x"), "LAST instead of OPENED"),
        (header(Kind.CALLS, 1) + b"x", "CALLS instead of OPENED"),
        (encode(Failed("session.no-handler", "nobody")), r"session\.no-handler: nobody"),
    ],
)
def test_other_answers_to_open_are_errors(frame: bytes, match: str) -> None:
    client, server = spoken()
    server.say(frame)
    with pytest.raises(errors.ChannelError, match=match):
        client.recv(10)


@pytest.mark.parametrize("frame", [last(b"x"), header(Kind.CALLS, 1) + b"x"])
def test_server_takes_nothing_before_open(ends: Ends, frame: bytes) -> None:
    ends = Ends(answered=False)
    ends.client_core._tls.write(frame)
    ends.near.send(ends.client_core.outgoing())
    with pytest.raises(errors.ChannelError, match="instead of OPEN"):
        ends.server.await_open()
    ends.close()


@pytest.mark.parametrize("frame", [OPENED, header(Kind.CALLS, 1) + b"x"])
def test_frames_of_something_else_end_a_session_for_messages(frame: bytes) -> None:
    client, server = spoken()
    server.say(OPENED, frame)
    with pytest.raises(errors.ChannelError, match="broke the protocol"):
        client.recv(10)
    with pytest.raises(errors.ChannelError):
        client.send(b"x")


def test_frames_of_messages_end_a_session_for_calls(ends: Ends) -> None:
    ends.client.send(b"a message")
    with pytest.raises(errors.ChannelError, match="LAST in a session for calls"):
        ends.server.recv_calls()


def test_failure_is_told_in_its_own_words_and_cut_to_size() -> None:
    ends = Ends()
    ends.server.failed("session.failed", "why\x1b[2J" + "y" * 1000)
    with pytest.raises(errors.ChannelError, match=r"session\.failed: why") as caught:
        ends.client.recv(10)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
    ends.close()


# --- the end -------------------------------------------------------------------------------------


def test_every_end_is_told_again_and_again(ends: Ends) -> None:
    ends.client.send(b"x")
    ends.client.close()
    assert ends.server.recv(10) == b"x"
    for _ in range(3):
        with pytest.raises(errors.ChannelClosed):
            ends.server.recv(10)
    ends.client.close()
    for attempt in (lambda: ends.client.send(b"y"), lambda: ends.client.recv(1)):
        with pytest.raises(errors.ChannelClosed):
            attempt()


def test_leaving_by_an_exception_is_no_goodbye(ends: Ends) -> None:
    ends.client.send(b"so far")
    with pytest.raises(KeyError), ends.client:
        raise KeyError
    assert ends.server.recv(10) == b"so far"
    with pytest.raises(errors.ChannelTruncated):
        ends.server.recv(10)


def test_closing_wakes_who_receives(ends: Ends) -> None:
    ends.client.send(b"x")
    waiting = in_thread(ends.client.recv)
    ends.client.close()
    assert isinstance(waiting(), errors.ChannelClosed)


def test_closing_does_not_wait_for_a_message_that_nobody_takes(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the peer is not told that this was all."""
    monkeypatch.setattr(module, "CLOSING", 0.2)
    ends.client.send(b"first")
    sending = in_thread(lambda: ends.client.send(bytes(8 << 20)))
    assert ends.server.recv(10) == b"first"
    stream = ends.server.recv_stream(10)
    next(stream)  # it is on its way
    assert in_thread(ends.client.close)() is None
    assert isinstance(sending(), errors.ChannelError)
    with pytest.raises(errors.ChannelTruncated):
        list(stream)


def test_closing_does_not_wait_for_a_peer_that_takes_not_even_a_goodbye(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSING", 0.2)
    ends.client.send(b"first")
    ends.near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while ends.near.send(bytes(1 << 16)):
            pass
    assert in_thread(ends.client.close)() is None


def test_closing_lets_a_message_that_is_taken_go_first(ends: Ends) -> None:
    message = bytes(range(256)) * (16 << 10)
    ends.client.send(b"first")
    sending = in_thread(lambda: ends.client.send(message))
    assert ends.server.recv(10) == b"first"
    stream = ends.server.recv_stream(10)
    got = next(stream)  # it is on its way
    closing = in_thread(ends.client.close)
    got += b"".join(stream)
    assert sending() is None
    assert closing() is None
    assert got == message
    with pytest.raises(errors.ChannelClosed):
        ends.server.recv(10)


def test_aborting_wakes_everybody(ends: Ends) -> None:
    ends.client.send(b"x")
    receiving = in_thread(ends.client.recv)
    sending = in_thread(lambda: ends.client.send(bytes(8 << 20)))
    ends.client.abort()
    assert isinstance(receiving(), errors.ChannelClosed)
    assert isinstance(sending(), errors.ChannelError)


def test_session_holds_no_descriptor_after_its_end() -> None:
    ends = Ends()
    ends.client.close()
    ends.server.abort()
    for end in (ends.near, ends.far):
        assert end.fileno() < 0


def test_repr_tells_no_more_than_the_state(ends: Ends) -> None:
    assert repr(ends.client) == "<Session, client's side, OPEN>"
    ends.client.close()
    assert repr(ends.client) == "<Session, client's side, CLOSED>"


# --- many threads --------------------------------------------------------------------------------


def test_messages_of_many_threads_stay_whole() -> None:
    ends = Ends()
    senders = 6
    sizes = (1, 5000, 200_000)

    def send(number: int) -> None:
        for turn in range(6):
            ends.client.send(bytes([number]) * sizes[turn % 3])

    def echo() -> None:
        for message in ends.server:
            ends.server.send(message)

    def receive() -> list[bytes]:
        return [ends.client.recv(20) for _ in range(9)]

    echoing = in_thread(echo)
    sending = [in_thread(lambda number=number: send(number)) for number in range(senders)]
    receiving = [in_thread(receive) for _ in range(4)]
    for one in sending:
        assert one() is None
    got: list[bytes] = []
    for answers in receiving:
        found = answers()
        assert isinstance(found, list), found
        got += found
    assert all(len(set(message)) == 1 for message in got)
    assert sorted((message[0], len(message)) for message in got) == sorted(
        (number, sizes[turn % 3]) for number in range(senders) for turn in range(6)
    )
    ends.client.close()
    assert echoing() is None


def test_threads_that_all_close_at_once_end_in_order() -> None:
    ends = Ends()
    ends.client.send(b"x")
    barrier = threading.Barrier(4)

    def close() -> None:
        barrier.wait(10)
        ends.client.close()

    for one in [in_thread(close) for _ in range(4)]:
        assert one() is None
    assert list(ends.server) == [b"x"]


def test_network_that_breaks_while_sending_is_an_error_and_an_end() -> None:
    ends = Ends()
    ends.client.send(b"x")
    ends.far.shutdown(socket.SHUT_RDWR)
    with pytest.raises(errors.ChannelError):
        ends.client.send(bytes(8 << 20))
    with pytest.raises(errors.ChannelError):
        ends.client.send(b"again")
    ends.close()


def test_trickle_does_not_prolong_the_wait() -> None:
    client, server = spoken()
    over = threading.Event()

    def trickle() -> None:
        server.say(OPENED)
        while not over.wait(0.01):
            server.say(part(b"x"))

    trickling = in_thread(trickle)
    try:
        with pytest.raises(TimeoutError):
            client.recv(0.2)
    finally:
        over.set()
        trickling()
        client.abort()


def test_interrupted_sender_leaves_no_half_message(ends: Ends) -> None:
    class Interrupted(BaseException):
        pass

    ends.client.send(b"hello")
    stream: Any = ends.client._stream
    sent: list[int] = []

    class Line:
        close = stream.close
        recv = stream.recv

        def send(self, data: bytes) -> None:
            sent.append(len(data))
            if len(sent) == 2:
                raise Interrupted
            stream.send(data)

    ends.client._stream = Line()
    receiving = in_thread(lambda: (ends.server.recv(10), ends.server.recv(10)))
    with pytest.raises(Interrupted):
        ends.client.send(bytes(4 * PART))
    with pytest.raises(errors.ChannelClosed):
        ends.client.send(b"tail")
    assert isinstance(receiving(), errors.ChannelTruncated)


def test_what_is_no_bytes_is_refused_before_anything_is_said(ends: Ends) -> None:
    with pytest.raises(TypeError):
        ends.client.send("text")  # type: ignore[arg-type]
    ends.client.send(b"goes on")
    assert ends.server.recv(10) == b"goes on"


def test_what_for_counts_from_the_moment_it_was_said() -> None:
    client, _ = spoken()
    with pytest.raises(TimeoutError):
        client.recv(0.05)
    with pytest.raises(errors.ChannelError, match="for messages; open another one for calls"):
        _ = client.call
    client.abort()


def test_reason_is_still_there_for_who_could_not_send(ends: Ends) -> None:
    ends.client.send(b"hello")
    assert ends.server.recv(10) == b"hello"
    ends.server.failed("session.failed", "the enclave's handler failed")
    with pytest.raises(errors.ChannelError):
        ends.client.send(bytes(16 << 20))
    with pytest.raises(errors.ChannelError, match=r"session\.failed"):
        ends.client.recv(10)
