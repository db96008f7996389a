"""Encryption and decryption: AES and SM4 in their modes, ChaCha20-Poly1305, RSA, SM2.

Of authenticated data nothing comes out before its tag was verified, not even in several pieces.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.algorithms.hashing import HASHES, MGF_HASHES
from secgear.services.crypto.algorithms.keys import PrivateKey, PublicKey
from secgear.services.crypto.algorithms.operation import Collected, Transform
from secgear.services.crypto.pkcs11.mechanism import (
    ChachaParams,
    CtrParams,
    GcmParams,
    OaepParams,
    Parameter,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

BLOCK: Final = 16
_TAG: Final = 16
_MIN_IV, _MAX_IV = 8, 128  # bytes, what OpenSSL's GCM takes here
_ZERO_SOURCE, _DATA_SPECIFIED = 0, 1  # CKZ_DATA_SPECIFIED; 0 where there is no label


BlockKey = algorithms.AES | algorithms.SM4


class BlockCipher(Transform):
    """AES or SM4 in a mode without padding: ECB, CBC."""

    def __init__(self, key: BlockKey, mode: modes.ECB | modes.CBC, *, encrypt: bool) -> None:
        cipher = Cipher(key, mode)
        self._context = cipher.encryptor() if encrypt else cipher.decryptor()
        self._error = Rv.DATA_LEN_RANGE if encrypt else Rv.ENCRYPTED_DATA_LEN_RANGE
        self._pending = 0

    def size(self, more: int) -> int:
        """Whole blocks."""
        return (self._pending + more) // BLOCK * BLOCK

    def update(self, data: bytes) -> bytes:
        """The blocks that are complete."""
        self._pending = (self._pending + len(data)) % BLOCK
        return self._context.update(data)

    def final(self) -> bytes:
        """Nothing; half a block is an error."""
        if self._pending:
            raise CryptokiError(self._error)
        return self._context.finalize()


class PaddedCipher(Transform):
    """CBC with the padding of PKCS#7."""

    def __init__(self, key: BlockKey, iv: bytes, *, encrypt: bool) -> None:
        self._encrypt = encrypt
        cipher = Cipher(key, modes.CBC(iv))
        self._context = cipher.encryptor() if encrypt else cipher.decryptor()
        pkcs7 = block_padding.PKCS7(8 * BLOCK)
        self._padding = pkcs7.padder() if encrypt else pkcs7.unpadder()
        self._total = 0

    def size(self, more: int) -> int:
        """One block more than the data at the most."""
        return (self._total % BLOCK + BLOCK + more) // BLOCK * BLOCK

    def update(self, data: bytes) -> bytes:
        """All blocks but the last, which may be padding."""
        self._total += len(data)
        if self._encrypt:
            return self._context.update(self._padding.update(data))
        return self._padding.update(self._context.update(data))

    def final(self) -> bytes:
        """The last block."""
        if self._encrypt:
            return self._context.update(self._padding.finalize()) + self._context.finalize()
        if self._total % BLOCK or not self._total:
            raise CryptokiError(Rv.ENCRYPTED_DATA_LEN_RANGE)
        try:
            return self._padding.update(self._context.finalize()) + self._padding.finalize()
        except ValueError as error:
            raise CryptokiError(Rv.ENCRYPTED_DATA_INVALID) from error


class CounterCipher(Transform):
    """CTR. The counter may not come back to where it began."""

    def __init__(self, key: BlockKey, params: CtrParams, *, encrypt: bool) -> None:
        self._context = Cipher(key, modes.CTR(params.block)).encryptor()
        self._error = Rv.DATA_LEN_RANGE if encrypt else Rv.ENCRYPTED_DATA_LEN_RANGE
        span = 1 << params.bits
        # OpenSSL counts in all 128 bits; as long as nothing carries out of these it is the same.
        self._left = (span - int.from_bytes(params.block, "big") % span) * BLOCK

    def size(self, more: int) -> int:
        """As much as comes in."""
        return more

    def update(self, data: bytes) -> bytes:
        """As much as came in."""
        self._left -= len(data)
        if self._left < 0:
            raise CryptokiError(self._error)
        return self._context.update(data)

    def final(self) -> bytes:
        """Nothing is left."""
        return self._context.finalize()


