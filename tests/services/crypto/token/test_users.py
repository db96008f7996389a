"""Users with names, each with a PIN, failures and rights of their own; and uses of keys."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from secgear.services.crypto.pkcs11.calls import BY_NAME, split
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass, Salt
from secgear.services.crypto.pkcs11.mechanism import HkdfParams, Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token import generation, guard, pins, uses
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import table
from secgear.services.crypto.token.guard import ALWAYS, CALLS
from secgear.services.crypto.token.module import Module
from secgear.services.crypto.token.state import Right
from secgear.services.crypto.token.users import MAX_USERS
from tests.adversary.crypto_host import PIN, SO_PIN, MemoryStore, connect, open_module
from tests.services.crypto.conftest import P256, User, refusal, template

USE, MANAGE = Right.USE, Right.MANAGE
ANN_PIN = b"ann-pin-1234"


class Officer:
    """A session in which the security officer is logged in."""

    def __init__(self, module: Module) -> None:
        self.caller = connect(module)
        self.session = self.caller.one("C_OpenSession", 0, 6)
        self.caller.call("C_Login", self.session, 0, SO_PIN)

    def call(self, name: str, *arguments: Any) -> Any:
        return self.caller.call(name, self.session, *arguments)

    def user(self, name: bytes, rights: int, pin: bytes | None = ANN_PIN) -> None:
        self.call("S_SetUser", name, rights, pin)


def named(module: Module, name: bytes = b"ann", pin: bytes = ANN_PIN) -> User:
    user = User(connect(module), login=False)
    user.call("C_LoginUser", 1, pin, name)
    return user


def test_a_user_with_a_name_works_with_the_same_keys(module: Module) -> None:
    key = User(connect(module)).aes(TOKEN=True)
    Officer(module).user(b"ann", USE | MANAGE)
    ann = named(module)
    assert ann.find() == [key]
    other = ann.aes(TOKEN=True)
    assert User(connect(module)).find() == [key, other]


def test_each_has_a_pin_and_a_lock_of_their_own(store: MemoryStore) -> None:
    module = open_module(store)
    officer = Officer(module)
    officer.user(b"ann", USE)
    officer.user(b"ben", USE, b"ben-pin-1234")
    ann = User(connect(module), login=False)
    for _ in range(10):
        assert refusal(ann.call, "C_LoginUser", 1, b"wrong", b"ann") is Rv.PIN_INCORRECT
    module = open_module(store)  # the lock-out survives
    ann = User(connect(module), login=False)
    assert refusal(ann.call, "C_LoginUser", 1, ANN_PIN, b"ann") is Rv.PIN_LOCKED
    named(module, b"ben", b"ben-pin-1234")
    User(connect(module))
    listed = json.loads(ann.call("S_ListUsers"))
    assert listed == [
        {"name": "ann", "rights": 1, "failures": 10},
        {"name": "ben", "rights": 1, "failures": 0},
    ]
    Officer(module).user(b"ann", USE, b"another-pin")
    named(module, b"ann", b"another-pin")


def test_who_logs_in_while_a_key_is_generated_does_not_keep_it_without_the_right(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard has let the call pass when nobody was logged in."""
    Officer(module).user(b"ann", USE)
    ann = User(connect(module), login=False)
    real = generation.generate

    def slow(*arguments: Any, **named: Any) -> Any:
        made = real(*arguments, **named)
        ann.call("C_LoginUser", 1, ANN_PIN, b"ann")
        return made

    monkeypatch.setattr(generation, "generate", slow)
    assert refusal(ann.aes, TOKEN=True, PRIVATE=False) is Rv.ACTION_PROHIBITED
    assert ann.find() == []
    monkeypatch.undo()
    assert refusal(ann.aes, TOKEN=True, PRIVATE=False) is Rv.ACTION_PROHIBITED
    assert ann.aes()


