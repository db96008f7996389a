"""Calls about the module, slots, tokens, sessions and logins (PKCS#11 2.40, 5.4 to 5.6, 5.15)."""

from __future__ import annotations

import os
from typing import Final

from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, SlotFlag
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, HANDSHAKE, Size
from secgear.services.crypto.token import pins
from secgear.services.crypto.token.application import MAX_SESSIONS, Application
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.mechanisms import MECHANISMS
from secgear.services.crypto.token.module import MANUFACTURER, MODEL

MAX_RANDOM: Final = 1 << 20  # bytes of one call
_CRYPTOKI = (2, 40)
_VERSION = (0, 1)
_EMPTY: tuple[()] = ()


@serves("C_Initialize")
def initialize(
    app: Application, handshake: bytes | None, _flag: int, _reserved: bytes
) -> tuple[()]:
    """The first call of a connection."""
    if handshake != HANDSHAKE:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    if app.initialised:
        raise CryptokiError(Rv.CRYPTOKI_ALREADY_INITIALIZED)
    app.initialised = True
    return _EMPTY


@serves("C_Finalize")
def finalize(app: Application) -> tuple[()]:
    """The last one."""
    app.close_all()
    app.initialised = False
    return _EMPTY


@serves("C_GetInfo")
def get_info(app: Application) -> tuple[object, ...]:
    """About the module."""
    return (
        _CRYPTOKI,
        _pad(MANUFACTURER, 32),
        0,
        _pad("secGear cryptographic module", 32),
        _VERSION,
    )


@serves("C_GetSlotList")
def get_slot_list(app: Application, _present: int, room: int) -> tuple[object]:
    """All slots; every one has a token."""
    return (_items(list(range(len(app.module.slots))), room),)


@serves("C_GetSlotInfo")
def get_slot_info(app: Application, slot: int) -> tuple[object, ...]:
    """About a slot."""
    app.module.slot(slot)
    description = f"secGear slot {slot}"
    flags = SlotFlag.TOKEN_PRESENT
    return (_pad(description, 64), _pad(MANUFACTURER, 32), flags, _VERSION, _VERSION)


@serves("C_GetTokenInfo")
def get_token_info(app: Application, slot: int) -> tuple[object, ...]:
    """About a token."""
    place = app.module.slot(slot)
    sessions, writing = place.sessions
    return (
        _pad(place.state.label, 32),
        _pad(MANUFACTURER, 32),
        _pad(MODEL, 16),
        _pad(place.state.serial, 16),
        place.flags,
        MAX_SESSIONS,
        sessions,
        MAX_SESSIONS,
        writing,
        pins.MAX_LENGTH,
        app.module.vault.head.roles.pins.shortest,
        *(UNAVAILABLE,) * 4,
        _VERSION,
        _VERSION,
        _pad("", 16),
    )


@serves("C_GetMechanismList")
def get_mechanism_list(app: Application, slot: int, room: int) -> tuple[object]:
    """What the token can do."""
    app.module.slot(slot)
    return (_items(list(MECHANISMS), room),)


@serves("C_GetMechanismInfo")
def get_mechanism_info(app: Application, slot: int, number: int) -> tuple[object, ...]:
    """About a mechanism."""
    app.module.slot(slot)
    row = MECHANISMS.get(number)
    if row is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    return (*row.sizes, row.flags)


@serves("C_InitToken")
def init_token(app: Application, slot: int, pin: bytes | None, label: bytes) -> tuple[()]:
    """Begin a token anew."""
    app.module.slot(slot).initialise(pin or b"", label, app.actor)
    return _EMPTY


@serves("C_InitPIN")
def init_pin(app: Application, handle: int, pin: bytes | None) -> tuple[()]:
    """The security officer gives the user a PIN."""
    session = app.session(handle)
    if not app.is_so(session.slot):
        raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
    session.slot.init_pin(pin or b"", app.actor)
    return _EMPTY


@serves("C_SetPIN")
def set_pin(app: Application, handle: int, old: bytes | None, new: bytes | None) -> tuple[()]:
    """Who is logged in changes their PIN; with nobody logged in it is the user's."""
    session = app.session(handle)
    if not session.write:
        raise CryptokiError(Rv.SESSION_READ_ONLY)
    session.slot.change_pin(app.who(session.slot), old or b"", new or b"", app.actor)
    return _EMPTY


@serves("C_OpenSession")
def open_session(app: Application, slot: int, flags: int) -> tuple[int]:
    """A session."""
    return (app.open_session(app.module.slot(slot), flags).handle,)


@serves("C_CloseSession")
def close_session(app: Application, handle: int) -> tuple[()]:
    """Its end."""
    app.close_session(handle)
    return _EMPTY


@serves("C_CloseAllSessions")
def close_all_sessions(app: Application, slot: int) -> tuple[()]:
    """The end of all of them."""
    app.close_all(app.module.slot(slot))
    return _EMPTY


@serves("C_GetSessionInfo")
def get_session_info(app: Application, handle: int) -> tuple[int, ...]:
    """About a session."""
    session = app.session(handle)
    flags = 4 | (2 if session.write else 0)
    return (session.slot.number, app.state(session), flags, 0)


@serves("C_SessionCancel")
def session_cancel(app: Application, handle: int, flags: int) -> tuple[()]:
    """Forget the operations under way that are named."""
    session = app.session(handle)
    with session.lock:
        session.cancel(flags)
    return _EMPTY


@serves("C_Login")
def login(app: Application, handle: int, user: int, pin: bytes | None) -> tuple[()]:
    """Log in."""
    app.login(app.session(handle), user, pin or b"")
    return _EMPTY


@serves("C_Logout")
def logout(app: Application, handle: int) -> tuple[()]:
    """Log out."""
    app.logout(app.session(handle))
    return _EMPTY


@serves("C_SeedRandom")
def seed_random(app: Application, handle: int, _seed: bytes | None) -> tuple[()]:
    """The generator takes no seeds from outside."""
    app.session(handle)
    raise CryptokiError(Rv.RANDOM_SEED_NOT_SUPPORTED)


@serves("C_GenerateRandom")
def generate_random(app: Application, handle: int, room: int) -> tuple[bytes]:
    """Random bytes."""
    app.session(handle)
    if room == EMPTY_BUFFER:
        room = 0
    if room > MAX_RANDOM:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    return (os.urandom(room),)


@serves("C_WaitForSlotEvent")
def wait_for_slot_event(app: Application, flags: int) -> tuple[()]:
    """Slots do not change; to wait for that would hold a thread for ever."""
    raise CryptokiError(Rv.NO_EVENT if flags & 1 else Rv.FUNCTION_NOT_SUPPORTED)


def _pad(text: str, size: int) -> bytes:
    return text.encode()[:size].ljust(size)


def _items(numbers: list[int], room: int) -> list[int] | Size:
    return numbers if 0 < len(numbers) <= room else Size(len(numbers))
