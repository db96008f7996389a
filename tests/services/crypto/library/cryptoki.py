"""The library as a C program has it: loaded, its functions called with pointers."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_char_p,
    c_ubyte,
    c_ulong,
    c_void_p,
    cast,
)
from pathlib import Path
from typing import Any

from secgear.services.crypto.library.prototypes import STANDARD
from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.rv import Rv

OK = Rv.OK
CANT_LOCK, FUNCTION_NOT_PARALLEL = 0xA, 0x51


class Attribute(Structure):
    _fields_ = (("type", c_ulong), ("value", c_void_p), ("size", c_ulong))


class Mechanism(Structure):
    _fields_ = (("type", c_ulong), ("parameter", c_void_p), ("size", c_ulong))


class Input(Structure):
    """CK_SECGEAR_INPUT."""

    _fields_ = (("data", c_char_p), ("size", c_ulong))


class Result(Structure):
    """CK_SECGEAR_RESULT."""

    _fields_ = (("data", c_void_p), ("size", c_ulong), ("rv", c_ulong))


class InitializeArgs(Structure):
    _fields_ = (
        *((f"mutex{i}", c_void_p) for i in range(4)),
        ("flags", c_ulong),
        ("reserved", c_char_p),
    )


class Interface(Structure):
    _fields_ = (("name", c_char_p), ("functions", c_void_p), ("flags", c_ulong))


class Refused(Exception):
    """A call did not return CKR_OK."""

    def __init__(self, rv: int) -> None:
        super().__init__(Rv(rv).name if rv in set(Rv) else hex(rv))
        self.rv = rv


class Library:
    """One loaded library. Every function is called by its name; `rv` returns what it returns."""

    def __init__(self, path: Path, mode: int = ctypes.DEFAULT_MODE) -> None:
        self.path = path
        self._library = CDLL(str(path), mode)

    def rv(self, name: str, *arguments: Any) -> int:
        function = getattr(self._library, name)
        function.restype = c_ulong
        return int(function(*(c_ulong(one) if type(one) is int else one for one in arguments)))

    def call(self, name: str, *arguments: Any) -> None:
        if rv := self.rv(name, *arguments):
            raise Refused(rv)

    def number(self, name: str, *arguments: Any) -> int:
        """The call's last result, a number."""
        result = c_ulong(0)
        self.call(name, *arguments, byref(result))
        return result.value

    def initialise(self, address: str | None = None) -> None:
        args = InitializeArgs(flags=2, reserved=address.encode() if address else None)
        self.call("C_Initialize", byref(args))

    def sized(self, name: str, *arguments: Any) -> bytes:
        """Output of a call, asked for its size first."""
        size = c_ulong(0)
        self.call(name, *arguments, None, byref(size))
        buffer = (c_ubyte * max(size.value, 1))()
        self.call(name, *arguments, buffer, byref(size))
        return bytes(buffer[: size.value])

    def close(self) -> None:
        from _ctypes import dlclose

        dlclose(self._library._handle)