def test_a_user_changes_their_own_pin(module: Module) -> None:
    Officer(module).user(b"ann", USE)
    ann = named(module)
    ann.call("C_SetPIN", ANN_PIN, b"own-choice")
    ann.call("C_Logout")
    assert refusal(ann.call, "C_LoginUser", 1, ANN_PIN, b"ann") is Rv.PIN_INCORRECT
    ann.call("C_LoginUser", 1, b"own-choice", b"ann")
    User(connect(module))  # the plain user's is what it was


@pytest.mark.parametrize(
    ("user", "name", "expected"),
    [
        (1, b"nobody", Rv.USER_PIN_NOT_INITIALIZED),
        (0, b"ann", Rv.USER_TYPE_INVALID),
        (2, b"ann", Rv.USER_TYPE_INVALID),
        (7, b"ann", Rv.USER_TYPE_INVALID),
        (1, b"\xff", Rv.ARGUMENTS_BAD),
    ],
)
def test_who_is_not_there_does_not_log_in(
    module: Module, user: int, name: bytes, expected: Rv
) -> None:
    Officer(module).user(b"ann", USE)
    other = User(connect(module), login=False)
    assert refusal(other.call, "C_LoginUser", user, ANN_PIN, name) is expected


def test_without_a_name_it_is_the_usual_login(module: Module) -> None:
    user = User(connect(module), login=False)
    user.call("C_LoginUser", 1, PIN, b"")
    user.aes(TOKEN=True)
    assert refusal(user.call, "C_LoginUser", 1, PIN, b"") is Rv.USER_ALREADY_LOGGED_IN


@pytest.mark.parametrize("who", ["nobody", "user", "named"])
def test_users_are_the_officers_to_make(module: Module, who: str) -> None:
    Officer(module).user(b"ann", USE | MANAGE)
    user = {"nobody": lambda: User(connect(module), login=False), "user": lambda: User(
        connect(module)), "named": lambda: named(module)}[who]()  # fmt: skip
    for name, arguments in (
        ("S_SetUser", (b"eve", 3, b"eve-pin-1234")),
        ("S_RemoveUser", (b"ann",)),
        ("S_SetTokenPolicy", (1,)),
    ):
        assert refusal(user.call, name, *arguments) is Rv.USER_NOT_LOGGED_IN


@pytest.mark.parametrize(
    ("name", "rights", "pin", "expected"),
    [
        (b"", 1, ANN_PIN, Rv.ARGUMENTS_BAD),
        (b"Ann", 1, ANN_PIN, Rv.ARGUMENTS_BAD),
        (b"a" * 65, 1, ANN_PIN, Rv.ARGUMENTS_BAD),
        (b"a\n", 1, ANN_PIN, Rv.ARGUMENTS_BAD),
        (b"ann", 0, ANN_PIN, Rv.ARGUMENTS_BAD),
        (b"ann", 4, ANN_PIN, Rv.ARGUMENTS_BAD),
        (b"ann", 2**63, ANN_PIN, Rv.ARGUMENTS_BAD),
        (b"ann", 1, b"abc", Rv.PIN_LEN_RANGE),
        (b"ann", 1, None, Rv.PIN_LEN_RANGE),
    ],
)
def test_users_that_are_none(
    module: Module, name: bytes, rights: int, pin: bytes | None, expected: Rv
) -> None:
    officer = Officer(module)
    assert refusal(officer.user, name, rights, pin) is expected
    assert refusal(officer.call, "S_RemoveUser", name) is Rv.ARGUMENTS_BAD
    assert refusal(officer.call, "S_SetTokenPolicy", 2) is Rv.ARGUMENTS_BAD


