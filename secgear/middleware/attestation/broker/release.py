"""Release: a secret is encrypted to a key that lives in the enclave, and to nothing else.

HPKE (RFC 9180), base mode, one message. The enclave makes the key pair, puts the public key under
its evidence, and is the only one that can open the answer. `info` binds the answer to the secret's
name and to this one request, so that an answer can't be passed off as another.
"""

from __future__ import annotations

import hashlib
from typing import Final

import cbor2
import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from secgear.errors import AttestationError
from secgear.middleware.attestation.service import binding

HYBRID: Final = "MLKEM768-X25519/HKDF-SHA256/AES-256-GCM"
CLASSIC: Final = "X25519/HKDF-SHA256/AES-256-GCM"
SUITES: Final = (HYBRID, CLASSIC)
MAX_SECRET = 1 << 20  # bytes

_MLKEM_PUBLIC, _X25519_PUBLIC = 1184, 32  # bytes: FIPS 203, RFC 7748
_LABEL: Final = "secgear key release v1"
_BINDING: Final = b"secgear release v1\0"

PublicKey = hpke.MLKEM768X25519PublicKey | x25519.X25519PublicKey


class Released(msgspec.Struct, frozen=True):
    """A wrapped secret. sealed: encapsulated key followed by the ciphertext."""

    name: str
    suite: str
    sealed: bytes


class ReleaseKey:
    """The enclave's key pair for one request. Lives in memory only; `repr` shows no secret.

    suite: one of `SUITES`.
    """

    def __init__(self, suite: str = HYBRID) -> None:
        self.suite = suite
        classic = x25519.X25519PrivateKey.generate()
        self._key: hpke.MLKEM768X25519PrivateKey | x25519.X25519PrivateKey
        if _suite(suite) is _suite(HYBRID):
            quantum = mlkem.MLKEM768PrivateKey.generate()
            self._key = hpke.MLKEM768X25519PrivateKey(quantum, classic)
            self.public = (
                quantum.public_key().public_bytes_raw() + classic.public_key().public_bytes_raw()
            )
        else:
            self._key = classic
            self.public = classic.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"ReleaseKey({self.suite!r})"

    def report_data(self, nonce: bytes) -> bytes:
        """What the evidence must carry for a secret to be wrapped to this key: 64 bytes."""
        return report_data(nonce, self.suite, self.public)

    def open(self, released: Released, request: bytes) -> bytes:
        """The secret. request: the nonce that the broker issued for this request.

        Raises AttestationError if it was not wrapped to this key for this request and name.
        """
        if released.suite != self.suite:
            raise AttestationError(f"released under {released.suite!r}, asked for {self.suite!r}")
        info = _info(released.name, released.suite, request)
        try:
            return _suite(self.suite).decrypt(released.sealed, self._key, info=info)
        except (InvalidTag, ValueError):
            raise AttestationError(
                f"{released.name}: not wrapped to this key for this request"
            ) from None


def wrap(secret: bytes, name: str, suite: str, public: bytes, request: bytes) -> Released:
    """Encrypt `secret` to `public`, which verified evidence vouches for.

    public: ML-KEM-768 encapsulation key (1,184 bytes) and X25519 key (32 bytes), or the latter
    alone, by suite. request: the nonce of this request.
    Raises AttestationError for unknown suites and keys of another form.
    """
    key, info = _public_key(suite, public), _info(name, suite, request)
    try:
        sealed = _suite(suite).encrypt(secret, key, info=info)
    except ValueError as error:  # a point of low order
        raise AttestationError(f"no key of {suite}: {error}") from None
    return Released(name, suite, sealed)


def check_public(suite: str, public: bytes) -> None:
    """Raise AttestationError unless `public` is a key of `suite` that can be wrapped to."""
    wrap(b"", "", suite, public, b"")  # what some keys are worth shows only now


def report_data(nonce: bytes, suite: str, public: bytes) -> bytes:
    """What evidence for a release must carry: 64 bytes.

    SHA-512(``"secgear release v1"`` || 00 || nonce || SHA-256(suite || 00 || public)). The label is
    not that of attestation: an enclave that vouches for what others say does not thereby ask for
    secrets in their name. Raises ValueError: a nonce that is not 32 bytes.
    """
    return binding.labelled(_BINDING, nonce, _vouched(suite, public))


def key_digest(suite: str, public: bytes) -> str:
    """Names the key in records, hexadecimal."""
    return hashlib.sha256(_vouched(suite, public)).hexdigest()


def _vouched(suite: str, public: bytes) -> bytes:
    return suite.encode() + b"\0" + public


def _suite(name: str) -> hpke.Suite:
    if name not in _HPKE:
        raise AttestationError(f"no suite {name!r}; there are {', '.join(SUITES)}")
    return _HPKE[name]


def _public_key(suite: str, public: bytes) -> PublicKey:
    _suite(suite)
    quantum = public[:-_X25519_PUBLIC] if suite == HYBRID else b""
    wanted = _X25519_PUBLIC + (_MLKEM_PUBLIC if suite == HYBRID else 0)
    if len(public) != wanted:
        raise AttestationError(f"a key of {suite} has {wanted} bytes, this has {len(public)}")
    try:
        classic = x25519.X25519PublicKey.from_public_bytes(public[len(quantum) :])
        if suite == CLASSIC:
            return classic
        return hpke.MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(quantum), classic
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AttestationError(f"no key of {suite}: {error}") from None


def _info(name: str, suite: str, request: bytes) -> bytes:
    return cbor2.dumps([_LABEL, suite, name, request])


_HPKE = {
    HYBRID: hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
    CLASSIC: hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM),
}
