"""A running service: real uvicorn over a real database, an attester, and administrators."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.base64url import pack, unpack
from secgear.middleware.attestation.service.app import create_app
from secgear.middleware.attestation.service.binding import report_data
from secgear.middleware.attestation.service.serving import server
from secgear.middleware.attestation.service.settings import AnchorFile, Rate, Settings
from secgear.middleware.attestation.service.tokens import Role, create_token
from tests.adversary.vendors.simulated import SimulatedVendor

POLICY = f"""
name = "laboratory"
[accept]
tees = ["process"]
measurements = ["{(b"m" * 48).hex()}"]
[allow]
simulated = true
test_roots = true
"""
MANY = Rate(10_000, 10_000)
PLAIN = ssl.create_default_context()  # reading all roots for each client would take longest


class Clock:
    """The time, and as much later as a test wants."""

    def __init__(self) -> None:
        self.ahead = datetime.timedelta(0)

    def __call__(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.ahead


class Running:
    """A service, its administrator's token, and an attester that it would trust."""

    def __init__(
        self, app: Litestar, settings: Settings, vendor: SimulatedVendor, name: str
    ) -> None:
        self.app = app
        self.settings = settings
        self.store = app.state.service.store
        self.vendor = vendor
        self.clock = Clock()
        self.admin = {"Authorization": f"Bearer {create_token(self.store, Role.ADMIN, name)}"}
        trust = settings.tls_certificate
        verify = ssl.create_default_context(cafile=trust) if trust else PLAIN
        self.client = httpx.Client(timeout=30, verify=verify)

    def nonce(self) -> bytes:
        answer = self.client.post("/v1/challenge")
        assert answer.status_code == 200, answer.text
        return unpack(answer.json()["nonce"])

    def request(self, nonce: bytes, **changes: Any) -> dict[str, Any]:
        """A request that is right in everything; `changes` spoil it."""
        user_data = changes.pop("bound", None)
        bound = changes.pop("report_data", report_data(nonce, user_data))
        claims = self.vendor.claims(**changes.pop("claims", {}))
        evidence = self.vendor.evidence(claims, report_data=bound.ljust(64, b"\0"))
        more = {} if user_data is None else {"user_data": pack(user_data)}
        return {
            "evidence": json.loads(envelope.to_json(evidence)),
            "nonce": pack(nonce),
            "policy": "laboratory",
            "audience": "relying-party",
            **more,
            **changes,
        }

    def attest(self, nonce: bytes | None = None, **changes: Any) -> httpx.Response:
        return self.client.post(
            "/v1/attest", json=self.request(self.nonce() if nonce is None else nonce, **changes)
        )

    def put(self, place: str, content: bytes | str) -> httpx.Response:
        return self.client.put(f"/v1/{place}", content=content, headers=self.admin)

    def get(self, place: str) -> httpx.Response:
        return self.client.get(f"/v1/{place}", headers=self.admin)

    def metric(self, line: str) -> float:
        found = [
            float(text.rpartition(" ")[2])
            for text in self.client.get("/metrics").text.splitlines()
            if text.startswith(f"{line} ")
        ]
        return found[0] if found else 0.0


@pytest.fixture(scope="session")
def ending() -> Iterator[list[threading.Thread]]:
    """Servers that were told to end: they take a moment, for which the next test need not wait."""
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a server does not end"


@pytest.fixture(scope="session")
def vendor() -> SimulatedVendor:
    return SimulatedVendor()


@pytest.fixture
def settings_in(tmp_path: Path, vendor: SimulatedVendor) -> Callable[..., Settings]:
    """Settings of a laboratory that trusts the fake vendor."""
    root = tmp_path / "root.pem"
    body = base64.encodebytes(vendor.certificate.der).decode()
    root.write_text(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")

    usual: dict[str, Any] = {
        "issuer": "https://verifier.example",
        "directory": tmp_path / "service",
        "extra_anchors": (AnchorFile("simulated", root),),
        "challenge_rate": MANY,
        "attest_rate": MANY,
        "failure_rate": MANY,
        "port": 0,
    }
    return lambda **changes: Settings(**usual | changes)


@pytest.fixture
def start(
    settings_in: Callable[..., Settings],
    vendor: SimulatedVendor,
    ending: list[threading.Thread],
) -> Iterator[Callable[..., Running]]:
    """Starts services with the laboratory's policy; they end with the test."""
    with contextlib.ExitStack() as running:

        def begin(administrator: str = "alice", **changes: Any) -> Running:
            settings = settings_in(**changes)
            clock = Clock()
            service = Running(create_app(settings, clock=clock), settings, vendor, administrator)
            service.clock = clock
            service.client.base_url = running.enter_context(_listening(service, ending))
            running.enter_context(service.client)
            service.put("policies/laboratory", POLICY).raise_for_status()
            return service

        yield begin


@pytest.fixture
def service(start: Callable[..., Running]) -> Running:
    return start()


@contextlib.contextmanager
def _listening(service: Running, ending: list[threading.Thread]) -> Iterator[str]:
    uvicorn = server(service.app, service.settings)
    thread = threading.Thread(target=uvicorn.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not uvicorn.started:
        assert thread.is_alive(), "the server ended"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.005)
    host, port = uvicorn.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"https://localhost:{port}" if service.settings.tls_key else f"http://{host}:{port}"
    finally:
        uvicorn.should_exit = True
        ending.append(thread)
