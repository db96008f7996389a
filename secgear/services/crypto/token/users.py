"""Who logs in on a token: its security officer, its user, and users with names of their own.

Functions of a token's state. Users with names are the security officer's to make; each has a PIN,
with its own failures, and rights.
"""

from __future__ import annotations

import os
import re
from typing import Final

import msgspec

from secgear.services.crypto.pkcs11.constants import UserType
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.state import NamedUser, Pin, Right, TokenState

Who = UserType | str
"""The security officer, the user, or the name of another one."""
MAX_USERS: Final = 64  # of a token
_NAME: Final = r"[a-z0-9][a-z0-9._@-]{0,63}"


def named(state: TokenState, name: str) -> NamedUser | None:
    """The user with this name."""
    return next((one for one in state.users if one.name == name), None)


def with_id(state: TokenState, id: bytes) -> NamedUser | None:
    """The user with this id."""
    return next((one for one in state.users if one.id == id), None)


def pin_of(state: TokenState, who: Who) -> Pin:
    """Their PIN. Raises CryptokiError for who has none."""
    record: Pin | None
    if isinstance(who, UserType):
        record = state.so if who is UserType.SO else state.user
    else:
        user = named(state, who)
        record = user.pin if user is not None else None
    if record is None:
        raise CryptokiError(Rv.USER_PIN_NOT_INITIALIZED)
    return record


def with_pin(state: TokenState, who: Who, record: Pin) -> TokenState:
    """The token with another PIN of theirs, who is there."""
    if who is UserType.SO:
        return msgspec.structs.replace(state, so=record)
    if who is UserType.USER:
        return msgspec.structs.replace(state, user=record)
    users = tuple(
        msgspec.structs.replace(one, pin=record) if one.name == who else one for one in state.users
    )
    return msgspec.structs.replace(state, users=users)


def with_user(state: TokenState, name: str, record: Pin | None, rights: int) -> TokenState:
    """The token with this user. record: None leaves the PIN of one who is there already.

    Raises CryptokiError for a name that is none, rights that there are not, too many users, or a
    new one without a PIN.
    """
    if not re.fullmatch(_NAME, name) or not 0 < rights <= Right.USE | Right.MANAGE:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    others = tuple(one for one in state.users if one.name != name)
    if len(others) >= MAX_USERS:
        raise CryptokiError(Rv.DEVICE_MEMORY)
    before = named(state, name)
    if before is None:
        if record is None:
            raise CryptokiError(Rv.PIN_LEN_RANGE)
        new = NamedUser(os.urandom(8), name, record, rights)
    else:
        new = NamedUser(before.id, name, record or before.pin, rights)
    users = (*others, new)
    return msgspec.structs.replace(state, users=tuple(sorted(users, key=lambda one: one.name)))


def without_user(state: TokenState, name: str) -> TokenState:
    """The token without this user. Raises CryptokiError for who is not there."""
    if named(state, name) is None:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    users = tuple(one for one in state.users if one.name != name)
    return msgspec.structs.replace(state, users=users)


def said(who: Who) -> str:
    """As the audit trail has it."""
    return who.name if isinstance(who, UserType) else f"user {who}"
