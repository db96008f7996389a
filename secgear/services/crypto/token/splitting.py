"""A key in shares, of which some bring it back and fewer tell nothing: Shamir's scheme.

The arithmetic is pycryptodomex's, in GF(2^128); a key of 32 bytes is two of
16, split each.
"""

from __future__ import annotations

from collections.abc import Sequence

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles.custody import KEY_SIZE, Share

_HALF = KEY_SIZE // 2


def split(key: bytes, backup: bytes, *, threshold: int, count: int) -> list[Share]:
    """As many shares of the key as `count`; `threshold` of them bring it back."""
    from Cryptodome.Protocol.SecretSharing import Shamir

    halves = [
        Shamir.split(threshold, count, key[at : at + _HALF], False)
        for at in range(0, KEY_SIZE, _HALF)
    ]
    return [
        Share(backup, index, left + right)
        for (index, left), (_, right) in zip(*halves, strict=True)
    ]


def combine(shares: Sequence[Share], backup: bytes, *, threshold: int) -> bytes:
    """The key of the backup. Whether it is the right one, only what it opens can tell.

    Raises CryptoRefused for shares of another backup, the same one twice, or too few.
    """
    from Cryptodome.Protocol.SecretSharing import Shamir

    if any(share.backup != backup for share in shares):
        raise CryptoRefused("a share belongs to another backup")
    if len({share.index for share in shares}) != len(shares):
        raise CryptoRefused("one share is there twice")
    if len(shares) < threshold:
        raise CryptoRefused(f"{len(shares)} shares; it takes {threshold}")
    some = shares[:threshold]
    return b"".join(
        Shamir.combine([(share.index, share.part[at : at + _HALF]) for share in some], False)
        for at in range(0, KEY_SIZE, _HALF)
    )
