"""The one table of calls: every interface of the module is made from it.

The numbers and signatures are those of p11-kit's RPC protocol, so that its clients work with us
unmodified; calls of our own come above its range. A signature is a string of types:

    u   CK_ULONG, 64 bits          y   CK_BYTE                v   CK_VERSION
    s   space padded string        z   zero terminated string
    M   CK_MECHANISM               A   CK_ATTRIBUTE (only in arrays)
    a_  array of _                 f_  room that the caller has for _

Source: p11-kit, ``rpc-message.h``, versions 0.24 to 0.26.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

TYPES: Final = ("ay", "au", "aA", "fy", "fu", "fA", "u", "y", "v", "s", "z", "M")


class Call(msgspec.Struct, frozen=True):
    """One call. request, response: signatures. since: version of the protocol that has it."""

    id: int
    name: str
    request: str
    response: str
    since: int = 0

    @property
    def method(self) -> str:
        """Name of the Python function that serves it: ``C_SignInit`` is ``sign_init``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name.partition("_")[2]).lower()


ERROR: Final = Call(0, "ERROR", "", "u")
"""What answers a call that failed: its return value."""

_TABLE: Final = (
    Call(1, "C_Initialize", "ayyay", ""),
    Call(2, "C_Finalize", "", ""),
    Call(3, "C_GetInfo", "", "vsusv"),
    Call(4, "C_GetSlotList", "yfu", "au"),
    Call(5, "C_GetSlotInfo", "u", "ssuvv"),
    Call(6, "C_GetTokenInfo", "u", "ssssuuuuuuuuuuuvvs"),
    Call(7, "C_GetMechanismList", "ufu", "au"),
    Call(8, "C_GetMechanismInfo", "uu", "uuu"),
    Call(9, "C_InitToken", "uayz", ""),
    Call(10, "C_OpenSession", "uu", "u"),
    Call(11, "C_CloseSession", "u", ""),
    Call(12, "C_CloseAllSessions", "u", ""),
    Call(13, "C_GetSessionInfo", "u", "uuuu"),
    Call(14, "C_InitPIN", "uay", ""),
    Call(15, "C_SetPIN", "uayay", ""),
    Call(16, "C_GetOperationState", "ufy", "ay"),
    Call(17, "C_SetOperationState", "uayuu", ""),
    Call(18, "C_Login", "uuay", ""),
    Call(19, "C_Logout", "u", ""),
    Call(20, "C_CreateObject", "uaA", "u"),
    Call(21, "C_CopyObject", "uuaA", "u"),
    Call(22, "C_DestroyObject", "uu", ""),
    Call(23, "C_GetObjectSize", "uu", "u"),
    Call(24, "C_GetAttributeValue", "uufA", "aAu"),
    Call(25, "C_SetAttributeValue", "uuaA", ""),
    Call(26, "C_FindObjectsInit", "uaA", ""),
    Call(27, "C_FindObjects", "ufu", "au"),
    Call(28, "C_FindObjectsFinal", "u", ""),
    Call(29, "C_EncryptInit", "uMu", ""),
    Call(30, "C_Encrypt", "uayfy", "ay"),
    Call(31, "C_EncryptUpdate", "uayfy", "ay"),
    Call(32, "C_EncryptFinal", "ufy", "ay"),
    Call(33, "C_DecryptInit", "uMu", ""),
    Call(34, "C_Decrypt", "uayfy", "ay"),
    Call(35, "C_DecryptUpdate", "uayfy", "ay"),
    Call(36, "C_DecryptFinal", "ufy", "ay"),
    Call(37, "C_DigestInit", "uM", ""),
    Call(38, "C_Digest", "uayfy", "ay"),
    Call(39, "C_DigestUpdate", "uay", ""),
    Call(40, "C_DigestKey", "uu", ""),
    Call(41, "C_DigestFinal", "ufy", "ay"),
    Call(42, "C_SignInit", "uMu", ""),
    Call(43, "C_Sign", "uayfy", "ay"),
    Call(44, "C_SignUpdate", "uay", ""),
    Call(45, "C_SignFinal", "ufy", "ay"),
    Call(46, "C_SignRecoverInit", "uMu", ""),
    Call(47, "C_SignRecover", "uayfy", "ay"),
    Call(48, "C_VerifyInit", "uMu", ""),
    Call(49, "C_Verify", "uayay", ""),
    Call(50, "C_VerifyUpdate", "uay", ""),
    Call(51, "C_VerifyFinal", "uay", ""),
    Call(52, "C_VerifyRecoverInit", "uMu", ""),
    Call(53, "C_VerifyRecover", "uayfy", "ay"),
    Call(54, "C_DigestEncryptUpdate", "uayfy", "ay"),
    Call(55, "C_DecryptDigestUpdate", "uayfy", "ay"),
    Call(56, "C_SignEncryptUpdate", "uayfy", "ay"),
    Call(57, "C_DecryptVerifyUpdate", "uayfy", "ay"),
    Call(58, "C_GenerateKey", "uMaA", "u"),
    Call(59, "C_GenerateKeyPair", "uMaAaA", "uu"),
    Call(60, "C_WrapKey", "uMuufy", "ay"),
    Call(61, "C_UnwrapKey", "uMuayaA", "u"),
    Call(62, "C_DeriveKey", "uMuaA", "u"),
    Call(63, "C_SeedRandom", "uay", ""),
    Call(64, "C_GenerateRandom", "ufy", "ay"),
    Call(65, "C_WaitForSlotEvent", "u", "u"),
    Call(66, "C_LoginUser", "uuayay", "", since=1),
    Call(67, "C_SessionCancel", "uu", "", since=1),
    Call(90, "C_EncapsulateKey", "uMuaAfy", "ayu", since=2),
    Call(91, "C_DecapsulateKey", "uMuaAay", "u", since=2),
    # Ours: roles, approvals, backups. Documents are those of `secgear.services.crypto.roles`; an
    # answer begins with a byte: 0, and behind it the result, or 1, and behind it a refusal's text.
    Call(120, "S_Standing", "ay", "ay"),
    Call(121, "S_RoleChallenge", "", "ay"),
    Call(122, "S_RoleLogin", "ay", "ay"),
    Call(123, "S_OpenRequest", "ay", "ay"),
    Call(124, "S_Execute", "ayayay", "ay"),
    Call(125, "S_BackupPiece", "u", "ay"),
    Call(126, "S_RestoreBegin", "ayayay", "ay"),
    Call(127, "S_RestoreShare", "ay", "ay"),
    Call(128, "S_RestorePiece", "ay", "ay"),
    Call(129, "S_RestoreEnd", "ay", "ay"),
    Call(130, "S_AuditRecords", "u", "ay"),
    Call(131, "S_AuditCheckpoint", "ay", "ay"),
    # Users with names and a token's policy, by its security officer.
    Call(132, "S_SetUser", "uayuay", ""),
    Call(133, "S_RemoveUser", "uay", ""),
    Call(134, "S_ListUsers", "u", "ay"),
    Call(135, "S_SetTokenPolicy", "uu", ""),
)

CALLS: Final[Mapping[int, Call]] = {call.id: call for call in _TABLE}
BY_NAME: Final[Mapping[str, Call]] = {call.name: call for call in _TABLE}


def split(signature: str) -> tuple[str, ...]:
    """The types of a signature: ``uMaA`` is ``u``, ``M``, ``aA``."""
    return tuple(re.findall("|".join(TYPES), signature))
