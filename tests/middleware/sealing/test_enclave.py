"""Through real enclaves: sealed by one start, opened by the next and by its successor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secgear
from secgear import errors
from secgear.base.build import build
from secgear.base.image import Image, LaunchPolicy
from secgear.base.signing import sign
from secgear.middleware.sealing import FileCounter, Witness

APP = """
from secgear import App
from secgear.base.tee import SealingPolicy
from secgear.errors import RolledBack, SealedForOther
from secgear.middleware import sealing

app = App({name!r}, svn={svn}, requires=["cbor2", "cryptography", "msgspec"])
# {comment}

@app.ocall
def kept_value() -> int: ...

@app.ocall
def kept_increment() -> int: ...

@app.ocall
def to_witness(message: bytes) -> bytes: ...

def counter(kind: str):
    if kind == "call":
        return sealing.CallCounter(b"kept", kept_value, kept_increment)
    if kind == "remote":
        seed = sealing.derive_key("witness", salt=b"")
        return sealing.RemoteCounter(seed, {witness!r}, to_witness)
    return None

@app.ecall
def put(data: bytes, policy: str, kind: str) -> bytes:
    kept = []
    how = SealingPolicy(policy)
    if kind:
        sealing.store(data, kept.append, counter=counter(kind), policy=how)
        return kept[0]
    return sealing.seal(data, policy=how)

@app.ecall(raises=[RolledBack, SealedForOther])
def get(sealed: bytes, kind: str) -> bytes:
    return sealing.unseal(sealed, counter=counter(kind))

@app.ecall(raises=[SealedForOther])
def again(sealed: bytes) -> bytes:
    return sealing.reseal(sealed)
"""


class Place:
    """Where enclaves are made and kept: a folder, a signer, counters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.counter = FileCounter(folder / "counter")
        self.witness = Witness(folder / "witness", Ed25519PrivateKey.generate())

    def image(self, *, name: str = "keeper", svn: int = 1, comment: str = "") -> Image:
        path = self.folder / f"{name}.py"
        path.write_text(
            APP.format(name=name, svn=svn, comment=comment, witness=self.witness.public_key)
        )
        return sign(build(path), self.key)

    def launch(self, image: Image) -> Any:
        return secgear.launch(
            image,
            tee="process",
            policy=LaunchPolicy(signers=frozenset({image.signer})) if image.signer else None,
            ocalls={
                "kept_value": self.counter.read,
                "kept_increment": self.counter.increment,
                "to_witness": self.witness.answer,
            },
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_next_start_opens_what_the_last_one_sealed(place: Place) -> None:
    image = place.image()
    with place.launch(image) as enclave:
        sealed = {policy: enclave.put(b"state", policy, "") for policy in ("measurement", "signer")}
    with place.launch(image) as enclave:
        assert all(enclave.get(data, "") == b"state" for data in sealed.values())


def test_successor_opens_and_reseals_what_its_signer_sealed(place: Place) -> None:
    old, new = place.image(svn=1), place.image(svn=2, comment="better")
    with place.launch(old) as enclave:
        by_signer = enclave.put(b"state", "signer", "")
        by_measurement = enclave.put(b"state", "measurement", "")
    with place.launch(new) as enclave:
        assert enclave.get(by_signer, "") == b"state"
        resealed = enclave.again(by_signer)
        with pytest.raises(errors.EnclaveError):
            enclave.get(by_measurement, "")
    with place.launch(old) as enclave, pytest.raises(errors.EnclaveError, match="above"):
        enclave.get(resealed, "")


def test_another_product_of_the_same_signer_opens_nothing(place: Place) -> None:
    with place.launch(place.image()) as enclave:
        sealed = enclave.put(b"state", "signer", "")
    with place.launch(place.image(name="other")) as enclave, pytest.raises(errors.EnclaveError):
        enclave.get(sealed, "")


@pytest.mark.parametrize("kind", ["call", "remote"])
def test_rollback_is_refused_after_a_restart(place: Place, kind: str) -> None:
    image = place.image()
    with place.launch(image) as enclave:
        old = enclave.put(b"old", "measurement", kind)
        new = enclave.put(b"new", "measurement", kind)
    with place.launch(image) as enclave:
        assert enclave.get(new, kind) == b"new"
        with pytest.raises(errors.EnclaveError, match="there is newer data"):
            enclave.get(old, kind)
