"""A backup's file: what it says to anybody, what only its key opens, and the module's signature.

    8 bytes     "sgcback" and the version, 1
    4 bytes     length of the manifest
    manifest    JSON in one encoding: `Manifest`
    records     4 bytes: bit 31 says that it is the last one, the others the bytes of ciphertext;
                then AES-256-GCM ciphertext and tag
    64 bytes    Ed25519 by the module's audit key: over everything before

Integers are big-endian. A record's nonce is its number from 0 in 11 bytes and 1 if it is the last
one, else 0 (the STREAM construction; the key is of this backup alone), its associated data the
manifest's digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import IO, Annotated, Final, final

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles.operations import MAX_CUSTODIANS
from secgear.services.crypto.roles.persons import Name

MAGIC: Final = b"sgcback\x01"
MAX_MANIFEST: Final = 128 << 10  # bytes
MAX_RECORD: Final = 2 << 20  # bytes of a record's data
MAX_RECORDS: Final = 1 << 14
SIGNATURE_SIZE: Final = 64
_TAG: Final = 16
_FINAL: Final = 1 << 31
WORD: Final = struct.Struct(">I")
_DIGEST: Final = b"secgear crypto backup manifest v1\0"
_SIGNED: Final = b"secgear crypto backup v1\0"
_HEX_16 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_HEX_32 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class SealedShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A custodian's share. key: SHA-256 of their public key. sealed: base64, for them alone."""

    custodian: Name
    key: _HEX_32
    sealed: Annotated[bytes, msgspec.Meta(max_length=2048)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a backup says without its key. The signature behind the records covers it.

    id: 16 random bytes. module: whose backup it is, with its audit key and the end of its audit
    trail. made_at: seconds since 1970, by its host's clock. threshold: how many shares it takes.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = msgspec.field(
        name="secgear-crypto-backup", default=1
    )
    id: _HEX_16
    module: _HEX_16
    made_at: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
    audit_key: _HEX_32
    audit_seq: Annotated[int, msgspec.Meta(ge=0)]
    audit_hash: _HEX_32
    threshold: Annotated[int, msgspec.Meta(ge=2, le=MAX_CUSTODIANS)]
    shares: Annotated[tuple[SealedShare, ...], msgspec.Meta(max_length=MAX_CUSTODIANS)]

    def to_bytes(self) -> bytes:
        """The one encoding."""
        return _encode(self)


def parse_manifest(data: bytes) -> Manifest:
    """Raises CryptoRefused."""
    if len(data) > MAX_MANIFEST:
        raise CryptoRefused(f"no backup: a manifest of more than {MAX_MANIFEST} bytes")
    try:
        manifest = _MANIFESTS.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CryptoRefused(f"no backup: {error}") from None
    if manifest.to_bytes() != data:
        raise CryptoRefused("no backup: its manifest's encoding is not the one that there is")
    if not manifest.threshold <= len(manifest.shares):
        raise CryptoRefused("no backup: fewer shares than it takes")
    return manifest


def digest_of(manifest: bytes) -> bytes:
    """Names a backup: 32 bytes, over its manifest. All else follows from the manifest's keys."""
    return hashlib.sha256(_DIGEST + manifest).digest()


@final
class Seal:
    """Makes a backup's records, in their order. key: 32 bytes, used for this backup alone."""

    def __init__(self, key: bytes, manifest: bytes) -> None:
        self._cipher = AESGCM(key)
        self._digest = digest_of(manifest)
        self._hash = _hash(self._digest)
        self._number = 0

    def record(self, data: bytes, *, last: bool) -> bytes:
        """One record's bytes."""
        ciphertext = self._cipher.encrypt(_nonce(self._number, last), data, self._digest)
        self._number += 1
        made = WORD.pack(len(data) | (_FINAL if last else 0)) + ciphertext
        self._hash.update(made)
        return made

    def to_be_signed(self) -> bytes:
        """What the module signs behind the last record."""
        return _SIGNED + self._hash.digest()


@final
class Check:
    """Follows a backup's records in their order. Nothing of it counts before `finish`."""

    def __init__(self, manifest: bytes) -> None:
        self.manifest = parse_manifest(manifest)
        self._digest = digest_of(manifest)
        self._hash = _hash(self._digest)
        self._number = 0
        self._last = False

    def record(self, record: bytes) -> tuple[bytes, bytes, bool]:
        """Nonce, ciphertext, and whether it is the last. Raises CryptoRefused."""
        size, last = size_of(record[: WORD.size])
        if self._last or self._number >= MAX_RECORDS or len(record) != WORD.size + size:
            raise CryptoRefused("the backup's records are not in their order")
        nonce = _nonce(self._number, last)
        self._number += 1
        self._last = last
        self._hash.update(record)
        return nonce, record[WORD.size :], last

    def opened(self, record: bytes, key: AESGCM) -> tuple[bytes, bool]:
        """A record's data, and whether it is the last. Raises CryptoRefused."""
        number = self._number
        nonce, ciphertext, last = self.record(record)
        try:
            return key.decrypt(nonce, ciphertext, self._digest), last
        except InvalidTag:
            raise CryptoRefused(
                f"record {number} of the backup can't be opened: it was changed, or these shares "
                "are not its own"
            ) from None

    def finish(self, signature: bytes) -> None:
        """Verify that this is all, and the module's own. Raises CryptoRefused."""
        if not self._last:
            raise CryptoRefused("the backup was cut off: its end is missing")
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.manifest.audit_key)).verify(
                signature, _SIGNED + self._hash.digest()
            )
        except (InvalidSignature, ValueError):
            raise CryptoRefused("the backup is not signed by the module it names") from None


def size_of(word: bytes) -> tuple[int, bool]:
    """Bytes behind a record's first four, and whether it is the last. Raises CryptoRefused."""
    if len(word) != WORD.size:
        raise CryptoRefused("the backup was cut off")
    (number,) = WORD.unpack(word)
    size = number & ~_FINAL
    if size > MAX_RECORD:
        raise CryptoRefused(f"no backup: a record of more than {MAX_RECORD} bytes")
    return size + _TAG, bool(number & _FINAL)


def read(file: IO[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """A backup's manifest, and behind it its records and last of all the signature.

    Raises CryptoRefused, also while one iterates.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise CryptoRefused("no backup of a cryptographic module")
    head = file.read(WORD.size)
    if len(head) != WORD.size:
        raise CryptoRefused("the backup was cut off")
    (size,) = WORD.unpack(head)
    if size > MAX_MANIFEST:
        raise CryptoRefused(f"no backup: a manifest of more than {MAX_MANIFEST} bytes")
    return _exactly(file, size), _records(file)


def _records(file: IO[bytes]) -> Iterator[bytes]:
    last = False
    while not last:
        word = file.read(WORD.size)
        size, last = size_of(word)
        yield word + _exactly(file, size)
    yield _exactly(file, SIGNATURE_SIZE)
    if file.read(1):
        raise CryptoRefused("something follows the backup's end")


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise CryptoRefused("the backup was cut off")
    return data


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes((last,))


def _hash(digest: bytes) -> hashlib._Hash:
    made = hashlib.sha256()
    made.update(digest)
    return made


_encode = msgspec.json.Encoder(order="deterministic").encode
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_MANIFESTS = msgspec.json.Decoder(Manifest)
