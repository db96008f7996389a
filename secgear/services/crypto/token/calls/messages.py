"""Calls that work message by message with one key (PKCS#11 3.0, 5.9, 5.11, 5.14 and 5.16).

Where a client lets the token make the initialisation vectors, none repeats by the client's mistake:
they are random, 96 bits at the least, which SP 800-38D allows for 2^32 messages of a key. Counters
are not offered: two sessions would count the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import msgspec

from secgear.services.crypto.algorithms.operation import Signer, Transform
from secgear.services.crypto.pkcs11.constants import Attr, Generator
from secgear.services.crypto.pkcs11.mechanism import Mechanism, MessageParams, Parameter
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, Size
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.operations import begin, chosen
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.guard import record_use
from secgear.services.crypto.token.mechanisms import Row, no_parameter
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.session import Kind, Messages, Session

_END: Final = 1  # CKF_END_OF_MESSAGE
_RANDOM: Final = (Generator.GENERATE, Generator.GENERATE_RANDOM)
_MIN_RANDOM: Final = 12  # bytes
_EMPTY: tuple[()] = ()
_USES: Final = {
    Kind.MESSAGE_ENCRYPT: "encrypt message",
    Kind.MESSAGE_DECRYPT: "decrypt message",
    Kind.MESSAGE_SIGN: "sign message",
    Kind.MESSAGE_VERIFY: "verify message",
}


# --- encryption ----------------------------------------------------------------------------------


@serves("C_MessageEncryptInit")
def message_encrypt_init(
    app: Application, handle: int, mechanism: Mechanism | None, key: int
) -> tuple[()]:
    """Begin to encrypt messages."""
    return begin(app, handle, Kind.MESSAGE_ENCRYPT, mechanism, key, _ciphering)


@serves("C_EncryptMessage")
def encrypt_message(
    app: Application, handle: int, params: MessageParams, aad: bytes | None, data: bytes | None,
    room: int,
) -> tuple[bytes | Size, bytes, bytes]:  # fmt: skip
    """Encrypt a message: the ciphertext, its initialisation vector and its tag."""
    session, data = app.session(handle), data or b""
    with session.lock:
        messages = _next(app, session, Kind.MESSAGE_ENCRYPT)
        if not _fits(len(data), room):
            return Size(len(data)), b"", b""
        params = _with_iv(params)
        sealed = _operation(messages, params, aad, encrypt=True).whole(data)
    return sealed[: len(data)], params.iv, sealed[len(data) :]


@serves("C_EncryptMessageBegin")
def encrypt_message_begin(
    app: Application, handle: int, params: MessageParams, aad: bytes | None
) -> tuple[bytes]:
    """Begin a message in pieces: its initialisation vector."""
    session = app.session(handle)
    with session.lock:
        messages = _next(app, session, Kind.MESSAGE_ENCRYPT)
        params = _with_iv(params)
        messages.current = _operation(messages, params, aad, encrypt=True)
        messages.tag = bytes(params.tag_bits // 8)
        _keep(app, messages, aad)
    return (params.iv,)


@serves("C_EncryptMessageNext")
def encrypt_message_next(
    app: Application, handle: int, data: bytes | None, room: int, flags: int
) -> tuple[bytes | Size, bytes]:
    """Encrypt a piece; with the last one comes the tag."""
    session, data = app.session(handle), data or b""
    with session.lock:
        messages, operation = _current(session, Kind.MESSAGE_ENCRYPT)
        assert isinstance(operation, Transform)  # noqa: S101  (nothing else begins here)
        tag, end = len(messages.tag), bool(flags & _END)
        needed = operation.size(len(data)) - tag if end else len(data)
        if not _fits(needed, room):
            return Size(needed), b""
        with _message(app, messages, end=end):
            made = operation.update(data)
            if not end:
                return made, b""
            made += operation.final()
    return made[:-tag], made[-tag:]


@serves("C_MessageEncryptFinal")
def message_encrypt_final(app: Application, handle: int) -> tuple[()]:
    """No more messages."""
    return _final(app, handle, Kind.MESSAGE_ENCRYPT)


# --- decryption ----------------------------------------------------------------------------------


@serves("C_MessageDecryptInit")
def message_decrypt_init(
    app: Application, handle: int, mechanism: Mechanism | None, key: int
) -> tuple[()]:
    """Begin to decrypt messages."""
    return begin(app, handle, Kind.MESSAGE_DECRYPT, mechanism, key, _ciphering)


@serves("C_DecryptMessage")
def decrypt_message(
    app: Application, handle: int, params: MessageParams, aad: bytes | None, data: bytes | None,
    room: int,
) -> tuple[bytes | Size]:  # fmt: skip
    """Decrypt a message."""
    session, data = app.session(handle), data or b""
    with session.lock:
        messages = _next(app, session, Kind.MESSAGE_DECRYPT)
        if not _fits(len(data), room):
            return (Size(len(data)),)
        operation = _operation(messages, _with_tag(params), aad, encrypt=False)
        return (operation.whole(data + params.tag),)


@serves("C_DecryptMessageBegin")
def decrypt_message_begin(
    app: Application, handle: int, params: MessageParams, aad: bytes | None
) -> tuple[()]:
    """Begin a message in pieces."""
    session = app.session(handle)
    with session.lock:
        messages = _next(app, session, Kind.MESSAGE_DECRYPT)
        messages.current = _operation(messages, _with_tag(params), aad, encrypt=False)
        messages.tag = params.tag
        _keep(app, messages, aad)
    return _EMPTY


@serves("C_DecryptMessageNext")
def decrypt_message_next(
    app: Application, handle: int, data: bytes | None, room: int, flags: int
) -> tuple[bytes | Size]:
    """Take a piece; all of the message comes with the last one, once its tag was verified."""
    session, data = app.session(handle), data or b""
    with session.lock:
        messages, operation = _current(session, Kind.MESSAGE_DECRYPT)
        assert isinstance(operation, Transform)  # noqa: S101  (nothing else begins here)
        end = bool(flags & _END)
        needed = operation.held + len(data) if end else 0
        if end and not _fits(needed, room):
            return (Size(needed),)
        with _message(app, messages, end=end):
            made = operation.update(data)
            if end:
                made += operation.update(messages.tag) + operation.final()
    return (made,)


@serves("C_MessageDecryptFinal")
def message_decrypt_final(app: Application, handle: int) -> tuple[()]:
    """No more messages."""
    return _final(app, handle, Kind.MESSAGE_DECRYPT)


# --- signatures ----------------------------------------------------------------------------------


@serves("C_MessageSignInit")
def message_sign_init(
    app: Application, handle: int, mechanism: Mechanism | None, key: int
) -> tuple[()]:
    """Begin to sign messages."""
    return begin(app, handle, Kind.MESSAGE_SIGN, mechanism, key, _signing)


@serves("C_SignMessage")
def sign_message(
    app: Application, handle: int, parameter: bytes | None, data: bytes | None, room: int
) -> tuple[bytes | Size]:
    """Sign a message."""
    no_parameter(parameter)
    session = app.session(handle)
    with session.lock:
        signer = _signer(_next(app, session, Kind.MESSAGE_SIGN))
        if not _fits(signer.length, room):
            return (Size(signer.length),)
        signer.update(data or b"")
        return (signer.sign(),)


@serves("C_SignMessageBegin")
def sign_message_begin(app: Application, handle: int, parameter: bytes | None) -> tuple[()]:
    """Begin a message in pieces."""
    return _begin_signer(app, handle, Kind.MESSAGE_SIGN, parameter)


@serves("C_SignMessageNext")
def sign_message_next(
    app: Application, handle: int, parameter: bytes | None, data: bytes | None, last: int,
    room: int,
) -> tuple[bytes | Size]:  # fmt: skip
    """A piece of what is signed. last: whether the signature is wanted."""
    no_parameter(parameter)
    session = app.session(handle)
    with session.lock:
        messages, signer = _current(session, Kind.MESSAGE_SIGN)
        assert isinstance(signer, Signer)  # noqa: S101  (nothing else begins here)
        if last and not _fits(signer.length, room):
            return (Size(signer.length),)
        with _message(app, messages, end=bool(last)):
            signer.update(data or b"")
            return (signer.sign() if last else b"",)


@serves("C_MessageSignFinal")
def message_sign_final(app: Application, handle: int) -> tuple[()]:
    """No more messages."""
    return _final(app, handle, Kind.MESSAGE_SIGN)


@serves("C_MessageVerifyInit")
def message_verify_init(
    app: Application, handle: int, mechanism: Mechanism | None, key: int
) -> tuple[()]:
    """Begin to verify messages."""
    return begin(app, handle, Kind.MESSAGE_VERIFY, mechanism, key, _signing)


@serves("C_VerifyMessage")
def verify_message(
    app: Application, handle: int, parameter: bytes | None, data: bytes | None,
    signature: bytes | None,
) -> tuple[()]:  # fmt: skip
    """Verify a message."""
    no_parameter(parameter)
    session = app.session(handle)
    with session.lock:
        signer = _signer(_next(app, session, Kind.MESSAGE_VERIFY))
        signer.update(data or b"")
        signer.verify(signature or b"")
    return _EMPTY


@serves("C_VerifyMessageBegin")
def verify_message_begin(app: Application, handle: int, parameter: bytes | None) -> tuple[()]:
    """Begin a message in pieces."""
    return _begin_signer(app, handle, Kind.MESSAGE_VERIFY, parameter)


@serves("C_VerifyMessageNext")
def verify_message_next(
    app: Application, handle: int, parameter: bytes | None, data: bytes | None,
    signature: bytes | None,
) -> tuple[()]:  # fmt: skip
    """A piece of what was signed; with the last one the signature."""
    no_parameter(parameter)
    session = app.session(handle)
    with session.lock:
        messages, signer = _current(session, Kind.MESSAGE_VERIFY)
        assert isinstance(signer, Signer)  # noqa: S101  (nothing else begins here)
        with _message(app, messages, end=signature is not None):
            signer.update(data or b"")
            if signature is not None:
                signer.verify(signature)
    return _EMPTY


@serves("C_MessageVerifyFinal")
def message_verify_final(app: Application, handle: int) -> tuple[()]:
    """No more messages."""
    return _final(app, handle, Kind.MESSAGE_VERIFY)


# --- what they share -----------------------------------------------------------------------------


def _ciphering(row: Row, key: Object, parameter: Parameter) -> Messages:
    no_parameter(parameter)  # each message has its own
    return _messages(row, key, None)


def _signing(row: Row, key: Object, parameter: Parameter) -> Messages:
    messages = _messages(row, key, parameter)
    _signer(messages)  # what is wrong with the parameter is said at once
    return messages


def _messages(row: Row, key: Object, parameter: Parameter) -> Messages:
    if key.flag(Attr.ALWAYS_AUTHENTICATE):  # there is no place for a login at each message
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)
    handle = key.id << 1 if key.token else key.id
    return Messages(row, handle, key.prepared(row.prepare), parameter)


def _signer(messages: Messages) -> Signer:
    if messages.row.signer is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    return messages.row.signer(messages.key, messages.parameter)


def _begin_signer(app: Application, handle: int, kind: Kind, parameter: bytes | None) -> tuple[()]:
    no_parameter(parameter)
    session = app.session(handle)
    with session.lock:
        messages = _next(app, session, kind)
        messages.current = _signer(messages)
    return _EMPTY


def _operation(
    messages: Messages, params: MessageParams, aad: bytes | None, *, encrypt: bool
) -> Transform:
    row = messages.row
    if row.cipher is None or row.message is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    return row.cipher(messages.key, row.message(params, aad or b""), encrypt)


def _keep(app: Application, messages: Messages, aad: bytes | None) -> None:
    """A message in pieces keeps its associated data. Raises CryptokiError if that is too much."""
    messages.aad = len(aad or b"")
    try:
        app.check_held()
    except CryptokiError:
        messages.current = None
        raise


def _with_iv(params: MessageParams) -> MessageParams:
    """With an initialisation vector of the token's, where it makes them. Raises CryptokiError."""
    if params.generator == Generator.NO_GENERATE:
        return params
    if params.generator not in _RANDOM or params.fixed_bits or len(params.iv) < _MIN_RANDOM:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return msgspec.structs.replace(params, iv=os.urandom(len(params.iv)))


