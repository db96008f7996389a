"""Calls of our own that do many operations with one key at once.

A batch takes the trip to the enclave once, and looks at the key once. Each operation succeeds or
fails by itself. Limits: `MAX_BATCH` operations, `MAX_BYTES` of input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    ChachaParams,
    CtrParams,
    GcmParams,
    Mechanisms,
    Parameter,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.operations import chosen
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.mechanisms import Row
from secgear.services.crypto.token.session import Kind

MAX_BYTES: Final = 2 << 20
"""Bytes of all inputs of a batch, so that the answer fits a message."""
Results = tuple[list[bytes | Rv]]
_WITH_NONCE: Final = (CcmParams, ChachaParams, CtrParams, GcmParams)


@serves("S_EncryptBatch")
def encrypt_batch(
    app: Application, handle: int, mechanisms: Mechanisms, number: int, inputs: list[bytes]
) -> Results:
    """Encrypt each input. One nonce serves one of them: twice it would tell the difference."""
    parameters = mechanisms.parameters
    if len(inputs) > 1 == len(parameters) and isinstance(parameters[0], _WITH_NONCE):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return _transformed(app, handle, Kind.ENCRYPT, mechanisms, number, inputs)


@serves("S_DecryptBatch")
def decrypt_batch(
    app: Application, handle: int, mechanisms: Mechanisms, number: int, inputs: list[bytes]
) -> Results:
    """Decrypt each input."""
    return _transformed(app, handle, Kind.DECRYPT, mechanisms, number, inputs)


@serves("S_SignBatch")
def sign_batch(
    app: Application, handle: int, mechanisms: Mechanisms, number: int, inputs: list[bytes]
) -> Results:
    """Sign each input."""
    row, key = _opened(app, handle, Kind.SIGN, mechanisms, number)
    signer = row.signer
    if signer is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)

    def sign(parameter: Parameter, data: bytes) -> bytes:
        operation = signer(key, parameter)
        operation.update(data)
        return operation.sign()

    return _each(sign, mechanisms, inputs)


@serves("S_VerifyBatch")
def verify_batch(
    app: Application, handle: int, mechanisms: Mechanisms, number: int, inputs: list[bytes],
    signatures: list[bytes],
) -> Results:  # fmt: skip
    """Verify the signature of each input: the result of a good one is no bytes."""
    row, key = _opened(app, handle, Kind.VERIFY, mechanisms, number)
    signer = row.signer
    if signer is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)

    def verify(parameter: Parameter, data: bytes, signature: bytes) -> bytes:
        operation = signer(key, parameter)
        operation.update(data)
        operation.verify(signature)
        return b""

    return _each(verify, mechanisms, inputs, signatures)


def _opened(
    app: Application, handle: int, kind: Kind, mechanisms: Mechanisms, number: int
) -> tuple[Row, Any]:
    """The row, and the key as it takes it. Raises CryptokiError."""
    row, key = chosen(app, app.session(handle), kind, mechanisms.type, number)
    if key.flag(Attr.ALWAYS_AUTHENTICATE):  # there is no place for the login
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)
    return row, key.prepared(row.prepare)


def _transformed(
    app: Application, handle: int, kind: Kind, mechanisms: Mechanisms, number: int,
    inputs: list[bytes],
) -> Results:  # fmt: skip
    row, key = _opened(app, handle, kind, mechanisms, number)
    cipher, encrypt = row.cipher, kind is Kind.ENCRYPT
    if cipher is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    return _each(
        lambda parameter, data: cipher(key, parameter, encrypt).whole(data), mechanisms, inputs
    )


def _each(run: Callable[..., bytes], mechanisms: Mechanisms, *inputs: list[bytes]) -> Results:
    count, parameters = len(inputs[0]), mechanisms.parameters
    if len(parameters) == 1:
        parameters *= count
    if len(parameters) != count or any(len(one) != count for one in inputs):
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    if sum(map(len, inputs[0])) > MAX_BYTES:
        raise CryptokiError(Rv.DATA_LEN_RANGE)
    results: list[bytes | Rv] = []
    for given in zip(parameters, *inputs, strict=True):
        try:
            results.append(run(*given))
        except CryptokiError as error:
            results.append(error.rv)
    return (results,)
