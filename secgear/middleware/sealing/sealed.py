"""Data that only this enclave, or its kin, can read again, wherever the host keeps it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secgear.base import context
from secgear.base.tee import Guest, SealingPolicy
from secgear.errors import RolledBack, SealedForOther, SealingError
from secgear.middleware.sealing.counters import MAX_VALUE, Counter
from secgear.middleware.sealing.format import (
    MAX_IDENTITY,
    MAX_SIZE,
    SALT_SIZE,
    Header,
    parse,
)
from secgear.middleware.sealing.keys import derive_key

Buffer = bytes | bytearray | memoryview
_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_PURPOSE: Final = "seal"


def seal(
    data: Buffer,
    *,
    policy: SealingPolicy = SealingPolicy.MEASUREMENT,
    aad: bytes = b"",
    counter: Counter | None = None,
    svn: int | None = None,
    guest: Guest | None = None,
) -> bytes:
    """`data`, encrypted for this enclave (MEASUREMENT) or its signer's (SIGNER).

    aad: what it belongs to; has to be given again. counter: binds it to the counter's next value:
    store the result, then call ``counter.increment()``, or let `store` do both. svn: the oldest
    version that may read it, by default this enclave's own. guest: by default this enclave's.
    Raises SealingError, SealedForOther when the TEE gives no key for that policy and svn.
    """
    view = memoryview(data).cast("B")
    if len(view) > MAX_SIZE:
        raise SealingError(f"{len(view)} bytes in one piece; {MAX_SIZE} are allowed")
    guest = guest if guest is not None else context.guest()
    header = Header(
        policy=policy,
        svn=guest.svn if svn is None else svn,
        salt=os.urandom(SALT_SIZE),
        counter=_identity(counter),
        value=_next(counter),
    )
    return header.pack() + _Cipher(header, guest).encrypt(view, aad)


def unseal(
    sealed: Buffer,
    *,
    aad: bytes = b"",
    counter: Counter | None = None,
    min_svn: int = 0,
    guest: Guest | None = None,
) -> bytes:
    """What was given to `seal`.

    counter: the one it was sealed with. Data of its next value is taken, too: that is data whose
    storing was the last thing before a crash, and the counter is incremented now, so that older
    data is refused from here on. min_svn: refuse what was sealed for an older version than that.
    Raises SealedMalformed, SealedForOther (another enclave, signer, product or machine, a newer
    version, other associated data, or changed: one can't tell these apart), RolledBack.
    """
    guest = guest if guest is not None else context.guest()
    header, rest = parse(sealed)
    if header.svn < min_svn:
        raise SealedForOther(f"sealed for svn {header.svn}; {min_svn} at least is accepted")
    if header.counter != _identity(counter):
        raise SealedForOther(
            "sealed with another counter" if header.counter else "sealed without a counter"
        )
    data = _Cipher(header, guest).decrypt(rest, aad)
    if counter is not None:
        _check_value(counter, header.value)
    return data


def reseal(
    sealed: Buffer,
    *,
    aad: bytes = b"",
    counter: Counter | None = None,
    min_svn: int = 0,
    guest: Guest | None = None,
) -> bytes:
    """The same data sealed anew for this enclave's own svn, so that older versions can't read it.

    For the first start after an update. Arguments and errors as of `seal` and `unseal`.
    """
    header, _ = parse(sealed)
    data = unseal(sealed, aad=aad, counter=counter, min_svn=min_svn, guest=guest)
    return seal(data, policy=header.policy, aad=aad, counter=counter, guest=guest)


def store(
    data: Buffer,
    write: Callable[[bytes], object],
    *,
    counter: Counter,
    policy: SealingPolicy = SealingPolicy.MEASUREMENT,
    aad: bytes = b"",
    guest: Guest | None = None,
) -> None:
    """`seal`, then `write`, then increment: in the order that a crash at any point survives.

    write: puts the sealed data where it is kept, and returns once it is durable there.
    """
    sealed = seal(data, policy=policy, aad=aad, counter=counter, guest=guest)
    value = parse(sealed)[0].value
    write(sealed)
    reached = counter.increment()
    if reached != value:
        raise RolledBack(f"the counter is at {reached}, not at {value}: somebody else uses it")


@final
class _Cipher:
    """AES-256-GCM under the key of one header, which is used for one message."""

    def __init__(self, header: Header, guest: Guest) -> None:
        material = derive_key(
            _PURPOSE,
            salt=header.salt,
            policy=header.policy,
            svn=header.svn,
            size=_KEY_SIZE + _NONCE_SIZE,
            guest=guest,
        )
        self._aead = AESGCM(material[:_KEY_SIZE])
        self._nonce = material[_KEY_SIZE:]
        self._header = header.pack()

    def encrypt(self, data: memoryview, aad: bytes) -> bytes:
        return self._aead.encrypt(self._nonce, data, self._header + aad)

    def decrypt(self, data: memoryview, aad: bytes) -> bytes:
        try:
            return self._aead.decrypt(self._nonce, data, self._header + aad)
        except InvalidTag:
            raise SealedForOther(
                "not sealed for this enclave with this associated data, or changed"
            ) from None


def _identity(counter: Counter | None) -> bytes:
    if counter is None:
        return b""
    identity = counter.identity
    if not 0 < len(identity) <= MAX_IDENTITY:
        raise SealingError(f"a counter's identity has 1 to {MAX_IDENTITY} bytes")
    return identity


def _next(counter: Counter | None) -> int:
    if counter is None:
        return 0
    value = counter.read() + 1
    if value > MAX_VALUE:
        raise SealingError("the counter is at its end")
    return value


def _check_value(counter: Counter, value: int) -> None:
    now = counter.read()
    if value == now + 1:
        now = counter.increment()
    if value < now:
        raise RolledBack(f"sealed at {value}, and the counter is at {now}: there is newer data")
    if value > now:
        raise RolledBack(f"sealed at {value}, but the counter is at {now}: it was set back")
