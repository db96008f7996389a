"""A counter that a witness on another machine keeps, from inside an enclave."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn, final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secgear.errors import SealingError
from secgear.middleware.sealing.counters import NO_MARK, Standing, check_step
from secgear.middleware.sealing.witness_messages import (
    KEY_SIZE,
    NONCE_SIZE,
    Answer,
    Request,
    identity_of,
    read,
    request_message,
    write,
)


@final
class RemoteCounter:
    """A counter that a `Witness` keeps: the host can neither set it back nor move it.

    seed: 32 secret bytes that name and move the counter: `derive_key`, so that they come again
    after a restart. witness: the public key that the witness's answers must be signed with.
    exchange: carries a request to the witness and its answer back; it may do anything to them.
    """

    def __init__(self, seed: bytes, witness: bytes, exchange: Callable[[bytes], bytes]) -> None:
        if len(seed) != KEY_SIZE or len(witness) != KEY_SIZE:
            raise SealingError(f"seed and witness's key have {KEY_SIZE} bytes")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._holder = self._key.public_key().public_bytes_raw()
        self._witness = witness
        self._exchange = exchange

    def __repr__(self) -> str:
        return f"RemoteCounter({self.identity.hex()[:16]}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key can't be pickled")

    @property
    def identity(self) -> bytes:
        """SHA-256 of the holder's public key."""
        return identity_of(self._holder)

    def read(self) -> Standing:
        """What the witness says now. Raises SealingError for an answer that is not its own."""
        return self._ask(0, NO_MARK)

    def advance(self, value: int, mark: bytes) -> Standing:
        """See `Counter.advance`. Raises SealingError for an answer that is not the witness's."""
        check_step(value, mark)
        return self._ask(value, mark)

    def _ask(self, value: int, mark: bytes) -> Standing:
        nonce = os.urandom(NONCE_SIZE)
        signature = self._key.sign(request_message(self._witness, nonce, value, mark))
        request = Request(1, self._holder, nonce, value, mark, signature)
        answer = read(self._exchange(write(request)), Answer)
        return answer.verify(self._witness, self.identity, nonce)
