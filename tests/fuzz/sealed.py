"""Sealing and envelopes for `evidence`: damaged, none of it may open as something else."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.middleware import envelopes
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.envelopes import EnclaveKey, EnclaveKeyPair, KeptLedger, Opener
from secgear.middleware.sealing import ProtectedFile, RemoteCounter, Witness, seal, unseal
from secgear.middleware.sealing.witness_messages import Answer, read
from tests.adversary.storage import MemoryStorage
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.envelopes.conftest import MEASUREMENT
from tests.middleware.envelopes.conftest import FakeGuest as AttestedGuest
from tests.middleware.sealing.conftest import FakeGuest, MemoryCounter

_KEY = b"k" * 32
_SECRET = b"what was sealed " * 1000
_POLICY = f"""
name = "fuzzed"
[accept]
tees = ["process"]
measurements = ["{MEASUREMENT.hex()}"]
[allow]
simulated = true
test_roots = true
"""


class Sealed:
    """One of each, and what reads it."""

    def __init__(self) -> None:
        vendor, now = SimulatedVendor(), datetime.datetime.now(datetime.UTC)
        self._guest = FakeGuest()
        self._pair = EnclaveKeyPair.create(
            guest=AttestedGuest(vendor),  # type: ignore[arg-type]
            lifetime=datetime.timedelta(days=300),
        )
        key = self._pair.key.to_cbor()
        policy = load_policy(_POLICY.encode())
        trusted = envelopes.verify_key(key, policy, at=now, anchors=vendor.anchors)
        batches = [pa.record_batch({"id": range(100), "name": ["x"] * 100})] * 3
        self._folder = tempfile.TemporaryDirectory()
        self._witness = Witness(Path(self._folder.name), Ed25519PrivateKey.generate())
        self._counter = RemoteCounter(_KEY, self._witness.public_key, self._keep)
        self._messages: list[bytes] = []
        self._counter.advance(1, _KEY)
        self.seeds: Mapping[str, bytes] = {
            "sealed": seal(_SECRET, guest=self._guest),
            "protected file": self._file(),
            "ledger": b"sgledgr\x01" + bytes(8) + bytes(56) * 3,
            "witness request": self._messages[0],
            "witness answer": self._messages[1],
            "sealed envelope": envelopes.seal(trusted, _SECRET, purpose="p"),
            "envelope of batches": b"".join(
                envelopes.seal_batches(trusted, batches, purpose="p", chunk=4096)
            ),
            "enclave key": key,
            "key pair": self._pair.to_secret(),
        }

    def readers(self) -> Mapping[str, Callable[[bytes], object]]:
        """By name; each raises a SecGearError for what it refuses."""
        return {
            "unseal": self._unseal,
            "protected file": self._read_file,
            "ledger": self._read_ledger,
            "witness": self._ask_witness,
            "witness answer": lambda data: read(data, Answer),
            "sealed envelope": self._open,
            "sealed envelope in pieces": self._open_in_pieces,
            "batches": lambda data: list(envelopes.open_batches(self._pair, [data], purpose="p")),
            "enclave key": EnclaveKey.from_cbor,
            "key pair": EnclaveKeyPair.from_secret,
        }

    def _keep(self, message: bytes) -> bytes:
        answer = self._witness.answer(message)
        self._messages += [message, answer]
        return answer

    def _file(self) -> bytes:
        storage = MemoryStorage()
        with ProtectedFile.create(storage, _KEY, name=b"f", chunk_size=4096) as file:
            file.write(_SECRET)
        return bytes(storage.data)

    def _unseal(self, data: bytes) -> None:
        _expect(unseal(data, guest=self._guest) == _SECRET)

    def _read_file(self, data: bytes) -> None:
        with ProtectedFile.open(MemoryStorage(data), _KEY, name=b"f") as file:
            _expect(file.read() in (b"", _SECRET))

    def _read_ledger(self, data: bytes) -> None:
        counter = MemoryCounter()
        file = ProtectedFile.create(MemoryStorage(), _KEY, name=b"f", counter=counter)
        file.write(data)
        KeptLedger(file)

    def _ask_witness(self, data: bytes) -> None:
        self._witness.answer(data)
        if self._counter.read() != (1, _KEY):
            raise AssertionError("a damaged request has moved a counter")

    def _open(self, data: bytes) -> None:
        found = envelopes.open(self._pair, data, purpose="p")
        _expect(found == _SECRET or found.startswith(b"\xff\xff\xff\xff"))

    def _open_in_pieces(self, data: bytes) -> None:
        opener = Opener(self._pair, purpose="p")
        pieces = opener.stream(data[at : at + 1000] for at in range(0, len(data), 1000))
        found = b"".join(pieces)
        _expect(found == _SECRET or found.startswith(b"\xff\xff\xff\xff"))


def _expect(holds: bool) -> None:
    if not holds:
        raise AssertionError("opened as something else")
