"""Authenticated encryption: GCM with AES and SM4, ChaCha20-Poly1305; CCM is in `ccm`.

Nothing comes out before its tag was verified, not even in several pieces.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from secgear.services.crypto.algorithms.ciphers import BlockKey
from secgear.services.crypto.algorithms.operation import Collected, Transform
from secgear.services.crypto.pkcs11.mechanism import ChachaParams, GcmParams, Parameter
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

_TAG: Final = 16
_MIN_IV, _MAX_IV = 8, 128  # bytes, what OpenSSL's GCM takes here


class GcmKey:
    """A key of GCM. aead: OpenSSL's object that does it in one call, which SM4 has not."""

    __slots__ = ("aead", "block")

    def __init__(self, block: BlockKey, aead: AESGCM | None) -> None:
        self.block = block
        self.aead = aead


def aes_gcm_key(key: bytes) -> GcmKey:
    """A key of AES-GCM."""
    return GcmKey(algorithms.AES(key), AESGCM(key))


def sm4_gcm_key(key: bytes) -> GcmKey:
    """A key of SM4-GCM."""
    return GcmKey(algorithms.SM4(key), None)


class GcmEncryption(Transform):
    """GCM; the tag comes at the end."""

    def __init__(self, key: GcmKey, params: GcmParams) -> None:
        self._key, self._params = key, params
        self._tag = params.tag_bits // 8
        self._pieces: GcmPieces | None = None

    def size(self, more: int) -> int:
        """The data and a tag."""
        return more + self._tag

    def whole(self, data: bytes) -> bytes:
        """In one call to OpenSSL, where it has one."""
        if self._key.aead is None:
            return super().whole(data)
        sealed = self._key.aead.encrypt(self._params.iv, data, self._params.aad)
        return sealed if self._tag == _TAG else sealed[: len(data) + self._tag]

    def update(self, data: bytes) -> bytes:
        """As much as came in."""
        if self._pieces is None:
            self._pieces = GcmPieces(self._key.block, self._params)
        return self._pieces.update(data)

    def final(self) -> bytes:
        """The tag."""
        self.update(b"")
        assert self._pieces is not None  # noqa: S101  (the line above made it)
        return self._pieces.final()[: self._tag]


class GcmPieces:
    """GCM encryption in several pieces."""

    def __init__(self, key: BlockKey, params: GcmParams) -> None:
        self._context = Cipher(key, modes.GCM(params.iv)).encryptor()
        self._context.authenticate_additional_data(params.aad)

    def update(self, data: bytes) -> bytes:
        """As much as came in."""
        return self._context.update(data)

    def final(self) -> bytes:
        """The tag, 16 bytes."""
        self._context.finalize()
        return self._context.tag


class GcmDecryption(Collected):
    """GCM."""

    def __init__(self, key: GcmKey, params: GcmParams) -> None:
        super().__init__()
        self._key, self._params = key, params
        self._tag = params.tag_bits // 8

    def size(self, more: int) -> int:
        """The data without the tag."""
        return max(0, len(self._data) + more - self._tag)

    def whole(self, data: bytes) -> bytes:
        """Raises CryptokiError for a tag that is not this data's."""
        if len(data) < self._tag:
            raise CryptokiError(Rv.ENCRYPTED_DATA_LEN_RANGE)
        try:
            if self._tag == _TAG and self._key.aead is not None:
                return self._key.aead.decrypt(self._params.iv, data, self._params.aad)
            mode = modes.GCM(self._params.iv, data[-self._tag :], self._tag)
            context = Cipher(self._key.block, mode).decryptor()
            context.authenticate_additional_data(self._params.aad)
            return context.update(data[: -self._tag]) + context.finalize()
        except InvalidTag:
            raise CryptokiError(Rv.ENCRYPTED_DATA_INVALID) from None


class Chacha(Collected):
    """ChaCha20-Poly1305."""

    def __init__(self, key: ChaCha20Poly1305, params: ChachaParams, *, encrypt: bool) -> None:
        super().__init__()
        self._aead, self._params, self._encrypt = key, params, encrypt

    def size(self, more: int) -> int:
        """The data with its tag, or without."""
        return max(0, len(self._data) + more + (_TAG if self._encrypt else -_TAG))

    def whole(self, data: bytes) -> bytes:
        """Raises CryptokiError for a tag that is not this data's."""
        if self._encrypt:
            return self._aead.encrypt(self._params.nonce, data, self._params.aad)
        if len(data) < _TAG:
            raise CryptokiError(Rv.ENCRYPTED_DATA_LEN_RANGE)
        try:
            return self._aead.decrypt(self._params.nonce, data, self._params.aad)
        except InvalidTag:
            raise CryptokiError(Rv.ENCRYPTED_DATA_INVALID) from None


def gcm_of(parameter: Parameter) -> GcmParams:
    """Parameters of AES-GCM. Tags have 96 to 128 bits (NIST SP 800-38D, 5.2.1.2)."""
    if (
        not isinstance(parameter, GcmParams)
        or not _MIN_IV <= len(parameter.iv) <= _MAX_IV
        or parameter.tag_bits not in range(96, 129, 8)
    ):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter


def chacha_of(parameter: Parameter) -> ChachaParams:
    """Parameters of ChaCha20-Poly1305 (RFC 8439): a nonce of 12 bytes."""
    if not isinstance(parameter, ChachaParams) or len(parameter.nonce) != 12:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter
