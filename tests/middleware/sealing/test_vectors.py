"""The vectors of docs/sealing.md: we agree with them, and a reader that shares no code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.base.tee import SealingPolicy
from secgear.errors import RolledBack, SealedForOther
from secgear.middleware import sealing
from secgear.middleware.sealing import FileCounter, ProtectedFile, Standing, witness_messages
from secgear.middleware.sealing.witness_messages import Answer, Request
from tests.middleware.sealing import independent
from tests.middleware.sealing.conftest import FakeGuest
from tests.middleware.sealing.make_vectors import CASES, Counting, Memory, unpacked

PLACE = Path(__file__).parents[2] / "vectors" / "own" / "sealing.json"
VECTORS: dict[str, Any] = json.loads(PLACE.read_text())
POLICIES = {1: "measurement", 2: "signer"}


def counter_of(vector: dict[str, Any]) -> Counting | None:
    """A counter that stands where the vector's does."""
    if vector["counter"] is None:
        return None
    counter = Counting(vector["value"] - 1)
    counter.advance(vector["value"], bytes.fromhex(vector["mark"]))
    return counter


def test_vectors_are_all_there() -> None:
    assert len(VECTORS["sealed"]) == 4
    assert len(VECTORS["derived"]) == 3
    assert len(VECTORS["counters"]) == 2
    assert len(VECTORS["witness"]) == 3
    assert [vector["name"] for vector in VECTORS["files"]] == list(CASES)


# --- sealed data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["sealed"], ids=range(4))
def test_sealed_data(vector: dict[str, Any]) -> None:
    sealed, aad = bytes.fromhex(vector["sealed"]), bytes.fromhex(vector["associated"])
    counter = counter_of(vector)
    assert (
        sealing.unseal(sealed, aad=aad, counter=counter, guest=FakeGuest()).hex()
        == (vector["data"])
    )
    read = independent.open_sealed(bytes.fromhex(vector["tee_key"]), sealed, aad)
    assert read.data.hex() == vector["data"]
    assert (POLICIES[read.policy], read.svn) == (vector["policy"], vector["svn"])
    assert (read.counter.hex() or None, read.value) == (vector["counter"], vector["value"])
    assert vector["mark"] in (None, read.mark.hex())


@pytest.mark.parametrize("vector", VECTORS["sealed"], ids=range(4))
def test_sealed_data_is_for_its_associated_data_only(vector: dict[str, Any]) -> None:
    sealed = bytes.fromhex(vector["sealed"])
    with pytest.raises(SealedForOther):
        sealing.unseal(sealed, aad=b"other", counter=counter_of(vector), guest=FakeGuest())
    with pytest.raises(InvalidTag):
        independent.open_sealed(bytes.fromhex(vector["tee_key"]), sealed, b"other")


def test_mark_tells_two_versions_of_one_number_apart() -> None:
    vector = VECTORS["sealed"][-1]
    counter = Counting(vector["value"] - 1)
    counter.advance(vector["value"], hashlib.sha256(b"another").digest())
    with pytest.raises(RolledBack):
        sealing.unseal(
            bytes.fromhex(vector["sealed"]), aad=b"ledger", counter=counter, guest=FakeGuest()
        )


def test_another_implementation_reads_what_we_seal_now() -> None:
    guest = FakeGuest()
    with guest.sealing_key(SealingPolicy.SIGNER, 2) as secret:
        key = bytes(secret.view())
    sealed = sealing.seal(bytes(100_000), aad=b"a", policy=SealingPolicy.SIGNER, svn=2, guest=guest)
    assert independent.open_sealed(key, sealed, b"a").data == bytes(100_000)


@pytest.mark.parametrize("vector", VECTORS["derived"], ids=range(3))
def test_derived_key(vector: dict[str, Any]) -> None:
    purpose, salt, size = vector["purpose"], bytes.fromhex(vector["salt"]), vector["size"]
    ours = sealing.derive_key(purpose, salt=salt, size=size, guest=FakeGuest())
    theirs = independent.derived_key(bytes.fromhex(vector["tee_key"]), purpose, salt, size)
    assert ours.hex() == theirs.hex() == vector["key"]


# --- protected files -----------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda vector: vector["name"])
def test_protected_file(vector: dict[str, Any]) -> None:
    key, name = bytes.fromhex(vector["key"]), bytes.fromhex(vector["file_name"])
    stored, data = unpacked(vector["stored"]), unpacked(vector["data"])
    memory = Memory()
    memory.write(0, stored)
    with ProtectedFile.open(memory, key, name=name, counter=counter_of(vector)) as file:
        assert file.readall() == data
        assert file.version == vector["version"]
    read = independent.open_file(key, stored, name)
    assert read.data == data
    assert (read.commit, read.size) == (vector["version"], vector["size"])
    assert (read.counter.hex() or None, read.value) == (vector["counter"], vector["value"])
    assert vector["mark"] in (None, read.mark.hex())
    with pytest.raises(AssertionError, match="no header"):
        independent.open_file(key, stored, b"another name")


def test_files_of_all_shapes_are_among_them() -> None:
    depths = {
        independent.open_file(
            bytes.fromhex(vector["key"]),
            unpacked(vector["stored"]),
            bytes.fromhex(vector["file_name"]),
        ).depth
        for vector in VECTORS["files"]
    }
    assert depths == {0, 1, 2}


@pytest.mark.parametrize("fill", CASES.values(), ids=CASES)
def test_another_implementation_reads_what_we_write_now(fill: Any) -> None:
    memory = Memory()
    with ProtectedFile.create(memory, bytes(32), name=b"n", chunk_size=8192) as file:
        fill(file)
        file.seek(0)
        data = file.readall()
    assert independent.open_file(bytes(32), bytes(memory.data), b"n").data == data


# --- counters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["counters"], ids=range(2))
def test_counters_file(vector: dict[str, Any], tmp_path: Path) -> None:
    record = bytes.fromhex(vector["record"])
    (tmp_path / "counter").write_bytes(record)
    counter = FileCounter(tmp_path / "counter")
    assert counter.read() == Standing(vector["value"], bytes.fromhex(vector["mark"]))
    assert counter.identity.hex() == vector["identity"]
    assert counter.identity == hashlib.sha256(b"counter").digest()[:16]
    assert independent.read_counter(record) == counter.read()


# --- the witness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["witness"], ids=["read", "advance", "too-late"])
def test_witness_messages(vector: dict[str, Any]) -> None:
    names = ("holder_seed", "witness", "nonce", "request", "answer")
    seed, witness, nonce, request, answer = (bytes.fromhex(vector[name]) for name in names)
    asked, stands = (
        Standing(vector[name]["value"], bytes.fromhex(vector[name]["mark"]))
        for name in ("asked", "stands")
    )
    holder = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()

    ours = witness_messages.read(request, Request)
    ours.verify(witness)
    assert (ours.holder, ours.nonce, ours.value, ours.mark) == (holder, nonce, *asked)
    said = witness_messages.read(answer, Answer)
    assert said.verify(witness, ours.identity, nonce) == stands

    assert independent.ask(seed, witness, nonce, *asked) == request
    assert independent.told(answer, witness, holder, nonce) == stands
    with pytest.raises(InvalidSignature):
        independent.told(answer, witness, holder, bytes(reversed(nonce[:-1])) + b"x")
