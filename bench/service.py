"""The verification service under load: requests a second and their times at 1, 8 and 64 clients.

Real uvicorn over SQLite with every commit on disk, in a process of its own; the clients are
keep-alive connections of one event loop in another. "health" is the smallest request that the same
stack answers, with one read of the database: what the others cost beyond it is theirs. A challenge
is one durable transaction; an attestation verifies evidence, signs a result, and commits the audit
record together with the used nonce.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
from cryptography.hazmat.primitives import serialization

from bench.calls import ECHO
from secgear.base.build import build
from secgear.base.tee import Evidence
from secgear.base.tees.simulated import SimulatedPlatform
from secgear.middleware.attestation import base64url, envelope
from secgear.middleware.attestation.formats.process import FORMAT
from secgear.middleware.attestation.service import binding

_CLIENTS = (1, 8, 64)
_POLICY = """
name = "bench"
[accept]
tees = ["process"]
measurements = ["{}"]
[allow]
simulated = true
debug = true
test_roots = true
"""


class Load(NamedTuple):
    """One kind of request from so many clients at once.

    rate: requests in a second. p50, p99: seconds from sending to the whole answer. ratio: of the
    rate to that of health checks from as many clients.
    """

    what: str
    clients: int
    rate: float
    p50: float
    p99: float
    ratio: float


def main(*, quick: bool) -> list[Load]:
    """Every kind of request at every number of clients."""
    with tempfile.TemporaryDirectory() as folder, _Bench(Path(folder)) as bench:
        return asyncio.run(_measure(bench, 128 if quick else 1024))


class _Bench(contextlib.AbstractContextManager["_Bench"]):
    """A running service, and an enclave's platform that it trusts."""

    def __init__(self, folder: Path) -> None:
        self._platform = SimulatedPlatform(folder)
        self._image = build(ECHO)
        root = self._platform.root.public_bytes(serialization.Encoding.PEM)
        (folder / "root.pem").write_bytes(root)
        policy = _POLICY.format(self._image.measurement.hex())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.service", str(folder), policy],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def attestation(self, nonce: str) -> bytes:
        """A request that the service will trust."""
        bound = binding.report_data(base64url.unpack(nonce)).ljust(64, b"\0")
        evidence = Evidence(FORMAT, self._platform.evidence(self._image, (), bound))
        return msgspec.json.encode(
            {
                "evidence": msgspec.Raw(envelope.to_json(evidence)),
                "nonce": nonce,
                "policy": "bench",
                "audience": "bench",
            }
        )


async def _measure(bench: _Bench, count: int) -> list[Load]:
    table: list[Load] = []
    for clients in _CLIENTS:
        health, _ = await _load(bench.port, b"GET", "/healthz", [b""] * count, clients)
        challenge, answers = await _load(
            bench.port, b"POST", "/v1/challenge", [b""] * count, clients
        )
        requests = [bench.attestation(json.loads(answer)["nonce"]) for answer in answers]
        attest, _ = await _load(bench.port, b"POST", "/v1/attest", requests, clients)
        base = health[0]
        for what, (rate, p50, p99) in (
            ("health", health),
            ("challenge", challenge),
            ("attest", attest),
        ):
            table.append(Load(what, clients, rate, p50, p99, rate / base))
    return table


async def _load(
    port: int, method: bytes, path: str, bodies: list[bytes], clients: int
) -> tuple[tuple[float, float, float], list[bytes]]:
    """Send all bodies from so many connections; rate, p50 and p99, and the answers."""
    waiting = list(bodies)
    times: list[float] = []
    answers: list[bytes] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while waiting:
            body = waiting.pop()
            begun = time.perf_counter()
            answer = await _exchange(reader, writer, method, path, body)
            times.append(time.perf_counter() - begun)
            answers.append(answer)
        writer.close()
        await writer.wait_closed()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - start
    times.sort()
    middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
    return (len(bodies) / took, middle, late), answers


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: bytes,
    path: str,
    body: bytes,
) -> bytes:
    writer.write(
        b"%s %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n"
        % (method, path.encode(), len(body))
        + body
    )
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
    answer = await reader.readexactly(size)
    assert head.startswith(b"http/1.1 200"), answer
    return answer


def _serve(folder: Path, policy: str) -> None:
    """The service's process: no limits for each client, everything else as in production."""
    from secgear.middleware.attestation.service import documents
    from secgear.middleware.attestation.service.app import create_app
    from secgear.middleware.attestation.service.serving import run
    from secgear.middleware.attestation.service.settings import AnchorFile, Rate, Settings

    unlimited = Rate(1e6, 1_000_000)
    settings = Settings(
        issuer="bench",
        directory=folder / "service",
        extra_anchors=(AnchorFile("simulated", folder / "root.pem"),),
        challenge_rate=unlimited,
        attest_rate=unlimited,
        port=0,
    )
    app = create_app(settings)
    documents.put(
        app.state.service.store,
        documents.Kind.POLICY,
        "bench",
        policy.encode(),
        author="bench",
        at=datetime.datetime.now(datetime.UTC),
    )
    run(app, settings, lambda url: print(url.rpartition(":")[2], flush=True))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.argv[2])
