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


class HkdfParams(_Params):
    ORDER = ("extract", "expand", "hash", "salt_type", "salt", "salt_key", "info")
    _fields_ = (
        ("extract", c_ubyte), ("expand", c_ubyte), ("hash", c_ulong), ("salt_type", c_ulong),
        ("salt", c_void_p), ("salt_size", c_ulong), ("salt_key", c_ulong),
        ("info", c_void_p), ("info_size", c_ulong),
    )  # fmt: skip


class CcmParams(_Params):
    ORDER = ("size", "nonce", "aad", "mac")
    _fields_ = (
        ("size", c_ulong), ("nonce", c_void_p), ("nonce_size", c_ulong),
        ("aad", c_void_p), ("aad_size", c_ulong), ("mac", c_ulong),
    )  # fmt: skip


class RsaAesParams(Structure):
    _fields_ = (("bits", c_ulong), ("oaep", c_void_p))


class DataParam(Structure):
    """CK_PRF_DATA_PARAM."""

    _fields_ = (("type", c_ulong), ("value", c_void_p), ("size", c_ulong))


class Counter(Structure):
    """CK_SP800_108_COUNTER_FORMAT."""

    _fields_ = (("little_endian", c_ubyte), ("bits", c_ulong))


class KdfParams(Structure):
    """CK_SP800_108_KDF_PARAMS."""

    _fields_ = (
        ("prf", c_ulong), ("count", c_ulong), ("params", c_void_p),
        ("more", c_ulong), ("keys", c_void_p),
    )  # fmt: skip


class GcmMessageParams(_Params):
    """CK_GCM_MESSAGE_PARAMS; the tag has as many bits as it says."""

    ORDER = ("iv", "fixed_bits", "generator", "tag", "tag_bits")
    _fields_ = (
        ("iv", c_void_p), ("iv_size", c_ulong), ("fixed_bits", c_ulong), ("generator", c_ulong),
        ("tag", c_void_p), ("tag_bits", c_ulong),
    )  # fmt: skip


class CcmMessageParams(_Params):
    """CK_CCM_MESSAGE_PARAMS."""

    ORDER = ("size", "nonce", "fixed_bits", "generator", "mac", "mac_size")
    _fields_ = (
        ("size", c_ulong), ("nonce", c_void_p), ("nonce_size", c_ulong), ("fixed_bits", c_ulong),
        ("generator", c_ulong), ("mac", c_void_p), ("mac_size", c_ulong),
    )  # fmt: skip


class ChachaMessageParams(_Params):
    """CK_SALSA20_CHACHA20_POLY1305_MSG_PARAMS."""

    ORDER = ("nonce", "tag")
    _fields_ = (("nonce", c_void_p), ("nonce_size", c_ulong), ("tag", c_void_p))
