"""The audit trail's form, and its verification: for everybody, inside the enclave and out.

Chain: hash = SHA-256(label | hash of the record before | record), the first one's predecessor being
32 zero bytes. Signature: Ed25519 over (label | number, 8 bytes | hash).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from secgear.errors import CryptoModuleError

BEGINNING: Final = bytes(32)
_CHAIN: Final = b"secgear crypto audit v1\0"
_SIGNED: Final = b"secgear crypto audit checkpoint v1\0"


class End(msgspec.Struct, frozen=True):
    """The end of a trail that was verified: number of records, the hash that covers them all."""

    seq: int
    hash: str


class Told(msgspec.Struct, frozen=True):
    """The part of a record that its place depends on."""

    seq: int


def chain(previous: bytes, body: bytes) -> bytes:
    """A record's hash."""
    return hashlib.sha256(_CHAIN + previous + body).digest()


def signed(seq: int, digest: bytes) -> bytes:
    """What a checkpoint's signature covers."""
    return _SIGNED + seq.to_bytes(8, "big") + digest


@final
class Verifier:
    """Goes through a trail from its beginning. key: 32 bytes, the module's audit key."""

    def __init__(self, key: bytes) -> None:
        self._key = Ed25519PublicKey.from_public_bytes(key)
        self._seq = 0
        self._hash = BEGINNING
        self._signed = True

    def follow(self, records: Iterable[tuple[int, bytes, bytes, bytes]]) -> None:
        """Verify more records: number, body, hash, signature of each.

        Raises CryptoModuleError at the first that was changed, removed or put in.
        """
        for seq, body, claimed, signature in records:
            self._seq += 1
            self._hash = chain(self._hash, body)
            if seq != self._seq or claimed != self._hash or _number(body) != seq:
                raise CryptoModuleError(f"audit: record {self._seq} is missing or was changed")
            self._signed = bool(signature)
            if signature:
                self._check(signature)

    def end(self) -> End:
        """The verified end. Raises CryptoModuleError when it is no checkpoint."""
        if not self._signed:
            raise CryptoModuleError(f"audit: record {self._seq}, the last one, is not signed")
        return End(self._seq, self._hash.hex())

    def _check(self, signature: bytes) -> None:
        try:
            self._key.verify(signature, signed(self._seq, self._hash))
        except InvalidSignature:
            raise CryptoModuleError(
                f"audit: record {self._seq} is not signed by this module"
            ) from None


def _number(body: bytes) -> int:
    try:
        return _TOLD.decode(body).seq
    except msgspec.DecodeError:
        return 0


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_TOLD = msgspec.json.Decoder(Told)
