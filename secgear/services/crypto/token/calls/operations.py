"""Calls that encrypt, decrypt, digest, sign and verify (PKCS#11 2.40, 5.8 to 5.12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from secgear.services.crypto.algorithms.operation import Signer
from secgear.services.crypto.pkcs11.constants import Attr, MechanismFlag, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism, Parameter
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import Size
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.lifecycle import check_state
from secgear.services.crypto.token.mechanisms import Row, lookup, no_parameter
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.session import Active, Kind, Messages, Session

Output = tuple[bytes | Size]
_EMPTY: tuple[()] = ()
_SECRET, _PUBLIC, _PRIVATE = (
    ObjectClass.SECRET_KEY,
    ObjectClass.PUBLIC_KEY,
    ObjectClass.PRIVATE_KEY,
)


class Use(msgspec.Struct, frozen=True):
    """What a key is used for: the mechanism's flag, the key's classes and attribute."""

    flag: MechanismFlag
    classes: tuple[ObjectClass, ...]
    attr: Attr


USES: Final[Mapping[Kind, Use]] = {
    Kind.ENCRYPT: Use(MechanismFlag.ENCRYPT, (_SECRET, _PUBLIC), Attr.ENCRYPT),
    Kind.DECRYPT: Use(MechanismFlag.DECRYPT, (_SECRET, _PRIVATE), Attr.DECRYPT),
    Kind.SIGN: Use(MechanismFlag.SIGN, (_SECRET, _PRIVATE), Attr.SIGN),
    Kind.VERIFY: Use(MechanismFlag.VERIFY, (_SECRET, _PUBLIC), Attr.VERIFY),
    Kind.VERIFY_SIGNATURE: Use(MechanismFlag.VERIFY, (_SECRET, _PUBLIC), Attr.VERIFY),
    Kind.SIGN_RECOVER: Use(MechanismFlag.SIGN_RECOVER, (_PRIVATE,), Attr.SIGN_RECOVER),
    Kind.VERIFY_RECOVER: Use(MechanismFlag.VERIFY_RECOVER, (_PUBLIC,), Attr.VERIFY_RECOVER),
    Kind.MESSAGE_ENCRYPT: Use(MechanismFlag.MESSAGE_ENCRYPT, (_SECRET,), Attr.ENCRYPT),
    Kind.MESSAGE_DECRYPT: Use(MechanismFlag.MESSAGE_DECRYPT, (_SECRET,), Attr.DECRYPT),
    Kind.MESSAGE_SIGN: Use(MechanismFlag.MESSAGE_SIGN, (_SECRET, _PRIVATE), Attr.SIGN),
    Kind.MESSAGE_VERIFY: Use(MechanismFlag.MESSAGE_VERIFY, (_SECRET, _PUBLIC), Attr.VERIFY),
}


def usable(key: Object, row: Row, classes: tuple[ObjectClass, ...], usage: Attr, types: Rv) -> None:
    """Whether the key is of the kind that the mechanism needs, and for this use.

    types: the return value for a key of another kind. Raises CryptokiError.
    """
    if key.object_class not in classes or key.key_type not in row.key_types:
        raise CryptokiError(types)
    if not key.flag(usage):
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)
    check_state(key, usage)
    allowed = key.attributes.get(Attr.ALLOWED_MECHANISMS)
    if allowed and row.number not in allowed:  # type: ignore[operator]
        raise CryptokiError(Rv.MECHANISM_INVALID)


def chosen(
    app: Application, session: Session, kind: Kind, mechanism: int, number: int
) -> tuple[Row, Object]:
    """An operation's mechanism and key, if they may be used for it. Raises CryptokiError."""
    use = USES[kind]
    row = lookup(mechanism, use.flag)
    key = app.find(session, number, Rv.KEY_HANDLE_INVALID)
    usable(key, row, use.classes, use.attr, Rv.KEY_TYPE_INCONSISTENT)
    return row, key


def begin(
    app: Application,
    handle: int,
    kind: Kind,
    mechanism: Mechanism | None,
    number: int,
    make: Callable[[Row, Object, Parameter], Active | Messages],
) -> tuple[()]:
    """Begin what `make` makes of the mechanism, the key and the parameter. Raises CryptokiError.

    mechanism: None ends what is under way (PKCS#11 3.0).
    """
    session = app.session(handle)
    with session.lock:
        if mechanism is None:
            session.end(kind)
            return _EMPTY
        session.check_free(kind)
        row, key = chosen(app, session, kind, mechanism.type, number)
        session.begin(kind, make(row, key, mechanism.parameter))
        if key.private and not app.is_user(session.slot):
            # A logout came in between: it ended what it found.
            session.end(kind)
            raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
    return _EMPTY