def test_users_are_limited(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    officer = Officer(module)
    monkeypatch.setattr(pins, "_COST", 2)
    for number in range(MAX_USERS):
        officer.user(f"user-{number}".encode(), USE)
    assert refusal(officer.user, b"one-more", USE) is Rv.DEVICE_MEMORY
    officer.user(b"user-3", MANAGE, None)


# --- rights --------------------------------------------------------------------------------------

HKDF = HkdfParams(True, True, Mech.SHA256, Salt.NULL, b"", 0, b"")
ACTIONS = {
    "sign": (USE, lambda u, k: u.run("Sign", Mech.ECDSA, k["ec"], bytes(32))),
    "encrypt": (USE, lambda u, k: u.run("Encrypt", Mech.AES_ECB, k["aes"], bytes(16))),
    "decrypt": (USE, lambda u, k: u.run("Decrypt", Mech.AES_ECB, k["aes"], bytes(16))),
    "derive": (USE, lambda u, k: u.call("C_DeriveKey", Mechanism(Mech.AES_ECB), k["aes"], {})),
    "wrap": (MANAGE, lambda u, k: u.call(
        "C_WrapKey", Mechanism(Mech.AES_KEY_WRAP), k["aes"], k["aes"], 99)),
    "copy": (MANAGE, lambda u, k: u.call("C_CopyObject", k["aes"], template(LABEL=b"c"))),
    "generate on the token": (MANAGE, lambda u, k: u.aes(TOKEN=True)),
    "create on the token": (MANAGE, lambda u, k: u.secret(bytes(16), TOKEN=True)),
    "change on the token": (MANAGE, lambda u, k: u.set(k["aes"], LABEL=b"other")),
    "destroy on the token": (MANAGE, lambda u, k: u.call("C_DestroyObject", k["spare"])),
    "generate for the session": (Right(0), lambda u, k: u.aes()),
    "create for the session": (Right(0), lambda u, k: u.secret(bytes(16))),
    "destroy of the session": (Right(0), lambda u, k: u.call("C_DestroyObject", u.aes())),
    "digest": (Right(0), lambda u, k: u.call("C_DigestInit", Mechanism(Mech.SHA256))),
    "generate a public key on the token": (MANAGE, lambda u, k: u.pair(
        Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256, "TOKEN": True})),
    "derive to where the key says": (USE | MANAGE, lambda u, k: u.call(
        "C_DeriveKey", Mechanism(Mech.HKDF_DERIVE, HKDF), k["base"], template(VALUE_LEN=32))),
    "unwrap to where the key says": (USE | MANAGE, lambda u, k: u.call(
        "C_UnwrapKey", Mechanism(Mech.AES_KEY_WRAP), k["unwrapper"], k["wrapped"], template(
            CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES))),
    "make an import key": (MANAGE, lambda u, k: u.call("S_GetImportKey", None, 1 << 16)),
    "exchange an envelope": (USE | MANAGE, lambda u, k: u.call(
        "S_ExchangeEnvelope", Mechanism(Mech.RSA_PKCS), k["rsa"], Mechanism(Mech.RSA_PKCS),
        k["own"], u.run("Encrypt", Mech.RSA_PKCS, k["own"], b"key") if k["rights"] & USE
        else bytes(256), 256)),
    "look": (Right(0), lambda u, k: u.get(k["aes"], Attr.LABEL)),
    "find": (Right(0), lambda u, k: u.find()),
    "random": (Right(0), lambda u, k: u.call("C_GenerateRandom", 8)),
}  # fmt: skip


@pytest.mark.parametrize("rights", [USE, MANAGE, USE | MANAGE])
def test_each_right_allows_what_it_says(module: Module, rights: Right) -> None:
    owner = User(connect(module))
    keys = {
        "aes": owner.aes(TOKEN=True, WRAP=True, EXTRACTABLE=True, SENSITIVE=False, LABEL=b"a"),
        "ec": owner.ec(TOKEN=True)[1],
        "spare": owner.aes(TOKEN=True),
        "base": owner.secret(bytes(32), KeyType.HKDF, TOKEN=True, DERIVE=True,
                             DERIVE_TEMPLATE={int(Attr.TOKEN): True}),
        "unwrapper": owner.aes(TOKEN=True, UNWRAP=True, WRAP=True,
                               UNWRAP_TEMPLATE={int(Attr.TOKEN): True}),
        "rights": rights,
    }  # fmt: skip
    keys["own"], keys["rsa"] = owner.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "TOKEN": True, "ENCRYPT": True},
        {"TOKEN": True, "DECRYPT": True},
    )
    keys["wrapped"] = owner.call(
        "C_WrapKey", Mechanism(Mech.AES_KEY_WRAP), keys["unwrapper"], keys["aes"], 99
    )
    Officer(module).user(b"ann", rights)
    ann = named(module)
    for action, (needed, act) in ACTIONS.items():
        rv = None
        try:
            act(ann, keys)
        except CryptokiError as error:
            rv = error.rv
        if needed & ~rights:
            assert rv is Rv.ACTION_PROHIBITED, action
        elif action == "derive":  # of a mechanism that does not
            assert rv is Rv.MECHANISM_INVALID
        else:
            assert rv is None, action


