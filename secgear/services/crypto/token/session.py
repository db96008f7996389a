"""A session: what it may do, and the operations under way in it."""

from __future__ import annotations

import enum
import threading
from collections.abc import Mapping
from typing import Any, Final, final

from secgear.services.crypto.algorithms.operation import Signer, Transform
from secgear.services.crypto.pkcs11.constants import MechanismFlag
from secgear.services.crypto.pkcs11.mechanism import Parameter
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, Size
from secgear.services.crypto.token.mechanisms import Row
from secgear.services.crypto.token.slot import Slot

_FOUND_SIZE: Final = 40  # bytes of a handle in a list


class Kind(enum.Enum):
    """Operations of which a session can have one each."""

    ENCRYPT = enum.auto()
    DECRYPT = enum.auto()
    DIGEST = enum.auto()
    SIGN = enum.auto()
    VERIFY = enum.auto()
    VERIFY_SIGNATURE = enum.auto()
    SIGN_RECOVER = enum.auto()
    VERIFY_RECOVER = enum.auto()
    MESSAGE_ENCRYPT = enum.auto()
    MESSAGE_DECRYPT = enum.auto()
    MESSAGE_SIGN = enum.auto()
    MESSAGE_VERIFY = enum.auto()


_FLAGS: Final[Mapping[Kind, MechanismFlag]] = {
    **{kind: MechanismFlag[kind.name] for kind in Kind if kind is not Kind.VERIFY_SIGNATURE},
    Kind.VERIFY_SIGNATURE: MechanismFlag.VERIFY,
}
"""By which flag C_SessionCancel names an operation (PKCS#11 3.0, 5.6.8)."""


@final
class Active:
    """An operation under way.

    login: whether the user has yet to log in for it (CKA_ALWAYS_AUTHENTICATE). pieces: whether it
    was given data in pieces. held: output that was made and did not fit, and what it was made of.
    signature: the one that is verified, where it came first.
    """

    __slots__ = ("held", "login", "operation", "pieces", "signature")

    def __init__(self, operation: Transform | Signer, *, login: bool = False) -> None:
        self.operation = operation
        self.login = login
        self.pieces = False
        self.signature = b""
        self.held: tuple[bytes | None, bytes] | None = None


@final
class Messages:
    """Messages with one key (PKCS#11 3.0, 5.9, 5.11, 5.14 and 5.16).

    number: the key's handle. key: as the row takes it. parameter: of all messages' signatures.
    current: the operation of the message that was begun. tag: the tag of what is decrypted; as many
    bytes for what is encrypted. aad: bytes of its associated data.
    """

    __slots__ = ("aad", "current", "key", "number", "parameter", "row", "tag")

    def __init__(self, row: Row, number: int, key: Any, parameter: Parameter) -> None:
        self.row = row
        self.number = number
        self.key = key
        self.parameter = parameter
        self.current: Transform | Signer | None = None
        self.tag = b""
        self.aad = 0