def ciphering(encrypt: bool) -> Callable[[Row, Object, Parameter], Active]:
    """Makes operations that encrypt or decrypt."""

    def make(row: Row, key: Object, parameter: Parameter) -> Active:
        if row.cipher is None:
            raise CryptokiError(Rv.MECHANISM_INVALID)
        operation = row.cipher(key.prepared(row.prepare), parameter, encrypt)
        return Active(operation, login=key.flag(Attr.ALWAYS_AUTHENTICATE))

    return make


def signing(row: Row, key: Object, parameter: Parameter) -> Active:
    """Makes operations that sign or verify."""
    if row.signer is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    operation = row.signer(key.prepared(row.prepare), parameter)
    return Active(operation, login=key.flag(Attr.ALWAYS_AUTHENTICATE))


@serves("C_EncryptInit")
def encrypt_init(app: Application, handle: int, mechanism: Mechanism, key: int) -> tuple[()]:
    """Begin to encrypt."""
    return begin(app, handle, Kind.ENCRYPT, mechanism, key, ciphering(True))


@serves("C_Encrypt")
def encrypt(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Encrypt all of it."""
    return whole(app, handle, Kind.ENCRYPT, data, room)


@serves("C_EncryptUpdate")
def encrypt_update(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Encrypt a piece."""
    return update(app, handle, Kind.ENCRYPT, data, room)


@serves("C_EncryptFinal")
def encrypt_final(app: Application, handle: int, room: int) -> Output:
    """End."""
    return _final(app, handle, Kind.ENCRYPT, room)


@serves("C_DecryptInit")
def decrypt_init(app: Application, handle: int, mechanism: Mechanism, key: int) -> tuple[()]:
    """Begin to decrypt."""
    return begin(app, handle, Kind.DECRYPT, mechanism, key, ciphering(False))


@serves("C_Decrypt")
def decrypt(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Decrypt all of it."""
    return whole(app, handle, Kind.DECRYPT, data, room)


@serves("C_DecryptUpdate")
def decrypt_update(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Decrypt a piece."""
    return update(app, handle, Kind.DECRYPT, data, room)


@serves("C_DecryptFinal")
def decrypt_final(app: Application, handle: int, room: int) -> Output:
    """End."""
    return _final(app, handle, Kind.DECRYPT, room)


@serves("C_DigestInit")
def digest_init(app: Application, handle: int, mechanism: Mechanism | None) -> tuple[()]:
    """Begin a digest."""
    session = app.session(handle)
    with session.lock:
        if mechanism is None:
            session.end(Kind.DIGEST)
            return _EMPTY
        session.check_free(Kind.DIGEST)
        row = lookup(mechanism.type, MechanismFlag.DIGEST)
        no_parameter(mechanism.parameter)
        if row.digest is None:
            raise CryptokiError(Rv.MECHANISM_INVALID)
        session.begin(Kind.DIGEST, Active(row.digest()))
    return _EMPTY


@serves("C_Digest")
def digest(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Digest all of it."""
    return whole(app, handle, Kind.DIGEST, data, room)


@serves("C_DigestUpdate")
def digest_update(app: Application, handle: int, data: bytes | None) -> tuple[()]:
    """Digest a piece."""
    feed(app, handle, Kind.DIGEST, data)
    return _EMPTY


@serves("C_DigestKey")
def digest_key(app: Application, handle: int, number: int) -> tuple[()]:
    """Digest a secret key, if it may be known."""
    session = app.session(handle)
    key = app.find(session, number, Rv.KEY_HANDLE_INVALID)
    if key.object_class != ObjectClass.SECRET_KEY:
        raise CryptokiError(Rv.KEY_INDIGESTIBLE)
    if key.flag(Attr.SENSITIVE) or not key.flag(Attr.EXTRACTABLE):
        raise CryptokiError(Rv.KEY_INDIGESTIBLE)
    feed(app, handle, Kind.DIGEST, key.material)
    return _EMPTY


@serves("C_DigestFinal")
def digest_final(app: Application, handle: int, room: int) -> Output:
    """The digest."""
    return _final(app, handle, Kind.DIGEST, room)


@serves("C_SignInit")
def sign_init(app: Application, handle: int, mechanism: Mechanism, key: int) -> tuple[()]:
    """Begin a signature or a MAC."""
    return begin(app, handle, Kind.SIGN, mechanism, key, signing)


@serves("C_Sign")
def sign(app: Application, handle: int, data: bytes | None, room: int) -> Output:
    """Sign all of it."""
    return whole(app, handle, Kind.SIGN, data, room)


@serves("C_SignUpdate")
def sign_update(app: Application, handle: int, data: bytes | None) -> tuple[()]:
    """A piece of what is signed."""
    feed(app, handle, Kind.SIGN, data)
    return _EMPTY


@serves("C_SignFinal")
def sign_final(app: Application, handle: int, room: int) -> Output:
    """The signature."""
    return _final(app, handle, Kind.SIGN, room)


@serves("C_VerifyInit")
def verify_init(app: Application, handle: int, mechanism: Mechanism, key: int) -> tuple[()]:
    """Begin a verification."""
    return begin(app, handle, Kind.VERIFY, mechanism, key, signing)


@serves("C_Verify")
def verify(app: Application, handle: int, data: bytes | None, signature: bytes | None) -> tuple[()]:
    """Verify all of it."""
    session = app.session(handle)
    with session.lock:
        active = session.active(Kind.VERIFY)
        session.end(Kind.VERIFY)
        if active.pieces:
            raise CryptokiError(Rv.OPERATION_ACTIVE)
        signer = active.operation
        assert isinstance(signer, Signer)  # noqa: S101  (nothing else begins a verification)
        signer.update(data or b"")
        signer.verify(signature or b"")
    return _EMPTY


@serves("C_VerifyUpdate")
def verify_update(app: Application, handle: int, data: bytes | None) -> tuple[()]:
    """A piece of what was signed."""
    feed(app, handle, Kind.VERIFY, data)
    return _EMPTY


@serves("C_VerifyFinal")
def verify_final(app: Application, handle: int, signature: bytes | None) -> tuple[()]:
    """The verdict."""
    session = app.session(handle)
    with session.lock:
        active = session.active(Kind.VERIFY)
        session.end(Kind.VERIFY)
        signer = active.operation
        assert isinstance(signer, Signer)  # noqa: S101  (nothing else begins a verification)
        signer.verify(signature or b"")
    return _EMPTY


@serves("C_VerifySignatureInit")
def verify_signature_init(
    app: Application, handle: int, mechanism: Mechanism | None, key: int, signature: bytes | None
) -> tuple[()]:
    """Begin a verification whose signature comes first (PKCS#11 3.2)."""

    def make(row: Row, found: Object, parameter: Parameter) -> Active:
        active = signing(row, found, parameter)
        active.signature = signature or b""
        return active

    begin(app, handle, Kind.VERIFY_SIGNATURE, mechanism, key, make)
    session = app.session(handle)
    with session.lock:
        _check_held(app, session, Kind.VERIFY_SIGNATURE)
    return _EMPTY


@serves("C_VerifySignature")
def verify_signature(app: Application, handle: int, data: bytes | None) -> tuple[()]:
    """Verify all of it."""
    return _verdict(app, handle, data or b"")


@serves("C_VerifySignatureUpdate")
def verify_signature_update(app: Application, handle: int, data: bytes | None) -> tuple[()]:
    """A piece of what was signed."""
    feed(app, handle, Kind.VERIFY_SIGNATURE, data)
    return _EMPTY


@serves("C_VerifySignatureFinal")
def verify_signature_final(app: Application, handle: int) -> tuple[()]:
    """The verdict."""
    return _verdict(app, handle, None)


def _verdict(app: Application, handle: int, data: bytes | None) -> tuple[()]:
    session = app.session(handle)
    with session.lock:
        active = session.active(Kind.VERIFY_SIGNATURE)
        session.end(Kind.VERIFY_SIGNATURE)
        if active.pieces and data is not None:
            raise CryptokiError(Rv.OPERATION_ACTIVE)
        signer = active.operation
        assert isinstance(signer, Signer)  # noqa: S101  (nothing else begins a verification)
        signer.update(data or b"")
        signer.verify(active.signature)
    return _EMPTY


def whole(app: Application, handle: int, kind: Kind, data: bytes | None, room: int) -> Output:
    """All of an operation. Raises CryptokiError."""
    session = app.session(handle)
    with session.lock:
        result = session.whole(kind, data or b"", room)
        _check_held(app, session, kind)
        return (result,)


def update(app: Application, handle: int, kind: Kind, data: bytes | None, room: int) -> Output:
    """A piece of what an operation turns into something else. Raises CryptokiError."""
    session = app.session(handle)
    with session.lock:
        result = session.update(kind, data or b"", room)
        _check_held(app, session, kind)
        return (result,)


def _final(app: Application, handle: int, kind: Kind, room: int) -> Output:
    session = app.session(handle)
    with session.lock:
        result = session.final(kind, room)
        _check_held(app, session, kind)
        return (result,)


def feed(app: Application, handle: int, kind: Kind, data: bytes | None) -> None:
    """A piece of what is digested, signed or verified. Raises CryptokiError."""
    session = app.session(handle)
    with session.lock:
        active = session.active(kind)
        active.pieces = True
        try:
            active.operation.update(data or b"")
            if active.operation.held:
                app.check_held()
        except BaseException:
            session.end(kind)
            raise


def _check_held(app: Application, session: Session, kind: Kind) -> None:
    """End an operation with which the application's keep too much. Raises CryptokiError."""
    if not session.holds(kind):
        return
    try:
        app.check_held()
    except CryptokiError:
        session.end(kind)
        raise