def test_calls_that_no_row_describes_are_refused_to_who_has_not_all_rights(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {name: row for name, row in guard.CALLS.items() if name != "C_GenerateRandom"}
    monkeypatch.setattr(guard, "CALLS", rows)
    officer = Officer(module)
    officer.user(b"ann", USE)
    ann = named(module)
    assert refusal(ann.call, "C_GenerateRandom", 8) is Rv.ACTION_PROHIBITED
    officer.user(b"ann", USE | MANAGE, None)
    assert len(ann.call("C_GenerateRandom", 8)) == 8


def test_rights_are_those_of_now(module: Module) -> None:
    key = User(connect(module)).aes(TOKEN=True)
    officer = Officer(module)
    officer.user(b"ann", USE | MANAGE)
    ann = named(module)
    ann.set(key, LABEL=b"one")
    officer.user(b"ann", USE, None)
    assert refusal(ann.set, key, LABEL=b"two") is Rv.ACTION_PROHIBITED
    officer.call("S_RemoveUser", b"ann")
    assert refusal(ann.run, "Encrypt", Mech.AES_ECB, key, bytes(16)) is Rv.ACTION_PROHIBITED
    assert ann.find() == []
    # Somebody else of the same name is not who has logged in.
    officer.user(b"ann", USE | MANAGE)
    assert ann.find() == []


def test_a_right_that_is_taken_ends_what_has_begun(module: Module) -> None:
    key = User(connect(module)).ec(TOKEN=True)[1]
    officer = Officer(module)
    for taken in (lambda: officer.user(b"ann", MANAGE, None),
                  lambda: officer.call("S_RemoveUser", b"ann")):  # fmt: skip
        officer.user(b"ann", USE)
        ann = named(module)
        ann.call("C_MessageSignInit", Mechanism(Mech.ECDSA), key)
        ann.call("C_SignMessage", None, bytes(32), 99)
        ann.call("C_SignInit", Mechanism(Mech.ECDSA), key)
        taken()
        assert refusal(ann.call, "C_SignMessage", None, bytes(32), 99) is Rv.ACTION_PROHIBITED
        assert refusal(ann.call, "C_SignMessageBegin", None) is Rv.ACTION_PROHIBITED
        assert refusal(ann.call, "C_Sign", bytes(32), 99) is Rv.ACTION_PROHIBITED
        ann.caller.call("C_MessageSignFinal", ann.session)


def test_a_call_is_made_by_who_was_there_when_it_began(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An application's calls run at the same time: one that nobody has begun meets a login.
    key = User(connect(module)).aes(TOKEN=True, WRAP=True, EXTRACTABLE=True, SENSITIVE=False)
    Officer(module).user(b"ann", USE)
    user = User(connect(module), login=False)
    look = guard._record_use

    def slow(app: Application, name: str, arguments: tuple[Any, ...]) -> None:
        look(app, name, arguments)
        if name != "C_LoginUser":
            other = threading.Thread(target=user.call, args=("C_LoginUser", 1, ANN_PIN, b"ann"))
            other.start()
            other.join()

    wrap = ("C_WrapKey", Mechanism(Mech.AES_KEY_WRAP), key, key, 99)
    for call in (wrap, ("S_RotateKey", b"none", 1), ("C_CopyObject", key, template())):
        with monkeypatch.context() as patch:
            patch.setattr(guard, "_record_use", slow)
            with pytest.raises(CryptokiError) as refused:
                user.call(*call)
            assert refused.value.rv is not Rv.ACTION_PROHIBITED
        assert refusal(user.call, *call) is Rv.ACTION_PROHIBITED
        user.call("C_Logout")


def test_nobody_has_all_rights_in_between(module: Module) -> None:
    class Watched(dict[int, Any]):
        """Has a look at the rights around every change."""

        def look(self) -> None:
            assert not app.is_user(slot) or app.rights(slot) == USE

        def __setitem__(self, *item: Any) -> None:
            app.enter()
            self.look()
            super().__setitem__(*item)
            app.enter()
            self.look()

        def pop(self, *key: Any) -> Any:
            app.enter()
            self.look()
            value = super().pop(*key)
            self.look()
            return value

    Officer(module).user(b"ann", USE)
    slot, app = module.slots[0], Application(module, "test")
    app._logins, app._named = Watched(), Watched()
    session = app.open_session(slot, 6)
    app.login(session, 1, ANN_PIN, "ann")
    app.enter()
    assert app.is_user(slot)
    app.logout(session)
    assert not app.is_user(slot)


def test_a_token_that_begins_anew_has_no_users(module: Module) -> None:
    officer = Officer(module)
    officer.user(b"ann", USE)
    officer.caller.call("C_CloseAllSessions", 0)
    officer.caller.call("C_InitToken", 0, SO_PIN, b"anew".ljust(32))
    other = User(connect(module), login=False)
    assert refusal(other.call, "C_LoginUser", 1, ANN_PIN, b"ann") is Rv.USER_PIN_NOT_INITIALIZED


def test_a_key_that_asks_at_each_use_asks_for_the_users_own_pin(module: Module) -> None:
    owner = User(connect(module))
    _, key = owner.ec(TOKEN=True, ALWAYS_AUTHENTICATE=True)
    Officer(module).user(b"ann", USE)
    ann = named(module)
    ann.call("C_SignInit", Mechanism(Mech.ECDSA), key)
    assert refusal(ann.call, "C_Login", 2, PIN) is Rv.PIN_INCORRECT
    ann.call("C_Login", 2, ANN_PIN)
    ann.call("C_Sign", bytes(32), 99)


# --- uses in the audit trail ---------------------------------------------------------------------


def recorded(store: MemoryStore) -> list[dict[str, Any]]:
    told = [json.loads(record.body) for record in store.records]
    return [one["detail"] for one in told if one["action"] == "key used"]


@pytest.fixture
def watched(store: MemoryStore) -> tuple[MemoryStore, Module]:
    module = open_module(store)
    Officer(module).call("S_SetTokenPolicy", 1)
    return store, module


def test_uses_are_recorded_once_the_officer_wants_that(store: MemoryStore) -> None:
    module = open_module(store)
    user = User(connect(module))
    key = user.aes(TOKEN=True, LABEL=b"watched")
    user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    module.uses.flush()
    assert recorded(store) == []
    Officer(module).call("S_SetTokenPolicy", 1)
    Officer(module).user(b"ann", USE)
    user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    ann = named(module)
    ann.run("Decrypt", Mech.AES_ECB, key, bytes(16))
    module.uses.flush()
    one, two = recorded(store)
    assert one == {
        "operation": "encrypt", "class": 4, "label": "watched", "object": key >> 1,
        "on token": True, "user": "USER",
    }  # fmt: skip
    assert (two["operation"], two["user"]) == ("decrypt", "ann")
    Officer(module).call("S_SetTokenPolicy", 0)
    user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    module.uses.flush()
    assert len(recorded(store)) == 2


def test_a_key_is_used_as_a_salt_as_well(watched: tuple[MemoryStore, Module]) -> None:
    store, module = watched
    user = User(connect(module))
    base, salt = (user.secret(bytes(32), KeyType.HKDF, DERIVE=True) for _ in range(2))
    params = HkdfParams(True, True, Mech.SHA256, Salt.KEY, b"", salt, b"")
    user.call("C_DeriveKey", Mechanism(Mech.HKDF_DERIVE, params), base, template(VALUE_LEN=32))
    module.uses.flush()
    told = [(one["operation"], one["object"]) for one in recorded(store)]
    assert told == [("derive", base), ("derive", salt)]


def test_each_message_is_a_use(store: MemoryStore) -> None:
    module = open_module(store)
    user = User(connect(module))
    key = user.ec()[1]
    user.call("C_MessageSignInit", Mechanism(Mech.ECDSA), key)
    user.call("C_SignMessage", None, bytes(32), 99)
    Officer(module).call("S_SetTokenPolicy", 1)
    for _ in range(2):
        user.call("C_SignMessage", None, bytes(32), 99)
    user.call("C_SignMessageBegin", None)
    user.call("C_SignMessageNext", None, bytes(32), 1, 99)
    module.uses.flush()
    assert [one["operation"] for one in recorded(store)] == ["sign message"] * 3


def test_public_keys_and_ended_operations_are_no_uses(
    watched: tuple[MemoryStore, Module],
) -> None:
    store, module = watched
    user = User(connect(module))
    public, private = user.ec()
    signature = user.run("Sign", Mech.ECDSA, private, bytes(32))
    user.verify(Mech.ECDSA, public, bytes(32), signature)
    user.call("C_SignInit", None, 0)
    assert refusal(user.call, "C_SignInit", Mechanism(Mech.ECDSA), 12345) is Rv.KEY_HANDLE_INVALID
    module.uses.flush()
    assert [one["operation"] for one in recorded(store)] == ["sign"]


def test_uses_are_written_by_themselves_and_when_many_wait(
    watched: tuple[MemoryStore, Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, module = watched
    user = User(connect(module))
    key = user.aes()
    monkeypatch.setattr(uses, "MOST", 4)
    monkeypatch.setattr(uses, "DELAY", 3600.0)
    for _ in range(5):
        user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    assert len(recorded(store)) == 4
    module.uses.flush()
    assert len(recorded(store)) == 5
    monkeypatch.setattr(uses, "DELAY", 0.0)
    module.uses._timer.cancel()  # type: ignore[union-attr]
    module.uses._timer = None
    user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    timer = module.uses._timer
    if timer is not None:
        timer.join(60)
    assert len(recorded(store)) == 6


def test_no_key_is_used_that_can_not_be_recorded(
    watched: tuple[MemoryStore, Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, module = watched
    user = User(connect(module))
    key = user.aes()
    monkeypatch.setattr(uses, "MOST", 2)
    monkeypatch.setattr(uses, "DELAY", 3600.0)
    store.refuse = True
    for _ in range(2):
        user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    assert refusal(user.run, "Encrypt", Mech.AES_ECB, key, bytes(16)) is Rv.DEVICE_ERROR
    store.refuse = False
    user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    module.uses.flush()
    assert len(recorded(store)) == 3  # what had waited is there, in its order


def test_every_call_that_is_served_is_described() -> None:
    # Whoever adds a call says here what it does with keys: users of few rights may not make it
    # otherwise, and its uses would not be recorded.
    served = {call.name for call in BY_NAME.values() if call.id in table()}
    assert served == served & (ALWAYS | set(CALLS))
    assert not ALWAYS & set(CALLS)
    for name in served & set(CALLS):
        row, forms = CALLS[name], split(BY_NAME[name].request)
        for place, form in ((row.key, "u"), (row.changes, "u"), (row.template, "aA")):
            assert not place or forms[place] == form, name
        assert not row.does or row.key
        assert forms[:1] == ("u",) or not (row.right or row.template or row.changes), name
