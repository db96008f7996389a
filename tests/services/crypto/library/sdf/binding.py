"""GM/T 0018 as an application in C has it: its structures, and its functions by their names."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import Structure, byref, c_ubyte, c_uint, c_void_p
from pathlib import Path
from typing import Any

from tests.services.crypto.library.sdf.oracle import Point

_ORDER = """
    UNKNOWERR NOTSUPPORT COMMFAIL HARDFAIL OPENDEVICE OPENSESSION PARDENY KEYNOTEXIST ALGNOTSUPPORT
    ALGMODNOTSUPPORT PKOPERR SKOPERR SIGNERR VERIFYERR SYMOPERR STEPERR FILESIZEERR FILENOEXIST
    FILEOFSERR KEYTYPEERR KEYERR ENCDATAERR RANDERR PRKRERR MACERR FILEEXISTS FILEWERR NOBUFFER
    INARGERR OUTARGERR
"""
NAMES = {0: "OK"} | {0x01000001 + at: name for at, name in enumerate(_ORDER.split())}
SM1_ECB, SSF33_CBC, ZUC_EEA3 = 0x101, 0x202, 0x801
SM4_ECB, SM4_CBC, SM4_CFB, SM4_OFB, SM4_MAC, SM4_CTR = 0x401, 0x402, 0x404, 0x408, 0x410, 0x420
SM4_GCM, SM4_CCM = 0x02000400, 0x04000400
SM2_SIGN, SM2_EXCHANGE, SM2_ENC, RSA = 0x20200, 0x20400, 0x20800, 0x10000
SM3, SHA1, SHA256 = 1, 2, 4


class DeviceInfo(Structure):
    _fields_ = (
        ("issuer", c_ubyte * 40),
        ("name", c_ubyte * 16),
        ("serial", c_ubyte * 16),
        ("version", c_uint),
        ("standard", c_uint),
        ("asymmetric", c_uint * 2),
        ("symmetric", c_uint),
        ("hash", c_uint),
        ("buffer", c_uint),
    )


class RsaPublic(Structure):
    _fields_ = (("bits", c_uint), ("m", c_ubyte * 256), ("e", c_ubyte * 256))


class EccPublic(Structure):
    _fields_ = (("bits", c_uint), ("x", c_ubyte * 64), ("y", c_ubyte * 64))

    @property
    def point(self) -> Point:
        return int.from_bytes(bytes(self.x), "big"), int.from_bytes(bytes(self.y), "big")

    @classmethod
    def of(cls, point: Point) -> EccPublic:
        made = cls(256)
        made.x[:], made.y[:] = (number.to_bytes(64, "big") for number in point)
        return made


class EccSignature(Structure):
    _fields_ = (("r", c_ubyte * 64), ("s", c_ubyte * 64))

    @property
    def numbers(self) -> tuple[int, int]:
        return int.from_bytes(bytes(self.r), "big"), int.from_bytes(bytes(self.s), "big")

    @classmethod
    def of(cls, r: int, s: int) -> EccSignature:
        made = cls()
        made.r[:], made.s[:] = r.to_bytes(64, "big"), s.to_bytes(64, "big")
        return made


def cipher(room: int) -> Any:
    """An ECCCipher whose C has so much room, with marks behind it."""

    class EccCipher(Structure):
        _fields_ = (
            ("x", c_ubyte * 64),
            ("y", c_ubyte * 64),
            ("digest", c_ubyte * 32),
            ("size", c_uint),
            ("text", c_ubyte * room),
            ("mark", c_ubyte * 64),
        )

        @property
        def parts(self) -> tuple[Point, bytes, bytes]:
            point = tuple(int.from_bytes(bytes(one), "big") for one in (self.x, self.y))
            return point, bytes(self.digest), bytes(self.text)[: self.size]  # type: ignore[return-value]

    made = EccCipher()
    made.mark[:] = MARK
    return made


def cipher_of(point: Point, digest: bytes, text: bytes) -> Any:
    made = cipher(max(len(text), 1))
    made.x[:], made.y[:] = (number.to_bytes(64, "big") for number in point)
    made.digest[:] = digest
    made.size = len(text)
    made.text[: len(text)] = text
    return made


MARK = bytes(range(0xA0, 0xE0))


class Refused(Exception):
    """A function did not return SDR_OK."""

    def __init__(self, code: int) -> None:
        super().__init__(NAMES.get(code, hex(code)))
        self.name = NAMES.get(code, hex(code))


class Room:
    """Room for output, with marks behind it: nobody writes beyond what he was told."""

    def __init__(self, size: int) -> None:
        self.length = c_uint(size)
        self._size = size
        self.buffer = (c_ubyte * (size + len(MARK)))()
        self.buffer[size:] = MARK

    @property
    def data(self) -> bytes:
        assert bytes(self.buffer[self._size :]) == MARK
        assert self.length.value <= self._size
        return bytes(self.buffer[: self.length.value])


class Sdf:
    """The library's functions. `code` returns what a function returns, by its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))

    def code(self, name: str, *arguments: Any) -> str:
        function = getattr(self._library, f"SDF_{name}")
        function.restype = c_uint
        return NAMES[function(*map(_passed, arguments))]

    def call(self, name: str, *arguments: Any) -> None:
        function = getattr(self._library, f"SDF_{name}")
        function.restype = c_uint
        if code := function(*map(_passed, arguments)):
            raise Refused(code)

    def close(self) -> None:
        from _ctypes import dlclose

        dlclose(self._library._handle)

    def open(self) -> c_void_p:
        """A device."""
        handle = c_void_p()
        self.call("OpenDevice", byref(handle))
        return handle


def _passed(value: Any) -> Any:
    return c_uint(value) if type(value) is int else value


class Session:
    """A session, whose functions are called without its handle."""

    def __init__(self, sdf: Sdf, device: c_void_p) -> None:
        self.sdf = sdf
        self.handle = c_void_p()
        sdf.call("OpenSession", device, byref(self.handle))

    def code(self, name: str, *arguments: Any) -> str:
        return self.sdf.code(name, self.handle, *arguments)

    def call(self, name: str, *arguments: Any) -> None:
        self.sdf.call(name, self.handle, *arguments)

    def made(self, name: str, *arguments: Any) -> c_void_p:
        """A function whose last result is a handle."""
        handle = c_void_p()
        self.call(name, *arguments, byref(handle))
        return handle

    def output(self, name: str, *arguments: Any, room: int = 256) -> bytes:
        """A function that ends with output."""
        out = Room(room)
        self.call(name, *arguments, out.buffer, byref(out.length))
        return out.data

    def right(self, index: int, pin: bytes) -> None:
        self.call("GetPrivateKeyAccessRight", index, pin, len(pin))

    def key(self, value: bytes) -> c_void_p:
        return self.made("ImportKey", value, len(value))

    def crypt(self, name: str, key: c_void_p, algorithm: int, data: bytes, iv: Any = None) -> bytes:
        return self.output(name, key, algorithm, iv, data, len(data), room=len(data))

    def hash(
        self, *pieces: bytes, algorithm: int = SM3, signer: Any = None, identity: bytes = b""
    ) -> bytes:
        public = None if signer is None else byref(signer)
        self.call("HashInit", algorithm, public, identity, len(identity))
        for piece in pieces:
            self.call("HashUpdate", piece, len(piece))
        return self.output("HashFinal")

    def close(self) -> None:
        self.sdf.call("CloseSession", self.handle)


@contextmanager
def opened(sdf: Sdf) -> Iterator[c_void_p]:
    device = sdf.open()
    try:
        yield device
    finally:
        sdf.call("CloseDevice", device)
