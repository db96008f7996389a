"""The one table of calls: every interface of the module is made from it.

The numbers and signatures are those of p11-kit's RPC protocol, so that its clients work with us
unmodified; calls of our own come above its range. A signature is a string of types:

    u   CK_ULONG, 64 bits          y   CK_BYTE                v   CK_VERSION
    s   space padded string        z   zero terminated string
    M   CK_MECHANISM               A   CK_ATTRIBUTE (only in arrays)
    a_  array of _                 f_  room that the caller has for _

and in calls of our own, which only our own clients make:

    aM  one mechanism with a parameter for each input, or one for all
    ab  array of byte arrays       ar  array of results, each bytes or a return value
    P   parameter of a message: of p11-kit it is a structure with the client's pointers in it

Source: p11-kit, ``rpc-message.h``, versions 0.24 to 0.26.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

OWN: Final = 0x53
"""The version that our own clients offer; far from any that p11-kit may have one day."""

TYPES: Final = (
    "ay",
    "au",
    "aA",
    "aM",
    "ab",
    "ar",
    "fy",
    "fu",
    "fA",
    "u",
    "y",
    "v",
    "s",
    "z",
    "M",
    "P",
)


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
    Call(68, "C_MessageEncryptInit", "uMu", "", since=OWN),
    Call(69, "C_EncryptMessage", "uPayayfy", "ayayay", since=OWN),
    Call(70, "C_EncryptMessageBegin", "uPay", "ay", since=OWN),
    Call(71, "C_EncryptMessageNext", "uayfyu", "ayay", since=OWN),
    Call(72, "C_MessageEncryptFinal", "u", "", since=OWN),
    Call(73, "C_MessageDecryptInit", "uMu", "", since=OWN),
    Call(74, "C_DecryptMessage", "uPayayfy", "ay", since=OWN),
    Call(75, "C_DecryptMessageBegin", "uPay", "", since=OWN),
    Call(76, "C_DecryptMessageNext", "uayfyu", "ay", since=OWN),
    Call(77, "C_MessageDecryptFinal", "u", "", since=OWN),
    Call(78, "C_MessageSignInit", "uMu", "", since=1),
    Call(79, "C_SignMessage", "uayayfy", "ay", since=1),
    Call(80, "C_SignMessageBegin", "uay", "", since=1),
    Call(81, "C_SignMessageNext", "uayayyfy", "ay", since=1),
    Call(82, "C_MessageSignFinal", "u", "", since=1),
    Call(83, "C_MessageVerifyInit", "uMu", "", since=1),
    Call(84, "C_VerifyMessage", "uayayay", "", since=1),
    Call(85, "C_VerifyMessageBegin", "uay", "", since=1),
    Call(86, "C_VerifyMessageNext", "uayayay", "", since=1),
    Call(87, "C_MessageVerifyFinal", "u", "", since=1),
    Call(90, "C_EncapsulateKey", "uMuaAfy", "ayu", since=2),
    Call(91, "C_DecapsulateKey", "uMuaAay", "u", since=2),
    Call(92, "C_VerifySignatureInit", "uMuay", "", since=2),
    Call(93, "C_VerifySignature", "uay", "", since=2),
    Call(94, "C_VerifySignatureUpdate", "uay", "", since=2),
    Call(95, "C_VerifySignatureFinal", "u", "", since=2),
    # Calls of our own, which PKCS#11 does not have: batches,
    Call(100, "S_EncryptBatch", "uaMuab", "ar", since=OWN),
    Call(101, "S_DecryptBatch", "uaMuab", "ar", since=OWN),
    Call(102, "S_SignBatch", "uaMuab", "ar", since=OWN),
    Call(103, "S_VerifyBatch", "uaMuabab", "ar", since=OWN),
    # roles, approvals, backups,
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
    Call(132, "S_SetUser", "uayuay", ""),
    Call(133, "S_RemoveUser", "uay", ""),
    Call(134, "S_ListUsers", "u", "ay"),
    Call(135, "S_SetTokenPolicy", "uu", ""),
    # attestation and import of keys,
    Call(150, "S_AttestKey", "uuayfy", "ay"),
    Call(151, "S_AttestModule", "ayfy", "ay"),
    Call(160, "S_GetImportKey", "uayfy", "ay"),
    Call(161, "S_ImportKey", "uay", "uu"),
    # named keys and their versions,
    Call(170, "S_NewKey", "uayMaAaA", "u"),
    Call(171, "S_ImportNamedKey", "uayaA", "u"),
    Call(172, "S_RotateKey", "uayu", "uu"),
    Call(173, "S_ConfigureKey", "uayaA", ""),
    Call(174, "S_SetKeyState", "uayuu", ""),
    Call(175, "S_TrimKey", "uayu", ""),
    Call(176, "S_DestroyKey", "uay", ""),
    Call(177, "S_FindKey", "uayu", "uuu"),
    Call(178, "S_ListKeys", "uay", "ay"),
    # and what GM/T 0018 asks for.
    Call(190, "S_CheckPIN", "uay", ""),
    Call(191, "S_GenerateEnvelopedKey", "uMaAMufy", "ayu"),
    Call(192, "S_OpenEnvelopedKey", "uMuayaA", "u"),
    Call(193, "S_ExchangeEnvelope", "uMuMuayfy", "ay"),
    Call(194, "S_DigestInitSM2", "uayay", ""),
    Call(195, "S_PublicRSA", "uuayfy", "ay"),
    Call(196, "S_WriteValue", "uuuay", ""),
)

CALLS: Final[Mapping[int, Call]] = {call.id: call for call in _TABLE}
BY_NAME: Final[Mapping[str, Call]] = {call.name: call for call in _TABLE}


def split(signature: str) -> tuple[str, ...]:
    """The types of a signature: ``uMaA`` is ``u``, ``M``, ``aA``."""
    return tuple(re.findall("|".join(TYPES), signature))
