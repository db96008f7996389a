"""Hash functions by the numbers under which PKCS#11 knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives import hashes

from secgear.services.crypto.pkcs11.constants import Kdf, Mech, Mgf

HASHES: Final[Mapping[int, hashes.HashAlgorithm]] = {
    int(Mech.SHA_1): hashes.SHA1(),  # noqa: S303  (digests of others, OAEP's default)
    int(Mech.SHA224): hashes.SHA224(),
    int(Mech.SHA256): hashes.SHA256(),
    int(Mech.SHA384): hashes.SHA384(),
    int(Mech.SHA512): hashes.SHA512(),
    int(Mech.SHA3_224): hashes.SHA3_224(),
    int(Mech.SHA3_256): hashes.SHA3_256(),
    int(Mech.SHA3_384): hashes.SHA3_384(),
    int(Mech.SHA3_512): hashes.SHA3_512(),
    int(Mech.SM3): hashes.SM3(),
}
"""By digest mechanism."""

NAMES: Final[Mapping[str, int]] = {
    "SHA224": Mech.SHA224,
    "SHA256": Mech.SHA256,
    "SHA384": Mech.SHA384,
    "SHA512": Mech.SHA512,
    "SHA3_224": Mech.SHA3_224,
    "SHA3_256": Mech.SHA3_256,
    "SHA3_384": Mech.SHA3_384,
    "SHA3_512": Mech.SHA3_512,
}
"""Those that signatures are made over, by the name that their mechanisms begin or end with."""

MGF_HASHES: Final[Mapping[int, int]] = {
    int(Mgf.SHA1): Mech.SHA_1,
    **{int(mgf): NAMES[mgf.name] for mgf in Mgf if mgf is not Mgf.SHA1},
}
"""The digest mechanism behind a mask generation function."""

KDF_HASHES: Final[Mapping[int, int]] = {
    int(Kdf.SHA1_KDF): Mech.SHA_1,
    int(Kdf.SHA224_KDF): Mech.SHA224,
    int(Kdf.SHA256_KDF): Mech.SHA256,
    int(Kdf.SHA384_KDF): Mech.SHA384,
    int(Kdf.SHA512_KDF): Mech.SHA512,
}
"""The digest mechanism behind a key derivation function of ECDH (ANSI X9.63)."""
