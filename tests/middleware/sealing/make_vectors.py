"""Write tests/vectors/own/sealing.json: ``python -m tests.middleware.sealing.make_vectors``.

Keys are fixed; salts and nonces are drawn, so every run gives other bytes under the same keys.
"""

from __future__ import annotations

import base64
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.base.tee import SealingPolicy
from secgear.middleware import sealing
from secgear.middleware.sealing import FileCounter, ProtectedFile, Standing, witness_messages
from secgear.middleware.sealing.witness_messages import Answer, Request
from tests.middleware.sealing.conftest import FakeGuest

PLACE = Path(__file__).parents[2] / "vectors" / "own" / "sealing.json"
FILE_KEY = bytes(range(32))
CHUNK = 4096
NAME = b"vectors"
HOLDER, KEEPER = bytes(range(32)), bytes(range(32, 64))


class Memory:
    """Storage in memory."""

    def __init__(self) -> None:
        self.data = bytearray()

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        return


class Counting:
    """A counter in memory."""

    identity = b"vectors' counter"

    def __init__(self, value: int = 0) -> None:
        self._now = Standing(value, bytes(32))

    def read(self) -> Standing:
        return self._now

    def advance(self, value: int, mark: bytes) -> Standing:
        if value == self._now.value + 1:
            self._now = Standing(value, mark)
        return self._now


def main() -> None:
    vectors = {
        "secgear-sealing-vectors": 1,
        "sealed": list(sealed()),
        "derived": list(derived()),
        "files": list(files()),
        "counters": list(counters()),
        "witness": list(witness()),
    }
    PLACE.write_text(json.dumps(vectors, indent=1) + "\n")


def tee_key(policy: SealingPolicy, svn: int) -> bytes:
    """The sealing key that the guest of the vectors has for it."""
    with FakeGuest().sealing_key(policy, svn) as secret:
        return bytes(secret.view())


def sealed() -> Iterator[dict[str, Any]]:
    measurement, signer = SealingPolicy.MEASUREMENT, SealingPolicy.SIGNER
    for data, aad, policy, svn, counter in (
        (b"", b"", measurement, 3, None),
        (b"for this program", b"notes", measurement, 3, None),
        (b"for its successors, too", b"", signer, 1, None),
        (b"the eighth", b"ledger", signer, 3, Counting(7)),
    ):
        made = sealing.seal(
            data,
            aad=aad,
            policy=policy,
            svn=svn,
            counter=counter,
            after=None if counter is None else counter.read().value,
            guest=FakeGuest(),
        )
        if counter is not None:
            sealing.commit(made, counter=counter)
        yield {
            "policy": policy.value,
            "svn": svn,
            "tee_key": tee_key(policy, svn).hex(),
            "associated": aad.hex(),
            "counter": None if counter is None else counter.identity.hex(),
            "value": 0 if counter is None else counter.read().value,
            "mark": None if counter is None else counter.read().mark.hex(),
            "data": data.hex(),
            "sealed": made.hex(),
        }


def derived() -> Iterator[dict[str, Any]]:
    policy = SealingPolicy.MEASUREMENT
    for purpose, salt, size in (("file", b"", 32), ("witness", b"salt", 32), ("é" * 127, b"s", 64)):
        key = sealing.derive_key(purpose, salt=salt, size=size, policy=policy, guest=FakeGuest())
        yield {
            "tee_key": tee_key(policy, 3).hex(),
            "purpose": purpose,
            "salt": salt.hex(),
            "size": size,
            "key": key.hex(),
        }


def _nothing(_: ProtectedFile) -> None:
    return


def _small(file: ProtectedFile) -> None:
    file.write(b"a protected file")


def _rewritten(file: ProtectedFile) -> None:
    for number in range(4):
        file.seek(0)
        file.write(bytes([number]) * (CHUNK + 1))
        file.flush()
    file.seek(CHUNK - 2)
    file.write(b"over")


def _holes(file: ProtectedFile) -> None:
    """Two levels: 113 references fit into a block."""
    file.write(b"first")
    file.seek(150 * CHUNK + 7)
    file.write(b"last")


def _cut(file: ProtectedFile) -> None:
    file.write(bytes(range(256)) * 40)
    file.flush()
    file.truncate(5000)
    file.flush()
    file.truncate(9000)


CASES: dict[str, Callable[[ProtectedFile], None]] = {
    "empty": _nothing,
    "small": _small,
    "rewritten": _rewritten,
    "holes": _holes,
    "cut and grown": _cut,
}


def files() -> Iterator[dict[str, Any]]:
    for name, fill in CASES.items():
        counter = Counting() if name == "rewritten" else None
        memory = Memory()
        with ProtectedFile.create(
            memory, FILE_KEY, name=NAME, chunk_size=CHUNK, counter=counter
        ) as file:
            fill(file)
        with ProtectedFile.open(memory, FILE_KEY, name=NAME, counter=counter) as file:
            data, version = file.readall(), file.version
        yield {
            "name": name,
            "key": FILE_KEY.hex(),
            "file_name": NAME.hex(),
            "version": version,
            "size": len(data),
            "data": packed(data),
            "counter": None if counter is None else counter.identity.hex(),
            "value": 0 if counter is None else counter.read().value,
            "mark": None if counter is None else counter.read().mark.hex(),
            "stored": packed(bytes(memory.data)),
        }


def counters() -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        counter = FileCounter(Path(folder) / "counter")
        for value in (1, 2):
            counter.advance(value, bytes([value]) * 32)
            record = Path(folder, "counter").read_bytes()
            yield {
                "value": value,
                "mark": (bytes([value]) * 32).hex(),
                "identity": counter.identity.hex(),
                "record": record.hex(),
            }


def witness() -> Iterator[dict[str, Any]]:
    """What a holder asks and what the witness answers; all of it is determined."""
    holder, keeper = (Ed25519PrivateKey.from_private_bytes(seed) for seed in (HOLDER, KEEPER))
    keys = [key.public_key().public_bytes_raw() for key in (holder, keeper)]
    identity = witness_messages.identity_of(keys[0])
    for number, (asked, stands) in enumerate(
        (
            (Standing(0, bytes(32)), Standing(0, bytes(32))),
            (Standing(1, b"m" * 32), Standing(1, b"m" * 32)),
            (Standing(2, b"n" * 32), Standing(7, b"o" * 32)),
        )
    ):
        nonce = bytes([number]) * 32
        wanted = witness_messages.request_message(keys[1], nonce, *asked)
        request = Request(1, keys[0], nonce, *asked, holder.sign(wanted))
        said = keeper.sign(witness_messages.answer_message(identity, nonce, stands))
        yield {
            "holder_seed": HOLDER.hex(),
            "witness": keys[1].hex(),
            "nonce": nonce.hex(),
            "asked": {"value": asked.value, "mark": asked.mark.hex()},
            "stands": {"value": stands.value, "mark": stands.mark.hex()},
            "request": witness_messages.write(request).hex(),
            "answer": witness_messages.write(Answer(1, *stands, said)).hex(),
        }


def packed(data: bytes) -> str:
    """For JSON: zlib, base64."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


def unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


if __name__ == "__main__":
    main()
