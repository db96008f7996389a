"""The domain key at work: what it encrypts, and how members of the domain get it.

Everything is encrypted under a key of its own, made of the domain key and a random salt of 256
bits, so that no number of writers and versions makes two messages share key and nonce.

Each member has a key pair; its private key is sealed by the member's platform, in a credential. A
grant is the domain key of one generation, encrypted to a member and signed with the module's audit
key, whose public half is in the credential. So the host can't give a member another domain.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from typing import Final, NoReturn, final

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secgear.base.tee import Guest, SealingPolicy
from secgear.errors import CryptoModuleError, SealedForOther, SecGearError
from secgear.middleware.envelopes.suites import HYBRID, SECRET_SIZE, private_key, suite_named
from secgear.middleware.sealing import seal, unseal
from secgear.services.crypto.token.state import Head, MemberRow, encode

ID_SIZE: Final = 16
KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_SALT_SIZE: Final = 32
_PREFIX = struct.Struct(">I32s")  # generation of the domain key, salt
_CREDENTIAL: Final = b"secgear crypto credential v1"
_GRANT: Final = b"secgear crypto grant v1\0"
_MEMBER: Final = b"secgear crypto member v1\0"
_SUITE: Final = suite_named(HYBRID)


@final
class Keyring:
    """Domain keys by their generation."""

    def __init__(self, generation: int, keys: dict[int, bytes]) -> None:
        self.generation = generation
        self._keys = keys

    def __repr__(self) -> str:
        return f"<Keyring of generation {self.generation}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys can't be pickled")

    @classmethod
    def of(cls, head: Head) -> Keyring:
        """The keys that a head has."""
        return cls(head.generation, {head.generation: head.domain_key, **dict(head.older)})

    def seal(self, data: bytes, label: bytes) -> bytes:
        """`data`, encrypted under the newest key. label: what it is, for `open`."""
        prefix = _PREFIX.pack(self.generation, os.urandom(_SALT_SIZE))
        cipher, nonce = self._cipher(prefix, label)
        return prefix + cipher.encrypt(nonce, data, prefix + label)

    def open(self, blob: bytes, label: bytes) -> bytes:
        """What was given to `seal`. Raises InvalidTag; KeyError without its domain key."""
        if len(blob) < _PREFIX.size:
            raise InvalidTag
        prefix = blob[: _PREFIX.size]
        cipher, nonce = self._cipher(prefix, label)
        return cipher.decrypt(nonce, blob[_PREFIX.size :], prefix + label)

    def _cipher(self, prefix: bytes, label: bytes) -> tuple[AESGCM, bytes]:
        generation, salt = _PREFIX.unpack(prefix)
        kdf = HKDF(hashes.SHA256(), KEY_SIZE + _NONCE_SIZE, salt=salt, info=label)
        made = kdf.derive(self._keys[generation])
        return AESGCM(made[:KEY_SIZE]), made[KEY_SIZE:]


def generation_of(blob: bytes) -> int:
    """Under which domain key something says to be encrypted; 0 for what is nothing of ours."""
    return int(_PREFIX.unpack_from(blob)[0]) if len(blob) >= _PREFIX.size else 0


class Credential(msgspec.Struct, frozen=True):
    """What makes a platform's enclaves members. secret: of its key pair. audit: the module's."""

    secret: bytes
    audit: bytes

    def __repr__(self) -> str:
        return "Credential(…)"

    @property
    def public(self) -> bytes:
        """The public key of the pair."""
        return private_key(_SUITE, self.secret)[1]

    @property
    def id(self) -> bytes:
        """The member's."""
        return member_id(self.public)

    def sealed(self, guest: Guest, policy: SealingPolicy) -> bytes:
        """For this platform to keep."""
        return seal(encode(self), policy=policy, aad=_CREDENTIAL, guest=guest)


class _Grant(msgspec.Struct, frozen=True):
    generation: int
    wrapped: bytes
    signature: bytes


def new_secret() -> bytes:
    """Of a new member's key pair."""
    return os.urandom(SECRET_SIZE)


def member_id(public: bytes) -> bytes:
    """A member's id."""
    return hashlib.sha256(_MEMBER + public).digest()[:ID_SIZE]


def check_public(public: bytes) -> None:
    """Raises EnvelopeMalformed for what is no member's key."""
    _SUITE.check_public(public)


def grant(head: Head, public: bytes) -> bytes:
    """The head's domain key for the member with this public key."""
    signer = Ed25519PrivateKey.from_private_bytes(head.audit_key)
    info = _info(signer.public_key().public_bytes_raw(), head.generation, member_id(public))
    wrapped = _SUITE.wrap(head.domain_key, public, info)
    return encode(_Grant(head.generation, wrapped, signer.sign(info + wrapped)))


def accepted(credential: Credential, data: bytes) -> Keyring:
    """The domain key of a grant. Raises CryptoModuleError for a grant that is not the module's."""
    try:
        given = _GRANTS.decode(data)
        info = _info(credential.audit, given.generation, credential.id)
        key = Ed25519PublicKey.from_public_bytes(credential.audit)
        key.verify(given.signature, info + given.wrapped)
        domain = _SUITE.unwrap(given.wrapped, private_key(_SUITE, credential.secret)[0], info)
    except (InvalidSignature, msgspec.DecodeError, SecGearError, OverflowError):
        raise CryptoModuleError("a grant of the domain key was changed") from None
    return Keyring(given.generation, {given.generation: domain})


def own_credential(rows: Iterable[MemberRow], guest: Guest, policy: SealingPolicy) -> Credential:
    """The credential that this platform has sealed under this policy. Raises SealedForOther."""
    for row in rows:
        if row.credential:
            try:
                data = unseal(row.credential, aad=_CREDENTIAL, policy=policy, guest=guest)
            except SecGearError:
                continue  # another platform's
            return _CREDENTIALS.decode(data)
    raise SealedForOther("the module was not sealed for this enclave, or what was is changed")


def _info(audit: bytes, generation: int, member: bytes) -> bytes:
    return _GRANT + audit + generation.to_bytes(8, "big") + member


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_GRANTS = msgspec.msgpack.Decoder(_Grant)
_CREDENTIALS = msgspec.msgpack.Decoder(Credential)
encode(_Grant(0, b"", b""))
encode(Credential(b"", b""))
