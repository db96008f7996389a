"""PINs, sessions and logins where several enclaves have one token."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.roles.operations import PinPolicy
from secgear.services.crypto.token import pins, slot
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls import operations
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.state import Change
from tests.adversary.crypto_host import (
    PIN,
    SO_PIN,
    MemoryStore,
    connect,
    open_module,
)
from tests.services.crypto.conftest import User, refusal
from tests.services.crypto.token.several import ecb, noted, two


def _login(caller: Caller, pin: bytes = PIN, user: int = 1) -> int:
    session = caller.one("C_OpenSession", 0, 6)
    caller.call("C_Login", session, user, pin)
    return session


def test_tries_of_a_pin_are_counted_over_all_enclaves(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "_TRYING", 0.1)  # no try is under way here
    callers = [connect(module) for module in two(store)]
    for at in range(PinPolicy().tries):
        caller = callers[at % 2]
        assert refusal(_login, caller, b"wrong") is Rv.PIN_INCORRECT
    for caller in callers:
        assert refusal(_login, caller) is Rv.PIN_LOCKED
        assert refusal(_login, caller) is Rv.PIN_LOCKED


def test_right_pins_that_are_tried_in_many_enclaves_at_once_lock_nobody_out(
    store: MemoryStore,
) -> None:
    callers = [connect(open_module(store)) for _ in range(PinPolicy().tries + 2)]
    failed: list[BaseException] = []
    together = threading.Barrier(len(callers))

    def work(caller: Caller) -> None:
        try:
            together.wait(30)
            _login(caller)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed
    user = open_module(store).vault.known.tokens[0].user
    assert user is not None
    assert user.failures == 0


def test_a_success_forgives_no_try_that_came_after_it(store: MemoryStore) -> None:
    here, there = two(store)
    fits = pins.fits
    one, other = connect(here), connect(there)

    def meanwhile(pin: Any, given: bytes) -> bool:
        pins.fits = fits
        assert refusal(_login, other, b"wrong") is Rv.PIN_INCORRECT
        return fits(pin, given)

    pins.fits = meanwhile
    try:
        _login(one)
    finally:
        pins.fits = fits
    user = here.vault.known.tokens[0].user
    assert user is not None
    assert user.failures == 1


def test_a_token_that_begins_anew_elsewhere_ends_sessions_and_logins_here(
    store: MemoryStore,
) -> None:
    here, there = two(store)
    user = User(connect(here))
    key = user.aes(TOKEN=True)
    user.aes()
    user.call("C_EncryptInit", ecb(), key)
    connect(there).call("C_InitToken", 0, SO_PIN, b"anew".ljust(32))
    noted(here, there)
    assert refusal(user.call, "C_Encrypt", bytes(16), 100) is Rv.SESSION_HANDLE_INVALID
    assert refusal(user.find) is Rv.SESSION_HANDLE_INVALID
    fresh = User(user.caller, login=False)
    assert fresh.call("C_GetSessionInfo")[1] == 2  # CKS_RW_PUBLIC_SESSION
    assert fresh.find() == []
    assert here.slots[0].sessions == (1, 1)
    user.caller.call("C_CloseAllSessions", 0)
    connect(here).call("C_InitToken", 0, SO_PIN, b"again".ljust(32))


def test_a_login_ends_with_the_token_though_its_session_is_never_used_again(
    store: MemoryStore,
) -> None:
    here, there = two(store)
    user = User(connect(here))
    connect(there).call("C_InitToken", 0, SO_PIN, b"anew".ljust(32))
    noted(here, there)
    fresh = User(user.caller, login=False)
    assert fresh.call("C_GetSessionInfo")[1] == 2  # CKS_RW_PUBLIC_SESSION


def test_sessions_of_a_token_that_began_anew_are_in_nobodys_way(store: MemoryStore) -> None:
    here, there = two(store)
    idle = User(connect(here), login=False)
    connect(there).call("C_InitToken", 0, SO_PIN, b"anew".ljust(32))
    noted(here, there)
    connect(here).call("C_InitToken", 0, SO_PIN, b"again".ljust(32))
    assert refusal(idle.find) is Rv.SESSION_HANDLE_INVALID


def test_sessions_of_the_same_enclave_keep_a_token_from_beginning_anew(store: MemoryStore) -> None:
    here, _ = two(store)
    user = User(connect(here))
    key = user.aes(TOKEN=True)
    other = connect(here)
    assert refusal(other.call, "C_InitToken", 0, SO_PIN, bytes(32)) is Rv.SESSION_EXISTS
    assert user.find() == [key]


def test_what_begins_while_a_token_begins_anew_is_of_the_old_or_the_new_one(
    store: MemoryStore,
) -> None:
    """A session that is opened at that moment either keeps it from happening or is not harmed."""
    module = open_module(store)
    opened: list[User] = []
    caller = connect(module)
    commit = store.commit

    def meanwhile(change: Change) -> bool:
        if change.delete:
            opened.append(User(caller, login=False))
        return commit(change)

    User(caller).aes(TOKEN=True)
    caller.call("C_CloseAllSessions", 0)
    store.commit = meanwhile  # type: ignore[method-assign]
    connect(module).call("C_InitToken", 0, SO_PIN, b"anew".ljust(32))
    (early,) = opened
    assert refusal(early.find) is Rv.SESSION_HANDLE_INVALID
    assert User(caller, login=False).find() == []


def test_an_object_for_a_token_that_began_anew_is_not_kept(store: MemoryStore) -> None:
    here, there = two(store)
    user = User(connect(here))
    connect(there).call("C_InitToken", 0, SO_PIN, b"anew".ljust(32))
    assert refusal(user.aes, TOKEN=True) is Rv.SESSION_HANDLE_INVALID  # nobody has told it
    assert User(connect(there), login=False).find() == []


def test_an_operation_that_begins_during_a_logout_ends_with_it(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = connect(module)
    user = User(caller)
    key = user.aes(TOKEN=True)
    application = _application(caller)
    begun, go = threading.Event(), threading.Event()
    usable = operations.usable

    def slow(*arguments: Any) -> None:
        usable(*arguments)
        begun.set()
        assert go.wait(30)

    monkeypatch.setattr(operations, "usable", slow)

    def begin() -> None:
        with contextlib.suppress(CryptokiError):  # it is refused, or begins and is ended
            user.call("C_EncryptInit", ecb(), key)

    begins = threading.Thread(target=begin)
    begins.start()
    assert begun.wait(30)  # it has its key, and has not begun
    leaves = threading.Thread(target=user.call, args=("C_Logout",))
    leaves.start()
    while application.is_user(module.slots[0]):
        threading.Event().wait(0.001)
    go.set()
    begins.join(30)
    leaves.join(30)
    assert refusal(user.call, "C_Encrypt", bytes(16), 100) is Rv.OPERATION_NOT_INITIALIZED


def _application(caller: Caller) -> Any:
    (app,) = (
        cell.cell_contents
        for cell in caller._exchange.__closure__  # type: ignore[attr-defined]
        if isinstance(cell.cell_contents, Application)
    )
    return app