class GcmEncryption(Transform):
    """GCM; the tag comes at the end."""

    def __init__(self, key: BlockKey, params: GcmParams) -> None:
        self._key, self._params = key, params
        self._tag = params.tag_bits // 8
        self._pieces: GcmPieces | None = None

    def size(self, more: int) -> int:
        """The data and a tag."""
        return more + self._tag

    def whole(self, data: bytes) -> bytes:
        """In one call to OpenSSL, where it has one."""
        if not isinstance(self._key, algorithms.AES):
            return super().whole(data)
        sealed = AESGCM(self._key.key).encrypt(self._params.iv, data, self._params.aad)
        return sealed if self._tag == _TAG else sealed[: len(data) + self._tag]

    def update(self, data: bytes) -> bytes:
        """As much as came in."""
        if self._pieces is None:
            self._pieces = GcmPieces(self._key, self._params)
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

    def __init__(self, key: BlockKey, params: GcmParams) -> None:
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
            if self._tag == _TAG and isinstance(self._key, algorithms.AES):
                return AESGCM(self._key.key).decrypt(self._params.iv, data, self._params.aad)
            mode = modes.GCM(self._params.iv, data[-self._tag :], self._tag)
            context = Cipher(self._key, mode).decryptor()
            context.authenticate_additional_data(self._params.aad)
            return context.update(data[: -self._tag]) + context.finalize()
        except InvalidTag:
            raise CryptokiError(Rv.ENCRYPTED_DATA_INVALID) from None


class Chacha(Collected):
    """ChaCha20-Poly1305."""

    def __init__(self, key: bytes, params: ChachaParams, *, encrypt: bool) -> None:
        super().__init__()
        self._aead, self._params, self._encrypt = ChaCha20Poly1305(key), params, encrypt

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


class RsaEncryption(Collected):
    """RSA with a padding, for one short message."""

    def __init__(self, key: PublicKey, scheme: padding.AsymmetricPadding) -> None:
        super().__init__()
        self._key, self._scheme = key, scheme

    def size(self, more: int) -> int:
        """The modulus's."""
        return int(self._key.key_size + 7) // 8

    def whole(self, data: bytes) -> bytes:
        """Raises CryptokiError for a message that is too long."""
        try:
            return bytes(self._key.encrypt(data, self._scheme))
        except ValueError as error:
            raise CryptokiError(Rv.DATA_LEN_RANGE) from error


class RsaDecryption(Collected):
    """RSA with a padding.

    For PKCS#1 v1.5 OpenSSL rejects implicitly: a message with a wrong padding decrypts to
    something random, so that nobody can ask which paddings are right.
    """

    def __init__(self, key: PrivateKey, scheme: padding.AsymmetricPadding) -> None:
        super().__init__()
        self._key, self._scheme = key, scheme

    def size(self, more: int) -> int:
        """Less than the modulus's."""
        return int(self._key.key_size + 7) // 8

    def whole(self, data: bytes) -> bytes:
        """Raises CryptokiError for what is no message to this key."""
        if len(data) != self.size(0):
            raise CryptokiError(Rv.ENCRYPTED_DATA_LEN_RANGE)
        try:
            return bytes(self._key.decrypt(data, self._scheme))
        except ValueError as error:
            raise CryptokiError(Rv.ENCRYPTED_DATA_INVALID) from error


class Sm2Cipher(Collected):
    """SM2 encryption: C1 || C3 || C2."""

    def __init__(self, key: sm2.PrivateKey | sm2.PublicKey) -> None:
        super().__init__()
        self._key = key

    def size(self, more: int) -> int:
        """A point and a digest more than the message, or less."""
        overhead = sm2.OVERHEAD if isinstance(self._key, sm2.PublicKey) else -sm2.OVERHEAD
        return max(0, len(self._data) + more + overhead)

    def whole(self, data: bytes) -> bytes:
        """Raises CryptokiError for a message too long, or what is none to this key."""
        try:
            if isinstance(self._key, sm2.PublicKey):
                return self._key.encrypt(data)
            return self._key.decrypt(data)
        except sm2.DecryptionFailed:
            raise CryptokiError(Rv.ENCRYPTED_DATA_INVALID) from None
        except ValueError:
            raise CryptokiError(Rv.DATA_LEN_RANGE) from None


def iv_of(parameter: Parameter) -> bytes:
    """An initialisation vector of one block. Raises CryptokiError."""
    if not isinstance(parameter, bytes) or len(parameter) != BLOCK:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter


def ctr_of(parameter: Parameter) -> CtrParams:
    """Parameters of AES-CTR. Raises CryptokiError."""
    if (
        not isinstance(parameter, CtrParams)
        or len(parameter.block) != BLOCK
        or not 1 <= parameter.bits <= 8 * BLOCK
    ):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter


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


def oaep_of(parameter: Parameter) -> padding.OAEP:
    """Parameters of RSA-OAEP."""
    if (
        not isinstance(parameter, OaepParams)
        or parameter.hash not in HASHES
        or parameter.mgf not in MGF_HASHES
        or parameter.source not in (_ZERO_SOURCE, _DATA_SPECIFIED)
        or (parameter.label and parameter.source != _DATA_SPECIFIED)
    ):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return padding.OAEP(
        mgf=padding.MGF1(HASHES[MGF_HASHES[parameter.mgf]]),
        algorithm=HASHES[parameter.hash],
        label=parameter.label or None,
    )
