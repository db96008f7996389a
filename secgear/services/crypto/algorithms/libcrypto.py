"""The system's OpenSSL 3 (libcrypto), through its C interface: what `cryptography` does not offer.

`cryptography` brings its own OpenSSL and hides its symbols, and it has no SM2. So the system's is
loaded, at import time of whoever needs it: a sealed enclave can't map new code.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import platform
from ctypes import POINTER, c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from typing import Any, Final

from secgear.errors import PlatformUnavailable

_NAME: Final = "libcrypto.so.3"

_C: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    # name: result, parameters. OpenSSL 3.0, man7 pages of the same names.
    "OpenSSL_version_num": (c_ulong, ()),
    "OpenSSL_version": (c_char_p, (c_int,)),
    "ERR_clear_error": (None, ()),
    "CRYPTO_free": (None, (c_void_p, c_char_p, c_int)),
    "BN_CTX_secure_new": (c_void_p, ()),
    "BN_CTX_free": (None, (c_void_p,)),
    "BN_secure_new": (c_void_p, ()),
    "BN_bin2bn": (c_void_p, (c_void_p, c_int, c_void_p)),
    "BN_bn2binpad": (c_int, (c_void_p, c_void_p, c_int)),
    "BN_clear_free": (None, (c_void_p,)),
    "BN_cmp": (c_int, (c_void_p, c_void_p)),
    "BN_is_zero": (c_int, (c_void_p,)),
    "BN_mod_add": (c_int, (c_void_p,) * 5),
    "BN_mod_mul": (c_int, (c_void_p,) * 5),
    "BN_set_flags": (None, (c_void_p, c_int)),
    "EC_GROUP_new_by_curve_name": (c_void_p, (c_int,)),
    "EC_GROUP_free": (None, (c_void_p,)),
    "EC_POINT_new": (c_void_p, (c_void_p,)),
    "EC_POINT_clear_free": (None, (c_void_p,)),
    "EC_POINT_mul": (c_int, (c_void_p,) * 6),
    "EC_POINT_add": (c_int, (c_void_p,) * 5),
    "EC_POINT_oct2point": (c_int, (c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)),
    "EC_POINT_point2oct": (
        c_size_t,
        (c_void_p, c_void_p, c_int, c_void_p, c_size_t, c_void_p),
    ),
    "EC_POINT_is_at_infinity": (c_int, (c_void_p, c_void_p)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "EVP_PKEY_is_a": (c_int, (c_void_p, c_char_p)),
    "EVP_PKEY_get_bn_param": (c_int, (c_void_p, c_char_p, POINTER(c_void_p))),
    "EVP_PKEY_CTX_new_from_name": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_PKEY_CTX_new_from_pkey": (c_void_p, (c_void_p, c_void_p, c_char_p)),
    "EVP_PKEY_CTX_free": (None, (c_void_p,)),
    "EVP_PKEY_CTX_set_rsa_padding": (c_int, (c_void_p, c_int)),
    "EVP_PKEY_keygen_init": (c_int, (c_void_p,)),
    "EVP_PKEY_generate": (c_int, (c_void_p, POINTER(c_void_p))),
    "EVP_PKEY_fromdata_init": (c_int, (c_void_p,)),
    "EVP_PKEY_fromdata": (c_int, (c_void_p, POINTER(c_void_p), c_int, c_void_p)),
    "EVP_PKEY_sign_init": (c_int, (c_void_p,)),
    "EVP_PKEY_sign": (c_int, (c_void_p, c_void_p, POINTER(c_size_t), c_char_p, c_size_t)),
    "EVP_PKEY_verify_init": (c_int, (c_void_p,)),
    "EVP_PKEY_verify": (c_int, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t)),
    "EVP_PKEY_encrypt_init": (c_int, (c_void_p,)),
    "EVP_PKEY_encrypt": (c_int, (c_void_p, c_void_p, POINTER(c_size_t), c_char_p, c_size_t)),
    "EVP_PKEY_decrypt_init": (c_int, (c_void_p,)),
    "EVP_PKEY_decrypt": (c_int, (c_void_p, c_void_p, POINTER(c_size_t), c_char_p, c_size_t)),
    "CRYPTO_ccm128_init": (None, (c_void_p, c_uint, c_uint, c_void_p, c_void_p)),
    "CRYPTO_ccm128_setiv": (c_int, (c_void_p, c_char_p, c_size_t, c_size_t)),
    "CRYPTO_ccm128_aad": (None, (c_void_p, c_char_p, c_size_t)),
    "CRYPTO_ccm128_encrypt": (c_int, (c_void_p, c_char_p, c_void_p, c_size_t)),
    "CRYPTO_ccm128_decrypt": (c_int, (c_void_p, c_char_p, c_void_p, c_size_t)),
    "CRYPTO_ccm128_tag": (c_size_t, (c_void_p, c_void_p, c_size_t)),
    "d2i_PUBKEY": (c_void_p, (c_void_p, POINTER(c_char_p), c_long)),
    "i2d_PUBKEY": (c_int, (c_void_p, c_void_p)),
}


class Param(ctypes.Structure):
    """OSSL_PARAM(3): one entry of an array that ends with an empty one."""

    _fields_ = (
        ("key", c_char_p),
        ("data_type", c_uint),
        ("data", c_void_p),
        ("data_size", c_size_t),
        ("return_size", c_size_t),
    )


@functools.cache
def load() -> ctypes.CDLL:
    """The library with its prototypes set.

    Raises PlatformUnavailable when it is missing, too old, built without SM2, or known to leak
    keys through the time it takes.
    """
    try:
        library = ctypes.CDLL(_NAME)
        for name, (result, parameters) in _C.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, parameters
    except (OSError, AttributeError) as error:
        raise PlatformUnavailable(
            f"SM2 needs OpenSSL 3 of the system: {error}; on Debian: apt-get install libssl3"
        ) from error
    number = library.OpenSSL_version_num()
    major, minor = number >> 28, number >> 20 & 0xFF
    if leaks(platform.machine(), major, minor):
        raise PlatformUnavailable(
            f"OpenSSL {major}.{minor} multiplies SM2 points in a time that depends on the key on "
            "this machine (openssl issue 31133); install 3.0 or 3.1, or a build without assembly"
        )
    return library


def leaks(machine: str, major: int, minor: int) -> bool:
    """Whether this OpenSSL's SM2 branches on secret scalars.

    The curve's own code for aarch64 and riscv64, from 3.2 on; no release without it was known
    when this was written (https://github.com/openssl/openssl/issues/31133).
    """
    return machine in ("aarch64", "arm64", "riscv64") and (major, minor) >= (3, 2)


def version() -> str:
    """What the loaded library calls itself. Raises as `load`."""
    return str(load().OpenSSL_version(0).decode())
