"""CCM (NIST SP 800-38C) with AES and with SM4.

AES-CCM is `cryptography`'s. It has no SM4-CCM, and OpenSSL 3.0 has none as a cipher of its own. But
OpenSSL has the mode for any block cipher of 128 bits (``CRYPTO_ccm128_*``), which calls back for
each block. So mode and blocks are OpenSSL's, at the price of a call of Python for each: some
megabytes a second, meant for short messages.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from ctypes import c_char, c_void_p
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from secgear.errors import PlatformUnavailable
from secgear.services.crypto.algorithms import libcrypto
from secgear.services.crypto.algorithms.operation import Collected
from secgear.services.crypto.pkcs11.mechanism import CcmParams, Parameter
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

_BLOCK: Final = 16
_NONCES: Final = range(7, 14)
_MACS: Final = range(4, 17, 2)
_CONTEXT_SIZE: Final = 256  # bytes; CCM128_CONTEXT has 56


class Aead(Protocol):
    """What `cryptography` gives its ciphers. decrypt raises InvalidTag."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """The ciphertext and its tag."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """The plaintext."""


class Ccm(Collected):
    """CCM: the length of all the data is part of the parameter."""

    limit = 1 << 20

    def __init__(self, aead: Aead, params: CcmParams, *, encrypt: bool) -> None:
        super().__init__()
        self._aead, self._params, self._encrypt = aead, params, encrypt
        self._expected = params.size + (0 if encrypt else params.mac)
        self._error = Rv.DATA_LEN_RANGE if encrypt else Rv.ENCRYPTED_DATA_LEN_RANGE

    def size(self, more: int) -> int:
        """The data with its MAC, or without."""
        return self._params.size + (self._params.mac if self._encrypt else 0)

    def whole(self, data: bytes) -> bytes:
        """Raises CryptokiError for a MAC that is not this data's, or another length."""
        if len(data) != self._expected:
            raise CryptokiError(self._error)
        run = self._aead.encrypt if self._encrypt else self._aead.decrypt
        try:
            return run(self._params.nonce, data, self._params.aad)
        except InvalidTag:
            raise CryptokiError(Rv.ENCRYPTED_DATA_INVALID) from None


def ccm_of(parameter: Parameter) -> CcmParams:
    """Parameters of CCM (SP 800-38C, A.1). Raises CryptokiError."""
    if (
        not isinstance(parameter, CcmParams)
        or len(parameter.nonce) not in _NONCES
        or parameter.mac not in _MACS
        or parameter.size > Ccm.limit
        or parameter.size >= 1 << 8 * (15 - len(parameter.nonce))
    ):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter


def aes_ccm(key: bytes, mac: int) -> Aead:
    """AES-CCM. mac: bytes."""
    return AESCCM(key, tag_length=mac)


class Sm4Ccm:
    """SM4-CCM (RFC 8998). mac: bytes. Raises PlatformUnavailable without the system's OpenSSL."""

    def __init__(self, key: bytes, mac: int) -> None:
        self._library = libcrypto.load()
        self._key, self._mac = key, mac

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """The ciphertext and its MAC."""
        text, mac = self._run(self._library.CRYPTO_ccm128_encrypt, nonce, data, associated_data)
        return text + mac

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """The plaintext. Raises InvalidTag."""
        data, given = data[: -self._mac], data[-self._mac :]
        text, mac = self._run(self._library.CRYPTO_ccm128_decrypt, nonce, data, associated_data)
        if not constant_time.bytes_eq(mac, given):
            raise InvalidTag
        return text

    def _run(
        self, function: Callable[..., int], nonce: bytes, data: bytes, aad: bytes | None
    ) -> tuple[bytes, bytes]:
        library = self._library
        context = (c_char * _CONTEXT_SIZE)()
        out, mac = (c_char * len(data))(), (c_char * self._mac)()
        with _Blocks(self._key) as blocks:
            library.CRYPTO_ccm128_init(
                context, self._mac, 15 - len(nonce), blocks.number, _encrypt_block
            )
            done = library.CRYPTO_ccm128_setiv(context, nonce, len(nonce), len(data)) == 0
            if aad:
                library.CRYPTO_ccm128_aad(context, aad, len(aad))
            done = done and function(context, data, out, len(data)) == 0
            done = done and library.CRYPTO_ccm128_tag(context, mac, self._mac) == self._mac
        ctypes.memset(context, 0, _CONTEXT_SIZE)
        text = bytes(out)
        ctypes.memset(out, 0, len(out))
        if not done or blocks.failed:
            raise PlatformUnavailable(f"SM4-CCM failed in {libcrypto.version()}")
        return text, bytes(mac)


class _Blocks:
    """SM4 on single blocks, for as long as one message takes.

    number: by which OpenSSL names it when it calls back. failed: whether a block was not made;
    what comes out then is not to be used.
    """

    def __init__(self, key: bytes) -> None:
        cipher = Cipher(algorithms.SM4(key), modes.ECB())  # noqa: S305  (single blocks)
        self.context: CipherContext = cipher.encryptor()
        self.number = next(_numbers)
        self.failed = False

    def __enter__(self) -> _Blocks:
        _running[self.number] = self
        return self

    def __exit__(self, *_: object) -> None:
        del _running[self.number]


_numbers = itertools.count(1)
_running: dict[int, _Blocks] = {}


def _block(source: int, target: int, number: int) -> None:
    blocks = _running[number]
    try:
        made = blocks.context.update(ctypes.string_at(source, _BLOCK))
        ctypes.memmove(target, made, _BLOCK)
    except BaseException:  # noqa: BLE001  (C can't be told, and would go on with what is there)
        blocks.failed = True


_encrypt_block = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_void_p)(_block)
"""block128_f of OpenSSL. Made once, at import: a sealed enclave can't map code."""
