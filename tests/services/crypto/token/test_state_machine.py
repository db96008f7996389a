"""Sessions and logins: PKCS#11 2.40, 5.6 and the states of usage guide figure 3."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import Mech, ObjectClass, State, TokenFlag
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.roles.operations import PinPolicy
from secgear.services.crypto.rpc.messages import HANDSHAKE, Size
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import (
    PIN,
    SO_PIN,
    MemoryStore,
    connect,
    open_module,
)
from tests.services.crypto.conftest import User, refusal, template

RO, RW = 4, 6
SO, USER, CONTEXT = 0, 1, 2


def run(caller: Caller, steps: list[tuple[str, Any]]) -> Any:
    """Do steps with the sessions that the first ones open; returns the last one's outcome."""
    sessions: list[int] = []
    outcome: Any = None
    for name, argument in steps:
        try:
            match name:
                case "open":
                    outcome = caller.one("C_OpenSession", 0, argument)
                    sessions.append(outcome)
                case "login":
                    user, pin = argument
                    outcome = caller.call("C_Login", sessions[-1], user, pin)
                case "state":
                    outcome = State(caller.call("C_GetSessionInfo", sessions[argument])[1])
                case _:
                    outcome = caller.call(f"C_{name}", sessions[-1], *argument)
        except CryptokiError as error:
            outcome = error.rv
    return outcome


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("open", RO), ("state", 0)], State.RO_PUBLIC_SESSION),
        ([("open", RW), ("state", 0)], State.RW_PUBLIC_SESSION),
        ([("open", RO), ("login", (USER, PIN)), ("state", 0)], State.RO_USER_FUNCTIONS),
        ([("open", RW), ("login", (USER, PIN)), ("state", 0)], State.RW_USER_FUNCTIONS),
        ([("open", RW), ("login", (SO, SO_PIN)), ("state", 0)], State.RW_SO_FUNCTIONS),
        # A login holds in every session of the application, those opened later among them.
        ([("open", RO), ("login", (USER, PIN)), ("open", RW), ("state", 1)],
         State.RW_USER_FUNCTIONS),
        ([("open", RO), ("login", (USER, PIN)), ("Logout", ()), ("state", 0)],
         State.RO_PUBLIC_SESSION),
        # The security officer can't be where a session may only read.
        ([("open", RO), ("login", (SO, SO_PIN))], Rv.SESSION_READ_ONLY_EXISTS),
        ([("open", RW), ("login", (SO, SO_PIN)), ("open", RO)], Rv.SESSION_READ_WRITE_SO_EXISTS),
        ([("open", RW), ("login", (USER, PIN)), ("login", (USER, PIN))],
         Rv.USER_ALREADY_LOGGED_IN),
        ([("open", RW), ("login", (USER, PIN)), ("login", (SO, SO_PIN))],
         Rv.USER_ANOTHER_ALREADY_LOGGED_IN),
        ([("open", RW), ("login", (7, PIN))], Rv.USER_TYPE_INVALID),
        ([("open", RW), ("login", (USER, b"wrong"))], Rv.PIN_INCORRECT),
        ([("open", RW), ("login", (CONTEXT, PIN))], Rv.OPERATION_NOT_INITIALIZED),
        ([("open", RW), ("Logout", ())], Rv.USER_NOT_LOGGED_IN),
        ([("open", 2)], Rv.SESSION_PARALLEL_NOT_SUPPORTED),
        ([("open", RW), ("InitPIN", (PIN,))], Rv.USER_NOT_LOGGED_IN),
        ([("open", RW), ("login", (USER, PIN)), ("InitPIN", (PIN,))], Rv.USER_NOT_LOGGED_IN),
        ([("open", RW), ("login", (SO, SO_PIN)), ("InitPIN", (b"123",))], Rv.PIN_LEN_RANGE),
        ([("open", RO), ("SetPIN", (PIN, b"other-pin"))], Rv.SESSION_READ_ONLY),
        ([("open", RW), ("SetPIN", (b"wrong", b"other-pin"))], Rv.PIN_INCORRECT),
        ([("open", RW), ("SetPIN", (PIN, b"x" * 256))], Rv.PIN_LEN_RANGE),
        ([("open", RW), ("CloseSession", ()), ("GetSessionInfo", ())],
         Rv.SESSION_HANDLE_INVALID),
        ([("open", RW), ("SeedRandom", (b"x",))], Rv.RANDOM_SEED_NOT_SUPPORTED),
    ],
)  # fmt: skip
def test_states(caller: Caller, steps: list[tuple[str, Any]], expected: Any) -> None:
    assert run(caller, steps) == expected


