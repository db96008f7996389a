"""Calls on two operations at once, and on the state of operations (PKCS#11 2.40, 5.6 and 5.12)."""

from __future__ import annotations

from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import Size
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.operations import Output, feed, update
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.session import Kind


@serves("C_DigestEncryptUpdate")
def digest_encrypt_update(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Digest a piece and encrypt it."""
    return _both(app, handle, Kind.ENCRYPT, Kind.DIGEST, data or b"", room)


@serves("C_DecryptDigestUpdate")
def decrypt_digest_update(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Decrypt a piece and digest what it was."""
    return _both(app, handle, Kind.DECRYPT, Kind.DIGEST, data or b"", room)


@serves("C_SignEncryptUpdate")
def sign_encrypt_update(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Sign a piece and encrypt it."""
    return _both(app, handle, Kind.ENCRYPT, Kind.SIGN, data or b"", room)


@serves("C_DecryptVerifyUpdate")
def decrypt_verify_update(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Decrypt a piece and verify what it was."""
    return _both(app, handle, Kind.DECRYPT, Kind.VERIFY, data or b"", room)


def _both(
    app: Application, handle: int, cipher: Kind, other: Kind, data: bytes, room: int
) -> Output:
    """Both go on with the plaintext of a piece, or neither does where there is too little room."""
    session = app.session(handle)
    with session.lock:
        session.active(cipher)
        session.active(other)
        (made,) = update(app, handle, cipher, data, room)
        if not isinstance(made, Size):
            try:
                feed(app, handle, other, data if cipher is Kind.ENCRYPT else made)
            except BaseException:
                session.end(cipher)
                raise
        return (made,)


@serves("C_GetOperationState")
def get_operation_state(app: Application, handle: int, _room: int) -> Output:
    """Never given out: the state of OpenSSL's operations does not leave it."""
    session = app.session(handle)
    with session.lock:
        raise CryptokiError(Rv.STATE_UNSAVEABLE if session.busy else Rv.OPERATION_NOT_INITIALIZED)


@serves("C_SetOperationState")
def set_operation_state(
    app: Application, handle: int, _state: bytes | None, _encrypt: int, _sign: int
) -> tuple[()]:
    """No state is one of ours."""
    app.session(handle)
    raise CryptokiError(Rv.SAVED_STATE_INVALID)
