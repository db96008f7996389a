"""Calls over a session: the boundary's protocol in frames, its end, and what a peer may say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear import errors
from secgear.middleware.channel.answering import answer
from secgear.middleware.channel.app import App
from secgear.middleware.channel.lines import CallStream
from secgear.middleware.channel.messages import PART, Kind, Opened, encode, header
from secgear.middleware.channel.session import Session
from tests.middleware.channel.ends import Ends, in_thread, last, spoken

APP = App("adds")


@APP.remote
@APP.ecall
def add(one: int, other: int) -> int:
    return one + other


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends(answered=False)
    yield made
    made.close()


def lines(ends: Ends) -> tuple[CallStream, CallStream]:
    return CallStream(ends.client), CallStream(ends.server)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.binary(min_size=1, max_size=2 * PART), min_size=1, max_size=3),
    st.integers(1, 50_000),
)
def test_bytes_come_out_as_they_went_in(pieces: list[bytes], size: int) -> None:
    ends = Ends(answered=False)
    here, there = lines(ends)
    sending = in_thread(lambda: here.send(list(pieces)))
    whole, got = b"".join(pieces), b""
    while len(got) < len(whole):
        got += there.recv(size)
    assert got == whole
    assert sending() == len(whole)
    ends.close()


def test_whoever_must_not_wait_is_told_that_it_would(ends: Ends) -> None:
    here, _ = lines(ends)
    assert here.send([b"x"], block=False) == 0


@pytest.mark.parametrize("how", ["close", "abort"])
def test_the_end_is_an_end_however_it_came(ends: Ends, how: str) -> None:
    _, there = lines(ends)
    getattr(ends.client, how)()
    assert there.recv(10) == b""
    with pytest.raises(ConnectionError):
        there.send([b"x"])


def test_closing_a_line_wakes_who_reads_it(ends: Ends) -> None:
    here, _ = lines(ends)
    reading = in_thread(lambda: here.recv(10))
    here.close()
    assert reading() == b""


def test_message_among_calls_ends_them(ends: Ends) -> None:
    _, there = lines(ends)
    for _ in ends.client_core.send(b"a message"):
        ends.near.send(ends.client_core.outgoing())
    assert there.recv(10) == b""


# --- with an app ---------------------------------------------------------------------------------


def serve(server: Session) -> None:
    server.await_open()
    server.opened(Opened(APP.interface.to_json(), ("add",)))
    answer(server, APP.sessions._functions(), APP.interface.digest())


def test_calls_are_answered_with_their_types(ends: Ends) -> None:
    serving = in_thread(lambda: serve(ends.server))
    assert ends.client.call.add(1, 2) == 3
    assert ends.client.interface.digest() == APP.interface.digest()
    with pytest.raises(errors.ArgumentError):
        ends.client.call.add("1", 2)
    futures = [ends.client.call.submit.add(n, n) for n in range(50)]
    assert [future.result(20) for future in futures] == [2 * n for n in range(50)]
    ends.client.close()
    assert serving() is None


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (encode(Opened(b"", ())), errors.InterfaceError),
        (encode(Opened(b"{}", ("add",))), errors.InterfaceError),
        (encode(Opened(b'{"name":' * 500, ())), errors.InterfaceError),
        (last(b"x"), errors.ChannelError),
        (header(Kind.CALLS, 1) + b"x", errors.ChannelError),
    ],
)
def test_description_that_is_none_is_refused(frame: bytes, error: type[Exception]) -> None:
    client, server = spoken()
    server.say(frame)
    with pytest.raises(error):
        client.call.add(1, 2)
    client.abort()


@pytest.mark.parametrize("data", [b"\0" * 64, b"\xff" * 64, bytes(range(64))])
def test_nonsense_of_a_client_ends_its_calls_and_nothing_else(ends: Ends, data: bytes) -> None:
    serving = in_thread(lambda: answer(ends.server, {}, b""))
    ends.client.send_calls(data)
    ends.client.close()  # some of it could be the beginning of something
    outcome = serving()
    assert outcome is None or isinstance(outcome, errors.SecGearError)


def test_session_that_ends_before_the_first_call_is_a_lost_enclave(ends: Ends) -> None:
    def leave() -> None:
        ends.server.await_open()
        ends.server.opened(Opened(APP.interface.to_json(), ("add",)))
        ends.server.recv_calls()  # HELLO
        ends.server.abort()

    leaving = in_thread(leave)
    with pytest.raises(errors.EnclaveLost, match="before a call was made"):
        ends.client.call.add(1, 2)
    leaving()


def test_platform_is_not_asked_over_a_channel(ends: Ends) -> None:
    from secgear.middleware.channel.calling import _Remote

    with pytest.raises(errors.GuestError, match="not asked over a channel"):
        _Remote(ends.client).platform(b"")
