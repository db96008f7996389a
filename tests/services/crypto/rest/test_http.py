"""HTTP from the other side: whatever comes, there is one meaning of it, or none."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.services.crypto.rest import connection
from secgear.services.crypto.rest.connection import (
    MAX_BODY,
    MAX_HEADERS,
    MAX_STRANGE,
    Asked,
    Reply,
    serve,
)
from secgear.services.crypto.rest.refusals import Refusal
from secgear.services.crypto.rest.routes import Router
from secgear.services.crypto.rest.service import ROUTER, refused
from tests.services.crypto.rest.conftest import Place

GET = b"GET / HTTP/1.1\r\nHost: m\r\n\r\n"


class Script:
    """A peer that says these pieces and then leaves, or says nothing more. Keeps what it hears."""

    def __init__(self, *pieces: bytes, stays: bool = False) -> None:
        self._pieces = list(pieces)
        self._stays = stays
        self.heard = b""

    def recv(self, timeout: float) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._stays:
            raise TimeoutError
        return b""

    def send(self, message: bytes) -> None:
        self.heard += message


def spoken(
    *pieces: bytes,
    answer: Callable[[Asked], Reply] | None = None,
    known: bool = True,
    **named: Any,
) -> Any:
    """What was asked, and the answers' statuses."""
    asked: list[Asked] = []

    def keep(request: Asked) -> Reply:
        asked.append(request)
        return answer(request) if answer else Reply(200, b"{}", "application/json")

    peer = Script(*pieces, **named)
    serve(peer, keep, refused, lambda _: known)
    return asked, [int(one) for one in re.findall(rb"HTTP/1.1 (\d+)", peer.heard)], peer.heard


def test_requests_follow_each_other_also_in_one_piece() -> None:
    post = b"POST /a HTTP/1.1\r\nHost: m\r\nContent-Length: 3\r\n\r\nabc"
    asked, statuses, _ = spoken(GET + post + GET)
    assert [(one.method, one.body) for one in asked] == [
        ("GET", b""),
        ("POST", b"abc"),
        ("GET", b""),
    ]
    assert statuses == [200, 200, 200]


def test_chunked_bodies_are_put_together() -> None:
    asked, statuses, _ = spoken(
        b"POST /a HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n",
    )
    assert (asked[0].body, statuses) == (b"abcde", [200])


def test_who_asks_first_is_told_to_go_on() -> None:
    _, statuses, _ = spoken(
        b"POST /a HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n", b"x"
    )
    assert statuses == [100, 200]


