"""REST in this process, on a socket of its own, and clients of it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import hvac
import jsonschema
import pytest
from openapi_spec_validator import validate

from secgear.errors import ChannelClosed, CryptoModuleError
from secgear.services.crypto.rest.service import DESCRIPTION, ROUTER, Client, Service
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN

DOCUMENT = json.loads(DESCRIPTION)


class SocketPeer:
    """A connection as REST takes it, on a plain socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def recv(self, timeout: float) -> bytes:
        self._connection.settimeout(timeout)
        try:
            return self._connection.recv(65536)
        except TimeoutError:
            raise
        except OSError:
            raise ChannelClosed("gone") from None

    def send(self, message: bytes) -> None:
        try:
            self._connection.sendall(message)
        except OSError:
            raise ChannelClosed("gone") from None


def torn(error: CryptoModuleError) -> NoReturn:
    raise AssertionError from error


class Place:
    """Where a module's REST listens."""

    def __init__(self, module: Module) -> None:
        self.service = Service(module, torn)
        self.one = Client(self.service, "test")
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ChannelClosed):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.one.serve(SocketPeer(connection))

    def client(self, pin: bytes = PIN, *, login: bool = True, **named: Any) -> hvac.Client:
        client = hvac.Client(url=self.url, session=checked_session(), **named)
        if login:
            client.auth.userpass.login("user", pin.decode())
        return client

    def ask(
        self, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
    ) -> tuple[int, Any]:
        """One request: status, and what the JSON says, which the description has to allow."""
        import requests

        if token is not None:
            headers["X-Vault-Token"] = token
        with checked_session() as session:
            answer: requests.Response = session.request(
                method, self.url + path, json=body, headers=headers, timeout=60
            )
        kind = answer.headers.get("content-type", "")
        return answer.status_code, (answer.json() if "json" in kind else answer.text)


def checked_session() -> Any:
    """A session of requests that holds every answer against the OpenAPI document."""
    import requests

    session = requests.Session()
    session.trust_env = False
    session.hooks["response"].append(lambda answer, **_: conforms(answer))
    return session


def conforms(answer: Any) -> None:
    if answer.status_code == 502:  # the door's own word
        assert set(answer.json()) == {"errors"}
        return
    method = {"LIST": "GET", "HEAD": "GET", "PUT": "POST"}.get(
        answer.request.method, answer.request.method
    )
    try:
        route = ROUTER.find(method, answer.request.path_url.partition("?")[0]).route
    except Exception:
        assert answer.status_code in (400, 404, 405)
        assert set(answer.json()) == {"errors"}
        return
    responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
    described = responses.get(str(answer.status_code)) or responses.get("default")
    assert described is not None, (route.path, answer.status_code)
    SEEN.add((route.method, route.path))
    if answer.request.method == "HEAD" or "content" not in described:
        assert answer.content == b""
        return
    ((kind, content),) = described["content"].items()
    assert answer.headers["content-type"].startswith(kind)
    if kind == "application/json":
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer.json())


SEEN: set[tuple[str, str]] = set()
"""Routes of which an answer was held against the document."""


@pytest.fixture(scope="session")
def document() -> Any:
    validate(DOCUMENT)
    return DOCUMENT


@pytest.fixture
def place(module: Module) -> Iterator[Place]:
    place = Place(module)
    yield place
    place.close()


@pytest.fixture
def client(place: Place) -> hvac.Client:
    return place.client()


@pytest.fixture
def token(client: hvac.Client) -> str:
    return str(client.token)
