"""A witness on another machine that remembers counters for enclaves whose hosts would not.

The witness and an enclave exchange two small messages over whatever carries bytes. Answers are
signed over the enclave's nonce, so a host can't replay or forge one; a counter is moved only by
the holder of its key, so a host can't run it ahead. Messages are maps in deterministic CBOR.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn, TypeVar, final

import cbor2
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secgear.errors import EvidenceMalformed, RolledBack, SealingError
from secgear.middleware.attestation import cbor
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.sealing.counters import MAX_VALUE, FileCounter

MAX_SIZE: Final = 1024  # bytes of a message
_NONCE_SIZE: Final = 32
_REQUEST_LABEL = b"secgear witness request v1\0"
_ANSWER_LABEL = b"secgear witness answer v1\0"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an enclave asks. holder: its public key (Ed25519), whose SHA-256 names the counter.

    value: what the counter is to become; 0 for reading it, which needs no signature.
    """

    version: int
    holder: bytes
    nonce: bytes
    value: int
    signature: bytes

    @property
    def identity(self) -> bytes:
        """Names the counter: 32 bytes."""
        return hashlib.sha256(self.holder).digest()


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the witness says. value: of the counter now. signature: over identity, nonce, value."""

    version: int
    value: int
    signature: bytes


T = TypeVar("T", Request, Answer)

# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = [msgspec.json.Decoder(Request), msgspec.json.Decoder(Answer)]


@final
class Witness:
    """Keeps counters in a folder. One instance may serve many threads, and processes the folder.

    key: signs the answers; enclaves have its public half built in.
    """

    def __init__(self, folder: Path, key: Ed25519PrivateKey) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = key
        self._lock = threading.Lock()

    @property
    def public_key(self) -> bytes:
        """Raw Ed25519 key, 32 bytes: what `RemoteCounter` takes."""
        return self._key.public_key().public_bytes_raw()

    def answer(self, message: bytes) -> bytes:
        """The answer to a request. Raises SealingError for one that is none or not authorised."""
        request = _read(message, Request)
        if len(request.holder) != 32 or len(request.nonce) != _NONCE_SIZE:
            raise SealingError("a request with a key or nonce of another size")
        if not 0 <= request.value <= MAX_VALUE:
            raise SealingError("a request for a value out of range")
        if request.value:
            _verify(
                request.holder,
                request.signature,
                _REQUEST_LABEL + request.nonce + request.value.to_bytes(8, "big"),
                "the request is not signed by the counter's holder",
            )
        identity = request.identity
        counter = FileCounter(self._folder / identity.hex(), identity=identity)
        with self._lock:
            value = counter.read()
            # Asking again for what was granted is no second step: an answer can get lost.
            if request.value == value + 1:
                value = counter.increment()
        signed = _ANSWER_LABEL + identity + request.nonce + value.to_bytes(8, "big")
        return _write(Answer(1, value, self._key.sign(signed)))


@final
class RemoteCounter:
    """A counter that a `Witness` keeps, from inside an enclave.

    seed: 32 secret bytes that name and move the counter: `derive_key`, so that they come again
    after a restart. witness: the public key that the witness's answers must be signed with.
    exchange: carries a request to the witness and its answer back; it may do anything to them.
    """

    def __init__(self, seed: bytes, witness: bytes, exchange: Callable[[bytes], bytes]) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._holder = self._key.public_key().public_bytes_raw()
        self._witness = witness
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"RemoteCounter({self.identity.hex()[:16]}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key can't be pickled")

    @property
    def identity(self) -> bytes:
        """SHA-256 of the holder's public key."""
        return hashlib.sha256(self._holder).digest()

    def read(self) -> int:
        """What the witness says now. Raises SealingError for an answer that is not its own."""
        return self._ask(0)

    def increment(self) -> int:
        """One more. Raises RolledBack if somebody else, with the same seed, was faster."""
        wanted = self._ask(0) + 1
        value = self._ask(wanted)
        if value != wanted:
            raise RolledBack(f"the counter is at {value}, not at {wanted}: somebody else uses it")
        return value

    def _ask(self, value: int) -> int:
        nonce = os.urandom(_NONCE_SIZE)
        signature = b""
        if value:
            signature = self._key.sign(_REQUEST_LABEL + nonce + value.to_bytes(8, "big"))
        request = Request(1, self._holder, nonce, value, signature)
        answer = _read(self._exchange(_write(request)), Answer)
        if not 0 <= answer.value <= MAX_VALUE:
            raise SealingError("the witness's value is out of range")
        _verify(
            self._witness,
            answer.signature,
            _ANSWER_LABEL + self.identity + nonce + answer.value.to_bytes(8, "big"),
            "the answer is not the witness's to this question",
        )
        return answer.value


def _write(message: Request | Answer) -> bytes:
    return cbor2.dumps(msgspec.to_builtins(message, builtin_types=(bytes,)), canonical=True)


def _read(data: bytes, kind: type[T]) -> T:
    try:
        content = cbor.decode(data, kind.__name__, max_size=MAX_SIZE, max_depth=2)
        message = msgspec.convert(content, kind, builtin_types=(bytes,))
    except EvidenceMalformed as error:
        raise SealingError(f"no {str(error).removeprefix('format: ')}") from None
    except UNREADABLE as error:
        raise SealingError(f"no {kind.__name__}: {error}") from None
    if message.version != 1:
        raise SealingError(f"a {kind.__name__} of version {message.version}; this release reads 1")
    return message


def _verify(key: bytes, signature: bytes, message: bytes, reason: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise SealingError(reason) from None
