"""Signing images, in one step or in two with a key that never comes near.

Ed25519 (RFC 8032) and ECDSA on P-384 with SHA-384 (FIPS 186-5). What is signed is one short text,
`to_be_signed`, which ``openssl``, an HSM or a cloud key service can take as it is; `attach` brings
the result back and verifies it first.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from secgear.base.image import ALGORITHMS, Image, Signature, with_signature
from secgear.errors import KeyFileError, SignatureInvalid

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

ED25519: Final = ALGORITHMS[0]
ECDSA_P384: Final = ALGORITHMS[1]

_MAX_KEY_FILE = 64 << 10
# Order of the P-384 base point: NIST SP 800-186, section 3.2.1.4.
_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)


def generate_key(algorithm: str = ED25519) -> PrivateKey:
    """A new signing key. algorithm: ``ed25519`` or ``ecdsa-p384-sha384``. Raises KeyFileError."""
    if algorithm == ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm == ECDSA_P384:
        return ec.generate_private_key(ec.SECP384R1())
    raise KeyFileError(f"algorithm is one of {', '.join(ALGORITHMS)}, not {algorithm!r}")


def save_private_key(
    key: PrivateKey, path: str | os.PathLike[str], passphrase: bytes | None = None
) -> None:
    """Write `key` to a new file that only its owner can read (PKCS#8 PEM, RFC 5958).

    passphrase: encrypts the file; None leaves it in the clear.
    Raises KeyFileError when the file exists or can't be written.
    """
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        protection = serialization.BestAvailableEncryption(passphrase)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise KeyFileError(f"{path}: exists already; a key is never overwritten") from None
    except OSError as error:
        raise KeyFileError(f"{path}: can't be written: {error.strerror or error}") from None


def load_private_key(path: str | os.PathLike[str], passphrase: bytes | None = None) -> PrivateKey:
    """The signing key in the PEM or DER file `path`.

    passphrase: what the file is encrypted with; None for a file in the clear.
    Raises KeyFileError for an unreadable file, another kind of key or a wrong passphrase. The
    message never holds anything of the key or the passphrase, and no cause is chained to it.
    """
    data = _read_key(path)
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_private_key if pem else serialization.load_der_private_key
    try:
        key = load(data, passphrase)
    except TypeError:
        hint = (
            "encrypted; give its passphrase"
            if passphrase is None
            else "not encrypted; leave the passphrase out"
        )
        raise KeyFileError(f"{path}: the key is {hint}") from None
    except (ValueError, UnsupportedAlgorithm):
        hint = "no private key" if passphrase is None else "no private key, or a wrong passphrase"
        raise KeyFileError(f"{path}: {hint}; PEM or DER (PKCS#8) is read") from None
    if not isinstance(key, PrivateKey) or _algorithm(key.public_key()) is None:
        raise KeyFileError(f"{path}: {_WRONG_TYPE}")
    return key


def load_public_key(path: str | os.PathLike[str]) -> PublicKey:
    """The public key in the PEM or DER (SubjectPublicKeyInfo) file `path`. Raises KeyFileError."""
    data = _read_key(path)
    pem = b"-----BEGIN" in data
    load = serialization.load_pem_public_key if pem else serialization.load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path}: no public key; PEM or DER is read") from None
    if not isinstance(key, PublicKey) or _algorithm(key) is None:
        raise KeyFileError(f"{path}: {_WRONG_TYPE}")
    return key


def signer_of(key: PublicKey | PrivateKey) -> bytes:
    """What evidence and policies call the signer: SHA-384 of the DER SubjectPublicKeyInfo."""
    return hashlib.sha384(_encode(_public(key))).digest()


def to_be_signed(image: Image) -> bytes:
    """What an external signer signs, as is: a short text that holds the image's measurement."""
    return image.to_be_signed


def sign(image: Image, key: PrivateKey) -> Image:
    """The image signed with `key`; an earlier signature is replaced.

    Raises KeyFileError for another kind of key.
    """
    if isinstance(key, ed25519.Ed25519PrivateKey):
        value = key.sign(image.to_be_signed)
    elif isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP384R1):
        value = key.sign(image.to_be_signed, ec.ECDSA(hashes.SHA384()))
    else:
        raise KeyFileError(_WRONG_TYPE)
    return attach(image, value, key.public_key())


def attach(image: Image, signature: bytes, public_key: PublicKey) -> Image:
    """The image with a signature that was made elsewhere over `to_be_signed`.

    signature: 64 bytes for Ed25519, DER for ECDSA. Raises SignatureInvalid when it does not
    verify, KeyFileError for another kind of key.
    """
    algorithm = _algorithm(public_key)
    if algorithm is None:
        raise KeyFileError(_WRONG_TYPE)
    if algorithm == ECDSA_P384:
        signature = _lower_s(signature)
    return with_signature(image, Signature(algorithm, _encode(public_key), signature))


def verify(message: bytes, signature: Signature) -> bytes:
    """The signer's digest, 48 bytes, once `signature` over `message` has been verified.

    There is one accepted encoding of every key and one of the two ECDSA signatures (r, s) and
    (r, n - s), so that nobody can turn a signed image into another file that is as good.
    Raises SignatureInvalid.
    """
    try:
        key = serialization.load_der_public_key(signature.public_key)
    except (ValueError, UnsupportedAlgorithm):
        raise SignatureInvalid("the image's signature holds no usable public key") from None
    if not isinstance(key, PublicKey) or _algorithm(key) != signature.algorithm:
        raise SignatureInvalid(
            f"the image's signature claims {signature.algorithm}, its key is of another kind"
        )
    if _encode(key) != signature.public_key:
        raise SignatureInvalid("the public key in the image's signature is not plainly encoded")
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature.signature, message)
        else:
            if _lower_s(signature.signature) != signature.signature:
                raise SignatureInvalid("the image's ECDSA signature is not in its low-s form")
            key.verify(signature.signature, message, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise SignatureInvalid(
            "the image's signature does not verify: it was made for another image or by another key"
        ) from None
    return hashlib.sha384(signature.public_key).digest()


_WRONG_TYPE = "keys that sign here are Ed25519 or ECDSA on P-384; this one is of another kind"


def _algorithm(key: object) -> str | None:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ED25519
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1):
        return ECDSA_P384
    return None


def _public(key: PublicKey | PrivateKey) -> PublicKey:
    if isinstance(key, PrivateKey):
        return key.public_key()
    return key


def _encode(key: PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _lower_s(signature: bytes) -> bytes:
    """Strict DER of (r, min(s, n - s)). Raises SignatureInvalid when it is no DER signature."""
    try:
        r, s = decode_dss_signature(signature)
    except ValueError:
        raise SignatureInvalid("an ECDSA signature is a DER sequence of r and s") from None
    if not (0 < r < _P384_ORDER and 0 < s < _P384_ORDER):
        raise SignatureInvalid("the ECDSA signature's r or s is out of range")
    return encode_dss_signature(r, min(s, _P384_ORDER - s))


def _read_key(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_KEY_FILE + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: can't be read: {error.strerror or error}") from None
    if len(data) > _MAX_KEY_FILE:
        raise KeyFileError(f"{path}: too large for a key file")
    return data