def test_the_last_session_takes_the_login_with_it(caller: Caller) -> None:
    first = caller.one("C_OpenSession", 0, RW)
    second = caller.one("C_OpenSession", 0, RW)
    caller.call("C_Login", first, USER, PIN)
    caller.call("C_CloseSession", first)
    assert caller.call("C_GetSessionInfo", second)[1] == State.RW_USER_FUNCTIONS
    caller.call("C_CloseAllSessions", 0)
    third = caller.one("C_OpenSession", 0, RW)
    assert caller.call("C_GetSessionInfo", third)[1] == State.RW_PUBLIC_SESSION


def test_a_login_is_one_applications_and_one_tokens(module: Module) -> None:
    one, other = User(connect(module)), connect(module, "other")
    session = other.one("C_OpenSession", 0, RW)
    assert other.call("C_GetSessionInfo", session)[1] == State.RW_PUBLIC_SESSION
    elsewhere = one.caller.one("C_OpenSession", 1, RW)
    assert one.caller.call("C_GetSessionInfo", elsewhere)[1] == State.RW_PUBLIC_SESSION


def test_before_initialize_and_after_finalize_nothing_works(module: Module, caller: Caller) -> None:
    assert refusal(caller.initialise) is Rv.CRYPTOKI_ALREADY_INITIALIZED
    caller.call("C_OpenSession", 0, RW)
    caller.call("C_Finalize")
    assert refusal(caller.call, "C_GetInfo") is Rv.CRYPTOKI_NOT_INITIALIZED
    assert refusal(caller.call, "C_Initialize", b"hello", 0, b"") is Rv.ARGUMENTS_BAD
    caller.call("C_Initialize", HANDSHAKE, 0, b"")
    assert module.slots[0].sessions == (0, 0)


def test_slots_and_tokens_are_described(caller: Caller) -> None:
    assert caller.one("C_GetSlotList", 1, 0) == Size(2)
    assert caller.one("C_GetSlotList", 1, 2) == [0, 1]
    assert refusal(caller.call, "C_GetSlotInfo", 2) is Rv.SLOT_ID_INVALID
    first, second = caller.call("C_GetTokenInfo", 0), caller.call("C_GetTokenInfo", 1)
    assert first[0] == b"first".ljust(32)
    assert first[3] != second[3]
    assert first[4] == (
        TokenFlag.RNG
        | TokenFlag.LOGIN_REQUIRED
        | TokenFlag.USER_PIN_INITIALIZED
        | TokenFlag.TOKEN_INITIALIZED
    )
    assert second[4] == TokenFlag.RNG | TokenFlag.LOGIN_REQUIRED
    session = caller.one("C_OpenSession", 1, RW)
    assert refusal(caller.call, "C_Login", session, USER, PIN) is Rv.USER_PIN_NOT_INITIALIZED
    count = caller.one("C_GetMechanismList", 0, 0).number
    mechanisms = caller.one("C_GetMechanismList", 0, count)
    for number in mechanisms:
        assert len(caller.call("C_GetMechanismInfo", 0, number)) == 3
    assert refusal(caller.call, "C_GetMechanismInfo", 0, 0x9999) is Rv.MECHANISM_INVALID


def test_the_security_officer_gives_pins_and_users_change_them(module: Module) -> None:
    caller = connect(module)
    session = caller.one("C_OpenSession", 0, RW)
    caller.call("C_SetPIN", session, PIN, b"changed-pin")
    assert refusal(caller.call, "C_Login", session, USER, PIN) is Rv.PIN_INCORRECT
    caller.call("C_Login", session, USER, b"changed-pin")
    caller.call("C_Logout", session)
    caller.call("C_Login", session, SO, SO_PIN)
    caller.call("C_InitPIN", session, b"given-pin")
    caller.call("C_SetPIN", session, SO_PIN, b"other-so-pin")
    caller.call("C_Logout", session)
    caller.call("C_Login", session, USER, b"given-pin")
    caller.call("C_Logout", session)
    caller.call("C_Login", session, SO, b"other-so-pin")


