"""Base64url without padding (RFC 4648, section 5; RFC 7515, section 2): one text for each value."""

from __future__ import annotations

import base64
import binascii


def pack(data: bytes) -> str:
    """The text of `data`."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unpack(text: str) -> bytes:
    """The way back. Raises ValueError for anything but the one text that a value has."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64url: {error}") from None
    if pack(data) != text:
        raise ValueError("not base64url without padding")
    return data
