"""A mechanism with its parameter, as the token takes it: pointers are gone, lengths are checked.

PKCS#11 2.40 current mechanisms; each structure's fields have the names of the specification.
"""

from __future__ import annotations

import msgspec


class PssParams(msgspec.Struct, frozen=True):
    """CK_RSA_PKCS_PSS_PARAMS. salt: bytes."""

    hash: int
    mgf: int
    salt: int


class OaepParams(msgspec.Struct, frozen=True):
    """CK_RSA_PKCS_OAEP_PARAMS. label: pSourceData."""

    hash: int
    mgf: int
    source: int
    label: bytes


class CtrParams(msgspec.Struct, frozen=True):
    """CK_AES_CTR_PARAMS. bits: of the block that count. block: the first one, 16 bytes."""

    bits: int
    block: bytes


class GcmParams(msgspec.Struct, frozen=True):
    """CK_GCM_PARAMS."""

    iv: bytes
    aad: bytes
    tag_bits: int


class ChachaParams(msgspec.Struct, frozen=True):
    """CK_SALSA20_CHACHA20_POLY1305_PARAMS."""

    nonce: bytes
    aad: bytes


class EcdhParams(msgspec.Struct, frozen=True):
    """CK_ECDH1_DERIVE_PARAMS."""

    kdf: int
    shared_data: bytes
    public_data: bytes


class EddsaParams(msgspec.Struct, frozen=True):
    """CK_EDDSA_PARAMS."""

    prehash: bool
    context: bytes


class ContextParams(msgspec.Struct, frozen=True):
    """CK_SIGN_ADDITIONAL_CONTEXT."""

    hedge: int
    context: bytes


class LengthParam(msgspec.Struct, frozen=True):
    """CK_MAC_GENERAL_PARAMS: bytes of the MAC."""

    length: int


Parameter = (
    bytes
    | PssParams
    | OaepParams
    | CtrParams
    | GcmParams
    | ChachaParams
    | EcdhParams
    | EddsaParams
    | ContextParams
    | LengthParam
    | None
)


class Mechanism(msgspec.Struct, frozen=True):
    """CK_MECHANISM. parameter: bytes for an initialisation vector, None for none."""

    type: int
    parameter: Parameter = None
