"""What stands before every call: whether it may be made now, and by this user; and its record.

One table says what each call does with keys. A call that is not in it is none for users who do not
have all rights, so that a new one is refused rather than forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from secgear.errors import CryptoModuleError
from secgear.services.crypto.pkcs11.constants import Attr, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.application import Application, NoRight
from secgear.services.crypto.token.derivation import other_key
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.roles import Phase
from secgear.services.crypto.token.session import Session
from secgear.services.crypto.token.state import Right

Function = Callable[..., tuple[Any, ...]]
"""Takes the application and the call's arguments; returns the results in the table's order."""


class Row(msgspec.Struct, frozen=True):
    """What a call does. right: what it takes.

    key, template: places of a key's handle and of a new object's template among the arguments.
    changes: place of the handle of an object that it changes or destroys. 0: there is none.
    does: how a use of the key is recorded.
    """

    right: Right = Right(0)
    key: int = 0
    template: int = 0
    changes: int = 0
    does: str = ""


ALWAYS: Final = frozenset(
    {"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetSlotList", "C_GetSlotInfo"}
    | {"S_Standing", "S_RoleChallenge", "S_RoleLogin", "S_OpenRequest", "S_Execute"}
    | {"S_RestoreBegin", "S_RestoreShare", "S_RestorePiece", "S_RestoreEnd"}
    | {"S_AuditRecords", "S_AuditCheckpoint"}
)
"""Calls that work in every phase of the module; each looks for itself."""

_FREE: Final = (
    "C_GetTokenInfo C_GetMechanismList C_GetMechanismInfo C_InitToken C_OpenSession "
    "C_CloseSession C_CloseAllSessions C_GetSessionInfo C_InitPIN C_SetPIN C_Login C_LoginUser "
    "C_Logout C_GetObjectSize C_GetAttributeValue C_FindObjectsInit C_FindObjects "
    "C_FindObjectsFinal C_DigestInit C_Digest C_DigestUpdate C_DigestFinal C_SeedRandom "
    "C_GenerateRandom C_WaitForSlotEvent C_GetOperationState C_SetOperationState C_SessionCancel "
    "C_MessageEncryptFinal C_MessageDecryptFinal C_MessageSignFinal C_MessageVerifyFinal "
    "S_SetUser S_RemoveUser S_ListUsers S_SetTokenPolicy S_BackupPiece "
    "S_AttestKey S_AttestModule S_GetImportKey S_FindKey S_ListKeys "
    "S_CheckPIN S_DigestInitSM2 S_PublicRSA"
)
_GOING_ON: Final = (
    "C_Encrypt C_EncryptUpdate C_EncryptFinal C_Decrypt C_DecryptUpdate C_DecryptFinal "
    "C_Sign C_SignUpdate C_SignFinal C_Verify C_VerifyUpdate C_VerifyFinal "
    "C_DigestEncryptUpdate C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate "
    "C_SignRecover C_VerifyRecover "
    "C_EncryptMessage C_EncryptMessageBegin C_EncryptMessageNext "
    "C_DecryptMessage C_DecryptMessageBegin C_DecryptMessageNext "
    "C_SignMessage C_SignMessageBegin C_SignMessageNext "
    "C_VerifyMessage C_VerifyMessageBegin C_VerifyMessageNext "
    "C_VerifySignature C_VerifySignatureUpdate C_VerifySignatureFinal"
)
"""Uses of a key that was named before: whose right was taken since then has it no more."""
_USE, _MANAGE = Right.USE, Right.MANAGE
CALLS: Final[Mapping[str, Row]] = {
    **{name: Row() for name in _FREE.split()},
    **{name: Row(_USE) for name in _GOING_ON.split()},
    "C_EncryptInit": Row(_USE, key=2, does="encrypt"),
    "C_DecryptInit": Row(_USE, key=2, does="decrypt"),
    "C_SignInit": Row(_USE, key=2, does="sign"),
    "C_VerifyInit": Row(_USE, key=2, does="verify"),
    "C_DigestKey": Row(_USE, key=1, does="digest"),
    "C_CreateObject": Row(template=1),
    "C_CopyObject": Row(_MANAGE, key=1, template=2),
    "C_DestroyObject": Row(changes=1),
    "C_SetAttributeValue": Row(changes=1),
    "C_GenerateKey": Row(template=2),
    "C_GenerateKeyPair": Row(template=3),
    "C_WrapKey": Row(_MANAGE, key=2, does="wrap with"),
    "C_UnwrapKey": Row(_USE, key=2, template=4, does="unwrap"),
    "C_DeriveKey": Row(_USE, key=2, template=3, does="derive"),
    "C_EncapsulateKey": Row(_USE, key=2, template=3, does="encapsulate"),
    "C_DecapsulateKey": Row(_USE, key=2, template=3, does="decapsulate"),
    "C_SignRecoverInit": Row(_USE, key=2, does="sign"),
    "C_VerifyRecoverInit": Row(_USE, key=2, does="verify"),
    "C_MessageEncryptInit": Row(_USE, key=2, does="encrypt messages"),
    "C_MessageDecryptInit": Row(_USE, key=2, does="decrypt messages"),
    "C_MessageSignInit": Row(_USE, key=2, does="sign messages"),
    "C_MessageVerifyInit": Row(_USE, key=2, does="verify messages"),
    "C_VerifySignatureInit": Row(_USE, key=2, does="verify"),
    "S_EncryptBatch": Row(_USE, key=2, does="encrypt a batch"),
    "S_DecryptBatch": Row(_USE, key=2, does="decrypt a batch"),
    "S_SignBatch": Row(_USE, key=2, does="sign a batch"),
    "S_VerifyBatch": Row(_USE, key=2, does="verify a batch"),
    "S_ImportKey": Row(_MANAGE),
    "S_NewKey": Row(_MANAGE),
    "S_ImportNamedKey": Row(_MANAGE),
    "S_RotateKey": Row(_MANAGE),
    "S_ConfigureKey": Row(_MANAGE),
    "S_SetKeyState": Row(_MANAGE),
    "S_TrimKey": Row(_MANAGE),
    "S_DestroyKey": Row(_MANAGE),
    "S_GenerateEnvelopedKey": Row(_USE, key=4, template=2, does="wrap with"),
    "S_OpenEnvelopedKey": Row(_USE, key=2, template=4, does="unwrap"),
    "S_ExchangeEnvelope": Row(_USE | _MANAGE, key=2, does="unwrap"),
    "S_WriteValue": Row(changes=1),
}


def guarded(name: str, function: Function) -> Function:
    """The function of a call, behind the guard."""
    if name in ALWAYS:
        return function

    def guarded(app: Application, *arguments: Any) -> tuple[Any, ...]:
        _check(app, name, arguments)
        return function(app, *arguments)

    return guarded


def _check(app: Application, name: str, arguments: tuple[Any, ...]) -> None:
    """Whether the call may be made. Raises CryptokiError.

    Raises CryptoModuleError in an enclave that has held keys and has to end, because they are no
    more: with the process goes what it had in memory.
    """
    app.enter()
    module = app.module
    phase = module.vault.head.roles.phase
    if phase is not Phase.OPEN:
        if phase is Phase.ZEROISED and module.held_keys:
            raise CryptoModuleError("the module was zeroised")
        raise CryptokiError(Rv.TOKEN_NOT_PRESENT)
    if app.named:
        _check_rights(app, name, arguments)
    _record_use(app, name, arguments)


def _check_rights(app: Application, name: str, arguments: tuple[Any, ...]) -> None:
    """Whether the user with a name who has logged in may do this. Raises CryptokiError."""
    row = CALLS.get(name)
    if row is not None and not (row.right or row.template or row.changes):
        return
    slot = app.session(arguments[0]).slot if row is not None else None
    rights = app.all_rights() if slot is None else app.rights(slot)
    if rights == _USE | _MANAGE:
        return
    if row is None:
        raise NoRight
    needed = row.right
    if row.template and arguments[row.template].get(Attr.TOKEN) is True:
        needed |= _MANAGE
    if row.changes and not arguments[row.changes] & 1:  # even handles: on the token
        needed |= _MANAGE
    if needed & ~rights:
        raise NoRight


def _record_use(app: Application, name: str, arguments: tuple[Any, ...]) -> None:
    """Record that a key is about to be used, where the token wants that. Raises CryptokiError.

    No use is without its record; a use that fails then has one all the same.
    """
    row = CALLS.get(name)
    if row is None or not row.does or arguments[1] is None:
        return  # without a mechanism an operation is ended
    try:
        session = app.session(arguments[0])
        if not session.slot.state.record_uses:
            return
        handles = [arguments[row.key]]
        if isinstance(mechanism := arguments[1], Mechanism):
            other = other_key(mechanism.parameter)
            handles += [other] if other is not None else []
        keys = [app.find(session, handle, Rv.KEY_HANDLE_INVALID) for handle in handles]
    except CryptokiError:
        return  # the call meets the same
    for key in keys:
        record_use(app, session, key, row.does)


def record_use(app: Application, session: Session, key: Object, does: str) -> None:
    """Record a use of a key, where the token wants that. Raises CryptokiError."""
    if key.object_class == ObjectClass.PUBLIC_KEY or not session.slot.state.record_uses:
        return
    label = key.attributes.get(Attr.LABEL)
    detail: dict[str, str | int | bool] = {
        "operation": does,
        "class": key.object_class,
        "label": label.decode("utf-8", "replace")[:64] if isinstance(label, bytes) else "",
        "object": key.id,
        "on token": key.token,
        "user": app.user_name(session.slot),
    }
    app.module.uses.add(Event("key used", app.actor, session.slot.number, detail))
