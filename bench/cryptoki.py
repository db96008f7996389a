"""Just enough PKCS#11 through ctypes to measure a module as a C program would call it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_byte, c_char_p, c_ulong, c_void_p
from pathlib import Path
from typing import Final

# The order of CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h), as far as it is used here.
_ORDER: Final = {
    "C_Initialize": 0, "C_GetInfo": 2, "C_GetSlotList": 4, "C_InitToken": 9, "C_InitPIN": 10,
    "C_OpenSession": 12, "C_CloseSession": 13, "C_Login": 18, "C_Logout": 19,
    "C_CreateObject": 20, "C_FindObjectsInit": 26, "C_FindObjects": 27, "C_FindObjectsFinal": 28,
    "C_EncryptInit": 29, "C_Encrypt": 30, "C_GenerateKey": 58,
    "C_DigestInit": 37, "C_Digest": 38, "C_SignInit": 42, "C_Sign": 43, "C_GenerateKeyPair": 59,
    "C_GenerateRandom": 64,
}  # fmt: skip
SO, USER = 0, 1
CLASS, TOKEN, LABEL, SIGN, VERIFY, MODULUS_BITS, EC_PARAMS = 0, 1, 3, 0x108, 0x10A, 0x121, 0x180
ENCRYPT, VALUE_LEN = 0x104, 0x161
_AES_KEY_GEN, _AES_GCM = 0x1080, 0x1087


class _Attribute(ctypes.Structure):
    _fields_ = (("type", c_ulong), ("value", c_void_p), ("length", c_ulong))


class _Mechanism(ctypes.Structure):
    _fields_ = (("type", c_ulong), ("parameter", c_void_p), ("length", c_ulong))


class _GcmParams(ctypes.Structure):
    _fields_ = (
        ("iv", c_char_p), ("iv_length", c_ulong), ("iv_bits", c_ulong), ("aad", c_void_p),
        ("aad_length", c_ulong), ("tag_bits", c_ulong),
    )  # fmt: skip


class _InitializeArgs(ctypes.Structure):
    _fields_ = (("mutexes", c_void_p * 4), ("flags", c_ulong), ("reserved", c_void_p))


class Library:
    """A PKCS#11 module, with one session in which the user is logged in."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        listed = c_void_p()
        if library.C_GetFunctionList(byref(listed)) or listed.value is None:
            raise OSError(f"{path}: no PKCS#11 module")
        pointers = ctypes.cast(listed.value + 8, POINTER(c_void_p))
        kind = ctypes.CFUNCTYPE(c_ulong)
        self._functions = {name: kind(pointers[at] or 0) for name, at in _ORDER.items()}
        self._output = (c_byte * (1 << 17))()
        self.call("C_Initialize", byref(_InitializeArgs(flags=2)))
        self.session = c_ulong()

    def call(self, name: str, *arguments: object) -> None:
        """Call a function; raises OSError for anything but CKR_OK."""
        rv = self._functions[name](*arguments)
        if rv:
            raise OSError(f"{name}: 0x{rv:x}")

    def prepare(self, so_pin: bytes, pin: bytes) -> None:
        """Initialise the first token and give it PINs."""
        self.call("C_InitToken", self.slot(), so_pin, c_ulong(len(so_pin)), b"bench".ljust(32))
        self.open()
        self.login(SO, so_pin)
        self.call("C_InitPIN", self.session, pin, c_ulong(len(pin)))
        self.call("C_Logout", self.session)
        self.call("C_CloseSession", self.session)

    def slot(self) -> c_ulong:
        """The first slot."""
        slots, count = (c_ulong * 16)(), c_ulong(16)
        self.call("C_GetSlotList", c_byte(1), slots, byref(count))
        return c_ulong(slots[0])

    def open(self) -> None:
        """Open the session."""
        nothing = c_void_p()
        flags = c_ulong(6)
        self.call("C_OpenSession", self.slot(), flags, nothing, nothing, byref(self.session))

    def login(self, user: int, pin: bytes) -> None:
        """Log in."""
        self.call("C_Login", self.session, c_ulong(user), pin, c_ulong(len(pin)))

    def pair(
        self, mechanism: int, public: Mapping[int, bytes], private: Mapping[int, bytes]
    ) -> int:
        """Generate a key pair; returns the private key's handle."""
        handles = (c_ulong(), c_ulong())
        outer, inner = _template(public), _template(private)
        self.call(
            "C_GenerateKeyPair", self.session, byref(_Mechanism(mechanism)),
            outer, c_ulong(len(public)), inner, c_ulong(len(private)),
            byref(handles[0]), byref(handles[1]),
        )  # fmt: skip
        return int(handles[1].value)

    def create(self, attributes: Mapping[int, bytes]) -> None:
        """Create an object."""
        made = c_ulong()
        template = _template(attributes)
        count = c_ulong(len(attributes))
        self.call("C_CreateObject", self.session, template, count, byref(made))

    def find(self, attributes: Mapping[int, bytes]) -> int:
        """How many objects match, up to 16."""
        template = _template(attributes)
        self.call("C_FindObjectsInit", self.session, template, c_ulong(len(attributes)))
        handles, count = (c_ulong * 16)(), c_ulong()
        self.call("C_FindObjects", self.session, handles, c_ulong(16), byref(count))
        self.call("C_FindObjectsFinal", self.session)
        return int(count.value)

    def sign(self, mechanism: int, key: int, data: bytes) -> None:
        """C_SignInit and C_Sign."""
        self.call("C_SignInit", self.session, byref(_Mechanism(mechanism)), c_ulong(key))
        length = c_ulong(len(self._output))
        self.call(
            "C_Sign", self.session, c_char_p(data), c_ulong(len(data)), self._output, byref(length)
        )

    def digest(self, mechanism: int, data: bytes) -> None:
        """C_DigestInit and C_Digest."""
        self.call("C_DigestInit", self.session, byref(_Mechanism(mechanism)))
        length = c_ulong(len(self._output))
        size = c_ulong(len(data))
        self.call("C_Digest", self.session, c_char_p(data), size, self._output, byref(length))

    def aes_key(self) -> int:
        """Generate an AES key of 32 bytes that encrypts; returns its handle."""
        made = c_ulong()
        attributes = {VALUE_LEN: (32).to_bytes(8, "little"), ENCRYPT: b"\1"}
        template = _template(attributes)
        self.call(
            "C_GenerateKey", self.session, byref(_Mechanism(_AES_KEY_GEN)), template,
            c_ulong(len(attributes)), byref(made),
        )  # fmt: skip
        return int(made.value)

    def gcm(self, key: int, data: bytes) -> Callable[[], None]:
        """What does C_EncryptInit and C_Encrypt with AES-GCM, under one nonce; all is prepared."""
        params = _GcmParams(bytes(12), 12, 96, None, 0, 128)
        pointer = ctypes.cast(ctypes.pointer(params), c_void_p)
        mechanism = byref(_Mechanism(_AES_GCM, pointer, ctypes.sizeof(params)))
        handle, text, size = c_ulong(key), c_char_p(data), c_ulong(len(data))
        init, encrypt = self._functions["C_EncryptInit"], self._functions["C_Encrypt"]
        length = c_ulong()

        def run() -> None:
            length.value = len(self._output)
            init(self.session, mechanism, handle)
            if encrypt(self.session, text, size, self._output, byref(length)):
                raise OSError("C_Encrypt failed")
            assert params.iv_length

        return run

    def random(self, size: int) -> None:
        """C_GenerateRandom."""
        self.call("C_GenerateRandom", self.session, self._output, c_ulong(size))

    def info(self) -> None:
        """C_GetInfo: a call that does nothing."""
        self.call("C_GetInfo", self._output)


def _template(attributes: Mapping[int, bytes]) -> ctypes.Array[_Attribute]:
    entries = [
        _Attribute(kind, ctypes.cast(c_char_p(value), c_void_p), len(value))
        for kind, value in attributes.items()
    ]
    return (_Attribute * len(entries))(*entries)
