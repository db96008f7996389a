"""Encryption at rest: what the database holds of a secret is worth nothing without the master key.

AES-256-GCM under a key for this one version of this one secret: HKDF-SHA256 of the master key with
a random salt. Associated data are the name, version and policy, so that a row that was changed, put
under another name or given another policy does not decrypt.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secgear.errors import KeyFileError, ServiceError
from secgear.middleware.attestation.broker.masterkey import MasterKey
from secgear.middleware.attestation.broker.names import SecretName

SALT_SIZE: Final = 32  # bytes
NONCE_SIZE: Final = 12  # bytes: NIST SP 800-38D
TAG_SIZE: Final = 16  # bytes
_INFO: Final = b"secgear broker secret v1"


class VaultError(ServiceError):
    """A secret can't be decrypted: its row was tampered with, or its master key is not here."""

    code = "attestation.vault"


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in the clear. `repr` does not show it."""

    name: SecretName
    content: bytes = field(repr=False)


class Sealed(msgspec.Struct, frozen=True):
    """A version of a secret as the database has it. master: id of its master key."""

    name: SecretName
    version: int
    policy: str
    master: bytes
    salt: bytes
    nonce: bytes
    ciphertext: bytes


class Vault:
    """Seals and opens. Safe to use from many threads.

    keys: gives the master keys, the encrypting one first; raises KeyFileError.
    """

    def __init__(self, keys: Callable[[], tuple[MasterKey, ...]]) -> None:
        self._keys = keys

    def ids(self) -> tuple[bytes, ...]:
        """Ids of the master keys that are here, the encrypting one first."""
        return tuple(key.id for key in self._keys())

    def seal(self, secret: Secret, version: int, policy: str) -> Sealed:
        """Encrypt a version of a secret under the first key."""
        master, salt, nonce = self._keys()[0], os.urandom(SALT_SIZE), os.urandom(NONCE_SIZE)
        aad = _associated(secret.name, version, policy)
        ciphertext = _cipher(master, salt).encrypt(nonce, secret.content, aad)
        return Sealed(secret.name, version, policy, master.id, salt, nonce, ciphertext)

    def open(self, sealed: Sealed) -> Secret:
        """The way back. Raises VaultError, which says which secret and nothing about it."""
        try:
            found = [key for key in self._keys() if key.id == sealed.master]
        except KeyFileError as error:
            raise VaultError(f"secret {sealed.name}: {error}") from None
        if not found:
            raise VaultError(
                f"secret {sealed.name}: its master key {sealed.master.hex()} is not in the key file"
            )
        aad = _associated(sealed.name, sealed.version, sealed.policy)
        try:
            content = _cipher(found[0], sealed.salt).decrypt(sealed.nonce, sealed.ciphertext, aad)
        except (InvalidTag, ValueError):  # ValueError: a nonce of another length
            raise VaultError(f"secret {sealed.name}: its row in the database was changed") from None
        return Secret(sealed.name, content)


def _cipher(master: MasterKey, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=salt, info=_INFO).derive(master.material))


def _associated(name: SecretName, version: int, policy: str) -> bytes:
    """Each field with its length in front (4 bytes, big endian): no two lists look alike."""
    fields = (name.repository, name.type, name.tag, str(version), policy)
    encoded = [text.encode() for text in fields]
    return b"".join(len(item).to_bytes(4, "big") + item for item in encoded)