def _with_tag(params: MessageParams) -> MessageParams:
    """Whose tag has as many bits as it says. Raises CryptokiError."""
    if 8 * len(params.tag) != params.tag_bits:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return params


def _idle(session: Session, kind: Kind) -> Messages:
    """Between two messages. Raises CryptokiError when one is under way."""
    messages = session.messages(kind)
    if messages.current is not None:
        raise CryptokiError(Rv.OPERATION_ACTIVE)
    return messages


def _next(app: Application, session: Session, kind: Kind) -> Messages:
    """Ready for one more message, each of which is a use of the key. Raises CryptokiError.

    The key is looked at again: it may be gone since, may not be used any more, or by nobody here.
    """
    messages = _idle(session, kind)
    row, key = chosen(app, session, kind, messages.row.number, messages.number)
    record_use(app, session, key, _USES[kind])
    messages.key = key.prepared(row.prepare)
    return messages


def _current(session: Session, kind: Kind) -> tuple[Messages, Transform | Signer]:
    """The message that was begun. Raises CryptokiError."""
    messages = session.messages(kind)
    if messages.current is None:
        raise CryptokiError(Rv.OPERATION_NOT_INITIALIZED)
    return messages, messages.current


@contextlib.contextmanager
def _message(app: Application, messages: Messages, *, end: bool) -> Iterator[None]:
    """A piece of a message, which ends with its last piece and with any error."""
    try:
        yield
        if not end and messages.current is not None and messages.current.held:
            app.check_held()
    except BaseException:
        messages.current = None
        raise
    if end:
        messages.current = None


def _final(app: Application, handle: int, kind: Kind) -> tuple[()]:
    session = app.session(handle)
    with session.lock:
        _idle(session, kind)
        session.end(kind)
    return _EMPTY


def _fits(size: int, room: int) -> bool:
    """Whether the caller has room; none at all asks for the size."""
    return room != 0 and size <= (0 if room == EMPTY_BUFFER else room)
