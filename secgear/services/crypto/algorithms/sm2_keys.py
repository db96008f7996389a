"""OpenSSL's keys of SM2, one operation with a key, and arithmetic on its curve."""

from __future__ import annotations

import ctypes
import weakref
from ctypes import byref, c_char, c_size_t, c_void_p
from typing import TYPE_CHECKING, Final, Self, final

from secgear.errors import PlatformUnavailable
from secgear.services.crypto.algorithms import libcrypto

if TYPE_CHECKING:
    from collections.abc import Callable

SCALAR_SIZE: Final = 32
POINT_SIZE: Final = 65
ORDER: Final = 0xFFFFFFFE_FFFFFFFF_FFFFFFFF_FFFFFFFF_7203DF6B_21C6052B_53BBF409_39D54123
KEYPAIR, PUBLIC_KEY = 0x87, 0x86  # EVP_PKEY_KEYPAIR, EVP_PKEY_PUBLIC_KEY

_NID: Final = 1172  # NID_sm2
_UNSIGNED, _UTF8, _OCTETS = 2, 4, 5  # OSSL_PARAM_*
_UNCOMPRESSED = 4  # POINT_CONVERSION_UNCOMPRESSED
_CONSTANT_TIME = 4  # BN_FLG_CONSTTIME


@final
class Key:
    """An EVP_PKEY, freed with this object."""

    def __init__(self, handle: int | None) -> None:
        if not handle:
            raise failed("making a key")
        self.handle = handle
        weakref.finalize(self, libcrypto.load().EVP_PKEY_free, handle)


@final
class Operation:
    """An EVP_PKEY_CTX for one operation with a key, which it keeps alive."""

    def __init__(self, key: Key) -> None:
        self.library = libcrypto.load()
        self._key = key
        self.handle = self.library.EVP_PKEY_CTX_new_from_pkey(None, key.handle, None)
        if not self.handle:
            raise failed("using a key")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.EVP_PKEY_CTX_free(self.handle)


@final
class Arithmetic:
    """Numbers and points of one computation; all of them are wiped at its end."""

    def __init__(self) -> None:
        self.library = libcrypto.load()
        self._numbers: list[int] = []
        self._points: list[int] = []
        self._context = self.library.BN_CTX_secure_new()
        self._group = self.library.EC_GROUP_new_by_curve_name(_NID)

    def __enter__(self) -> Self:
        if not self._context or not self._group:
            self.__exit__()
            raise failed("arithmetic")
        return self

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            self.library.BN_clear_free(number)
        for point in self._points:
            self.library.EC_POINT_clear_free(point)
        self.library.EC_GROUP_free(self._group)
        self.library.BN_CTX_free(self._context)

    def number(self, octets: bytes | bytearray) -> int:
        """A number that is treated as a secret."""
        made = self._owned(self.library.BN_secure_new())
        source = (c_char * len(octets)).from_buffer_copy(octets)
        self._check(self.library.BN_bin2bn(source, len(octets), made) is not None)
        ctypes.memset(source, 0, len(octets))
        self.library.BN_set_flags(made, _CONSTANT_TIME)
        return made

    def private(self, key: Key) -> int:
        """The secret of a key."""
        found = c_void_p()
        self._check(self.library.EVP_PKEY_get_bn_param(key.handle, b"priv", byref(found)) == 1)
        made = self._owned(found.value)
        self.library.BN_set_flags(made, _CONSTANT_TIME)
        return made

    def point(self, octets: bytes) -> int:
        """A point; OpenSSL checks that it is on the curve."""
        made = self._point()
        if (
            self.library.EC_POINT_oct2point(self._group, made, octets, len(octets), self._context)
            != 1
        ):
            raise invalid("no point of the curve")
        return made

    def octets(self, point: int) -> bytes:
        """A point, uncompressed. Raises ValueError for the one at infinity."""
        if self.library.EC_POINT_is_at_infinity(self._group, point):
            raise ValueError("SM2: the result is no point; use other keys")
        out = (c_char * POINT_SIZE)()
        size = self.library.EC_POINT_point2oct(
            self._group, point, _UNCOMPRESSED, out, POINT_SIZE, self._context
        )
        self._check(size == POINT_SIZE)
        return bytes(out)

    def multiply_generator(self, number: int) -> int:
        """``[number]G``, in constant time."""
        made = self._point()
        done = self.library.EC_POINT_mul(self._group, made, number, None, None, self._context)
        self._check(done == 1)
        return made

    def exchange(self, own: Key, ephemeral: Key, points: tuple[bytes, bytes, bytes]) -> bytes:
        """``[t](P + [x]R)``, with ``t = d + x' r mod n`` (GB/T 32918.3, section 6.1, A4 to A7).

        points: our R, then the peer's P and R. The cofactor is 1.
        """
        library, context = self.library, self._context
        own_r, peer_p, peer_r = points
        order = self.number(ORDER.to_bytes(SCALAR_SIZE, "big"))
        product, t = self._owned(library.BN_secure_new()), self._owned(library.BN_secure_new())
        factor, secret = self.number(_half(own_r)), self.private(ephemeral)
        self._check(library.BN_mod_mul(product, factor, secret, order, context) == 1)
        self._check(library.BN_mod_add(t, self.private(own), product, order, context) == 1)
        library.BN_set_flags(t, _CONSTANT_TIME)

        theirs, base, shared = self.point(peer_r), self._point(), self._point()
        factor = self.number(_half(peer_r))
        self._check(library.EC_POINT_mul(self._group, base, None, theirs, factor, context) == 1)
        done = library.EC_POINT_add(self._group, base, base, self.point(peer_p), context)
        self._check(done == 1)
        self._check(library.EC_POINT_mul(self._group, shared, None, base, t, context) == 1)
        return self.octets(shared)

    def _point(self) -> int:
        made = self.library.EC_POINT_new(self._group)
        self._check(bool(made))
        self._points.append(made)
        return int(made)

    def _owned(self, number: int | None) -> int:
        if not number:
            raise failed("arithmetic")
        self._numbers.append(number)
        return number

    def _check(self, done: bool) -> None:
        if not done:
            raise failed("arithmetic")


