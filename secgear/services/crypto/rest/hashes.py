"""Hash functions by Vault's names, and SM3 by ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from secgear.services.crypto.pkcs11.constants import Mech, Mgf
from secgear.services.crypto.rest.refusals import Refusal

HASHES: Final[Mapping[str, str]] = {
    "sha2-224": "SHA224",
    "sha2-256": "SHA256",
    "sha2-384": "SHA384",
    "sha2-512": "SHA512",
    "sha3-224": "SHA3_224",
    "sha3-256": "SHA3_256",
    "sha3-384": "SHA3_384",
    "sha3-512": "SHA3_512",
}
"""The part of a mechanism's name that says the same."""
SIZES: Final[Mapping[str, int]] = {name: int(name[-3:]) // 8 for name in HASHES}
"""Bytes of a digest."""
_NUMBERS = {
    "sha2-256": 1, "sha2-384": 2, "sha2-512": 3, "sha2-224": 4,
    "sha3-224": 7, "sha3-256": 8, "sha3-384": 9, "sha3-512": 10,
}  # fmt: skip
"""Of the object identifiers below 2.16.840.1.101.3.4.2 (NIST, RFC 8017)."""


def digest_info(name: str, digest: bytes) -> bytes:
    """What PKCS#1 v1.5 signs: the digest behind its function's name (RFC 8017, section 9.2)."""
    size = SIZES[name]
    identifier = bytes.fromhex("06096086480165030402") + bytes((_NUMBERS[name],))
    algorithm = b"\x30" + bytes((len(identifier) + 2,)) + identifier + b"\x05\0"
    inner = algorithm + b"\x04" + bytes((size,)) + digest
    return b"\x30" + bytes((len(inner),)) + inner


def digest_of(name: str) -> Mech:
    """The mechanism that digests. Raises Refusal."""
    if name == "sm3":
        return Mech.SM3
    return Mech[known(name)]


def known(name: str) -> str:
    """The part of a mechanism's name, for a function that signatures and MACs are made with.

    Raises Refusal.
    """
    part = HASHES.get(name)
    if part is None:
        raise Refusal(400, "this hash algorithm is not offered")
    return part


def mask_of(name: str) -> Mgf:
    """The mask generation function with the same hash function."""
    return Mgf[known(name)]
