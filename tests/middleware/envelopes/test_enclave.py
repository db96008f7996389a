"""Through a real enclave: its key is verified outside, data is sealed, and opens only inside."""

from __future__ import annotations

import datetime
import itertools
import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

import secgear
from secgear import errors
from secgear.base.build import build
from secgear.base.image import Image, LaunchPolicy
from secgear.base.tees.simulated import SimulatedPlatform, home
from secgear.middleware.attestation import Anchor, builtin_anchors, load_policy
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.envelopes import Sealer, TrustedKey, seal, seal_batches, verify_key
from secgear.middleware.sealing import Witness
from tests.adversary.storage import MemoryStorage

APP = """
from collections.abc import Iterator
import resource

from secgear import App
from secgear.errors import EnvelopeMalformed, EnvelopeRefused, Replayed
from secgear.middleware import envelopes

app = App("sealed", version="1.0", requires=["cbor2", "cryptography", "msgspec", "pyarrow"])
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

@app.ecall(raises=[EnvelopeMalformed, EnvelopeRefused])
def size(pieces: Iterator[bytes], query: bytes = b"") -> int:
    opener = envelopes.Opener(state["pair"], purpose="size", associated=query)
    return sum(len(piece) for piece in opener.stream(pieces))

@app.ecall(raises=[EnvelopeMalformed, EnvelopeRefused])
def rows(pieces: Iterator[bytes]) -> int:
    batches = envelopes.open_batches(state["pair"], pieces, purpose="size")
    return sum(batch.num_rows for batch in batches)

@app.ecall
def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""

KEEPER = """
from secgear import App
from secgear.errors import EnvelopeRefused, Replayed, RolledBack, SealedForOther, SealingError
from secgear.middleware import envelopes, sealing

app = App("keeper", requires=["cbor2", "cryptography", "msgspec"])
state = {}

@app.ocall
def disk_read(offset: int, size: int) -> bytes: ...

@app.ocall
def disk_write(offset: int, data: bytes) -> None: ...

@app.ocall
def disk_flush() -> None: ...

@app.ocall
def to_witness(message: bytes) -> bytes: ...

@app.ecall
def make() -> tuple[bytes, bytes]:
    pair = envelopes.EnclaveKeyPair.create(purposes=["sum"])
    return sealing.seal(pair.to_secret(), aad=b"key pair"), pair.key.to_cbor()

@app.ecall(raises=[SealedForOther, RolledBack, SealingError])
def start(sealed: bytes, witness: bytes) -> int:
    state["pair"] = envelopes.EnclaveKeyPair.from_secret(sealing.unseal(sealed, aad=b"key pair"))
    disk = sealing.CallStorage(disk_read, disk_write, disk_flush)
    key = sealing.derive_key("ledger", salt=b"")
    seed = sealing.derive_key("witness", salt=b"")
    counter = sealing.RemoteCounter(seed, witness, to_witness)
    if counter.read().value:
        file = sealing.ProtectedFile.open(
            disk, key, name=b"ledger", writable=True, counter=counter
        )
    else:
        file = sealing.ProtectedFile.create(disk, key, name=b"ledger", counter=counter)
    state["ledger"] = envelopes.KeptLedger(file)
    return len(state["ledger"])

@app.ecall(raises=[EnvelopeRefused, Replayed])
def total(envelope: bytes) -> int:
    data = envelopes.open(state["pair"], envelope, purpose="sum", ledger=state["ledger"])
    return sum(data)
"""

DEBUG = LaunchPolicy(debug=True)


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("app") / "sealed.py"
    path.write_text(textwrap.dedent(APP))
    with secgear.launch(path, tee="process") as running:
        yield running


@pytest.fixture(scope="module")
def owner(enclave: Any) -> Any:
    """Verifies a document as a data owner who trusts this user's simulated root."""
    return owner_of(enclave.image)