def from_data(selection: int, point: bytes, scalar: bytes | bytearray | None) -> Key:
    """EVP_PKEY_fromdata(3): a key of its parts."""
    library = libcrypto.load()
    params = (libcrypto.Param * 4)()
    name = ctypes.create_string_buffer(b"SM2", 3)
    octets = ctypes.create_string_buffer(point, len(point))
    parts = [(b"group", _UTF8, name, 3), (b"pub", _OCTETS, octets, len(point))]
    secret = (c_char * SCALAR_SIZE)()
    if scalar is not None:
        numbers = (ctypes.c_uint8 * SCALAR_SIZE).from_buffer(secret)
        for index in range(SCALAR_SIZE):  # numbers are in the machine's order: little endian
            numbers[index] = scalar[SCALAR_SIZE - 1 - index]
        parts.append((b"priv", _UNSIGNED, secret, SCALAR_SIZE))
    for entry, (key, kind, data, size) in zip(params, parts, strict=False):
        entry.key, entry.data_type, entry.data_size = key, kind, size
        entry.data = ctypes.addressof(data)
    context = library.EVP_PKEY_CTX_new_from_name(None, b"SM2", None)
    made = c_void_p()
    try:
        if not context or library.EVP_PKEY_fromdata_init(context) != 1:
            raise failed("making a key")
        if library.EVP_PKEY_fromdata(context, byref(made), selection, params) != 1:
            raise invalid("no point of the curve")
    finally:
        library.EVP_PKEY_CTX_free(context)
        ctypes.memset(secret, 0, SCALAR_SIZE)
    return Key(made.value)


def point_of(key: Key) -> bytes:
    """The public point of a key."""
    library = libcrypto.load()
    parts = []
    for name in (b"qx", b"qy"):
        number = c_void_p()
        if library.EVP_PKEY_get_bn_param(key.handle, name, byref(number)) != 1:
            raise failed("reading a key")
        out = (c_char * SCALAR_SIZE)()
        library.BN_bn2binpad(number, out, SCALAR_SIZE)
        library.BN_clear_free(number)
        parts.append(bytes(out))
    return b"\4" + b"".join(parts)


def run(function: Callable[..., int], context: int, data: bytes) -> bytes | None:
    """An operation that tells the size first; None where it does not succeed."""
    library = libcrypto.load()
    size = c_size_t()
    if function(context, None, byref(size), data, len(data)) != 1:
        library.ERR_clear_error()
        return None
    out = (c_char * size.value)()
    if function(context, out, byref(size), data, len(data)) != 1:
        library.ERR_clear_error()
        return None
    result = ctypes.string_at(out, size.value)
    ctypes.memset(out, 0, len(out))
    return result


def failed(what: str) -> PlatformUnavailable:
    """The error for what OpenSSL must not fail at; what it says itself is dropped."""
    libcrypto.load().ERR_clear_error()
    return PlatformUnavailable(f"SM2: {what} failed in {libcrypto.version()}")


def invalid(what: str) -> ValueError:
    """The error for input that OpenSSL refuses; what it says itself is dropped."""
    libcrypto.load().ERR_clear_error()
    return ValueError(f"SM2: {what}")


def _half(point: bytes) -> bytes:
    """``2^127 + (x mod 2^127)`` of a point's x: w is 127."""
    low = int.from_bytes(point[17:33], "big") & ((1 << 127) - 1)
    return (1 << 127 | low).to_bytes(SCALAR_SIZE, "big")
