"""Keys from the TEE's sealing key, each for one purpose and one salt."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secgear.base import context
from secgear.base.tee import Guest, SealingPolicy
from secgear.errors import GuestError, SealedForOther

_PUBLIC_LABEL: Final = b"secgear derived key v1\0"
_MAX_PURPOSE: Final = 255
_MAX_SIZE: Final = 64


def derive_key(
    purpose: str,
    *,
    salt: bytes,
    policy: SealingPolicy = SealingPolicy.MEASUREMENT,
    svn: int | None = None,
    size: int = 32,
    guest: Guest | None = None,
) -> bytes:
    """A key for `purpose` that only this enclave, or its kin under `policy`, gets again.

    HKDF-SHA-384 (RFC 5869) over the TEE's sealing key with `salt`; info is a label, the size, the
    purpose's length and the purpose. No purpose and salt give the keys that `seal` uses.
    svn: whose key; None for the enclave's own. size: bytes, at most 64.
    Other than the sealing key itself, the result is ordinary memory of the enclave.
    Raises SealedForOther when the TEE won't give the key: the svn is above this enclave's, or
    there is no signer.
    """
    name = purpose.encode()
    if not 0 < len(name) <= _MAX_PURPOSE or not 0 < size <= _MAX_SIZE:
        raise ValueError(f"a purpose has 1 to {_MAX_PURPOSE} bytes, a key 1 to {_MAX_SIZE}")
    key = bytearray(size)
    info = _PUBLIC_LABEL + bytes([size, len(name)]) + name
    derive_into(key, info, salt=salt, policy=policy, svn=svn, guest=guest)
    return bytes(key)


def derive_into(
    key: bytearray,
    info: bytes,
    *,
    salt: bytes,
    policy: SealingPolicy,
    svn: int | None,
    guest: Guest | None,
) -> None:
    """Fill `key`, which its owner can wipe. info: begins with a label, which tells uses apart.

    Raises SealedForOther as `derive_key` does.
    """
    guest = guest if guest is not None else context.guest()
    try:
        secret = guest.sealing_key(policy, svn)
    except GuestError as error:
        raise SealedForOther(f"the TEE gives no sealing key: {error}") from error
    with secret:
        HKDF(hashes.SHA384(), len(key), salt=salt, info=info).derive_into(secret.view(), key)
