"""Signatures and MACs: RSA, ECDSA, EdDSA, ML-DSA, SM2, HMAC, CMAC; digests."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import cmac, hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import (
    NoDigestInfo,
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import algorithms

from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.algorithms.hashing import HASHES, MGF_HASHES
from secgear.services.crypto.algorithms.keys import PrivateKey, PublicKey
from secgear.services.crypto.algorithms.operation import Collected, Mac, Signer, Transform
from secgear.services.crypto.pkcs11.mechanism import ContextParams, Parameter, PssParams
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

MAX_MESSAGE: Final = 4 << 20
"""Bytes of a message that has to be there as a whole."""
_MAX_DIGEST = 1024  # bytes of what CKM_ECDSA signs, of which the leftmost count
_PKCS1_OVERHEAD = 11
_MAX_CONTEXT = 255  # FIPS 204


class Digest(Transform):
    """A hash function."""

    def __init__(self, algorithm: hashes.HashAlgorithm) -> None:
        self._hash = hashes.Hash(algorithm)
        self._size = algorithm.digest_size

    def size(self, more: int) -> int:
        """The digest's."""
        return self._size

    def update(self, data: bytes) -> bytes:
        """Nothing comes out before the end."""
        self._hash.update(data)
        return b""

    def final(self) -> bytes:
        """The digest."""
        return self._hash.finalize()


class _Message:
    """What is signed: collected, or its digest made as it comes."""

    def __init__(self, algorithm: hashes.HashAlgorithm | None, limit: int) -> None:
        self._hash = hashes.Hash(algorithm) if algorithm is not None else None
        self._data = bytearray()
        self._limit = limit

    def update(self, data: bytes) -> None:
        if self._hash is not None:
            self._hash.update(data)
            return
        if len(self._data) + len(data) > self._limit:
            raise CryptokiError(Rv.DATA_LEN_RANGE)
        self._data += data

    def take(self) -> bytes:
        return self._hash.finalize() if self._hash is not None else bytes(self._data)


class RsaSigner(Signer):
    """RSA: PKCS#1 v1.5 or PSS, over a message or over what the caller has digested."""

    def __init__(
        self,
        key: PrivateKey | PublicKey,
        scheme: padding.AsymmetricPadding,
        algorithm: hashes.HashAlgorithm | None,
        *,
        digested: bool,
    ) -> None:
        self.length = (key.key_size + 7) // 8
        self._key, self._scheme = key, scheme
        self._algorithm: Prehashed | NoDigestInfo
        if algorithm is None:  # PKCS#1 v1.5 of what the caller has wrapped in DigestInfo
            self._algorithm = NoDigestInfo()
            limit = self.length - _PKCS1_OVERHEAD
        else:
            self._algorithm = Prehashed(algorithm)
            limit = algorithm.digest_size
        self._exact = limit if digested and algorithm is not None else None
        self._message = _Message(None if digested else algorithm, limit)

    def update(self, data: bytes) -> None:
        """See `Signer.update`."""
        self._message.update(data)

    def sign(self) -> bytes:
        """See `Signer.sign`."""
        try:
            return bytes(self._key.sign(self._taken(), self._scheme, self._algorithm))
        except ValueError as error:  # the key is too short for this digest and salt
            raise CryptokiError(Rv.KEY_SIZE_RANGE) from error

    def verify(self, signature: bytes) -> None:
        """See `Signer.verify`."""
        if len(signature) != self.length:
            raise CryptokiError(Rv.SIGNATURE_LEN_RANGE)
        try:
            self._key.verify(signature, self._taken(), self._scheme, self._algorithm)
        except (InvalidSignature, ValueError):
            raise CryptokiError(Rv.SIGNATURE_INVALID) from None

    def _taken(self) -> bytes:
        data = self._message.take()
        if self._exact is not None and len(data) != self._exact:
            raise CryptokiError(Rv.DATA_LEN_RANGE)
        return data


