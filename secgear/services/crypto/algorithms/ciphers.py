"""Encryption and decryption: AES and SM4 in the modes without authentication, RSA, SM2."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.algorithms.hashing import HASHES, MGF_HASHES
from secgear.services.crypto.algorithms.keys import PrivateKey, PublicKey
from secgear.services.crypto.algorithms.operation import Collected, Transform
from secgear.services.crypto.pkcs11.mechanism import (
    CtrParams,
    OaepParams,
    Parameter,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

BLOCK: Final = 16
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