def head(*lines: str, target: str = "/a", version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST {target} HTTP/{version}", "Host: m", *lines, "", ""]).encode()


SMUGGLED = {
    "two lengths": head("Content-Length: 3", "Content-Length: 4") + b"abcd",
    "two lengths in one": head("Content-Length: 3, 4") + b"abcd",
    "length and chunks": head("Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks and length": head("Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\n",
    "chunks in HTTP/1.0": head("Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n",
    "another coding": head("Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "chunks twice": head("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "chunked by another name": head("Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "length of more than digits": head("Content-Length: +3") + b"abc",
    "negative length": head("Content-Length: -3") + b"abc",
    "hexadecimal length": head("Content-Length: 0x3") + b"abc",
    "space before the colon": head("Content-Length : 3") + b"abc",
    "folded header": b"POST /a HTTP/1.1\r\nHost: m\r\nX: a\r\n b\r\n\r\n" + b"\0",
    "bad chunk size": head("Transfer-Encoding: chunked") + b"zz\r\nabc\r\n0\r\n\r\n",
    "negative chunk": head("Transfer-Encoding: chunked") + b"-3\r\nabc\r\n0\r\n\r\n",
    "chunk too short": head("Transfer-Encoding: chunked") + b"2\r\nabc\r\n0\r\n\r\n",
    "huge chunk size": head("Transfer-Encoding: chunked") + b"f" * 40 + b"\r\n",
    "NUL in a header": head("X: a\0b"),
    "two tokens": head("X-Vault-Token: a", "X-Vault-Token: b", "Content-Length: 0"),
    "two hosts": head("Host: n", "Content-Length: 0"),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    "another version": b"GET / HTTP/2.0\r\nHost: m\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nHost: m\r\n\r\n",
    "bare line feeds in a value": b"GET / HTTP/1.1\r\nHost: m\r\nX: a\nGET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("what", SMUGGLED)
def test_what_has_two_meanings_is_refused_and_the_connection_ends(what: str) -> None:
    asked, statuses, heard = spoken(SMUGGLED[what] + GET)
    if what in ("folded header", "bare line feeds in a value"):
        # Read in the one way that RFC 9112 leaves (5.2 and 2.2).
        assert all(status in (200, 400) for status in statuses)
        return
    assert asked == []
    assert len(statuses) == 1
    assert statuses[0] in (400, 413, 501, 505)
    assert b"connection: close" in heard.lower()


def test_too_much_is_refused_before_it_is_taken() -> None:
    for request, status in (
        (head(f"Content-Length: {MAX_BODY + 1}"), 413),
        (head("Content-Length: " + "9" * 30), 413),
        (head(*(f"X-{at}: y" for at in range(MAX_HEADERS))), 431),
        (head("X: " + "y" * connection.MAX_HEAD), 431),
        (b"GET /" + b"a" * connection.MAX_HEAD, 431),
    ):
        asked, statuses, _ = spoken(request, GET)
        assert asked == []
        assert statuses in ([status], [400])


def test_who_has_not_logged_in_says_little() -> None:
    long = MAX_STRANGE + 1
    for request in (
        head(f"Content-Length: {long}"),
        head("Transfer-Encoding: chunked") + b"%x\r\n" % long + bytes(long) + b"\r\n0\r\n\r\n",
    ):
        assert spoken(request, known=False)[:2] == ([], [413])
    asked, statuses, _ = spoken(
        head(f"Content-Length: {MAX_STRANGE}"), bytes(MAX_STRANGE), known=False
    )
    assert (len(asked), statuses) == (1, [200])


def test_chunks_without_end_are_cut_off() -> None:
    piece = b"%x\r\n" % 65536 + bytes(65536) + b"\r\n"
    asked, statuses, _ = spoken(
        head("Transfer-Encoding: chunked"), *[piece] * (MAX_BODY // 65536 + 2)
    )
    assert (asked, statuses) == ([], [413])


def test_who_is_slow_is_told_so_and_who_is_silent_is_left() -> None:
    assert spoken(b"GET / HT", stays=True)[1] == [408]
    assert spoken(head("Content-Length: 3"), b"a", stays=True)[1] == [408]
    assert spoken(stays=True)[1] == []
    assert spoken(GET, stays=True)[1] == [200]


def test_a_drop_at_a_time_does_not_win_time() -> None:
    class Drip:
        def recv(self, timeout: float) -> bytes:
            return b"a"

        def send(self, message: bytes) -> None:
            assert b"408" in message

    serve(Drip(), lambda _: Reply(200), refused, lambda _: True, arrival=0.0)


def test_a_client_that_leaves_in_the_middle_has_asked_nothing() -> None:
    for part in (b"GET / HT", head("Content-Length: 3"), head("Content-Length: 3") + b"a"):
        assert spoken(part)[0] == []
        assert spoken(part, b"")[0] == []


def test_an_answer_without_body_has_none() -> None:
    _, _, heard = spoken(GET, answer=lambda _: Reply(204))
    assert heard.endswith(b"\r\n\r\n")
    assert b"content-length" not in heard.lower()
    _, _, heard = spoken(
        b"HEAD / HTTP/1.1\r\nHost: m\r\n\r\n", answer=lambda _: Reply(200, b"four", "text/plain")
    )
    assert b"content-length: 4" in heard.lower()
    assert heard.endswith(b"\r\n\r\n")


def test_a_connection_has_its_last_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_REQUESTS", 2)
    asked, _, heard = spoken(GET * 3)
    assert len(asked) == 2
    assert heard.lower().count(b"connection: close") == 1


CHUNK = st.one_of(
    st.binary(max_size=64),
    st.sampled_from(
        [*SMUGGLED.values(), GET, head("Content-Length: 3"), b"abc", b"\r\n", b"0\r\n\r\n"]
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=st.lists(CHUNK, max_size=6), cut=st.integers(1, 40))
def test_whatever_comes_in_whatever_pieces_is_answered_the_same(
    pieces: list[bytes], cut: int
) -> None:
    whole = b"".join(pieces)
    parts = [whole[at : at + cut] for at in range(0, len(whole), cut)]
    first, second = spoken(whole), spoken(*parts)
    assert first[:2] == second[:2]
    for one in first[0]:
        assert len(one.body) <= MAX_BODY
    assert all(status in range(100, 600) for status in first[1])


# --- paths and bodies ----------------------------------------------------------------------------


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "LIST", "DELETE", "HEAD", "PATCH", "X"]),
    target=st.one_of(
        st.text(st.characters(max_codepoint=255), max_size=60),
        st.lists(
            st.sampled_from(
                ["v1", "transit", "keys", "%2e%2e", "..", "", "%00", "%2F", "a", "sys", "%zz",
                 "?list=true", "?x", "?list=true&list=true", "%ff"]
            ),
            max_size=8,
        ).map(lambda parts: "/" + "/".join(parts)),
    ),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_every_path_leads_to_one_route_or_is_refused(method: str, target: str) -> None:
    try:
        found = ROUTER.find(method, target)
    except Refusal as refusal:
        assert refusal.status in (400, 404, 405)  # noqa: PT017
        return
    assert found.route in ROUTER.routes
    for value in found.path.values():
        assert value not in ("", ".", "..")
        assert "/" not in value
        assert "\0" not in value


def test_a_path_that_is_spelled_out_comes_before_one_with_parameters() -> None:
    def handler(_: Any) -> None:
        return None

    from secgear.services.crypto.rest.routes import Route

    router = Router((Route("GET", "/a/{x}", "", handler), Route("GET", "/a/b", "", handler)))
    assert router.find("GET", "/a/b").route.path == "/a/b"
    assert router.find("GET", "/a/c").path == {"x": "c"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
FIELDS = st.dictionaries(
    st.sampled_from(
        ["plaintext", "ciphertext", "input", "batch_input", "key_version", "type", "bits", "bytes",
         "signature", "hmac", "salt_length", "prehashed", "mechanism", "version", "state", "secret",
         "private_key", "min_decryption_version", "password", "x"]
    ),
    JSON, max_size=4,
)  # fmt: skip
POSTS = [route for route in ROUTER.routes if route.method == "POST" and "revoke" not in route.path]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(route=st.sampled_from(POSTS), body=st.one_of(JSON, FIELDS))
def test_whatever_json_comes_is_answered_and_never_by_a_failure(
    place: Place, token: str, route: Any, body: Any
) -> None:
    path = re.sub(r"\{(\w+)\}", "data", route.path)
    if path.endswith("login/data"):
        return
    headers = {"x-vault-token": token}
    asked = Asked("POST", path, headers, json.dumps(body).encode())
    reply = place.one.reply(asked)
    assert reply.status < 500, reply.body
    assert reply.status != 403


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"plaintext":' * 50_000, b'{"plaintext":"\xff"}', b"\0", b"{", b"nul",
     b'{"plaintext":"","plaintext":1}', b'{"plaintext":1e999}', b'"\\ud800"', b"[]", b"1"],
)  # fmt: skip
def test_bodies_that_are_no_json_are_refused(place: Place, token: str, body: bytes) -> None:
    asked = Asked("POST", "/v1/transit/encrypt/data", {"x-vault-token": token}, body)
    assert place.one.reply(asked).status == 400


def test_pages_in_browsers_are_not_served(place: Place, token: str) -> None:
    headers = {"origin": "http://evil.example", "x-vault-token": token}
    for path in ("/v1/sys/health", "/v1/keys", "/v1/auth/userpass/login/user"):
        assert place.one.reply(Asked("GET", path, headers, b"")).status == 403


def test_an_answer_that_was_to_be_wrapped_is_none(place: Place, token: str) -> None:
    place.ask("POST", "/v1/transit/keys/data", {}, token)
    headers = {"X-Vault-Wrap-TTL": "60"}
    status, answer = place.ask("POST", "/v1/transit/datakey/plaintext/data", {}, token, **headers)
    assert (status, answer["errors"]) == (400, ["response wrapping is not offered"])


def test_a_defect_is_told_without_its_text(
    place: Place, token: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from secgear.services.crypto.rest import transit_data

    def broken(*_: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(transit_data, "encrypt", broken)
    place.ask("POST", "/v1/transit/keys/data", {}, token)
    status, answer = place.ask("POST", "/v1/transit/encrypt/data", {"plaintext": ""}, token)
    assert (status, answer["errors"]) == (500, ["internal error"])
    assert "RuntimeError" in caplog.text
    assert "a secret" not in caplog.text


def test_a_host_that_keeps_nothing_is_told_as_a_failure(
    place: Place, token: str, store: Any
) -> None:
    store.refuse = True
    assert place.ask("POST", "/v1/transit/keys/data", {}, token)[0] == 500
    store.refuse = False
    assert place.ask("POST", "/v1/transit/keys/data", {}, token)[0] == 200


def test_many_connections_at_once_are_each_served(place: Place) -> None:
    answers: list[bytes] = []

    def work() -> None:
        with socket.create_connection(("127.0.0.1", place.port), 60) as raw:
            for _ in range(5):
                raw.sendall(b"GET /v1/sys/init HTTP/1.1\r\nHost: m\r\n\r\n")
                client = h11.Connection(h11.CLIENT)
                client.send(h11.Request(method="GET", target="/", headers=[("Host", "m")]))
                client.send(h11.EndOfMessage())
                while True:
                    event = client.next_event()
                    if event is h11.NEED_DATA:
                        client.receive_data(raw.recv(4096))
                    elif isinstance(event, h11.Data):
                        answers.append(bytes(event.data))
                    elif isinstance(event, h11.EndOfMessage):
                        break

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [b'{"initialized":true}'] * 80
