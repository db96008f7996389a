"""Connections inside of a channel: in their order, without each other's bytes, within limits."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.errors import ChannelClosed, ChannelError, CryptoModuleError
from secgear.services.crypto.rest import channel
from secgear.services.crypto.rest.connection import Peer
from secgear.services.crypto.rest.service import Service
from secgear.services.crypto.rpc.buffer import MalformedMessage
from secgear.services.crypto.rpc.streams import LARGEST, PIECE, pack, unpack
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, MemoryStore
from tests.services.crypto.rest.conftest import torn

GET = b"GET /v1/sys/init HTTP/1.1\r\nHost: m\r\n\r\n"


class Client:
    """The other end of a channel, in this process."""

    def __init__(self) -> None:
        self._out: queue.Queue[Any] = queue.Queue()
        self.heard: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self._changed = threading.Condition()

    def say(self, *messages: Any) -> None:
        for message in messages:
            self._out.put(message)

    def wait(self, *numbers: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended >= set(numbers), 60)

    # the enclave's side

    def recv_stream(self, timeout: float | None = None) -> Iterator[bytes]:
        try:
            message = self._out.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(message, Exception):
            raise message
        yield from (message,) if isinstance(message, bytes) else message

    def send(self, message: bytes) -> None:
        number, piece = unpack(message)
        with self._changed:
            self.heard[number] = self.heard.get(number, b"") + piece
            if not piece:
                self.ended.add(number)
            self._changed.notify_all()


def served(module: Module, *messages: Any) -> Client:
    client = Client()
    client.say(*messages, ChannelClosed("gone"))
    Service(module, torn).serve(client, "test")
    return client


def echo(stream: Peer) -> None:
    while data := stream.recv(60):
        stream.send(data)


def test_messages_are_a_number_and_bytes() -> None:
    assert unpack(pack(7, b"abc")) == (7, b"abc")
    assert unpack(pack(7, b"")) == (7, b"")
    for message in (b"", b"\0\0\0", bytes(4), pack(1, bytes(PIECE + 1))):
        with pytest.raises(MalformedMessage):
            unpack(message)


def test_connections_are_served_side_by_side(module: Module) -> None:
    half = len(GET) // 2
    client = served(
        module, pack(1, GET[:half]), pack(2, GET), pack(5, GET), pack(1, GET[half:]),
        pack(2, b""), pack(1, b""), pack(5, b""),
    )  # fmt: skip
    for number in (1, 2, 5):
        assert client.heard[number].endswith(b'{"initialized":true}')
        assert client.heard[number].count(b"HTTP/1.1 200") == 1
    assert client.ended == {1, 2, 5}


def test_a_token_counts_in_its_channel_alone(module: Module) -> None:
    body = b'{"password":"%s"}' % PIN
    login = b"POST /v1/auth/userpass/login/user HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%s"
    client = Client()
    service = Service(module, torn)
    thread = threading.Thread(target=service.serve, args=(client, "test"))
    thread.start()
    client.say(pack(1, login % (len(body), body)), pack(1, b""))
    client.wait(1)
    match = re.search(rb'"client_token":"([^"]+)"', client.heard[1])
    assert match is not None
    keys = b"GET /v1/keys HTTP/1.1\r\nHost: m\r\nX-Vault-Token: %s\r\n\r\n" % match[1]
    client.say(pack(2, keys), pack(2, b""))
    client.wait(2)
    assert client.heard[2].startswith(b"HTTP/1.1 200")
    before = module.slots[0].sessions
    other = Client()
    other.say(pack(1, keys), pack(1, b""), ChannelClosed("gone"))
    service.serve(other, "thief")
    assert other.heard[1].startswith(b"HTTP/1.1 403")
    assert module.slots[0].sessions == before
    client.say(ChannelClosed("gone"))
    thread.join(60)
    assert module.slots[0].sessions == (0, 0)  # the channel's end is its logins' end


@pytest.mark.parametrize(
    "message",
    [b"", b"abc", bytes(4), bytes(8), pack(1, bytes(PIECE + 1)), [bytes(LARGEST), b"x"],
     [bytes(1 << 20)] * 3],
    ids=range(7),
)  # fmt: skip
def test_what_is_no_message_ends_the_channel(module: Module, message: Any) -> None:
    with pytest.raises(ChannelError, match="protocol"):
        served(module, pack(1, GET), message)


def test_half_a_message_ends_the_channel(module: Module) -> None:
    def half() -> Iterator[bytes]:
        yield pack(1, b"GET")
        raise TimeoutError

    with pytest.raises(ChannelError, match="within a message"):
        served(module, half())


def test_streams_that_were_there_do_not_come_back() -> None:
    client = Client()
    begun: list[int] = []

    def handle(stream: Any) -> None:
        begun.append(stream._number)

    client.say(pack(3, b"a"))
    room = threading.BoundedSemaphore(8)
    served = channel.Channel(client, handle, room)
    client.say(pack(2, b"late"), pack(3, b"b"), pack(4, b""), pack(5, b"c"), ChannelClosed("gone"))
    served.serve(lambda: None)
    assert begun == [3, 5]


def test_one_more_than_the_limit_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_STREAMS", 2)
    for room, ends in ((8, {3}), (1, {2, 3})):
        client = Client()
        release = threading.Event()

        def handle(stream: Peer, wait: threading.Event = release) -> None:
            wait.wait(60)

        places = threading.BoundedSemaphore(room)
        thread = threading.Thread(
            target=channel.Channel(client, handle, places).serve, args=(lambda: None,)
        )
        thread.start()
        client.say(*(pack(number, b"x") for number in (1, 2, 3)))
        client.wait(*ends)
        assert client.ended == ends
        release.set()
        client.say(ChannelClosed("gone"))
        thread.join(60)
        for _ in range(room):  # every place was given back
            assert places.acquire(blocking=False)


def test_a_stream_that_takes_nothing_is_ended_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "_STALLED", 0.01)
    monkeypatch.setattr(channel, "_AHEAD", 1)
    client = Client()
    release = threading.Event()
    got: list[bytes] = []

    def handle(stream: Any) -> None:
        if stream._number == 1:
            release.wait(60)
            while data := stream.recv(60):
                got.append(data)
        else:
            echo(stream)
            release.set()

    client.say(*[pack(1, b"x")] * 4, pack(2, b"y"), pack(2, b""), ChannelClosed("gone"))
    channel.Channel(client, handle, threading.BoundedSemaphore(8)).serve(lambda: None)
    assert client.heard[2] == b"y"
    assert got == [b"x"]


def test_a_failure_of_one_connection_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    def handle(stream: Any) -> None:
        if stream._number == 1:
            raise RuntimeError("a secret")
        echo(stream)

    client = Client()
    client.say(pack(1, b"x"), pack(2, b"y"), pack(2, b""), ChannelClosed("gone"))
    channel.Channel(client, handle, threading.BoundedSemaphore(8)).serve(lambda: None)
    assert client.heard == {1: b"", 2: b"y"}
    assert "RuntimeError" in caplog.text
    assert "a secret" not in caplog.text


def test_a_module_that_has_come_apart_is_told_at_once(module: Module, store: MemoryStore) -> None:
    told: list[CryptoModuleError] = []

    def end(error: CryptoModuleError) -> Any:
        told.append(error)
        raise ChannelError("the enclave ends here")

    client = Client()
    store.stuck = True
    body = b'{"password":"%s"}' % PIN
    login = b"POST /v1/auth/userpass/login/user HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n%s"
    client.say(pack(1, login % (len(body), body)), ChannelClosed("gone"))
    Service(module, end).serve(client, "test")
    assert len(told) == 1


MESSAGES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.tuples(st.integers(0, 4), st.binary(max_size=20)).map(lambda one: pack(*one)),
        st.tuples(st.integers(1, 4), st.sampled_from([GET, b""])).map(lambda one: pack(*one)),
    ),
    max_size=12,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(messages=MESSAGES)
def test_whatever_comes_the_channel_ends_and_leaves_nothing(
    module: Module, messages: list[bytes]
) -> None:
    before = threading.active_count()
    try:
        client = served(module, *messages)
    except ChannelError:
        return
    assert threading.active_count() == before
    for number, heard in client.heard.items():
        assert number in client.ended
        assert heard == b"" or heard.startswith(b"HTTP/1.1 ")
