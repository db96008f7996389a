"""Suites: which HPKE (RFC 9180) wraps the content key, and how its keys are written down.

HYBRID is KEM 0x647a, ML-KEM-768 with X25519 (draft-ietf-hpke-pq; the same as X-Wing,
draft-connolly-cfrg-xwing-kem): it holds while either of the two does. CLASSIC is KEM 0x0020,
X25519 alone. Both with HKDF-SHA256 (0x0001) and AES-256-GCM (0x0002), in base mode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

from secgear.errors import EnvelopeMalformed, EnvelopeRefused

HYBRID: Final = "MLKEM768-X25519/HKDF-SHA256/AES-256-GCM"
CLASSIC: Final = "X25519/HKDF-SHA256/AES-256-GCM"

SECRET_SIZE: Final = 32  # bytes of a private key: X-Wing's seed, or X25519's scalar
_TAG = 16  # bytes, AES-GCM
_MLKEM_PUBLIC, _MLKEM_SEED, _X25519 = 1184, 64, 32  # bytes: FIPS 203, RFC 7748

PublicKey = hpke.MLKEM768X25519PublicKey | x25519.X25519PublicKey
PrivateKey = hpke.MLKEM768X25519PrivateKey | x25519.X25519PrivateKey


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite.

    code: its number in envelopes. public_size, encapsulated_size: bytes of a public key and of an
    encapsulated key.
    """

    name: str
    code: int
    public_size: int
    encapsulated_size: int
    _hpke: hpke.Suite

    def wrapped_size(self, size: int) -> int:
        """Bytes that `size` bytes become when wrapped."""
        return self.encapsulated_size + size + _TAG

    def wrap(self, content: bytes, public: bytes, info: bytes) -> bytes:
        """The encapsulated key and behind it the ciphertext.

        Raises EnvelopeMalformed if `public` is no key of this suite that can be wrapped to.
        """
        key = _read_public(self, public)
        try:
            return self._hpke.encrypt(content, key, info=info)
        except ValueError as error:  # a point of low order
            raise EnvelopeMalformed(f"no key of {self.name}: {error}") from None

    def unwrap(self, wrapped: bytes, key: PrivateKey, info: bytes) -> bytes:
        """What `wrap` was given. Raises EnvelopeRefused for another key or `info`."""
        try:
            return self._hpke.decrypt(wrapped, key, info=info)
        except (InvalidTag, ValueError):
            raise EnvelopeRefused(
                "the envelope was not sealed to this key for this purpose with this associated "
                "data, or its header was changed"
            ) from None

    def check_public(self, public: bytes) -> None:
        """Raise EnvelopeMalformed unless `public` is a key that can be wrapped to."""
        self.wrap(b"", public, b"")  # what some keys are worth shows only now


def suite_named(name: str) -> Suite:
    """Raises EnvelopeMalformed for a name that is none of HYBRID and CLASSIC."""
    found = _BY_NAME.get(name)
    if found is None:
        raise EnvelopeMalformed(f"no suite {name[:64]!r}; there are {', '.join(_BY_NAME)}")
    return found


def suite_coded(code: int) -> Suite:
    """The suite of an envelope. Raises EnvelopeMalformed for an unknown code."""
    for suite in _BY_NAME.values():
        if suite.code == code:
            return suite
    raise EnvelopeMalformed(f"an envelope under suite {code}, which this release does not know")


def private_key(suite: Suite, secret: bytes) -> tuple[PrivateKey, bytes]:
    """The private key that `secret` stands for, and its public key as it is written down.

    secret: 32 bytes. HYBRID: X-Wing's seed, which SHAKE256 expands to the seed of the ML-KEM key
    (64 bytes) and the X25519 scalar. CLASSIC: the scalar.
    """
    if len(secret) != SECRET_SIZE:
        raise EnvelopeMalformed(f"a private key has {SECRET_SIZE} bytes, this has {len(secret)}")
    if suite.name == CLASSIC:
        classic = x25519.X25519PrivateKey.from_private_bytes(secret)
        return classic, classic.public_key().public_bytes_raw()
    expanded = hashlib.shake_256(secret).digest(_MLKEM_SEED + _X25519)
    quantum = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED])
    classic = x25519.X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED:])
    public = quantum.public_key().public_bytes_raw() + classic.public_key().public_bytes_raw()
    return hpke.MLKEM768X25519PrivateKey(quantum, classic), public


def _read_public(suite: Suite, public: bytes) -> PublicKey:
    if len(public) != suite.public_size:
        raise EnvelopeMalformed(
            f"a key of {suite.name} has {suite.public_size} bytes, this has {len(public)}"
        )
    try:
        classic = x25519.X25519PublicKey.from_public_bytes(public[-_X25519:])
        if suite.name == CLASSIC:
            return classic
        quantum = mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC])
        return hpke.MLKEM768X25519PublicKey(quantum, classic)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnvelopeMalformed(f"no key of {suite.name}: {error}") from None


def _suite(name: str, code: int, public_size: int, kem: hpke.KEM) -> Suite:
    made = hpke.Suite(kem, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    return Suite(name, code, public_size, kem.enc_length(), made)


_BY_NAME: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        _suite(HYBRID, 1, _MLKEM_PUBLIC + _X25519, hpke.KEM.MLKEM768_X25519),
        _suite(CLASSIC, 2, _X25519, hpke.KEM.X25519),
    )
}
