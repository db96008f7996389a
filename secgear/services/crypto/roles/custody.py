"""Custodians: their keys, and the shares of backups' keys that are sealed to these.

A custodian's key is ML-KEM-768 with X25519 together (the hybrid suite of sealed envelopes), because
backups lie around for years. In a file it is two PEM blocks, one of each; private ones in PKCS#8.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from secgear.errors import CryptoRefused, EnvelopeMalformed, EnvelopeRefused
from secgear.middleware.envelopes.suites import HYBRID, suite_named

PURPOSE: Final = "secgear crypto backup share"
"""Of the envelope in which a custodian sends a share to the enclave that restores."""
MAX_TARGET: Final = 16 << 20  # bytes of a target; evidence has attachments
KEY_SIZE: Final = 32  # bytes of a backup's key
_INFO: Final = b"secgear crypto backup share v1\0"
_SUITE: Final = suite_named(HYBRID)
_CONTEXT: Final = b"secgear crypto restoration v1\0"
_BEGIN: Final = b"-----BEGIN"

PrivateKey = hpke.MLKEM768X25519PrivateKey


class Share(msgspec.Struct, frozen=True):
    """One custodian's share of a backup's key. backup: its id, 16 bytes. index: from 1.

    part: 32 bytes of which fewer than the threshold tell nothing.
    """

    backup: bytes
    index: int
    part: bytes

    def __repr__(self) -> str:
        return f"<Share {self.index}>"

    def to_bytes(self) -> bytes:
        """49 bytes; they are secret."""
        return self.backup + bytes((self.index,)) + self.part

    @classmethod
    def from_bytes(cls, data: bytes) -> Share:
        """Raises CryptoRefused, which tells nothing of the data."""
        if len(data) != 16 + 1 + KEY_SIZE or not data[16]:
            raise CryptoRefused("what was unsealed is no share")
        return cls(data[:16], data[16], data[17:])


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where a backup is to be restored. Nothing of it is verified: `release` does that.

    module: id of the module that restores. backup: the backup's digest. key: an enclave key's
    document, whose context is `restoring_at`.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1)] = msgspec.field(
        name="secgear-crypto-restoration", default=1
    )
    module: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    backup: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    key: bytes

    def to_bytes(self) -> bytes:
        """JSON."""
        return _encode(self)


def parse_target(data: bytes) -> Target:
    """Raises CryptoRefused."""
    if len(data) > MAX_TARGET:
        raise CryptoRefused(f"no restoration: more than {MAX_TARGET} bytes")
    try:
        return _TARGETS.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CryptoRefused(f"no restoration: {error}") from None


def restoring_at(module: bytes, backup: bytes) -> bytes:
    """What the evidence of the key says to which shares are sealed: 32 bytes.

    module: id of the module that restores. backup: the digest of the backup that it restores.
    """
    return hashlib.sha256(_CONTEXT + module + backup).digest()


def check_public(public: bytes) -> None:
    """Whether shares can be sealed to this key. Raises CryptoRefused."""
    try:
        _SUITE.check_public(public)
    except EnvelopeMalformed as error:
        raise CryptoRefused(f"no custodian's key: {error}") from None


def seal_share(share: Share, public: bytes, name: str) -> bytes:
    """The share, for the custodian of this key alone. Raises CryptoRefused."""
    try:
        return _SUITE.wrap(share.to_bytes(), public, _info(share.backup, name))
    except EnvelopeMalformed as error:
        raise CryptoRefused(f"no custodian's key: {error}") from None


def open_share(sealed: bytes, key: PrivateKey, backup: bytes, name: str) -> Share:
    """What `seal_share` was given. Raises CryptoRefused for another key, backup or name."""
    try:
        share = Share.from_bytes(_SUITE.unwrap(sealed, key, _info(backup, name)))
    except EnvelopeRefused:
        raise CryptoRefused(
            f"the share of {name} is not for this key, or the backup was changed"
        ) from None
    if share.backup != backup:
        raise CryptoRefused(f"the share of {name} belongs to another backup")
    return share


def generate(passphrase: bytes | None) -> tuple[bytes, bytes]:
    """A custodian's new key: private and public file. passphrase: encrypts the private one."""
    quantum, classic = mlkem.MLKEM768PrivateKey.generate(), x25519.X25519PrivateKey.generate()
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase)
    private = b"".join(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
        for key in (quantum, classic)
    )
    public = b"".join(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for key in (quantum, classic)
    )
    return private, public


def load_public(data: bytes) -> bytes:
    """A custodian's public key as documents have it, from its file. Raises CryptoRefused."""
    found: list[object] = []
    for block in _blocks(data):
        try:
            found.append(serialization.load_pem_public_key(block))
        except (ValueError, UnsupportedAlgorithm):
            raise CryptoRefused(_NO_KEY) from None
    quantum, classic = found
    if not isinstance(quantum, mlkem.MLKEM768PublicKey) or not isinstance(
        classic, x25519.X25519PublicKey
    ):
        raise CryptoRefused(_NO_KEY)
    public = quantum.public_bytes_raw() + classic.public_bytes_raw()
    check_public(public)
    return public


def load_private(data: bytes, passphrase: bytes | None) -> tuple[PrivateKey, bytes]:
    """A custodian's private key and its public half, from its file. Raises CryptoRefused."""
    found: list[object] = []
    for block in _blocks(data):
        try:
            found.append(serialization.load_pem_private_key(block, passphrase))
        except TypeError:
            hint = "encrypted; give its" if passphrase is None else "not encrypted; leave out the"
            raise CryptoRefused(f"the custodian's key is {hint} passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            hint = "" if passphrase is None else ", or the passphrase is wrong"
            raise CryptoRefused(_NO_KEY + hint) from None
    quantum, classic = found
    if not isinstance(quantum, mlkem.MLKEM768PrivateKey) or not isinstance(
        classic, x25519.X25519PrivateKey
    ):
        raise CryptoRefused(_NO_KEY)
    public = quantum.public_key().public_bytes_raw() + classic.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(quantum, classic), public


_NO_KEY: Final = "no custodian's key: two PEM blocks, ML-KEM-768 and X25519, are read"


def _blocks(data: bytes) -> list[bytes]:
    """The two PEM blocks. Raises CryptoRefused."""
    parts = data.split(_BEGIN)[1:]
    if len(parts) != 2:
        raise CryptoRefused(_NO_KEY)
    return [_BEGIN + part for part in parts]


def _info(backup: bytes, name: str) -> bytes:
    return _INFO + backup + name.encode()


_encode = msgspec.json.Encoder(order="deterministic").encode
# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_TARGETS = msgspec.json.Decoder(Target)
