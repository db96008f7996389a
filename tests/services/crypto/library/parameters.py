"""Parameters of mechanisms as C has them, laid out from the specification, not from our tables."""

from __future__ import annotations

from ctypes import Structure, addressof, c_ubyte, c_ulong, c_void_p, create_string_buffer
from typing import Any, ClassVar, Self


class _Params(Structure):
    """of: its fields in order; bytes for a pointer and the length that belongs to it."""

    ORDER: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, *values: Any) -> Self:
        made = cls()
        made.kept = []
        for name, value in zip(cls.ORDER, values, strict=True):
            if not isinstance(value, bytes):
                setattr(made, name, value)
                continue
            buffer = create_string_buffer(value, max(len(value), 1))
            made.kept.append(buffer)
            setattr(made, name, addressof(buffer))
            setattr(made, f"{name}_size", len(value))
        return made


class GcmParams(_Params):
    ORDER = ("iv", "aad", "tag_bits")
    _fields_ = (
        ("iv", c_void_p), ("iv_size", c_ulong), ("iv_bits", c_ulong),
        ("aad", c_void_p), ("aad_size", c_ulong), ("tag_bits", c_ulong),
    )  # fmt: skip


class PssParams(_Params):
    ORDER = ("hash", "mgf", "salt")
    _fields_ = (("hash", c_ulong), ("mgf", c_ulong), ("salt", c_ulong))


class OaepParams(_Params):
    ORDER = ("hash", "mgf", "source", "label")
    _fields_ = (
        ("hash", c_ulong), ("mgf", c_ulong), ("source", c_ulong),
        ("label", c_void_p), ("label_size", c_ulong),
    )  # fmt: skip


class CtrParams(Structure):
    _fields_ = (("bits", c_ulong), ("block", c_ubyte * 16))


class ChachaParams(_Params):
    ORDER = ("nonce", "aad")
    _fields_ = (
        ("nonce", c_void_p), ("nonce_size", c_ulong), ("aad", c_void_p), ("aad_size", c_ulong),
    )  # fmt: skip


class EcdhParams(_Params):
    ORDER = ("kdf", "shared", "public")
    _fields_ = (
        ("kdf", c_ulong), ("shared_size", c_ulong), ("shared", c_void_p),
        ("public_size", c_ulong), ("public", c_void_p),
    )  # fmt: skip


class EddsaParams(_Params):
    ORDER = ("prehash", "context")
    _fields_ = (("prehash", c_ubyte), ("context_size", c_ulong), ("context", c_void_p))


class ContextParams(_Params):
    ORDER = ("hedge", "context")
    _fields_ = (("hedge", c_ulong), ("context", c_void_p), ("context_size", c_ulong))


class MacParams(Structure):
    _fields_ = (("length", c_ulong),)
