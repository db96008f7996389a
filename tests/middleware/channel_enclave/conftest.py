"""Channels through a real enclave and a real relay."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchor, Anchors, Policy, builtin_anchors, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.channel import Relay, Session

APP = """
import threading
import time
from collections.abc import Iterator

from secgear import App, Session, errors

app = App("talker", version="1.0")
app.sessions.configure(idle=3.0, handshake=2.0, limit=24, per_client=24)
seen: list[str] = []


class Empty(Exception):
    pass


@app.session
def echo(session: Session) -> None:
    for message in session:
        session.send(message)


@app.session
def measure(session: Session) -> None:
    session.send(str(sum(len(part) for part in session.recv_stream())).encode())
    session.send_stream(bytes([number]) * 100_000 for number in range(64))


@app.session(name="breaks")
def failing(session: Session) -> None:
    session.recv()
    raise RuntimeError("CANARY-of-another-client")


@app.session
def forwards(session: Session) -> None:
    session.recv()
    raise errors.ChannelClosed("CANARY-of-another-session")


@app.session
def leaves(session: Session) -> None:
    session.recv()


@app.session
def impatient(session: Session) -> None:
    while True:
        try:
            message = session.recv(timeout=0.1)
        except TimeoutError:
            session.send(b"are you there?")
        else:
            session.send(message)
            return


gate = threading.Event()


@app.session
def deaf(session: Session) -> None:
    gate.wait(60)


@app.session
def floods(session: Session) -> None:
    session.send_stream(bytes(100_000) for _ in iter(int, 1))


@app.session
def who(session: Session) -> None:
    peer = session.peer
    session.recv()
    session.send(f"{peer.claims.tee if peer.claims else None} {peer.address}".encode())


@app.remote
@app.ecall(raises=[Empty])
def count(text: str) -> dict[str, int]:
    if not text:
        raise Empty("there are no words")
    words = text.split()
    return {word: words.count(word) for word in words}


@app.remote
@app.ecall
def squares(numbers: Iterator[int]) -> Iterator[int]:
    for number in numbers:
        yield number * number


@app.remote
@app.ecall
def size(data: bytes) -> int:
    return len(data)


@app.remote
@app.ecall
def forever() -> None:
    while True:
        time.sleep(0.01)


@app.remote
@app.ecall
def caller() -> str:
    peer = app.sessions.peer
    return "the host" if peer is None else f"a client from {peer.address}"


@app.remote
@app.ecall
def callers(count: int) -> Iterator[str]:
    for _ in range(count):
        yield caller()


@app.ecall
def open_gate() -> None:
    gate.set()


@app.ecall
def shut() -> str:
    return "the operator's business"


@app.ecall
def state() -> tuple[int, int]:
    return len(app.sessions), threading.active_count()
"""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "talker.py"
    path.write_text(textwrap.dedent(APP))
    return path


@pytest.fixture(scope="module")
def enclave(source: Path) -> Iterator[Any]:
    with secgear.launch(source, tee="process") as running:
        yield running


@pytest.fixture
def relay(enclave: Any) -> Iterator[Relay]:
    with Relay(enclave) as running:
        yield running


@pytest.fixture(scope="session")
def anchors() -> Anchors:
    root = SimulatedPlatform(home()).root.public_bytes(Encoding.PEM)
    return builtin_anchors().adding(Anchor("mine", "simulated", load_pem(root)[0]))


def policy_for(measurement: bytes, allow: str = "simulated debug test_roots") -> Policy:
    allowed = "\n".join(f"{name} = true" for name in allow.split())
    return load_policy(
        f"""
        name = "owner"
        [accept]
        tees = ["process"]
        measurements = ["{measurement.hex()}"]
        [allow]
        {allowed}
        """.encode()
    )


@pytest.fixture
def policy(enclave: Any) -> Policy:
    return policy_for(enclave.image.measurement)


@pytest.fixture
def connect(relay: Relay, policy: Policy, anchors: Anchors) -> Callable[..., Session]:
    def connect(address: Any = None, **given: Any) -> Session:
        return secgear.connect(
            relay.address if address is None else address,
            given.pop("policy", policy),
            anchors=given.pop("anchors", anchors),
            timeout=given.pop("timeout", 20),
            **given,
        )

    return connect