class RsaRecovery(Collected):
    """Signatures with PKCS#1 v1.5 that contain what they sign: made, or opened."""

    def __init__(self, key: PrivateKey | PublicKey, *, sign: bool) -> None:
        super().__init__()
        self._key, self._sign = key, sign
        self._length = int(key.key_size + 7) // 8

    def size(self, more: int) -> int:
        """The modulus's."""
        return self._length if self._sign else self._length - _PKCS1_OVERHEAD

    def whole(self, data: bytes) -> bytes:
        """The signature of the data, or what a signature signs. Raises CryptokiError."""
        scheme = padding.PKCS1v15()
        if self._sign:
            if len(data) > self._length - _PKCS1_OVERHEAD:
                raise CryptokiError(Rv.DATA_LEN_RANGE)
            return bytes(self._key.sign(data, scheme, NoDigestInfo()))
        if len(data) != self._length:
            raise CryptokiError(Rv.SIGNATURE_LEN_RANGE)
        try:
            return bytes(self._key.recover_data_from_signature(data, scheme, None))
        except (InvalidSignature, ValueError):
            raise CryptokiError(Rv.SIGNATURE_INVALID) from None


class EcdsaSigner(Signer):
    """ECDSA: signatures are r and s, each as long as the curve's order."""

    def __init__(self, key: PrivateKey | PublicKey, algorithm: hashes.HashAlgorithm | None) -> None:
        self._half = (key.curve.key_size + 7) // 8
        self.length = 2 * self._half
        self._key = key
        self._algorithm = algorithm
        self._message = _Message(algorithm, _MAX_DIGEST)

    def update(self, data: bytes) -> None:
        """See `Signer.update`."""
        self._message.update(data)

    def sign(self) -> bytes:
        """See `Signer.sign`."""
        digest, scheme = self._taken()
        r, s = decode_dss_signature(self._key.sign(digest, scheme))
        return r.to_bytes(self._half, "big") + s.to_bytes(self._half, "big")

    def verify(self, signature: bytes) -> None:
        """See `Signer.verify`."""
        if len(signature) != self.length:
            raise CryptokiError(Rv.SIGNATURE_LEN_RANGE)
        digest, scheme = self._taken()
        r = int.from_bytes(signature[: self._half], "big")
        s = int.from_bytes(signature[self._half :], "big")
        try:
            self._key.verify(encode_dss_signature(r, s), digest, scheme)
        except InvalidSignature:
            raise CryptokiError(Rv.SIGNATURE_INVALID) from None

    def _taken(self) -> tuple[bytes, ec.ECDSA]:
        data = self._message.take()
        if self._algorithm is not None:
            return data, ec.ECDSA(Prehashed(self._algorithm))
        # Any digest will do for CKM_ECDSA: its leftmost bits count (FIPS 186-5, 6.4.1), and zeros
        # before it change nothing as long as it is not longer than the order.
        if not data:
            raise CryptokiError(Rv.DATA_LEN_RANGE)
        for size, algorithm in _BY_SIZE:
            if len(data) == size or (len(data) < size <= self._half):
                return data.rjust(size, b"\0"), ec.ECDSA(Prehashed(algorithm))
        if len(data) > self._half and self._half in dict(_BY_SIZE):
            return data[: self._half], ec.ECDSA(Prehashed(dict(_BY_SIZE)[self._half]))
        raise CryptokiError(Rv.DATA_LEN_RANGE)


class MessageSigner(Signer):
    """EdDSA and ML-DSA: the message as a whole. context: of ML-DSA."""

    def __init__(
        self, key: PrivateKey | PublicKey, length: int, context: bytes | None = None
    ) -> None:
        self.length = length
        self._key = key
        self._context = context
        self._message = _Message(None, MAX_MESSAGE)

    def update(self, data: bytes) -> None:
        """See `Signer.update`."""
        self._message.update(data)
        self.held += len(data)

    def sign(self) -> bytes:
        """See `Signer.sign`."""
        data = self._message.take()
        return bytes(self._key.sign(data, self._context) if self._context else self._key.sign(data))

    def verify(self, signature: bytes) -> None:
        """See `Signer.verify`."""
        if len(signature) != self.length:
            raise CryptokiError(Rv.SIGNATURE_LEN_RANGE)
        data = self._message.take()
        try:
            if self._context:
                self._key.verify(signature, data, self._context)
            else:
                self._key.verify(signature, data)
        except InvalidSignature:
            raise CryptokiError(Rv.SIGNATURE_INVALID) from None


