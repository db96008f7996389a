"""Talk with a module in one session: calls one by one, attributes by name, errors for people."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, final

from secgear.errors import CryptoModuleError
from secgear.services.crypto.client.caller import ROOM, Caller
from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.mechanism import Mechanism, Mechanisms, Parameter
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import MAX_BYTES, Value
from secgear.services.crypto.rpc.attributes import Room
from secgear.services.crypto.rpc.mechanisms import MAX_BATCH

MAX_DATA: Final = 3 << 20  # bytes that are encrypted at once
_FOUND: Final = 256  # handles of one answer
_BATCH_BYTES: Final = 1 << 20  # of all inputs of a batch
_PIECE: Final = 1 << 20
"""Bytes of data in one call; more goes in several."""

_HINTS: Final[Mapping[Rv, str]] = {
    Rv.ACTION_PROHIBITED: "the user's rights, or the state of the key, forbid it",
    Rv.ATTRIBUTE_SENSITIVE: "the attribute is secret and stays inside",
    Rv.DEVICE_ERROR: "the enclave could not keep it, or has no state that it trusts; see the log",
    Rv.DEVICE_REMOVED: "the enclave has ended meanwhile; whether it was done, nobody knows",
    Rv.FUNCTION_REJECTED: "the envelope was taken before",
    Rv.KEY_FUNCTION_NOT_PERMITTED: "the key was not made for this use",
    Rv.KEY_NOT_WRAPPABLE: "the key may leave under trusted keys only",
    Rv.KEY_UNEXTRACTABLE: "the key never leaves",
    Rv.MECHANISM_INVALID: "the token does not do this with this key",
    Rv.OBJECT_HANDLE_INVALID: "the object is gone",
    Rv.PIN_INCORRECT: "the PIN is wrong; some wrong ones in a row lock it",
    Rv.PIN_LEN_RANGE: "the PIN is shorter than the module's policy asks, or longer than 255 bytes",
    Rv.PIN_LOCKED: "the PIN is locked; the security officer can set a new one",
    Rv.SESSION_EXISTS: "applications have sessions on the token; they have to end first",
    Rv.SESSION_HANDLE_INVALID: "the session is gone: open one and log in again",
    Rv.SIGNATURE_INVALID: "the signature is not this key's for this data",
    Rv.SLOT_ID_INVALID: "the module has no such slot; they begin at 0",
    Rv.TEMPLATE_INCONSISTENT: "these attributes do not go together",
    Rv.TOKEN_NOT_PRESENT: "the module holds no keys: it was zeroised, or waits to be restored",
    Rv.TOKEN_NOT_RECOGNIZED: "nobody has initialised this token",
    Rv.USER_NOT_LOGGED_IN: "it needs a login",
    Rv.USER_PIN_NOT_INITIALIZED: "this user has no PIN yet; the security officer gives it",
    Rv.WRAPPED_KEY_INVALID: "what was wrapped or sealed is not for this key, or was changed",
}


class TokenRefused(CryptoModuleError):
    """The module refuses a call. rv: CKR_, why. The text has no data of the call."""

    code = "crypto.refused"

    def __init__(self, rv: Rv) -> None:
        hint = _HINTS.get(rv)
        super().__init__(f"CKR_{rv.name}" + (f": {hint}" if hint else ""))
        self.rv = rv


def asked(caller: Caller, name: str, *arguments: Any) -> Any:
    """A call: its one result, or all of them. Raises TokenRefused."""
    try:
        results = caller.call(name, *arguments)
    except CryptokiError as error:
        raise TokenRefused(error.rv) from None
    return results[0] if len(results) == 1 else results


def as_octets(result: Any) -> bytes:
    """Bytes of an answer, not their number. Raises CryptoModuleError."""
    if not isinstance(result, bytes):
        raise CryptoModuleError("the module's answer is larger than any has to be")
    return result


@final
class Talk:
    """Calls in one session. Safe for threads: an operation of several calls is not interrupted."""

    def __init__(self, caller: Caller, handle: int) -> None:
        self._caller = caller
        self._handle = handle
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<Talk in session {self._handle}>"

    def call(self, name: str, *arguments: Any) -> Any:
        """A call in this session. Raises TokenRefused."""
        with self._lock:
            return asked(self._caller, name, self._handle, *arguments)

    def octets(self, name: str, *arguments: Any) -> bytes:
        """A call in this session whose result is bytes."""
        return as_octets(self.call(name, *arguments))

    def cipher(self, what: str, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_EncryptInit and C_Encrypt, or C_DecryptInit and C_Decrypt. Raises ValueError, too."""
        if len(data) > MAX_DATA:
            raise ValueError(f"{len(data)} bytes at once; a key in the module takes {MAX_DATA}")
        with self._lock:
            self.call(f"C_{what}Init", mechanism, key)
            return self.octets(f"C_{what}", data, ROOM)

    def sign(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_SignInit and what follows, for data of any length."""
        with self._lock:
            self.call("C_SignInit", mechanism, key)
            if len(data) <= _PIECE:
                return self.octets("C_Sign", data, ROOM)
            for at in range(0, len(data), _PIECE):
                self.call("C_SignUpdate", data[at : at + _PIECE])
            return self.octets("C_SignFinal", ROOM)

    def batch(
        self,
        what: str,
        mechanism: int,
        key: int,
        inputs: Sequence[bytes],
        parameters: Sequence[Parameter],
    ) -> list[bytes]:
        """S_<what>Batch, as often as it takes. parameters: one for all inputs, or one for each.

        Raises TokenRefused at the first input that is refused, ValueError for one that is too long.
        """
        made: list[bytes] = []
        for start, end in _batches(inputs):
            some = parameters if len(parameters) == 1 else parameters[start:end]
            wanted = Mechanisms(mechanism, tuple(some))
            results = self.call(f"S_{what}Batch", wanted, key, list(inputs[start:end]))
            for result in results:
                if isinstance(result, Rv):
                    raise TokenRefused(result)
                made.append(result)
        return made

    def check(self, mechanism: Mechanism, key: int, data: bytes, signature: bytes) -> None:
        """C_VerifyInit and what follows."""
        with self._lock:
            self.call("C_VerifyInit", mechanism, key)
            if len(data) <= _PIECE:
                self.call("C_Verify", data, signature)
                return
            for at in range(0, len(data), _PIECE):
                self.call("C_VerifyUpdate", data[at : at + _PIECE])
            self.call("C_VerifyFinal", signature)

    def search(self, template: Mapping[int, Value]) -> list[int]:
        """Handles of all objects that match."""
        with self._lock:
            self.call("C_FindObjectsInit", template)
            found: list[int] = []
            try:
                while some := self.call("C_FindObjects", _FOUND):
                    found += some
            finally:
                self.call("C_FindObjectsFinal")
        return found

    def read(self, handle: int, *attrs: Attr) -> dict[Attr, Value]:
        """Attributes of an object; those that it has not, or keeps, are left out."""
        rooms = [Room(attr, MAX_BYTES) for attr in attrs]
        filled, _ = self.call("C_GetAttributeValue", handle, rooms)
        return {Attr(attr): value for attr, _, value in filled if value is not None}


def _batches(inputs: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Where batches begin and end that are within the limits of one."""
    start = size = 0
    for at, data in enumerate(inputs):
        if len(data) > _BATCH_BYTES:
            raise ValueError(f"{len(data)} bytes in a batch; at most {_BATCH_BYTES}")
        if at - start == MAX_BATCH or size + len(data) > _BATCH_BYTES:
            yield start, at
            start, size = at, 0
        size += len(data)
    if start < len(inputs):
        yield start, len(inputs)


def template(label: str | None = None, id: bytes | None = None, **more: Value) -> dict[int, Value]:
    """Attributes by their names in lower case: ``sign=True``. Raises TypeError for unknown ones."""
    made: dict[int, Value] = {}
    if label is not None:
        made[Attr.LABEL] = label.encode()
    if id is not None:
        made[Attr.ID] = id
    for name, value in more.items():
        if name.upper() not in Attr.__members__:
            raise TypeError(
                f"there is no attribute {name!r}; they are named as CKA_, in lower case"
            )
        made[Attr[name.upper()]] = value
    return {int(attr): value for attr, value in made.items()}
