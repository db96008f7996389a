"""How evidence is bound to a challenge: the report data that an attester must put into it.

+--------------------+-------------------------------------------------------------------------+
| the attester sends | report data (the field of the evidence that the attester chooses)       |
+====================+=========================================================================+
| no ``user_data``   | the nonce: 32 bytes, then zeros up to the field's length                |
+--------------------+-------------------------------------------------------------------------+
| ``user_data``      | 64 bytes:                                                               |
|                    | SHA-512(``"secgear attest v1"`` || 00 || nonce || SHA-256(user data))    |
+--------------------+-------------------------------------------------------------------------+

``user_data`` is what the enclave vouches for besides itself: a public key, a certificate request.
The result's claims carry its SHA-256, so who receives the result knows which key belongs to the
enclave. Where a format's field holds only 32 bytes, use no user data, or a format's own nonce.
"""

from __future__ import annotations

import hashlib
from typing import Final

NONCE_SIZE: Final = 32  # bytes
MAX_USER_DATA: Final = 64 << 10  # bytes
_LABEL: Final = b"secgear attest v1\0"


def report_data(nonce: bytes, user_data: bytes | None = None) -> bytes:
    """What the evidence must carry. 32 bytes without user data (pad with zeros), else 64.

    Raises ValueError: a nonce that is not 32 bytes, user data that is empty or too much.
    """
    return _checked(nonce) if user_data is None else labelled(_LABEL, nonce, user_data)


def labelled(label: bytes, nonce: bytes, vouched: bytes) -> bytes:
    """SHA-512 over label, nonce and the digest of what is vouched for: 64 bytes.

    label: of the purpose, with a zero at its end, so that evidence for one is none for another.
    Raises ValueError as `report_data` does.
    """
    if not 1 <= len(vouched) <= MAX_USER_DATA:
        raise ValueError(f"user data has 1 to {MAX_USER_DATA} bytes, not {len(vouched)}")
    return hashlib.sha512(label + _checked(nonce) + hashlib.sha256(vouched).digest()).digest()


def _checked(nonce: bytes) -> bytes:
    if len(nonce) != NONCE_SIZE:
        raise ValueError(f"a nonce has {NONCE_SIZE} bytes, not {len(nonce)}")
    return nonce
