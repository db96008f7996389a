"""Calls of our own that give proof of keys and of the module: `secgear.services.crypto.statement`.

They change nothing, and whoever may see a key may have one about it.
"""

from __future__ import annotations

from secgear.errors import GuestError
from secgear.services.crypto.algorithms import keys
from secgear.services.crypto.pkcs11.constants import ObjectClass
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, Size
from secgear.services.crypto.statement import MAX_NONCE, MIN_NONCE, ModuleStatement
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.attesting import describe, describe_token
from secgear.services.crypto.token.calls.registry import serves

_SLACK = 1024
"""Bytes by which the next answer may be longer: signatures and evidence vary."""


@serves("S_AttestKey")
def attest_key(
    app: Application, handle: int, key: int, nonce: bytes | None, room: int
) -> tuple[bytes | Size]:
    """Proof of where a key is and what may become of it.

    Of a private key its certificate and that of the attestation key, in PEM; of a secret key a
    COSE_Sign1. nonce: of a verifier who wants new evidence, 8 to 64 bytes.
    """
    session = app.session(handle)
    item = app.find(session, key, Rv.KEY_HANDLE_INVALID)
    module = app.module
    statement = describe(
        item,
        session.slot.state,
        module.vault.audit_key,
        nonce=_checked(nonce),
        at=module.vault.now(),
    )
    try:
        if item.object_class == ObjectClass.PRIVATE_KEY:
            spki = keys.to_spki(keys.public_of(item.material))
            return (fitting(module.attestor.certify(spki, statement), room),)
        return (fitting(module.attestor.sign(statement), room),)
    except GuestError as error:
        raise CryptokiError(Rv.DEVICE_ERROR) from error


@serves("S_AttestModule")
def attest_module(app: Application, nonce: bytes | None, room: int) -> tuple[bytes | Size]:
    """Proof of which module this is: its audit key, its tokens, the end of its audit trail."""
    module = app.module
    head = module.vault.head
    statement = ModuleStatement(
        version=1,
        module=module.vault.audit_key,
        tokens=tuple(describe_token(slot, token) for slot, token in enumerate(head.tokens)),
        audit_seq=head.audit_seq,
        audit_hash=head.audit_hash,
        nonce=_checked(nonce),
        at=int(module.vault.now().timestamp()),
    )
    try:
        return (fitting(module.attestor.sign(statement), room),)
    except GuestError as error:
        raise CryptokiError(Rv.DEVICE_ERROR) from error


def _checked(nonce: bytes | None) -> bytes:
    if nonce and not MIN_NONCE <= len(nonce) <= MAX_NONCE:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    return nonce or b""


def fitting(data: bytes, room: int) -> bytes | Size:
    """The data where it fits into the caller's room, else how much room is enough."""
    fits = len(data) <= (0 if room == EMPTY_BUFFER else room)
    return data if fits else Size(len(data) + _SLACK)
