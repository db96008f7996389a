"""Through real enclaves: sealed by one start, opened by the next and by its successor.

The host keeps all the bytes, and every counter answers through it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from secgear.middleware.sealing import FileCounter, TpmCounter, Witness
from secgear.middleware.sealing.tpm_counter import FIRST_INDEX
from tests.adversary.storage import MemoryStorage
from tests.adversary.vendors.tpm import running_swtpm

APP = """
from secgear import App
from secgear.base.tee import SealingPolicy
from secgear.errors import RolledBack, SealedForOther, SealingError
from secgear.middleware import sealing

app = App({name!r}, svn={svn}, requires=["cbor2", "cryptography", "msgspec"])
REFUSALS = [RolledBack, SealedForOther, SealingError]
# {comment}

@app.ocall
def kept_standing() -> tuple[int, bytes]: ...

@app.ocall
def kept_advance(value: int, mark: bytes) -> tuple[int, bytes]: ...

@app.ocall
def to_witness(message: bytes) -> bytes: ...

@app.ocall
def disk_read(offset: int, size: int) -> bytes: ...

@app.ocall
def disk_write(offset: int, data: bytes) -> None: ...

@app.ocall
def disk_flush() -> None: ...

def counter(kind: str):
    if kind == "call":
        return sealing.CallCounter(b"kept", kept_standing, kept_advance)
    if kind == "remote":
        seed = sealing.derive_key("witness", salt=b"", policy=SealingPolicy.SIGNER, svn=1)
        return sealing.RemoteCounter(seed, {witness!r}, to_witness)
    return None

@app.ecall
def put(data: bytes, policy: str) -> bytes:
    return sealing.seal(data, policy=SealingPolicy(policy))

@app.ecall(raises=REFUSALS)
def follow(data: bytes, after: int, kind: str) -> bytes:
    kept = []
    sealing.store(data, kept.append, counter=counter(kind), after=after)
    return kept[0]

@app.ecall(raises=REFUSALS)
def get(sealed: bytes, kind: str) -> bytes:
    return sealing.unseal(sealed, counter=counter(kind))

@app.ecall(raises=REFUSALS)
def again(sealed: bytes, min_svn: int) -> bytes:
    sealing.unseal(sealed, min_svn=min_svn)
    return sealing.reseal(sealed)

def opened(kind: str, writable: bool):
    disk = sealing.CallStorage(disk_read, disk_write, disk_flush)
    key = sealing.derive_key("file", salt=b"", policy=SealingPolicy.SIGNER, svn=1)
    given = {{"name": b"journal", "counter": counter(kind)}}
    if disk_read(0, 1):
        return sealing.ProtectedFile.open(disk, key, writable=writable, **given)
    return sealing.ProtectedFile.create(disk, key, **given)

@app.ecall(raises=REFUSALS)
def append(line: bytes, kind: str) -> int:
    with opened(kind, True) as file:
        file.seek(0, 2)
        file.write(line)
        return file.tell()

@app.ecall(raises=REFUSALS)
def content(kind: str) -> bytes:
    with opened(kind, False) as file:
        return file.read()
