"""What a session runs between an Init call and the call that ends it.

An operation is fed in one piece or in several. `size` is an upper bound of what the next piece of
output can be, so that a caller can ask for it without anything happening.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from cryptography.hazmat.primitives import constant_time

from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv


class Transform(ABC):
    """Encryption, decryption or a digest: data to data. held: bytes of input that it keeps."""

    held = 0

    @abstractmethod
    def size(self, more: int) -> int:
        """Bytes of output at the most once `more` bytes of input have followed."""

    @abstractmethod
    def update(self, data: bytes) -> bytes:
        """Output that `data` makes available."""

    @abstractmethod
    def final(self) -> bytes:
        """The rest."""

    def whole(self, data: bytes) -> bytes:
        """All of it at once."""
        return self.update(data) + self.final()


class Collected(Transform):
    """A transform that needs all of its input first, up to a limit."""

    limit = 4 << 20

    def __init__(self) -> None:
        self._data = bytearray()

    def update(self, data: bytes) -> bytes:
        """Nothing comes out before the end."""
        if len(self._data) + len(data) > self.limit:
            raise CryptokiError(Rv.DATA_LEN_RANGE)
        self._data += data
        self.held = len(self._data)
        return b""

    def final(self) -> bytes:
        """See `whole`."""
        return self.whole(bytes(self._data))

    @abstractmethod
    def whole(self, data: bytes) -> bytes:
        """All of it at once."""


class Signer(ABC):
    """Signatures and MACs: data to a signature of `length` bytes, and back to a verdict.

    held: bytes of input that it keeps.
    """

    length: int
    held = 0

    @abstractmethod
    def update(self, data: bytes) -> None:
        """More of the data."""

    @abstractmethod
    def sign(self) -> bytes:
        """The signature of what was given."""

    @abstractmethod
    def verify(self, signature: bytes) -> None:
        """Raises CryptokiError unless it is one of what was given."""


class Mac(Signer):
    """A signer whose signatures are verified by making them again."""

    def verify(self, signature: bytes) -> None:
        """See `Signer.verify`; in constant time."""
        if len(signature) != self.length:
            raise CryptokiError(Rv.SIGNATURE_LEN_RANGE)
        if not constant_time.bytes_eq(self.sign(), signature):
            raise CryptokiError(Rv.SIGNATURE_INVALID)
