"""Named keys: versions, states, rotation, and that PKCS#11 can't get around any of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.services.crypto.pkcs11.constants import Attr, KeyState, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import EcdhParams, GcmParams, Mechanism, Mechanisms
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import MemoryStore, connect, open_module
from tests.services.crypto.conftest import P256, User, refusal, template

ACTIVE, PRE_ACTIVE = KeyState.ACTIVE, KeyState.PRE_ACTIVE
GCM = GcmParams(bytes(12), b"", 128)


def aes(user: User, name: bytes | None = b"data", **attributes: Any) -> int:
    given = {"VALUE_LEN": 32, "ENCRYPT": True, "DECRYPT": True} | attributes
    return user.call("S_NewKey", name, Mechanism(Mech.AES_KEY_GEN), {}, template(**given))


def pair(user: User, name: bytes = b"web") -> int:
    return user.call(
        "S_NewKey", name, Mechanism(Mech.EC_KEY_PAIR_GEN),
        template(EC_PARAMS=P256, VERIFY=True), template(SIGN=True),
    )  # fmt: skip


def rotate(user: User, name: bytes = b"data", state: int = ACTIVE) -> Any:
    return user.call("S_RotateKey", name, state)


def find(user: User, name: bytes | None = b"data", version: int = 0) -> Any:
    return user.call("S_FindKey", name, version)


def configure(user: User, name: bytes = b"data", **settings: Any) -> None:
    user.call("S_ConfigureKey", name, template(**settings))


def states(user: User, name: bytes = b"data") -> dict[int, int]:
    found = {}
    for handle in user.find(KEY_NAME=name):
        found[user.get(handle, Attr.KEY_VERSION)] = user.get(handle, Attr.KEY_STATE)
    return dict(sorted(found.items()))


def test_a_rotated_key_reads_what_it_has_encrypted_and_encrypts_no_more(user: User) -> None:
    first = aes(user)
    old = user.run("Encrypt", Mech.AES_GCM, first, b"kept", GCM)
    version, second = rotate(user)
    assert (version, find(user)) == (2, (2, second, 0))
    assert find(user, version=1) == (1, first, 0)
    assert user.run("Decrypt", Mech.AES_GCM, first, old, GCM) == b"kept"
    refused = refusal(user.call, "C_EncryptInit", Mechanism(Mech.AES_GCM, GCM), first)
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED
    new = user.run("Encrypt", Mech.AES_GCM, second, b"kept", GCM)
    assert new != old
    assert states(user) == {1: KeyState.DEACTIVATED, 2: ACTIVE}


def test_who_looks_for_the_name_finds_the_current_version_alone(user: User) -> None:
    pair(user)
    for number in (2, 3):
        version, private = rotate(user, b"web")
        assert version == number
        found = user.find(LABEL=b"web")
        assert sorted(user.get(one, Attr.CLASS) for one in found) == [
            ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY,
        ]  # fmt: skip
        assert private in found
        assert {user.get(one, Attr.ID) for one in found} == {b"web:%d" % number}
    assert len(user.find(LABEL=b"web@1")) == 2


def test_the_next_version_is_made_like_the_one_before(user: User) -> None:
    made = user.call(
        "S_NewKey", b"rsa", Mechanism(Mech.RSA_PKCS_KEY_PAIR_GEN),
        template(MODULUS_BITS=2048, VERIFY=True, WRAP=True),
        template(SIGN=True, ALLOWED_MECHANISMS=(int(Mech.SHA256_RSA_PKCS),)),
    )  # fmt: skip
    _, private = rotate(user, b"rsa")
    _, _, public = find(user, b"rsa")
    for attr in (Attr.SIGN, Attr.ALLOWED_MECHANISMS, Attr.EXTRACTABLE, Attr.SENSITIVE):
        assert user.get(private, attr) == user.get(made, attr)
    assert user.get(public, Attr.MODULUS_BITS) == 2048
    assert user.get(public, Attr.WRAP) is True
    assert user.get(private, Attr.MODULUS) != user.get(made, Attr.MODULUS)


def test_what_is_older_than_the_minimum_is_of_no_use_until_it_is_lowered(user: User) -> None:
    first = aes(user)
    old = user.run("Encrypt", Mech.AES_GCM, first, b"kept", GCM)
    rotate(user)
    configure(user, KEY_MIN_DECRYPTION=2)
    refused = refusal(user.call, "C_DecryptInit", Mechanism(Mech.AES_GCM, GCM), first)
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED
    configure(user, KEY_MIN_DECRYPTION=1)
    assert user.run("Decrypt", Mech.AES_GCM, first, old, GCM) == b"kept"


def test_a_minimum_for_encryption_lets_older_versions_go_on(user: User) -> None:
    first = aes(user)
    configure(user, KEY_MIN_ENCRYPTION=1)
    rotate(user)
    assert states(user) == {1: ACTIVE, 2: ACTIVE}
    user.run("Encrypt", Mech.AES_GCM, first, b"still", GCM)
    configure(user, KEY_MIN_ENCRYPTION=2)
    assert states(user) == {1: KeyState.DEACTIVATED, 2: ACTIVE}
    configure(user, KEY_MIN_ENCRYPTION=1)
    assert states(user) == {1: KeyState.DEACTIVATED, 2: ACTIVE}  # nothing comes back to life


def test_a_verification_with_an_old_version_ends_with_the_minimum(user: User) -> None:
    private = pair(user)
    _, _, public = find(user, b"web")
    signature = user.run("Sign", Mech.ECDSA_SHA256, private, b"message")
    rotate(user, b"web")
    user.verify(Mech.ECDSA_SHA256, public, b"message", signature)
    refused = refusal(user.call, "C_SignInit", Mechanism(Mech.ECDSA_SHA256), private)
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED
    configure(user, b"web", KEY_MIN_DECRYPTION=2)
    refused = refusal(user.call, "C_VerifyInit", Mechanism(Mech.ECDSA_SHA256), public)
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED


USES = {
    # state: encrypt, decrypt, sign (MAC), verify
    KeyState.PRE_ACTIVE: (False, False, False, False),
    KeyState.ACTIVE: (True, True, True, True),
    KeyState.DEACTIVATED: (False, True, False, True),
    KeyState.COMPROMISED: (False, True, False, False),
}


def test_each_state_allows_what_the_standard_says(user: User) -> None:
    for state in KeyState:
        name = state.name.encode()
        aes(user, name, SIGN=True, VERIFY=True)
        number, key = rotate(user, name, PRE_ACTIVE)
        if state is not PRE_ACTIVE:
            user.call("S_SetKeyState", name, number, state)
        allowed = []
        for what, mechanism in (
            ("Encrypt", Mechanism(Mech.AES_GCM, GCM)), ("Decrypt", Mechanism(Mech.AES_GCM, GCM)),
            ("Sign", Mechanism(Mech.AES_CMAC)), ("Verify", Mechanism(Mech.AES_CMAC)),
        ):  # fmt: skip
            try:
                user.call(f"C_{what}Init", mechanism, key)
                user.call(f"C_{what}Init", None, 0)  # ends it
                allowed.append(True)
            except CryptokiError as error:
                assert error.rv is Rv.KEY_FUNCTION_NOT_PERMITTED  # noqa: PT017
                allowed.append(False)
        assert tuple(allowed) == USES[state]


STEPS = {
    (KeyState.PRE_ACTIVE, KeyState.ACTIVE), (KeyState.PRE_ACTIVE, KeyState.DEACTIVATED),
    (KeyState.PRE_ACTIVE, KeyState.COMPROMISED), (KeyState.ACTIVE, KeyState.DEACTIVATED),
    (KeyState.ACTIVE, KeyState.COMPROMISED), (KeyState.DEACTIVATED, KeyState.COMPROMISED),
}  # fmt: skip


def test_states_follow_each_other_as_the_standard_says(user: User) -> None:
    for before in KeyState:
        for after in (*KeyState, 5, 0, 2**63):
            name = b"from.%d.to.%d" % (before, after)
            aes(user, name)
            rotate(user, name, PRE_ACTIVE)
            if before is not PRE_ACTIVE:
                user.call("S_SetKeyState", name, 2, before)
            if (before, after) in STEPS:
                user.call("S_SetKeyState", name, 2, after)
                assert states(user, name)[2] == after
            else:
                refused = refusal(user.call, "S_SetKeyState", name, 2, after)
                assert refused is Rv.ATTRIBUTE_VALUE_INVALID
                assert states(user, name)[2] == before


BEGINNINGS: list[tuple[str, Mechanism, Any]] = [
    ("C_EncryptInit", Mechanism(Mech.AES_GCM, GCM), None),
    ("C_SignInit", Mechanism(Mech.AES_CMAC), None),
    ("C_VerifyInit", Mechanism(Mech.AES_CMAC), None),
    ("C_DecryptInit", Mechanism(Mech.AES_GCM, GCM), None),
    ("C_MessageEncryptInit", Mechanism(Mech.AES_GCM), None),
    ("C_MessageDecryptInit", Mechanism(Mech.AES_GCM), None),
    ("S_EncryptBatch", Mechanisms(Mech.AES_GCM, (GCM,)), [b"x"]),
    ("S_DecryptBatch", Mechanisms(Mech.AES_GCM, (GCM,)), [bytes(16)]),
    ("S_SignBatch", Mechanisms(Mech.AES_CMAC, (None,)), [b"x"]),
]


@pytest.mark.parametrize(("name", "mechanism", "data"), BEGINNINGS, ids=lambda one: str(one)[:20])
def test_no_call_uses_a_version_whose_time_has_not_come(
    user: User, name: str, mechanism: Any, data: Any
) -> None:
    aes(user, SIGN=True, VERIFY=True, WRAP=True, UNWRAP=True)
    _, key = rotate(user, state=PRE_ACTIVE)
    more = () if data is None else (data,)
    assert refusal(user.call, name, mechanism, key, *more) is Rv.KEY_FUNCTION_NOT_PERMITTED


def test_an_old_version_neither_wraps_nor_derives(user: User) -> None:
    old = aes(user, WRAP=True, UNWRAP=True)
    inner = user.aes(EXTRACTABLE=True, SENSITIVE=False)
    wrap = Mechanism(Mech.AES_KEY_WRAP_KWP)
    wrapped = user.call("C_WrapKey", wrap, old, inner, 1 << 10)
    agree = user.call(
        "S_NewKey", b"agree", Mechanism(Mech.EC_KEY_PAIR_GEN), template(EC_PARAMS=P256),
        template(DERIVE=True),
    )  # fmt: skip
    rotate(user)
    rotate(user, b"agree")
    refused = refusal(user.call, "C_WrapKey", wrap, old, inner, 1 << 10)
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED
    user.call("C_UnwrapKey", wrap, old, wrapped, template(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES, TOKEN=False
    ))  # fmt: skip
    point = user.get(find(user, b"agree")[2], Attr.EC_POINT)
    mechanism = Mechanism(Mech.ECDH1_DERIVE, EcdhParams(1, b"", point))
    refused = refusal(user.call, "C_DeriveKey", mechanism, agree, template(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.GENERIC_SECRET
    ))  # fmt: skip
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED


def test_a_pre_active_version_becomes_the_current_one_when_it_is_activated(user: User) -> None:
    first = aes(user)
    number, second = rotate(user, state=PRE_ACTIVE)
    assert find(user) == (1, first, 0)
    user.run("Encrypt", Mech.AES_GCM, first, b"data", GCM)
    user.call("S_SetKeyState", b"data", number, ACTIVE)
    assert find(user) == (2, second, 0)
    assert states(user) == {1: KeyState.DEACTIVATED, 2: ACTIVE}


def test_a_compromised_key_has_no_current_version_until_it_is_rotated(user: User) -> None:
    aes(user)
    user.call("S_SetKeyState", b"data", 1, KeyState.COMPROMISED)
    assert refusal(find, user) is Rv.KEY_HANDLE_INVALID
    assert user.find(LABEL=b"data") == []
    assert rotate(user)[0] == 2
    assert find(user)[0] == 2


def test_versions_can_be_neither_copied_nor_changed_nor_destroyed(user: User) -> None:
    key = aes(user)
    assert refusal(user.call, "C_CopyObject", key, {}) is Rv.ACTION_PROHIBITED
    assert refusal(user.call, "C_DestroyObject", key) is Rv.ACTION_PROHIBITED
    for attributes in (
        {"LABEL": b"else"}, {"KEY_STATE": 2}, {"KEY_VERSION": 7}, {"KEY_MIN_DECRYPTION": 0},
    ):  # fmt: skip
        refused = refusal(user.set, key, **attributes)
        assert refused in (Rv.ACTION_PROHIBITED, Rv.ATTRIBUTE_READ_ONLY)


def test_no_version_leaves_and_comes_back_without_its_state(user: User) -> None:
    for sensitive in (True, False):
        given = {"EXTRACTABLE": True, "SENSITIVE": sensitive}
        assert refusal(aes, user, **given) is Rv.TEMPLATE_INCONSISTENT
        imported = template(
            CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES, VALUE=bytes(32), **given
        )
        refused = refusal(user.call, "S_ImportNamedKey", b"data", imported)
        assert refused is Rv.TEMPLATE_INCONSISTENT
    key, wrapper = aes(user), user.aes(WRAP=True, UNWRAP=True, DECRYPT=False)
    wrap = Mechanism(Mech.AES_KEY_WRAP_KWP)
    assert refusal(user.call, "C_WrapKey", wrap, wrapper, key, 1 << 10) is Rv.KEY_UNEXTRACTABLE
    assert refusal(user.get, key, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE


def test_nobody_makes_a_version_by_a_template(user: User) -> None:
    aes(user)
    for attributes in (
        {"KEY_NAME": b"data"}, {"KEY_VERSION": 2}, {"KEY_STATE": 2}, {"KEY_MIN_ENCRYPTION": 1},
        {"KEY_DELETABLE": True}, {"KEY_CREATED": 1},
    ):  # fmt: skip
        given: dict[str, Any] = attributes
        assert refusal(user.aes, TOKEN=True, **given) is Rv.ATTRIBUTE_READ_ONLY
        assert refusal(user.secret, bytes(16), **given) is Rv.ATTRIBUTE_READ_ONLY
        assert refusal(aes, user, b"other", **given) is Rv.ATTRIBUTE_READ_ONLY
    assert states(user) == {1: ACTIVE}


def test_names_that_are_none_are_refused(user: User) -> None:
    for name in (
        *(b"", b"a/b", b"a b", b"a@1", b".a", b"a-", b"\xc3\xa4", b"a\0", b"a\n"),
        *(b"x" * 129, None),
    ):
        assert refusal(aes, user, name) is Rv.ARGUMENTS_BAD
        assert refusal(find, user, name) is Rv.ARGUMENTS_BAD


def test_a_name_is_taken_once(user: User) -> None:
    aes(user)
    assert refusal(aes, user) is Rv.FUNCTION_REJECTED
    assert refusal(pair, user, b"data") is Rv.FUNCTION_REJECTED


@pytest.mark.parametrize(
    ("settings_", "error"),
    [
        ({"KEY_MIN_DECRYPTION": 0}, Rv.ATTRIBUTE_VALUE_INVALID),
        ({"KEY_MIN_DECRYPTION": 3}, Rv.ATTRIBUTE_VALUE_INVALID),
        ({"KEY_MIN_ENCRYPTION": 3}, Rv.ATTRIBUTE_VALUE_INVALID),
        ({"KEY_MIN_DECRYPTION": 2, "KEY_MIN_ENCRYPTION": 1}, Rv.ATTRIBUTE_VALUE_INVALID),
        ({"KEY_STATE": 2}, Rv.ATTRIBUTE_TYPE_INVALID),
        ({"LABEL": b"other"}, Rv.ATTRIBUTE_TYPE_INVALID),
    ],
)
def test_settings_that_make_no_sense_change_nothing(
    user: User, settings_: dict[str, Any], error: Rv
) -> None:
    key = aes(user)
    rotate(user)
    assert refusal(configure, user, **settings_) is error
    assert user.get(key, Attr.KEY_MIN_DECRYPTION) == 1
    assert user.get(key, Attr.KEY_MIN_ENCRYPTION) == 0


def test_trimming_takes_only_what_nobody_can_use(user: User) -> None:
    aes(user)
    rotate(user)
    rotate(user)
    assert refusal(user.call, "S_TrimKey", b"data", 2) is Rv.ARGUMENTS_BAD
    configure(user, KEY_MIN_DECRYPTION=3)
    user.call("S_TrimKey", b"data", 3)
    assert states(user) == {3: ACTIVE}
    assert refusal(configure, user, KEY_MIN_DECRYPTION=2) is Rv.ATTRIBUTE_VALUE_INVALID
    assert rotate(user)[0] == 4


def test_a_key_is_destroyed_only_if_its_settings_say_so(user: User) -> None:
    pair(user)
    rotate(user, b"web")
    assert refusal(user.call, "S_DestroyKey", b"web") is Rv.ACTION_PROHIBITED
    configure(user, b"web", KEY_DELETABLE=True)
    user.call("S_DestroyKey", b"web")
    assert user.find(KEY_NAME=b"web") == []
    assert refusal(find, user, b"web") is Rv.KEY_HANDLE_INVALID


def test_an_imported_key_is_version_1_and_the_next_one_is_generated(user: User) -> None:
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    private = user.call("S_ImportNamedKey", b"web", template(
        CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.EC, EC_PARAMS=P256,
        VALUE=number.to_bytes(32, "big"), SIGN=True,
    ))  # fmt: skip
    _, _, public = find(user, b"web")
    signature = user.run("Sign", Mech.ECDSA_SHA256, private, b"message")
    user.verify(Mech.ECDSA_SHA256, public, b"message", signature)
    assert user.get(private, Attr.LOCAL) is False
    _, second = rotate(user, b"web")
    assert user.get(second, Attr.LOCAL) is True
    signature = user.run("Sign", Mech.ECDSA_SHA256, second, b"message")
    user.verify(Mech.ECDSA_SHA256, find(user, b"web")[2], b"message", signature)
    user.call("S_ImportNamedKey", b"mac", template(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.GENERIC_SECRET, VALUE=bytes(32), SIGN=True
    ))  # fmt: skip
    assert user.get(rotate(user, b"mac")[1], Attr.VALUE_LEN) == 32


@pytest.mark.parametrize("kind", [KeyType.AES, KeyType.GENERIC_SECRET, KeyType.HKDF])
def test_every_kind_of_secret_that_was_imported_has_a_next_version(
    user: User, kind: KeyType
) -> None:
    user.call("S_ImportNamedKey", b"data", template(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=kind, VALUE=bytes(32)
    ))  # fmt: skip
    _, key = rotate(user)
    assert user.get(key, Attr.KEY_TYPE) == kind
    assert user.get(key, Attr.VALUE_LEN) == 32


def test_what_is_no_key_is_not_imported(user: User) -> None:
    for attributes in (
        {"CLASS": ObjectClass.DATA}, {"CLASS": ObjectClass.SECRET_KEY, "KEY_TYPE": KeyType.AES,
         "VALUE": bytes(16), "PRIVATE": False},
    ):  # fmt: skip
        refused = refusal(user.call, "S_ImportNamedKey", b"x", template(**attributes))
        assert refused is Rv.TEMPLATE_INCONSISTENT


def test_keys_are_listed_in_order_and_from_a_name_on(user: User) -> None:
    for name in (b"b", b"a", b"c"):
        aes(user, name)
    assert user.call("S_ListKeys", None) == b"a\nb\nc"
    assert user.call("S_ListKeys", b"a") == b"b\nc"
    assert user.call("S_ListKeys", b"c") == b""


def test_who_is_not_logged_in_sees_public_halves_and_changes_nothing(
    module: Module, user: User
) -> None:
    aes(user)
    pair(user)
    stranger = User(connect(module, "stranger"), login=False)
    assert stranger.call("S_ListKeys", None) == b"web"
    version, secret, public = find(stranger, b"web")
    assert (version, secret) == (1, 0)
    assert public
    assert refusal(find, stranger) is Rv.KEY_HANDLE_INVALID
    for change in (
        lambda: rotate(stranger, b"web"), lambda: aes(stranger, b"new"),
        lambda: configure(stranger, b"web", KEY_DELETABLE=True),
        lambda: stranger.call("S_SetKeyState", b"web", 1, KeyState.COMPROMISED),
        lambda: stranger.call("S_TrimKey", b"web", 1),
        lambda: stranger.call("S_DestroyKey", b"web"),
        lambda: stranger.call("S_ImportNamedKey", b"new", {}),
    ):  # fmt: skip
        assert refusal(change) is Rv.USER_NOT_LOGGED_IN
    reader = User(connect(module), flags=4)
    assert refusal(rotate, reader, b"web") is Rv.SESSION_READ_ONLY


def test_a_rotation_that_the_host_does_not_keep_has_not_happened(
    store: MemoryStore, user: User
) -> None:
    first = aes(user)
    before = states(user)
    store.refuse = True
    assert refusal(rotate, user) is Rv.DEVICE_ERROR
    store.refuse = False
    assert states(user) == before
    user.run("Encrypt", Mech.AES_GCM, first, b"data", GCM)
    assert rotate(user)[0] == 2


def test_versions_and_settings_are_there_after_a_restart(store: MemoryStore, user: User) -> None:
    pair(user)
    rotate(user, b"web")
    configure(user, b"web", KEY_MIN_DECRYPTION=2, KEY_DELETABLE=True)
    again = User(connect(open_module(store)))
    assert states(again, b"web") == {1: KeyState.DEACTIVATED, 2: ACTIVE}
    assert again.get(find(again, b"web", 1)[1], Attr.KEY_MIN_DECRYPTION) == 2
    assert rotate(again, b"web")[0] == 3


def test_each_change_is_one_change_of_the_store_with_its_record(
    store: MemoryStore, user: User
) -> None:
    aes(user)
    before, records = store.changes, len(store.records)
    rotate(user)
    configure(user, KEY_MIN_DECRYPTION=2)
    user.call("S_SetKeyState", b"data", 1, KeyState.COMPROMISED)
    user.call("S_TrimKey", b"data", 2)
    assert store.changes == before + 4
    said = b"".join(record.body for record in store.records[records:])
    for words in (b"key rotated", b"key settings changed", b"COMPROMISED", b"key trimmed"):
        assert words in said


def test_rotations_at_once_each_make_a_version(module: Module, user: User) -> None:
    aes(user)
    made: list[int] = []

    def work() -> None:
        own = User(connect(module))
        for _ in range(5):
            made.append(rotate(own)[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == list(range(2, 22))
    assert list(states(user).values()) == [KeyState.DEACTIVATED] * 20 + [ACTIVE]
    assert len(user.find(LABEL=b"data")) == 1


STEP = st.one_of(
    st.tuples(st.just("S_RotateKey"), st.sampled_from([ACTIVE, PRE_ACTIVE])),
    st.tuples(st.just("S_SetKeyState"), st.integers(0, 4), st.integers(0, 5)),
    st.tuples(
        st.just("S_ConfigureKey"),
        st.dictionaries(
            st.sampled_from([int(Attr.KEY_MIN_DECRYPTION), int(Attr.KEY_MIN_ENCRYPTION)]),
            st.integers(0, 4),
        ),
    ),
    st.tuples(st.just("S_TrimKey"), st.integers(0, 4)),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEP, max_size=8))
def test_whatever_happens_one_version_is_current_and_no_number_comes_twice(
    user: User, steps: list[tuple[Any, ...]]
) -> None:
    configured = False
    name = b"k%d" % len(user.find())
    aes(user, name)
    highest, life = 1, {1: 2}
    for step, *arguments in steps:
        try:
            result = user.call(step, name, *arguments)
            configured = configured or step == "S_ConfigureKey"
        except CryptokiError:
            result = None
        now = states(user, name)
        if step == "S_RotateKey":
            highest += 1
            assert result is not None
            assert result[0] == highest
        assert max(now) == highest
        assert all(state >= life.get(number, 0) for number, state in now.items())
        life = now
        active = [number for number, state in now.items() if state == ACTIVE]
        labelled = [user.get(one, Attr.KEY_VERSION) for one in user.find(LABEL=name)]
        assert labelled == active[-1:]
        assert configured or len(active) <= 1
