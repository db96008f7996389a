"""SM4-CCM: what goes wrong inside OpenSSL's callback comes out as an error, never as data."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag

from secgear.errors import PlatformUnavailable
from secgear.services.crypto.algorithms import ccm, libcrypto

try:
    libcrypto.load()
except PlatformUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)

NONCE = bytes(12)


class Failing:
    """A cipher that fails at its third block."""

    def __init__(self, blocks: ccm._Blocks) -> None:
        self.right, self.left = blocks.context, 2

    def update(self, data: bytes) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise MemoryError
        return self.right.update(data)


@pytest.mark.parametrize("what", ["encrypt", "decrypt"])
def test_a_block_that_fails_fails_the_message(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    cipher = ccm.Sm4Ccm(bytes(16), 16)
    sealed = cipher.encrypt(NONCE, bytes(100), b"aad")
    enter = ccm._Blocks.__enter__

    def failing(blocks: ccm._Blocks) -> ccm._Blocks:
        blocks.context = Failing(blocks)  # type: ignore[assignment]
        return enter(blocks)

    monkeypatch.setattr(ccm._Blocks, "__enter__", failing)
    with pytest.raises(PlatformUnavailable, match="SM4-CCM failed"):
        getattr(cipher, what)(NONCE, sealed if what == "decrypt" else bytes(100), b"aad")
    assert not ccm._running
    monkeypatch.undo()
    assert cipher.decrypt(NONCE, sealed, b"aad") == bytes(100)
    with pytest.raises(InvalidTag):
        cipher.decrypt(NONCE, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"aad")
