"""The functions of PKCS#11 in the order of its lists, and their parameters in C.

A parameter has a kind, which says what it is in C and what on the wire (`calls`):

    u  CK_ULONG                     B  bytes: pointer and length          (ay)
    y  CK_BYTE                      T  template: pointer and count        (aA)
    M  CK_MECHANISM_PTR             L  a token's label, 32 characters     (z)
    H  CK_ULONG_PTR, a result (u)   R  buffer and pointer to its size     (fy, ay)
    A  attributes to fill (fA, aAu) N  CK_ULONGs and pointer to their count (fu, au)
    D  bytes that the library allocates, a result for which there is no room (ay)
    P  mechanisms of one type (aM)  I  inputs of a batch (ab)
    O  its results (ar)             V  a message's parameter: pointer and length (ay)
    -  something that stays here

Source: PKCS #11 Specification Version 3.2, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from secgear.services.crypto.pkcs11.calls import BY_NAME, CALLS, Call, split


def _names(text: str) -> tuple[str, ...]:
    return tuple(f"C_{name}" for name in text.split())


V2_40: Final = _names("""
    Initialize Finalize GetInfo GetFunctionList GetSlotList GetSlotInfo GetTokenInfo
    GetMechanismList GetMechanismInfo InitToken InitPIN SetPIN OpenSession CloseSession
    CloseAllSessions GetSessionInfo GetOperationState SetOperationState Login Logout CreateObject
    CopyObject DestroyObject GetObjectSize GetAttributeValue SetAttributeValue FindObjectsInit
    FindObjects FindObjectsFinal EncryptInit Encrypt EncryptUpdate EncryptFinal DecryptInit Decrypt
    DecryptUpdate DecryptFinal DigestInit Digest DigestUpdate DigestKey DigestFinal SignInit Sign
    SignUpdate SignFinal SignRecoverInit SignRecover VerifyInit Verify VerifyUpdate VerifyFinal
    VerifyRecoverInit VerifyRecover DigestEncryptUpdate DecryptDigestUpdate SignEncryptUpdate
    DecryptVerifyUpdate GenerateKey GenerateKeyPair WrapKey UnwrapKey DeriveKey SeedRandom
    GenerateRandom GetFunctionStatus CancelFunction WaitForSlotEvent
""")
V3_0: Final = _names("""
    GetInterfaceList GetInterface LoginUser SessionCancel MessageEncryptInit EncryptMessage
    EncryptMessageBegin EncryptMessageNext MessageEncryptFinal MessageDecryptInit DecryptMessage
    DecryptMessageBegin DecryptMessageNext MessageDecryptFinal MessageSignInit SignMessage
    SignMessageBegin SignMessageNext MessageSignFinal MessageVerifyInit VerifyMessage
    VerifyMessageBegin VerifyMessageNext MessageVerifyFinal
""")
V3_2: Final = _names("""
    EncapsulateKey DecapsulateKey VerifySignatureInit VerifySignature VerifySignatureUpdate
    VerifySignatureFinal GetSessionValidationFlags AsyncComplete AsyncGetID AsyncJoin
    WrapKeyAuthenticated UnwrapKeyAuthenticated