def test_too_many_failures_lock_the_pin_and_a_restart_does_not_help(store: MemoryStore) -> None:
    caller = connect(open_module(store))
    session = caller.one("C_OpenSession", 0, RW)
    for _ in range(PinPolicy().tries // 2):
        assert refusal(caller.call, "C_Login", session, USER, b"wrong") is Rv.PIN_INCORRECT
    caller = connect(open_module(store))
    session = caller.one("C_OpenSession", 0, RW)
    for left in range(PinPolicy().tries - PinPolicy().tries // 2, 0, -1):
        flags = TokenFlag(caller.call("C_GetTokenInfo", 0)[4])
        assert (TokenFlag.USER_PIN_FINAL_TRY in flags) == (left == 1)
        assert (TokenFlag.USER_PIN_COUNT_LOW in flags) == (left < 3)
        assert refusal(caller.call, "C_Login", session, USER, b"wrong") is Rv.PIN_INCORRECT
    assert refusal(caller.call, "C_Login", session, USER, PIN) is Rv.PIN_LOCKED
    caller = connect(open_module(store))
    session = caller.one("C_OpenSession", 0, RW)
    assert refusal(caller.call, "C_Login", session, USER, PIN) is Rv.PIN_LOCKED
    assert TokenFlag.USER_PIN_LOCKED in TokenFlag(caller.call("C_GetTokenInfo", 0)[4])
    caller.call("C_Login", session, SO, SO_PIN)
    caller.call("C_InitPIN", session, b"a-new-pin")
    caller.call("C_Logout", session)
    caller.call("C_Login", session, USER, b"a-new-pin")


def test_a_try_is_counted_before_the_pin_is_looked_at(store: MemoryStore) -> None:
    caller = connect(open_module(store))
    session = caller.one("C_OpenSession", 0, RW)
    store.refuse = True
    # The host keeps the count from being written, and learns nothing about the PIN.
    for pin in (PIN, b"wrong"):
        assert refusal(caller.call, "C_Login", session, USER, pin) is Rv.DEVICE_ERROR


def test_a_success_forgets_the_failures(store: MemoryStore) -> None:
    caller = connect(open_module(store))
    session = caller.one("C_OpenSession", 0, RW)
    for _ in range(2):
        for _ in range(PinPolicy().tries - 1):
            assert refusal(caller.call, "C_Login", session, USER, b"wrong") is Rv.PIN_INCORRECT
        caller.call("C_Login", session, USER, PIN)
        caller.call("C_Logout", session)


def test_many_right_pins_at_once_lock_nothing(module: Module) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        User(connect(module))
        done.append(number)

    threads = [
        threading.Thread(target=work, args=(number,)) for number in range(3 * PinPolicy().tries)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == len(threads)
    assert module.slots[0].state.user is not None
    assert module.slots[0].state.user.failures == 0


def test_initialising_a_token_again_needs_its_pin_and_destroys_what_it_holds(
    store: MemoryStore,
) -> None:
    module = open_module(store)
    user = User(connect(module))
    user.aes(TOKEN=True, LABEL=b"old")
    other = connect(module, "other")
    label = b"new".ljust(32)
    assert refusal(other.call, "C_InitToken", 0, SO_PIN, label) is Rv.SESSION_EXISTS
    user.caller.call("C_CloseAllSessions", 0)
    assert refusal(other.call, "C_InitToken", 0, b"wrong", label) is Rv.PIN_INCORRECT
    assert store.objects
    other.call("C_InitToken", 0, SO_PIN, label)
    assert not store.objects
    assert other.call("C_GetTokenInfo", 0)[0] == label
    session = other.one("C_OpenSession", 0, RW)
    assert refusal(other.call, "C_Login", session, USER, PIN) is Rv.USER_PIN_NOT_INITIALIZED
    assert len(open_module(store).slots[0].table) == 0


def test_logging_out_ends_what_was_private(user: User) -> None:
    private = user.aes(LABEL=b"private")
    public = user.call("C_CreateObject", template(CLASS=ObjectClass.DATA, LABEL=b"public"))
    user.call("C_EncryptInit", Mechanism(Mech.AES_ECB), private)
    user.call("C_Logout")
    assert refusal(user.call, "C_Encrypt", bytes(16), 16) is Rv.OPERATION_NOT_INITIALIZED
    assert user.find() == [public]
    user.call("C_Login", USER, PIN)
    assert user.find() == [public]


def test_a_key_may_ask_for_the_pin_at_each_use(user: User) -> None:
    public, private = user.ec(ALWAYS_AUTHENTICATE=True)
    user.call("C_SignInit", Mechanism(Mech.ECDSA), private)
    assert refusal(user.call, "C_Sign", bytes(32), 64) is Rv.USER_NOT_LOGGED_IN
    assert refusal(user.call, "C_Sign", bytes(32), 64) is Rv.OPERATION_NOT_INITIALIZED
    user.call("C_SignInit", Mechanism(Mech.ECDSA), private)
    assert refusal(user.call, "C_Login", CONTEXT, b"wrong") is Rv.PIN_INCORRECT
    user.call("C_Login", CONTEXT, PIN)
    signature = user.call("C_Sign", bytes(32), 64)
    user.verify(Mech.ECDSA, public, bytes(32), signature)
    user.call("C_SignInit", Mechanism(Mech.ECDSA), private)
    assert refusal(user.call, "C_Sign", bytes(32), 64) is Rv.USER_NOT_LOGGED_IN


def test_waiting_for_slots_is_refused_and_holds_no_thread(caller: Caller) -> None:
    assert refusal(caller.call, "C_WaitForSlotEvent", 1) is Rv.NO_EVENT
    assert refusal(caller.call, "C_WaitForSlotEvent", 0) is Rv.FUNCTION_NOT_SUPPORTED
