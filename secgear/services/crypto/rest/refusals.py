"""What a client is told when something can't be done: a status and a sentence, nobody's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv


class Refusal(Exception):
    """The answer to a request that is not served. status: of HTTP (RFC 9110)."""

    def __init__(self, status: int, *texts: str) -> None:
        super().__init__(status, *texts)
        self.status = status
        self.texts = texts


_SAID: Final[Mapping[Rv, tuple[int, str]]] = {
    Rv.USER_NOT_LOGGED_IN: (403, "permission denied"),
    Rv.PIN_LOCKED: (403, "the PIN is locked; the security officer gives a new one"),
    Rv.SESSION_READ_ONLY: (403, "permission denied"),
    Rv.KEY_HANDLE_INVALID: (400, "there is no such key or version"),
    Rv.KEY_FUNCTION_NOT_PERMITTED: (
        400,
        "the key is not for this use, or its version's state or the minimum version forbids it",
    ),
    Rv.KEY_TYPE_INCONSISTENT: (400, "a key of this type can't do that"),
    Rv.KEY_UNEXTRACTABLE: (400, "the key never leaves the module"),
    Rv.KEY_NOT_WRAPPABLE: (400, "the key may not leave under this one"),
    Rv.KEY_SIZE_RANGE: (400, "keys of this size are not offered"),
    Rv.MECHANISM_INVALID: (400, "this is not offered, or not with this key"),
    Rv.MECHANISM_PARAM_INVALID: (400, "the parameters are not those of the mechanism"),
    Rv.CURVE_NOT_SUPPORTED: (400, "this curve is not offered"),
    Rv.DATA_INVALID: (400, "the input can't be processed"),
    Rv.DATA_LEN_RANGE: (400, "the input is too long or too short for this key"),
    Rv.ENCRYPTED_DATA_INVALID: (400, "the ciphertext was changed, or is another key's"),
    Rv.ENCRYPTED_DATA_LEN_RANGE: (400, "the ciphertext has an impossible length"),
    Rv.SIGNATURE_INVALID: (400, "the signature is not valid"),
    Rv.SIGNATURE_LEN_RANGE: (400, "the signature is not valid"),
    Rv.WRAPPED_KEY_INVALID: (400, "the wrapped key can't be unwrapped"),
    Rv.WRAPPED_KEY_LEN_RANGE: (400, "the wrapped key can't be unwrapped"),
    Rv.FUNCTION_REJECTED: (409, "there is a key of this name"),
    Rv.ACTION_PROHIBITED: (400, "the key's settings forbid that"),
    Rv.ATTRIBUTE_VALUE_INVALID: (400, "a setting has a value that it can't have"),
    Rv.ARGUMENTS_BAD: (400, "a value is not one that the call takes"),
    Rv.TOKEN_NOT_PRESENT: (503, "the module holds no keys: it is being restored, or was zeroised"),
    Rv.DEVICE_MEMORY: (503, "the module has no room for that"),
    Rv.SESSION_COUNT: (503, "the module has no room for that"),
    Rv.DEVICE_ERROR: (500, "the module's host did not keep the change; nothing has happened"),
}  # fmt: skip


def of(error: CryptokiError) -> Refusal:
    """The refusal that a call's return value amounts to."""
    status, text = _SAID.get(error.rv, (400, f"the module refuses: CKR_{error.rv.name}"))
    return Refusal(status, text)
