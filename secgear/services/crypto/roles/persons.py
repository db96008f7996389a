"""People with a role: a name, and the public key that speaks for them. The private one is theirs.

Ed25519 (RFC 8032), and ECDSA on P-256 with SHA-256 and on P-384 with SHA-384 (FIPS 186-5), so that
keys in files and in other people's PKCS#11 tokens will do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from secgear.errors import CryptoRefused

MAX_PEOPLE: Final = 32  # of one role
MAX_SIGNATURE: Final = 144  # bytes: ECDSA on P-384 in DER has at most 104
_MAX_KEY: Final = 512  # characters in base64
_NAME: Final = r"^[a-z0-9][a-z0-9._@-]{0,63}\Z"  # not $, which a line's end may follow

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Name = Annotated[str, msgspec.Meta(pattern=_NAME)]


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name and a public key: base64 of its DER SubjectPublicKeyInfo, in its one encoding.

    Raises ValueError for a key of another kind or in another encoding.
    """

    name: Name
    key: Annotated[str, msgspec.Meta(max_length=_MAX_KEY)]

    def __post_init__(self) -> None:
        _loaded(self.key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key, as people compare it: the same that `fingerprint_of` gives."""
        return fingerprint_of(base64.b64decode(self.key))

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether this person has signed the message."""
        key = _loaded(self.key)
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, message)
            else:
                key.verify(signature, message, ec.ECDSA(_HASHES[key.curve.name]()))
        except (InvalidSignature, ValueError):
            return False
        return True


def person(name: str, key: PublicKey) -> Person:
    """A person by name and key. Raises CryptoRefused for what can't be one."""
    if not re.fullmatch(_NAME, name):
        raise CryptoRefused(
            f"{name!r} is no name: 1 to 64 of a-z, 0-9 and ._@-, the first a letter or a digit"
        )
    try:
        return Person(name, base64.b64encode(_encoded(key)).decode())
    except ValueError as error:
        raise CryptoRefused(f"{name}: {error}") from None


def load_key(data: bytes) -> PublicKey:
    """A public key in PEM or DER. Raises CryptoRefused."""
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_public_key if pem else serialization.load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        raise CryptoRefused("no public key; PEM or DER (SubjectPublicKeyInfo) is read") from None
    if not _known(key):
        raise CryptoRefused(_KINDS)
    assert isinstance(key, PublicKey)  # noqa: S101  (it is known)
    return key


def sign(key: PrivateKey, message: bytes) -> bytes:
    """A person's signature. Raises CryptoRefused for a key of another kind."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if key.curve.name not in _HASHES:
        raise CryptoRefused(_KINDS)
    return key.sign(message, ec.ECDSA(_HASHES[key.curve.name]()))


def fingerprint_of(key: bytes) -> str:
    """SHA-256 of a public key's bytes, in groups of four digits."""
    digits = hashlib.sha256(key).hexdigest()
    return " ".join(digits[at : at + 4] for at in range(0, 32, 4))


def check_distinct(people: tuple[Person, ...], role: str) -> None:
    """No name and no key twice: who has two names would count twice. Raises CryptoRefused."""
    if len(people) > MAX_PEOPLE:
        raise CryptoRefused(f"{role}: at most {MAX_PEOPLE}, not {len(people)}")
    for what in ("name", "key"):
        values = [getattr(one, what) for one in people]
        if len(set(values)) != len(values):
            raise CryptoRefused(f"{role}: one {what} is there twice")


_HASHES: Final[dict[str, type[hashes.SHA256] | type[hashes.SHA384]]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
}
_KINDS: Final = "the key is none of Ed25519, ECDSA on P-256, ECDSA on P-384"


def _known(key: object) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _HASHES
    return isinstance(key, ed25519.Ed25519PublicKey)


def _encoded(key: PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _loaded(text: str) -> PublicKey:
    """Raises ValueError."""
    data = base64.b64decode(text, validate=True)
    try:
        key = serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("no public key") from None
    if not _known(key):
        raise ValueError(_KINDS)
    assert isinstance(key, PublicKey)  # noqa: S101  (it is known)
    if base64.b64encode(_encoded(key)).decode() != text:
        raise ValueError("a key in another encoding than its one")
    return key
