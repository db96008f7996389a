"""The attester's client against a running service, and against services that misbehave."""

from __future__ import annotations

import datetime
import gzip
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from secgear.base.tee import Evidence
from secgear.errors import ServiceError, ServiceRefused, Untrusted
from secgear.middleware.attestation.results import public_keys, verify_cwt, verify_jwt
from secgear.middleware.attestation.service.client import MAX_ANSWER, VerificationClient

ISSUER = "https://verifier.example"
USER_DATA = b"my public key"
CHALLENGE = b'{"nonce": "%b", "expires": ""}' % (b"A" * 43)
Collect = Callable[[bytes], Evidence]


@pytest.fixture
def collect(service: Any) -> Collect:
    def make(report_data: bytes) -> Evidence:
        assert len(report_data) == 64
        made: Evidence = service.vendor.evidence(report_data=report_data)
        return made

    return make


@pytest.fixture
def client(service: Any) -> Iterator[VerificationClient]:
    with VerificationClient(str(service.client.base_url)) as made:
        yield made


@pytest.mark.parametrize("user_data", [None, USER_DATA])
def test_a_result_is_had_and_verifies(
    client: VerificationClient, collect: Collect, user_data: bytes | None
) -> None:
    attested = client.attest(collect, policy="laboratory", audience="me", user_data=user_data)
    assert attested.verdict["trusted"] is True
    keys = public_keys(client.keys())
    now = datetime.datetime.now(datetime.UTC)
    assert isinstance(attested.result, str)
    result = verify_jwt(
        attested.result,
        keys,
        audience="me",
        nonce=None,
        issuer=ISSUER,
        now=now,
        allow_warning=True,
    )
    assert (result.user_data is None) is (user_data is None)


def test_a_cwt_is_had_on_request(client: VerificationClient, collect: Collect) -> None:
    attested = client.attest(collect, policy="laboratory", audience="me", form="cwt")
    assert isinstance(attested.result, bytes)
    verify_cwt(
        attested.result,
        public_keys(client.keys()),
        audience="me",
        nonce=None,
        issuer=ISSUER,
        now=datetime.datetime.now(datetime.UTC),
        allow_warning=True,
    )


def test_distrust_brings_the_verdict(client: VerificationClient, service: Any) -> None:
    def collect(report_data: bytes) -> Evidence:
        claims = service.vendor.claims(measurement=b"x" * 48)
        made: Evidence = service.vendor.evidence(claims, report_data=report_data)
        return made

    with pytest.raises(Untrusted, match=r"policy\.measurement") as caught:
        client.attest(collect, policy="laboratory", audience="me")
    assert isinstance(caught.value.verdict, dict)
    assert caught.value.verdict["trusted"] is False


def test_refusals_have_their_code(client: VerificationClient, collect: Collect) -> None:
    with pytest.raises(ServiceRefused) as caught:
        client.attest(collect, policy="unheard-of", audience="me")
    assert caught.value.problem == "policy.unknown"


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x", "https://", "http://example.org", "https://u:p@example.org", "x"],
)
def test_urls_that_are_not_safe_are_refused(url: str) -> None:
    with pytest.raises(ServiceError, match="client"):
        VerificationClient(url)


def test_nobody_there_is_one_clear_error() -> None:
    with (
        VerificationClient("http://127.0.0.1:1") as client,
        pytest.raises(ServiceError, match=r"127\.0\.0\.1:1"),
    ):
        client.keys()


@pytest.fixture
def hostile() -> Iterator[Callable[[int, bytes, dict[str, str]], VerificationClient]]:
    """A server that answers everything with the same."""
    servers: list[http.server.ThreadingHTTPServer] = []
    clients: list[VerificationClient] = []

    def begin(status: int, body: bytes, headers: dict[str, str]) -> VerificationClient:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        clients.append(VerificationClient(f"http://127.0.0.1:{server.server_port}", timeout=10))
        return clients[-1]

    yield begin
    for client in clients:
        client.close()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b"", {}),
        (200, b"[]", {}),
        (200, b"[" * 100_000, {}),
        (200, b'{"nonce": "AAAA", "expires": ""}', {}),
        (200, b'{"nonce": "?", "expires": ""}', {}),
        (200, bytes(MAX_ANSWER + 1), {}),
        (200, gzip.compress(CHALLENGE, mtime=0), {"Content-Encoding": "gzip"}),
        (302, b"", {"Location": "https://elsewhere.example/"}),
        (500, b"<html>", {}),
        (403, b'{"code": 1}', {}),
    ],
)
def test_a_hostile_service_gets_no_evidence_and_one_clear_error(
    hostile: Any, status: int, body: bytes, headers: dict[str, str]
) -> None:
    def collect(_: bytes) -> Evidence:
        raise AssertionError("evidence was made for a service that does not speak as expected")

    with pytest.raises(ServiceError, match="client"):
        hostile(status, body, headers).attest(collect, policy="p", audience="a")