@final
class Session:
    """One session of an application. Calls in one session happen one after the other."""

    def __init__(self, handle: int, slot: Slot, *, write: bool) -> None:
        self.handle = handle
        self.slot = slot
        self.write = write
        self.generation = slot.opened(write=write)  # counted there until `closed`
        self.lock = threading.RLock()
        self.found: list[int] | None = None
        self._active: dict[Kind, Active] = {}
        self._messages: dict[Kind, Messages] = {}

    def __repr__(self) -> str:
        return f"<Session {self.handle}>"

    def begin(self, kind: Kind, active: Active | Messages) -> None:
        """Raises CryptokiError when one of the kind is under way."""
        self.check_free(kind)
        if isinstance(active, Messages):
            self._messages[kind] = active
        else:
            self._active[kind] = active

    def check_free(self, kind: Kind) -> None:
        """Raises CryptokiError when one of the kind is under way."""
        if kind in self._active or kind in self._messages:
            raise CryptokiError(Rv.OPERATION_ACTIVE)

    def messages(self, kind: Kind) -> Messages:
        """The messages of the kind. Raises CryptokiError when none are under way."""
        messages = self._messages.get(kind)
        if messages is None:
            raise CryptokiError(Rv.OPERATION_NOT_INITIALIZED)
        return messages

    def active(self, kind: Kind) -> Active:
        """The operation of the kind. Raises CryptokiError when there is none, or it may not go on.

        An operation whose key asks for a login of its own ends when it is used without.
        """
        active = self._active.get(kind)
        if active is None:
            raise CryptokiError(Rv.OPERATION_NOT_INITIALIZED)
        if active.login:
            del self._active[kind]
            raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
        return active

    @property
    def busy(self) -> bool:
        """Whether an operation is under way."""
        return bool(self._active or self._messages)

    @property
    def held(self) -> int:
        """Bytes that its operations and its search keep until they end."""
        found = _FOUND_SIZE * len(self.found or ())
        return found + sum(map(self.holds, (*self._active, *self._messages)))

    def holds(self, kind: Kind) -> int:
        """The same of one operation."""
        messages = self._messages.get(kind)
        if messages is not None:
            return 0 if messages.current is None else messages.current.held + messages.aad
        active = self._active.get(kind)
        if active is None:
            return 0
        given, made = active.held or (None, b"")
        return active.operation.held + len(given or b"") + len(made) + len(active.signature)

    def waiting_for_login(self) -> list[Active]:
        """Operations that need a login of their own, in the order in which they have begun."""
        return [active for active in self._active.values() if active.login]

    def end(self, kind: Kind) -> None:
        """Forget the operation."""
        self._active.pop(kind, None)
        self._messages.pop(kind, None)

    def cancel(self, flags: int | None = None) -> None:
        """Forget the operations that these flags name, all of them where there are none."""
        for kind, flag in _FLAGS.items():
            if flags is None or flags & flag:
                self.end(kind)
        if flags is None or flags & MechanismFlag.FIND_OBJECTS:
            self.found = None

    # --- output into a caller's room -------------------------------------------------------------

    def whole(self, kind: Kind, data: bytes, room: int) -> bytes | Size:
        """All of an operation in one call, which ends it unless the output is asked for or too big.

        room: bytes that the caller has; 0 asks for the size.
        """
        active = self.active(kind)
        transform = active.operation
        if active.pieces:
            self.end(kind)
            raise CryptokiError(Rv.OPERATION_ACTIVE)
        if not room:
            return Size(_bound(transform, len(data)))
        if active.held is not None:
            result = _same(active.held, data)
        else:
            try:
                result = _run(transform, data)
            except BaseException:
                self.end(kind)
                raise
        return self._fitted(kind, active, data, result, room, last=True)

    def update(self, kind: Kind, data: bytes, room: int) -> bytes | Size:
        """A piece of an operation."""
        active = self.active(kind)
        transform = active.operation
        assert isinstance(transform, Transform)  # noqa: S101  (signing has no output before its end)
        if not room:
            return Size(transform.size(len(data)))
        if active.held is not None:
            result = _same(active.held, data)
        else:
            active.pieces = True
            try:
                result = transform.update(data)
            except BaseException:
                self.end(kind)
                raise
        return self._fitted(kind, active, data, result, room, last=False)

    def final(self, kind: Kind, room: int) -> bytes | Size:
        """The end of an operation in pieces."""
        active = self.active(kind)
        operation = active.operation
        if not room:
            return Size(_bound(operation, 0))
        if active.held is not None:
            result = _same(active.held, None)
        else:
            try:
                result = operation.final() if isinstance(operation, Transform) else operation.sign()
            except BaseException:
                self.end(kind)
                raise
        return self._fitted(kind, active, None, result, room, last=True)

    def _fitted(
        self,
        kind: Kind,
        active: Active,
        data: bytes | None,
        result: bytes,
        room: int,
        *,
        last: bool,
    ) -> bytes | Size:
        if len(result) > (0 if room == EMPTY_BUFFER else room):
            active.held = (data, result)
            return Size(len(result))
        active.held = None
        if last:
            self.end(kind)
        return result


def _bound(operation: Transform | Signer, more: int) -> int:
    return operation.size(more) if isinstance(operation, Transform) else operation.length


def _run(operation: Transform | Signer, data: bytes) -> bytes:
    if isinstance(operation, Transform):
        return operation.whole(data)
    operation.update(data)
    return operation.sign()


def _same(held: tuple[bytes | None, bytes], data: bytes | None) -> bytes:
    """What is held, if it is asked for with the same data as before."""
    if held[0] != data:
        raise CryptokiError(Rv.BUFFER_TOO_SMALL)
    return held[1]
