"""PINs: checked with scrypt inside the enclave, counted so that guessing ends.

A failure is counted, durably, before the PIN is looked at. Whoever kills the enclave to get another
try has used one.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec
from cryptography.hazmat.primitives import constant_time
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.roles.operations import PinPolicy
from secgear.services.crypto.token.state import Pin

MAX_LENGTH: Final = 255
_COST: Final = 2**15  # 32 MiB, about a tenth of a second


def made(pin: bytes, policy: PinPolicy) -> Pin:
    """A new PIN. Raises CryptokiError for one that is too short or too long."""
    if not policy.shortest <= len(pin) <= MAX_LENGTH:
        raise CryptokiError(Rv.PIN_LEN_RANGE)
    salt = os.urandom(16)
    return Pin(salt, _digest(pin, salt))


def counted(pin: Pin, policy: PinPolicy) -> Pin:
    """The PIN with one more failure. Raises CryptokiError when there have been too many."""
    if pin.failures >= policy.tries:
        raise CryptokiError(Rv.PIN_LOCKED)
    return msgspec.structs.replace(pin, failures=pin.failures + 1, tries=pin.tries + 1)


def cleared(pin: Pin, proven: Pin) -> Pin:
    """The PIN after a success. proven: as it was counted; tries that came after it still count."""
    later = pin.tries - proven.tries
    return msgspec.structs.replace(pin, failures=min(pin.failures, later))


def fits(pin: Pin, given: bytes) -> bool:
    """Whether this is the PIN. Takes as long either way."""
    return constant_time.bytes_eq(_digest(given[: MAX_LENGTH + 1], pin.salt), pin.digest)


def _digest(pin: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_COST, r=8, p=1).derive(pin)
