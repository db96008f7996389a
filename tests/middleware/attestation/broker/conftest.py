"""A running broker: real uvicorn over a real database, an enclave, and administrators."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from secgear.base.tee import Evidence
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.base64url import pack, unpack
from secgear.middleware.attestation.broker.app import BrokerSettings, create_broker
from secgear.middleware.attestation.broker.release import (
    CLASSIC,
    Released,
    ReleaseKey,
)
from secgear.middleware.attestation.service.serving import server
from secgear.middleware.attestation.service.settings import AnchorFile, Rate
from secgear.middleware.attestation.service.tokens import Role, create_token
from tests.adversary.vendors.simulated import SimulatedVendor

NAME = "default/key/disk"
SECRET = b"correct horse battery staple"
MANY = Rate(10_000, 10_000)


def policy(measurement: bytes = b"m" * 48) -> str:
    return f"""
name = "laboratory"
[accept]
tees = ["process"]
measurements = ["{measurement.hex()}"]
[allow]
simulated = true
test_roots = true
"""


class Clock:
    """The time, and as much later as a test wants."""

    def __init__(self) -> None:
        self.ahead = datetime.timedelta(0)

    def __call__(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC) + self.ahead


class Running:
    """A broker, its administrator's token, and an enclave that it would trust."""

    def __init__(
        self, app: Litestar, settings: BrokerSettings, vendor: SimulatedVendor, clock: Clock
    ) -> None:
        self.app = app
        self.settings = settings
        self.store = app.state.service.store
        self.vendor = vendor
        self.clock = clock
        self.client = httpx.Client(timeout=30)
        self.admin: dict[str, str] = {}

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    def authorize(self, name: str = "alice", role: Role = Role.ADMIN) -> dict[str, str]:
        return {"Authorization": f"Bearer {create_token(self.store, role, name)}"}

    def put(self, place: str, content: bytes | str, **parameters: str) -> httpx.Response:
        return self.client.put(
            f"/v1/{place}", content=content, headers=self.admin, params=parameters
        )

    def get(self, place: str) -> httpx.Response:
        return self.client.get(f"/v1/{place}", headers=self.admin)

    def delete(self, place: str) -> httpx.Response:
        return self.client.delete(f"/v1/{place}", headers=self.admin)

    def audited(self, action: str) -> list[dict[str, Any]]:
        records = self.get("audit?limit=1000").json()["records"]
        return [record for record in records if record["action"] == action]

    def nonce(self) -> bytes:
        answer = self.client.post("/v1/challenge")
        assert answer.status_code == 200, answer.text
        return unpack(answer.json()["nonce"])

    def evidence(self, report: bytes, **claims: Any) -> Evidence:
        made = self.vendor.claims(**claims)
        return self.vendor.evidence(made, report_data=report.ljust(64, b"\0"))

    def request(
        self, key: ReleaseKey, nonce: bytes, claims: Any = None, **changes: Any
    ) -> dict[str, Any]:
        """A request that is right in everything; `claims` and `changes` spoil it."""
        evidence = self.evidence(key.report_data(nonce), **(claims or {}))
        return {
            "evidence": json.loads(envelope.to_json(evidence)),
            "nonce": pack(nonce),
            "secret": NAME,
            "suite": key.suite,
            "public_key": pack(key.public),
            **changes,
        }

    def release(
        self, key: ReleaseKey | None = None, nonce: bytes | None = None, **changes: Any
    ) -> httpx.Response:
        key = key or ReleaseKey(CLASSIC)
        body = self.request(key, self.nonce() if nonce is None else nonce, **changes)
        return self.client.post("/v1/release", json=body)

    def open(self, answer: httpx.Response, key: ReleaseKey, nonce: bytes) -> bytes:
        body = answer.json()
        return key.open(Released(body["secret"], body["suite"], unpack(body["sealed"])), nonce)


def refused(answer: httpx.Response, status: int = 403, code: str = "release.refused") -> None:
    """Assert that the answer is this refusal and holds nothing else."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json().keys() <= {"type", "title", "status", "code", "detail"}


@pytest.fixture(scope="session")
def vendor() -> SimulatedVendor:
    return SimulatedVendor()


@pytest.fixture
def settings_in(tmp_path: Path, vendor: SimulatedVendor) -> Callable[..., BrokerSettings]:
    """Settings of a laboratory that trusts the fake vendor."""
    root = tmp_path / "root.pem"
    body = base64.encodebytes(vendor.certificate.der).decode()
    root.write_text(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")

    def make(**changes: Any) -> BrokerSettings:
        return BrokerSettings(
            **{
                "issuer": "https://broker.example",
                "directory": tmp_path / "broker",
                "extra_anchors": (AnchorFile("simulated", root),),
                "challenge_rate": MANY,
                "attest_rate": MANY,
                "failure_rate": MANY,
                "port": 0,
            }
            | changes
        )

    return make


@pytest.fixture
def start(
    settings_in: Callable[..., BrokerSettings], vendor: SimulatedVendor
) -> Iterator[Callable[..., Running]]:
    """Starts brokers, over one database unless settings say otherwise; they end with the test."""
    with contextlib.ExitStack() as running:

        def begin(**changes: Any) -> Running:
            settings, clock = settings_in(**changes), Clock()
            broker = Running(create_broker(settings, clock=clock), settings, vendor, clock)
            broker.client.base_url = running.enter_context(_listening(broker))
            running.enter_context(broker.client)
            return broker

        yield begin


@pytest.fixture
def broker(start: Callable[..., Running]) -> Running:
    """With a policy, and a secret under it."""
    made = start()
    made.admin = made.authorize()
    made.put("policies/laboratory", policy()).raise_for_status()
    made.put(f"secrets/{NAME}", SECRET, policy="laboratory").raise_for_status()
    return made


@contextlib.contextmanager
def _listening(broker: Running) -> Iterator[str]:
    uvicorn = server(broker.app, broker.settings)
    thread = threading.Thread(target=uvicorn.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not uvicorn.started:
        assert thread.is_alive(), "the server ended"
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.005)
    host, port = uvicorn.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        uvicorn.should_exit = True
        thread.join(20)