def owner_of(image: Image) -> Any:
    root = SimulatedPlatform(home()).root.public_bytes(Encoding.PEM)
    anchors = builtin_anchors().adding(Anchor("mine", "simulated", load_pem(root)[0]))
    policy = load_policy(
        f"""
        name = "owner"
        [accept]
        tees = ["process"]
        measurements = ["{image.measurement.hex()}"]
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


def test_envelopes_swapped_by_the_host_are_refused(enclave: Any, owner: Any) -> None:
    """Between purposes, recipients and queries: what is open for one is closed for the others."""
    recipient = owner(enclave.key(b""))

    def sealed(to: TrustedKey, purpose: str, query: bytes) -> Iterator[bytes]:
        stream = Sealer(to, purpose=purpose, associated=query).stream([b"data"])
        return (bytes(piece) for piece in stream)

    assert enclave.size(sealed(recipient, "size", b"query 7"), b"query 7") == 4
    for purpose, query in (("size", b"query 8"), ("size", b""), ("sum", b"query 7")):
        with pytest.raises(errors.EnclaveError, match="was not sealed to this key for this"):
            enclave.size(sealed(recipient, purpose, query), b"query 7")
    with secgear.launch(enclave.image, tee="process", policy=DEBUG) as twin:  # of one measurement
        other = owner(twin.key(b""))
        assert twin.size(sealed(other, "size", b"query 7"), b"query 7") == 4
        for one, to in ((enclave, other), (twin, recipient)):
            with pytest.raises(errors.EnclaveError, match="the envelope is for the key"):
                one.size(sealed(to, "size", b"query 7"), b"query 7")


ATTACKS: dict[str, Callable[[list[bytes], list[bytes]], list[bytes]]] = {
    "reordered": lambda p, _: [p[0], p[2], p[1], *p[3:]],
    "duplicated": lambda p, _: [*p[:2], p[1], *p[2:]],
    "left out": lambda p, _: [*p[:2], *p[3:]],
    "truncated": lambda p, _: p[:-1],
    "spliced": lambda p, other: [*p[:2], other[2], *p[3:]],
    "continued": lambda p, other: [*p, *other[1:]],
    "changed": lambda p, _: [*p[:2], p[2][:-1] + bytes([p[2][-1] ^ 1]), *p[3:]],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_chunks_that_the_host_tampers_with_are_refused(
    enclave: Any, owner: Any, attack: str
) -> None:
    recipient = owner(enclave.key(b""))
    one, other = (
        [bytes(p) for p in Sealer(recipient, purpose="size", chunk=4096).stream([bytes(20_000)])]
        for _ in range(2)
    )
    with pytest.raises(errors.EnclaveError, match="envelope"):
        enclave.size(iter(ATTACKS[attack](one, other)))
    assert enclave.size(iter(one)) == 20_000  # and the enclave goes on


def test_large_stream_takes_no_more_memory_in_the_enclave(enclave: Any, owner: Any) -> None:
    recipient = owner(enclave.key(b""))
    piece = bytes(1 << 20)

    def send(count: int) -> int:
        stream = Sealer(recipient, purpose="size").stream(itertools.repeat(piece, count))
        return int(enclave.size(bytes(one) for one in stream))

    assert send(32) == 32 << 20
    before = enclave.memory()
    assert send(768) == 768 << 20
    assert enclave.memory() - before < 32 << 10  # KiB


def test_tables_reach_the_enclave_as_batches(enclave: Any, owner: Any) -> None:
    import pyarrow as pa

    recipient = owner(enclave.key(b""))
    table = pa.table({"id": range(100_000), "name": ["somebody"] * 100_000})
    pieces = [bytes(p) for p in seal_batches(recipient, table.to_batches(10_000), purpose="size")]
    assert enclave.rows(iter(pieces)) == 100_000
    with pytest.raises(errors.EnclaveError):
        enclave.rows(iter(pieces[:-1]))


def test_kept_key_and_ledger_survive_kills_and_refuse_replays(tmp_path: Path) -> None:
    path = tmp_path / "keeper.py"
    path.write_text(KEEPER)
    image = build(path, debug=True)
    disk = MemoryStorage()
    witness = Witness(tmp_path / "witness", Ed25519PrivateKey.generate())
    with secgear.launch(image, tee="process", policy=DEBUG) as enclave:
        sealed, document = enclave.make()
    recipient = owner_of(image)(document)
    left = [0]

    def launch(dies_at: int = 0) -> Any:
        left[0] = dies_at

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                left[0] -= 1
                if not left[0]:
                    os.kill(enclave.pid, signal.SIGKILL)
                return real(*args)

            return call

        return secgear.launch(
            image,
            tee="process",
            policy=DEBUG,
            ocalls={
                "disk_read": counted(disk.read),
                "disk_write": counted(disk.write),
                "disk_flush": counted(disk.flush),
                "to_witness": counted(witness.answer),
            },
        )

    opened: list[bytes] = []
    for dies_at in (12, 14, 15, 17, 18, 20):
        with launch(dies_at) as enclave:
            try:
                enclave.start(sealed, witness.public_key)
                while True:
                    envelope = seal(recipient, b"\1\2\3", purpose="sum")
                    assert enclave.total(envelope) == 6
                    opened.append(envelope)
            except errors.EnclaveLost:
                pass
        old = bytes(disk.data)
        with launch() as enclave:
            assert enclave.start(sealed, witness.public_key) >= len(opened)
            for envelope in opened:
                with pytest.raises(errors.EnclaveError, match="opened before"):
                    enclave.total(envelope)
            extra = seal(recipient, b"\1", purpose="sum")
            assert enclave.total(extra) == 1
            opened.append(extra)
    assert len(opened) > 8
    disk.data[:] = old
    with launch() as enclave, pytest.raises(errors.EnclaveError, match="newer data"):
        enclave.start(sealed, witness.public_key)
    disk.data.clear()
    with launch() as enclave, pytest.raises(errors.EnclaveError, match="no protected file"):
        enclave.start(sealed, witness.public_key)
    witness.close()
