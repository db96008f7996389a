"""Keys from the TEE's sealing key, each for one purpose and one salt."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secgear.base import context
from secgear.base.tee import Guest, SealingPolicy
from secgear.errors import GuestError, SealedForOther

_LABEL: Final = b"secgear sealing v1\0"
_MAX_PURPOSE: Final = 255


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

    HKDF-SHA-384 (RFC 5869) over the TEE's sealing key with a label, the purpose and `salt`.
    svn: whose key; None for the enclave's own. size: bytes, at most 64.
    Other than the sealing key itself, the result is ordinary memory of the enclave.
    Raises SealedForOther when the TEE won't give the key: the svn is above this enclave's, or
    there is no signer.
    """
    name = purpose.encode()
    if not 0 < len(name) <= _MAX_PURPOSE or not 0 < size <= 64:
        raise ValueError("a purpose has 1 to 255 bytes, a key 1 to 64")
    guest = guest if guest is not None else context.guest()
    info = _LABEL + bytes([len(name)]) + name
    try:
        secret = guest.sealing_key(policy, svn)
    except GuestError as error:
        raise SealedForOther(f"the TEE gives no sealing key: {error}") from error
    with secret:
        return HKDF(hashes.SHA384(), size, salt=salt, info=info).derive(secret.view())
