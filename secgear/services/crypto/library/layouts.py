"""How the parameters of mechanisms are laid out in C (PKCS#11 3.2, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec


class Layout(msgspec.Struct, frozen=True):
    """A structure.

    members: in the order of C, each "type name"; one that ends in [N] is an array.
    wire: what is written, in the order of the wire, each "kind member": u64, u8, block (all of an
    array), array (a pointer, whose length is the member behind the colon), or nested (a pointer to
    the structure that is named behind the colon).
    own: not of PKCS#11 but ours.
    """

    name: str
    members: tuple[str, ...]
    wire: tuple[str, ...]
    own: bool = False


LAYOUTS: Final[Mapping[str, Layout]] = {
    "PssParams": Layout(
        "CK_RSA_PKCS_PSS_PARAMS",
        ("CK_ULONG hashAlg", "CK_ULONG mgf", "CK_ULONG sLen"),
        ("u64 hashAlg", "u64 mgf", "u64 sLen"),
    ),
    "OaepParams": Layout(
        "CK_RSA_PKCS_OAEP_PARAMS",
        (
            *("CK_ULONG hashAlg", "CK_ULONG mgf", "CK_ULONG source"),
            *("CK_VOID_PTR pSourceData", "CK_ULONG ulSourceDataLen"),
        ),
        ("u64 hashAlg", "u64 mgf", "u64 source", "array pSourceData:ulSourceDataLen"),
    ),
    "RsaAesParams": Layout(
        "CK_RSA_AES_KEY_WRAP_PARAMS",
        ("CK_ULONG ulAESKeyBits", "CK_VOID_PTR pOAEPParams"),
        ("u64 ulAESKeyBits", "nested pOAEPParams:CK_RSA_PKCS_OAEP_PARAMS"),
    ),
    "CtrParams": Layout(
        "CK_AES_CTR_PARAMS",
        ("CK_ULONG ulCounterBits", "CK_BYTE cb[16]"),
        ("u64 ulCounterBits", "block cb"),
    ),
    "GcmParams": Layout(
        "CK_GCM_PARAMS",
        (
            *("CK_BYTE_PTR pIv", "CK_ULONG ulIvLen", "CK_ULONG ulIvBits"),
            *("CK_BYTE_PTR pAAD", "CK_ULONG ulAADLen", "CK_ULONG ulTagBits"),
        ),
        ("array pIv:ulIvLen", "u64 ulIvBits", "array pAAD:ulAADLen", "u64 ulTagBits"),
    ),
    "CcmParams": Layout(
        "CK_CCM_PARAMS",
        (
            *("CK_ULONG ulDataLen", "CK_BYTE_PTR pNonce", "CK_ULONG ulNonceLen"),
            *("CK_BYTE_PTR pAAD", "CK_ULONG ulAADLen", "CK_ULONG ulMACLen"),
        ),
        ("u64 ulDataLen", "array pNonce:ulNonceLen", "array pAAD:ulAADLen", "u64 ulMACLen"),
    ),
    "HkdfParams": Layout(
        "CK_HKDF_PARAMS",
        (
            *("CK_BBOOL bExtract", "CK_BBOOL bExpand", "CK_MECHANISM_TYPE prfHashMechanism"),
            *("CK_ULONG ulSaltType", "CK_BYTE_PTR pSalt", "CK_ULONG ulSaltLen"),
            *("CK_OBJECT_HANDLE hSaltKey", "CK_BYTE_PTR pInfo", "CK_ULONG ulInfoLen"),
        ),
        (
            *("u8 bExtract", "u8 bExpand", "u64 prfHashMechanism", "u64 ulSaltType"),
            *("array pSalt:ulSaltLen", "u64 hSaltKey", "array pInfo:ulInfoLen"),
        ),
    ),
    "Sm2ExchangeParams": Layout(
        "CK_SECGEAR_SM2_EXCHANGE_PARAMS",
        (
            *("CK_BBOOL bInitiator", "CK_OBJECT_HANDLE hEphemeralKey"),
            *("CK_BYTE_PTR pPeerPublic", "CK_ULONG ulPeerPublicLen"),
            *("CK_BYTE_PTR pPeerEphemeral", "CK_ULONG ulPeerEphemeralLen"),
            *("CK_BYTE_PTR pIdentity", "CK_ULONG ulIdentityLen"),
            *("CK_BYTE_PTR pPeerIdentity", "CK_ULONG ulPeerIdentityLen"),
        ),
        (
            *("u8 bInitiator", "u64 hEphemeralKey", "array pPeerPublic:ulPeerPublicLen"),
            *("array pPeerEphemeral:ulPeerEphemeralLen", "array pIdentity:ulIdentityLen"),
            "array pPeerIdentity:ulPeerIdentityLen",
        ),
        own=True,
    ),
    "ChachaParams": Layout(
        "CK_SALSA20_CHACHA20_POLY1305_PARAMS",
        ("CK_BYTE_PTR pNonce", "CK_ULONG ulNonceLen", "CK_BYTE_PTR pAAD", "CK_ULONG ulAADLen"),
        ("array pNonce:ulNonceLen", "array pAAD:ulAADLen"),
    ),
    "EcdhParams": Layout(
        "CK_ECDH1_DERIVE_PARAMS",
        (
            *("CK_ULONG kdf", "CK_ULONG ulSharedDataLen", "CK_BYTE_PTR pSharedData"),
            *("CK_ULONG ulPublicDataLen", "CK_BYTE_PTR pPublicData"),
        ),
        ("u64 kdf", "array pSharedData:ulSharedDataLen", "array pPublicData:ulPublicDataLen"),
    ),
    "EddsaParams": Layout(
        "CK_EDDSA_PARAMS",
        ("CK_BBOOL phFlag", "CK_ULONG ulContextDataLen", "CK_BYTE_PTR pContextData"),
        ("u8 phFlag", "array pContextData:ulContextDataLen"),
    ),
    "ContextParams": Layout(
        "CK_SIGN_ADDITIONAL_CONTEXT",
        ("CK_ULONG hedgeVariant", "CK_BYTE_PTR pContext", "CK_ULONG ulContextLen"),
        ("u64 hedgeVariant", "array pContext:ulContextLen"),
    ),
    "LengthParam": Layout("CK_MAC_GENERAL_PARAMS", ("CK_ULONG ulMacLength",), ("u64 ulMacLength",)),
}
"""By the name of the parameter's type in `pkcs11.mechanism`. Bytes have none."""

BY_HAND: Final[Mapping[str, str]] = {"KdfParams": "sg_encode_kdf"}
"""What is no mere sequence of members: the function in C that writes it."""