class Session:
    """A session of it."""

    def __init__(self, library: Library, slot: int = 0, flags: int = 6, pin: bytes = b"") -> None:
        self.library = library
        self.handle = library.number("C_OpenSession", slot, flags, None, None)
        if pin:
            self.call("C_Login", 1, pin, len(pin))

    def rv(self, name: str, *arguments: Any) -> int:
        return self.library.rv(name, self.handle, *arguments)

    def call(self, name: str, *arguments: Any) -> None:
        self.library.call(name, self.handle, *arguments)

    def number(self, name: str, *arguments: Any) -> int:
        return self.library.number(name, self.handle, *arguments)

    def sized(self, name: str, *arguments: Any) -> bytes:
        return self.library.sized(name, self.handle, *arguments)

    def create(self, **attributes: Any) -> int:
        made = template(**attributes)
        return self.number("C_CreateObject", made, len(made))

    def generate(self, mechanism: int, **attributes: Any) -> int:
        made = template(**attributes)
        return self.number("C_GenerateKey", byref(Mechanism(mechanism)), made, len(made))

    def pair(
        self, mechanism: int, public: dict[str, Any], private: dict[str, Any]
    ) -> tuple[int, int]:
        first, second = template(**public), template(**private)
        handle = c_ulong(0)
        other = self.number(
            "C_GenerateKeyPair", byref(Mechanism(mechanism)),
            first, len(first), second, len(second), byref(handle),
        )  # fmt: skip
        return handle.value, other

    def get(self, handle: int, attr: Attr) -> bytes:
        wanted = (Attribute * 1)(Attribute(attr, None, 0))
        self.call("C_GetAttributeValue", handle, wanted, 1)
        buffer = ctypes.create_string_buffer(max(wanted[0].size, 1))
        wanted[0].value = ctypes.addressof(buffer)
        self.call("C_GetAttributeValue", handle, wanted, 1)
        return buffer.raw[: wanted[0].size]

    def find(self, **attributes: Any) -> list[int]:
        wanted = template(**attributes)
        self.call("C_FindObjectsInit", wanted, len(wanted))
        handles, count, found = (c_ulong * 3)(), c_ulong(1), []
        while count.value:
            self.call("C_FindObjects", handles, 3, byref(count))
            found += handles[: count.value]
        self.call("C_FindObjectsFinal")
        return found

    def run(
        self, what: str, mechanism: int, key: int, data: bytes, parameter: Structure | bytes = b""
    ) -> bytes:
        """C_EncryptInit and C_Encrypt, or the like."""
        self.call(f"C_{what}Init", byref(mechanism_of(mechanism, parameter)), key)
        return self.sized(f"C_{what}", data, len(data))


def mechanism_of(number: int, parameter: Structure | bytes = b"") -> Mechanism:
    if not parameter:
        return Mechanism(number)
    kept = ctypes.create_string_buffer(parameter) if isinstance(parameter, bytes) else parameter
    size = len(parameter) if isinstance(parameter, bytes) else ctypes.sizeof(parameter)
    mechanism = Mechanism(number, ctypes.addressof(kept), size)
    mechanism.kept = kept  # ctypes keeps what a structure points at only as long as somebody does
    return mechanism


def template(**attributes: Any) -> Any:
    """CK_ATTRIBUTEs from Python values: bool, int, bytes, a list of mechanisms."""
    made = (Attribute * max(len(attributes), 1))()
    kept = []
    for place, (name, value) in zip(made, attributes.items(), strict=False):
        raw = raw_of(value)
        buffer = ctypes.create_string_buffer(raw, max(len(raw), 1))
        kept.append(buffer)
        place.type, place.value, place.size = Attr[name], ctypes.addressof(buffer), len(raw)
    made.kept = kept
    return _Template(made, len(attributes))


class _Template:
    """A ctypes array that may be empty: it knows how many are meant."""

    def __init__(self, array: Any, count: int) -> None:
        self._as_parameter_ = array
        self.array = array
        self._count = count

    def __len__(self) -> int:
        return self._count


def raw_of(value: Any) -> bytes:
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        return int(value).to_bytes(8, "little")
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return b"".join(raw_of(int(one)) for one in value)
    return bytes(value)


def copy_of(library: Path, folder: Path, name: str = "copy.so") -> Path:
    """Another file: the linker takes it for another library."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(library, folder / name))


@contextmanager
def loaded(path: Path, mode: int = os.RTLD_LOCAL | os.RTLD_NOW) -> Iterator[Library]:
    """The library, until the block ends: finalised and unloaded."""
    library = Library(path, mode)
    try:
        yield library
    finally:
        library.rv("C_Finalize", None)
        library.close()


def buffer_of(size: int) -> Any:
    return (c_ubyte * max(size, 1))()


class List(Structure):
    """CK_FUNCTION_LIST_3_2; older ones end earlier."""

    _fields_ = (
        ("version", c_ubyte * 2),
        *((name, c_void_p) for name in STANDARD),
    )


def list_of(library: Library) -> List:
    found = c_void_p()
    library.call("C_GetFunctionList", byref(found))
    return cast(found, POINTER(List))[0]


def initialise(functions: List, address: str) -> int:
    args = InitializeArgs(flags=2, reserved=address.encode())
    function = CFUNCTYPE(c_ulong, c_void_p)(functions.C_Initialize)
    return int(function(cast(byref(args), c_void_p)))