""")
STANDARD: Final = (*V2_40, *V3_0, *V3_2)

BY_HAND: Final[Mapping[str, str]] = {
    "C_Initialize": "CK_VOID_PTR pInitArgs",
    "C_Finalize": "CK_VOID_PTR pReserved",
    "C_GetFunctionList": "CK_FUNCTION_LIST **ppFunctionList",
    "C_GetInterfaceList": "CK_INTERFACE_PTR pInterfacesList, CK_ULONG_PTR pulCount",
    "C_GetInterface": (
        "CK_UTF8CHAR_PTR pInterfaceName, CK_VERSION *pVersion, CK_INTERFACE_PTR_PTR ppInterface, "
        "CK_FLAGS flags"
    ),
    "C_GetFunctionStatus": "CK_SESSION_HANDLE hSession",
    "C_CancelFunction": "CK_SESSION_HANDLE hSession",
    "C_GenerateRandom": "CK_SESSION_HANDLE hSession, CK_BYTE_PTR pRandomData, CK_ULONG ulRandomLen",
    "C_FindObjects": (
        "CK_SESSION_HANDLE hSession, CK_ULONG_PTR phObject, CK_ULONG ulMaxObjectCount, "
        "CK_ULONG_PTR pulObjectCount"
    ),
}
"""Functions that are written in C, with their parameters."""

WRAPPED: Final = (
    "C_GetInfo",
    *(f"C_{verb}{part}" for verb in ("Encrypt", "Decrypt") for part in ("", "Update")),
    *(f"C_{verb}{part}" for verb in ("Digest", "Sign", "Verify") for part in ("", "Update")),
)
"""Functions of which there is more to say in C: the generated ones are ``sg_`` inside."""

SPECIAL: Final[Mapping[str, str]] = {
    "C_OpenSession": "uu--H",
    "C_WaitForSlotEvent": "uH-",
    "C_SignMessage": "uVBR",
    "C_SignMessageBegin": "uV",
    "C_VerifyMessage": "uVBB",
    "C_VerifyMessageBegin": "uV",
}
"""Kinds of functions whose parameters in C are not those on the wire."""

MESSAGES: Final[Mapping[str, str]] = {
    "C_EncryptMessage": "u-uBBR",
    "C_EncryptMessageBegin": "u-uB",
    "C_EncryptMessageNext": "u-uBRu",
    "C_DecryptMessage": "u-uBBR",
    "C_DecryptMessageBegin": "u-uB",
    "C_DecryptMessageNext": "u-uBRu",
    "C_SignMessageNext": "u-uBR",
    "C_VerifyMessageNext": "u-uBB",
}
"""Functions of messages that are written in C: a structure says what belongs to a message."""

UNSUPPORTED: Final[Mapping[str, str]] = {
    "C_GetSessionValidationFlags": "uuH",
    "C_AsyncComplete": "u--",
    "C_AsyncGetID": "u-H",
    "C_AsyncJoin": "u-uB",
    "C_WrapKeyAuthenticated": "uMuuBR",
    "C_UnwrapKeyAuthenticated": "uMuBTBH",
}
"""Functions of 3.2 that the table of calls does not have."""

STRUCTURES: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "C_GetInfo": (
        "",
        "CK_INFO",
        ("cryptokiVersion", "manufacturerID", "flags", "libraryDescription", "libraryVersion"),
    ),
    "C_GetSlotInfo": (
        "u",
        "CK_SLOT_INFO",
        ("slotDescription", "manufacturerID", "flags", "hardwareVersion", "firmwareVersion"),
    ),
    "C_GetTokenInfo": (
        "u",
        "CK_TOKEN_INFO",
        (
            *("label", "manufacturerID", "model", "serialNumber", "flags"),
            *("ulMaxSessionCount", "ulSessionCount", "ulMaxRwSessionCount", "ulRwSessionCount"),
            *("ulMaxPinLen", "ulMinPinLen", "ulTotalPublicMemory", "ulFreePublicMemory"),
            *("ulTotalPrivateMemory", "ulFreePrivateMemory"),
            *("hardwareVersion", "firmwareVersion", "utcTime"),
        ),
    ),
    "C_GetMechanismInfo": ("uu", "CK_MECHANISM_INFO", ("ulMinKeySize", "ulMaxKeySize", "flags")),
    "C_GetSessionInfo": ("u", "CK_SESSION_INFO", ("slotID", "state", "flags", "ulDeviceError")),
}
"""Functions that fill a structure: their other parameters, its type, its members in wire order."""

OWN: Final = range(100, 200)
"""Numbers of our own calls, unless their names are of PKCS#11: here they are ``S_``."""


def own_calls() -> list[tuple[str, Call]]:
    """Our own calls by the names that they have in C, in the order of their numbers.

    Raises ValueError where two have the same name.
    """
    calls = [
        (f"S_{call.name[2:]}", call)
        for call in CALLS.values()
        if call.id in OWN and call.name not in STANDARD
    ]
    if len({name for name, _ in calls}) != len(calls):
        raise ValueError("two calls of the table have one name")
    return sorted(calls, key=lambda entry: entry[1].id)


def kinds(name: str) -> str:
    """The parameters of a standard function that is not written by hand."""
    for known in (SPECIAL, MESSAGES, UNSUPPORTED):
        if name in known:
            return known[name]
    return derived(BY_NAME[name])


_ARGUMENTS: Final = {
    "u": "u", "y": "y", "ay": "B", "aA": "T", "z": "L", "M": "M", "fy": "R", "fu": "N", "fA": "A",
    "aM": "P", "ab": "I",
}  # fmt: skip
_RESULTS: Final = {"u": "H", "ay": "D", "ar": "O"}
_FILLS: Final = {"fy": ["ay"], "fu": ["au"], "fA": ["aA", "u"]}


def derived(call: Call) -> str:
    """The kinds of a call's parameters, from its signatures: first arguments, then results.

    Raises ValueError for signatures that no parameters in C can be made from.
    """
    results = list(split(call.response))
    made = ""
    for form in split(call.request):
        made += _known(_ARGUMENTS, form, call)
        for result in _FILLS.get(form, []):
            if not results or results.pop(0) != result:
                raise ValueError(f"{call.name}: what it has room for is not what comes first")
    return made + "".join(_known(_RESULTS, form, call) for form in results)


def _known(forms: Mapping[str, str], form: str, call: Call) -> str:
    if form not in forms:
        raise ValueError(f"{call.name}: no parameter in C for {form}")
    return forms[form]
