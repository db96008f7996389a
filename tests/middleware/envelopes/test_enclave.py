"""Through a real enclave: its key is verified outside, data is sealed, and opens only inside."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear import errors
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchor, builtin_anchors, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.envelopes import Sealer, TrustedKey, seal, verify_key

APP = """
from collections.abc import Iterator

from secgear import App
from secgear.errors import EnvelopeRefused, Replayed
from secgear.middleware import envelopes

app = App("sealed", version="1.0", requires=["cbor2", "cryptography", "msgspec"])
ledger = envelopes.MemoryLedger()
state = {}

@app.on_start
def start() -> None:
    state["pair"] = envelopes.EnclaveKeyPair.create(purposes=["sum", "size"])

@app.ecall
def key(context: bytes) -> bytes:
    return state["pair"].attest(context).to_cbor() if context else state["pair"].key.to_cbor()

@app.ecall(raises=[EnvelopeRefused, Replayed])
def total(envelope: bytes) -> int:
    return sum(envelopes.open(state["pair"], envelope, purpose="sum", ledger=ledger))

@app.ecall(raises=[EnvelopeRefused])
def size(pieces: Iterator[bytes]) -> int:
    opener = envelopes.Opener(state["pair"], purpose="size")
    return sum(len(piece) for piece in opener.stream(pieces))
"""


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("app") / "sealed.py"
    path.write_text(textwrap.dedent(APP))
    with secgear.launch(path, tee="process") as running:
        yield running


@pytest.fixture(scope="module")
def owner(enclave: Any) -> Any:
    """Verifies a document as a data owner who trusts this user's simulated root."""
    root = SimulatedPlatform(home()).root.public_bytes(Encoding.PEM)
    anchors = builtin_anchors().adding(Anchor("mine", "simulated", load_pem(root)[0]))
    policy = load_policy(
        f"""
        name = "owner"
        [accept]
        tees = ["process"]
        measurements = ["{enclave.image.measurement.hex()}"]
        [allow]
        simulated = true
        debug = true
        test_roots = true
        """.encode()
    )

    def verified(document: bytes, **given: Any) -> TrustedKey:
        now = datetime.datetime.now(datetime.UTC)
        return verify_key(document, given.pop("policy", policy), at=now, anchors=anchors, **given)

    return verified


def test_data_owner_seals_and_enclave_opens(enclave: Any, owner: Any) -> None:
    recipient = owner(enclave.key(b""))
    envelope = seal(recipient, bytes([1, 2, 3]), purpose="sum")
    assert enclave.total(envelope) == 6
    with pytest.raises(errors.EnclaveError, match="opened before"):
        enclave.total(envelope)
    with pytest.raises(errors.EnclaveError, match="was not sealed to this key for this purpose"):
        enclave.total(seal(recipient, b"data", purpose="size"))


def test_stream_goes_through_the_host(enclave: Any, owner: Any) -> None:
    recipient = owner(enclave.key(b""))
    pieces = Sealer(recipient, purpose="size").stream([b"\0" * 1_000_000] * 3)
    assert enclave.size(bytes(piece) for piece in pieces) == 3_000_000
    pieces = [bytes(one) for one in Sealer(recipient, purpose="size").stream([bytes(1_000_000)])]
    with pytest.raises(errors.EnclaveError, match="truncated"):
        enclave.size(iter(pieces[:-1]))


def test_data_owners_nonce_comes_back_in_the_evidence(enclave: Any, owner: Any) -> None:
    nonce = b"n" * 32
    recipient = owner(enclave.key(nonce), context=nonce)
    assert enclave.total(seal(recipient, b"\5", purpose="sum")) == 5


def test_production_policy_refuses_the_simulation(enclave: Any, owner: Any) -> None:
    strict = load_policy(b'name = "strict"\n[accept]\ntees = ["snp", "tdx"]\n')
    with pytest.raises(errors.Untrusted):
        owner(enclave.key(b""), policy=strict)
