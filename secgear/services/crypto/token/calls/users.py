"""Calls about users with names (PKCS#11 3.0, 5.6.7), who are the security officer's to make."""

from __future__ import annotations

import msgspec

from secgear.services.crypto.pkcs11.constants import UserType
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.session import Session

_EMPTY: tuple[()] = ()


@serves("C_LoginUser")
def login_user(
    app: Application, handle: int, user: int, pin: bytes | None, name: bytes | None
) -> tuple[()]:
    """Log in by name; without one it is C_Login."""
    if user == UserType.CONTEXT_SPECIFIC and name:
        raise CryptokiError(Rv.USER_TYPE_INVALID)
    app.login(app.session(handle), user, pin or b"", _text(name))
    return _EMPTY


@serves("S_SetUser")
def set_user(
    app: Application, handle: int, name: bytes | None, rights: int, pin: bytes | None
) -> tuple[()]:
    """Make a user, or change one; without a PIN that stays."""
    session = _by_officer(app, handle)
    session.slot.set_user(_text(name), pin, rights, app.actor)
    return _EMPTY


@serves("S_RemoveUser")
def remove_user(app: Application, handle: int, name: bytes | None) -> tuple[()]:
    """Remove one."""
    session = _by_officer(app, handle)
    session.slot.remove_user(_text(name), app.actor)
    return _EMPTY


@serves("S_ListUsers")
def list_users(app: Application, handle: int) -> tuple[bytes]:
    """Names, rights and failures of all of them, as JSON."""
    users = app.session(handle).slot.state.users
    return (
        _encode(
            [
                {"name": one.name, "rights": one.rights, "failures": one.pin.failures}
                for one in users
            ]
        ),
    )


@serves("S_SetTokenPolicy")
def set_token_policy(app: Application, handle: int, record_uses: int) -> tuple[()]:
    """Whether uses of the token's keys are recorded: 0 or 1."""
    session = _by_officer(app, handle)
    if record_uses not in (0, 1):
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    session.slot.set_record_uses(bool(record_uses), app.actor)
    return _EMPTY


def _by_officer(app: Application, handle: int) -> Session:
    session = app.session(handle)
    if not app.is_so(session.slot):
        raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
    return session


def _text(name: bytes | None) -> str:
    try:
        return (name or b"").decode("ascii")
    except UnicodeDecodeError:
        raise CryptokiError(Rv.ARGUMENTS_BAD) from None


_encode = msgspec.json.Encoder().encode