class Sm2Signer(Signer):
    """SM2 over a digest of the caller's, or over a message with the signer's identity.

    identity: None for a digest.
    """

    length = sm2.SIGNATURE_SIZE

    def __init__(self, key: sm2.PrivateKey | sm2.PublicKey, identity: bytes | None) -> None:
        self._key = key
        self._public = key.public if isinstance(key, sm2.PrivateKey) else key
        self._digested = identity is None
        self._message = _Message(None if identity is None else hashes.SM3(), 32)
        if identity is not None:
            self._message.update(sm2.identity_digest(self._public, identity))

    def update(self, data: bytes) -> None:
        """See `Signer.update`."""
        self._message.update(data)

    def sign(self) -> bytes:
        """See `Signer.sign`."""
        assert isinstance(self._key, sm2.PrivateKey)  # noqa: S101  (a key of another class signs not)
        return self._key.sign(self._taken())

    def verify(self, signature: bytes) -> None:
        """See `Signer.verify`."""
        if len(signature) != self.length:
            raise CryptokiError(Rv.SIGNATURE_LEN_RANGE)
        if not self._public.verify(signature, self._taken()):
            raise CryptokiError(Rv.SIGNATURE_INVALID)

    def _taken(self) -> bytes:
        data = self._message.take()
        if len(data) != hashes.SM3.digest_size:
            raise CryptokiError(Rv.DATA_LEN_RANGE)
        return data


class Hmac(Mac):
    """HMAC, cut to `length` bytes."""

    def __init__(self, key: bytes, algorithm: hashes.HashAlgorithm, length: int) -> None:
        self.length = length
        self._context = hmac.HMAC(key, algorithm)

    def update(self, data: bytes) -> None:
        """See `Signer.update`."""
        self._context.update(data)

    def sign(self) -> bytes:
        """See `Signer.sign`."""
        return self._context.finalize()[: self.length]


class Cmac(Mac):
    """CMAC with AES, cut to `length` bytes."""

    def __init__(self, key: bytes, length: int) -> None:
        self.length = length
        self._context = cmac.CMAC(algorithms.AES(key))

    def update(self, data: bytes) -> None:
        """See `Signer.update`."""
        self._context.update(data)

    def sign(self) -> bytes:
        """See `Signer.sign`."""
        return self._context.finalize()[: self.length]


def pss_of(parameter: Parameter, required: int | None) -> tuple[padding.PSS, int]:
    """Parameters of RSA-PSS, and the mechanism of their hash. required: the hash it has to be."""
    if (
        not isinstance(parameter, PssParams)
        or parameter.hash not in HASHES
        or parameter.mgf not in MGF_HASHES
        or (required is not None and parameter.hash != required)
        or parameter.salt > _MAX_SALT
    ):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    mgf = padding.MGF1(HASHES[MGF_HASHES[parameter.mgf]])
    return padding.PSS(mgf, parameter.salt), parameter.hash


def identity_of(parameter: Parameter) -> bytes:
    """The parameter of SM2 with SM3: the signer's identity; nothing for that of who has none."""
    if parameter is None or parameter == b"":
        return sm2.DEFAULT_ID
    if not isinstance(parameter, bytes) or len(parameter) > sm2.MAX_ID:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter


def context_of(parameter: Parameter) -> bytes | None:
    """Parameters of ML-DSA. OpenSSL always hedges, as the standard prefers."""
    if parameter is None:
        return None
    if not isinstance(parameter, ContextParams) or len(parameter.context) > _MAX_CONTEXT:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter.context or None


_MAX_SALT = 1024
_BY_SIZE: Final = tuple(
    sorted(
        (algorithm.digest_size, algorithm)
        for algorithm in (
            hashes.SHA1(),  # noqa: S303  (the size of a digest that somebody else has made)
            hashes.SHA224(),
            hashes.SHA256(),
            hashes.SHA384(),
            hashes.SHA512(),
        )
    )
)