"""


class Place:
    """Where enclaves are made and kept: a folder, a signer, counters, a disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP384R1())
        self.counter: Any = FileCounter(folder / "counter")
        self.witness = Witness(folder / "witness", Ed25519PrivateKey.generate())
        self.disk = MemoryStorage()

    def image(self, *, name: str = "keeper", svn: int = 1, comment: str = "") -> Image:
        path = self.folder / f"{name}.py"
        path.write_text(
            APP.format(name=name, svn=svn, comment=comment, witness=self.witness.public_key)
        )
        return sign(build(path), self.key)

    def launch(self, image: Image, **ocalls: Callable[..., Any]) -> Any:
        return secgear.launch(
            image,
            tee="process",
            policy=LaunchPolicy(signers=frozenset({image.signer})) if image.signer else None,
            ocalls={
                "kept_standing": lambda: tuple(self.counter.read()),
                "kept_advance": lambda value, mark: tuple(self.counter.advance(value, mark)),
                "to_witness": self.witness.answer,
                "disk_read": self.disk.read,
                "disk_write": self.disk.write,
                "disk_flush": self.disk.flush,
            }
            | ocalls,
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.witness.close()


def test_next_start_opens_what_the_last_one_sealed(place: Place) -> None:
    image = place.image()
    with place.launch(image) as enclave:
        sealed = {policy: enclave.put(b"state", policy) for policy in ("measurement", "signer")}
    with place.launch(image) as enclave:
        assert all(enclave.get(data, "") == b"state" for data in sealed.values())


def test_successor_opens_and_reseals_what_its_signer_sealed(place: Place) -> None:
    old, new = place.image(svn=1), place.image(svn=2, comment="better")
    with place.launch(old) as enclave:
        by_signer = enclave.put(b"state", "signer")
        by_measurement = enclave.put(b"state", "measurement")
    with place.launch(new) as enclave:
        assert enclave.get(by_signer, "") == b"state"
        resealed = enclave.again(by_signer, 1)
        with pytest.raises(errors.EnclaveError, match="svn 1; 2 at least"):
            enclave.again(by_signer, 2)
        assert enclave.get(enclave.again(resealed, 2), "") == b"state"
        with pytest.raises(errors.EnclaveError, match="not sealed for this enclave"):
            enclave.get(by_measurement, "")
    with place.launch(old) as enclave, pytest.raises(errors.EnclaveError, match="above"):
        enclave.get(resealed, "")


def test_another_product_or_signer_opens_nothing(place: Place) -> None:
    with place.launch(place.image()) as enclave:
        sealed = enclave.put(b"state", "signer")
    with place.launch(place.image(name="other")) as enclave, pytest.raises(errors.EnclaveError):
        enclave.get(sealed, "")
    place.key = ec.generate_private_key(ec.SECP384R1())
    with place.launch(place.image()) as enclave, pytest.raises(errors.EnclaveError):
        enclave.get(sealed, "")


@contextmanager
def in_a_tpm(place: Place) -> Iterator[int]:
    """The host's counter is one of a real software TPM; its first value."""
    with running_swtpm(place.folder) as device:
        place.counter = TpmCounter(FIRST_INDEX, device=device)
        yield place.counter.define().value


@contextmanager
def from_zero(_place: Place) -> Iterator[int]:
    yield 0


@pytest.mark.parametrize(
    ("kind", "where"),
    [("call", from_zero), ("call", in_a_tpm), ("remote", from_zero)],
    ids=["file", "tpm", "witness"],
)
def test_rollback_is_refused_after_a_restart(place: Place, kind: str, where: Any) -> None:
    image = place.image()
    with where(place) as first:
        with place.launch(image) as enclave:
            old = enclave.follow(b"old", first, kind)
            new = enclave.follow(b"new", first + 1, kind)
        with place.launch(image) as enclave:
            assert enclave.get(new, kind) == b"new"
            with pytest.raises(errors.EnclaveError, match="there is newer data"):
                enclave.get(old, kind)


@pytest.mark.parametrize("kind", ["call", "remote"])
def test_twins_of_an_enclave_can_not_undo_each_others_data(place: Place, kind: str) -> None:
    image = place.image()
    with place.launch(image) as one, place.launch(image) as two:
        one.follow(b"first", 0, kind)
        kept = one.follow(b"second", 1, kind)
        with pytest.raises(errors.EnclaveError, match="somebody else"):
            two.follow(b"instead of the second", 1, kind)
        assert two.get(kept, kind) == b"second"


def test_enclave_that_was_stopped_before_it_counted_leaves_nothing_to_go_back_to(
    place: Place,
) -> None:
    """The host lets the witness's answer never come, keeps what was written, and starts anew."""
    image = place.image()
    with place.launch(image) as enclave:
        enclave.append(b"one.", "remote")
    before = bytes(place.disk.data)

    def refuses(_message: bytes) -> bytes:
        raise OSError

    def only_reads(message: bytes) -> bytes:
        if place.disk.data != before:
            raise OSError
        return place.witness.answer(message)

    with place.launch(image, to_witness=only_reads) as enclave, pytest.raises(errors.CallError):
        enclave.append(b"abandoned.", "remote")
    abandoned = bytes(place.disk.data)
    assert abandoned != before
    place.disk.data[:] = before
    with place.launch(image) as enclave:
        enclave.append(b"two.", "remote")
    place.disk.data[:] = abandoned
    with (
        place.launch(image) as enclave,
        pytest.raises(errors.EnclaveError, match="other data was acknowledged"),
    ):
        enclave.content("remote")
    with place.launch(image, to_witness=refuses) as enclave, pytest.raises(errors.CallError):
        enclave.content("remote")


@pytest.mark.parametrize("kind", ["call", "remote"])
def test_protected_file_survives_kills_and_updates_and_refuses_old_copies(
    place: Place, kind: str
) -> None:
    image = place.image()
    copies = []
    written = 0
    for calls in (3, 5, 6, 8, 10):
        left = [calls]
        killed = threading.Event()

        def dies(
            real: Callable[..., Any], left: list[int] = left, killed: threading.Event = killed
        ) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                left[0] -= 1
                if not left[0]:
                    os.kill(enclave.pid, signal.SIGKILL)
                    killed.set()
                return real(*args)

            return call

        with place.launch(
            image,
            disk_read=dies(place.disk.read),
            disk_write=dies(place.disk.write),
            disk_flush=dies(place.disk.flush),
        ) as enclave:
            while True:
                try:
                    enclave.append(b"%04d" % written, kind)
                except errors.EnclaveLost:
                    break
                written += 1
                copies.append(bytes(place.disk.data))
        assert killed.is_set()
        with place.launch(image) as enclave:
            found = enclave.content(kind)
        # All that was acknowledged, and perhaps what was under way.
        assert found in (lines(written), lines(written + 1))
        written = len(found) // 4
    newest = bytes(place.disk.data)
    with place.launch(place.image(svn=2, comment="better")) as enclave:
        assert enclave.content(kind) == lines(written)
    with place.launch(image) as enclave:
        for copy in copies[:-1]:
            place.disk.data[:] = copy
            with pytest.raises(errors.EnclaveError, match="there is newer data"):
                enclave.content(kind)
        place.disk.data.clear()
        with pytest.raises(errors.EnclaveError, match="there has been one"):
            enclave.content(kind)
        place.disk.data[:] = newest
        assert enclave.content(kind) == lines(written)
        for block in range(8192, len(newest), 64 << 10):  # one of them counts
            place.disk.data[block] ^= 1
        with pytest.raises(errors.EnclaveError, match="was changed, moved, cut off"):
            enclave.content(kind)


def lines(count: int) -> bytes:
    return b"".join(b"%04d" % number for number in range(count))


def test_host_sees_nothing_of_a_protected_file(place: Place) -> None:
    with place.launch(place.image()) as enclave:
        enclave.append(b"CANARY" * 10_000, "call")
        sealed = enclave.put(b"CANARY", "measurement")
    seen = bytes(place.disk.data) + sealed + b"".join(entry[1] for entry in place.disk.log if entry)
    assert len(seen) > 60_000
    assert b"CANARY" not in seen
