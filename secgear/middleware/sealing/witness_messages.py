"""What an enclave and a witness say to each other, over whatever carries bytes.

Both are maps in deterministic CBOR, of at most 1024 bytes; anything else is refused:

    request  {"version": 1, "holder": 32 bytes, "nonce": 32 bytes, "value": integer,
              "mark": 32 bytes, "signature": 64 bytes}
    answer   {"version": 1, "value": integer, "mark": 32 bytes, "signature": 64 bytes}

Signatures are Ed25519 (RFC 8032): the request's, by the holder, over its label, the witness's
public key, nonce, value and mark; the answer's, by the witness, over its label, SHA-256 of the
holder, the request's nonce, value and mark. Values are 8 bytes, big endian, there. So a host can
replay or forge neither, nor bring a request to another witness.
"""

from __future__ import annotations

import hashlib
from typing import Final, TypeVar

import cbor2
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secgear.errors import EvidenceMalformed, SealingError
from secgear.middleware.attestation import cbor
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.sealing.counters import MARK_SIZE, MAX_VALUE, Standing

MAX_SIZE: Final = 1024  # bytes of a message
KEY_SIZE: Final = 32
NONCE_SIZE: Final = 32
_REQUEST_LABEL = b"secgear witness request v1\0"
_ANSWER_LABEL = b"secgear witness answer v1\0"


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an enclave asks. holder: its public key (Ed25519), whose SHA-256 names the counter.

    value, mark: what the counter is to become; zeros for reading it.
    """

    version: int
    holder: bytes
    nonce: bytes
    value: int
    mark: bytes
    signature: bytes

    def __post_init__(self) -> None:
        """Raise SealingError unless every field can be what it says."""
        _check(self.version, self.value, self.mark)
        if len(self.holder) != KEY_SIZE or len(self.nonce) != NONCE_SIZE:
            raise SealingError("a request with a key or nonce of another size")
        if not self.value and any(self.mark):
            raise SealingError("a request with a mark and no value")

    @property
    def identity(self) -> bytes:
        """Names the counter: 32 bytes."""
        return identity_of(self.holder)

    def verify(self, witness: bytes) -> None:
        """Raise SealingError unless the holder has made it for the witness of that public key."""
        message = request_message(witness, self.nonce, self.value, self.mark)
        _verify(
            self.holder,
            self.signature,
            message,
            "the request is not signed by the counter's holder",
        )


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the witness says: where the counter is now."""

    version: int
    value: int
    mark: bytes
    signature: bytes

    def __post_init__(self) -> None:
        """Raise SealingError unless every field can be what it says."""
        _check(self.version, self.value, self.mark)

    def verify(self, witness: bytes, identity: bytes, nonce: bytes) -> Standing:
        """Where the counter is. Raises SealingError unless it is the witness's answer to that."""
        standing = Standing(self.value, self.mark)
        message = answer_message(identity, nonce, standing)
        _verify(
            witness, self.signature, message, "the answer is not the witness's to this question"
        )
        return standing


T = TypeVar("T", Request, Answer)

# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = [msgspec.json.Decoder(Request), msgspec.json.Decoder(Answer)]


def identity_of(holder: bytes) -> bytes:
    """SHA-256 of the holder's public key."""
    return hashlib.sha256(holder).digest()


def request_message(witness: bytes, nonce: bytes, value: int, mark: bytes) -> bytes:
    """What the holder signs."""
    return _REQUEST_LABEL + witness + nonce + value.to_bytes(8, "big") + mark


def answer_message(identity: bytes, nonce: bytes, standing: Standing) -> bytes:
    """What the witness signs."""
    return _ANSWER_LABEL + identity + nonce + standing.value.to_bytes(8, "big") + standing.mark


def write(message: Request | Answer) -> bytes:
    """The message as bytes."""
    return cbor2.dumps(msgspec.to_builtins(message, builtin_types=(bytes,)), canonical=True)


def read(data: bytes, kind: type[T]) -> T:
    """Read a message. Raises SealingError unless it is one in deterministic encoding."""
    try:
        content = cbor.decode(data, kind.__name__, max_size=MAX_SIZE, max_depth=2)
        message = msgspec.convert(content, kind, builtin_types=(bytes,))
    except EvidenceMalformed as error:
        raise SealingError(f"no {str(error).removeprefix('format: ')}") from None
    except UNREADABLE as error:
        raise SealingError(f"no {kind.__name__}: {error}") from None
    if write(message) != data:
        raise SealingError(f"a {kind.__name__} that is not in deterministic encoding")
    return message


def _check(version: int, value: int, mark: bytes) -> None:
    if version != 1:
        raise SealingError(f"a message of version {version}; this release reads 1")
    if not 0 <= value <= MAX_VALUE or len(mark) != MARK_SIZE:
        raise SealingError("a message with a value or mark that no counter has")


def _verify(key: bytes, signature: bytes, message: bytes, reason: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise SealingError(reason) from None
