"""Attributes and their rules: PKCS#11 2.40, 4 and 5.7."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.attributes import Room
from secgear.services.crypto.token.application import MAX_SESSION_BYTES
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, SO_PIN, connect
from tests.services.crypto.conftest import P256, User, refusal, template

SECRET = ObjectClass.SECRET_KEY


@pytest.mark.parametrize(
    ("attributes", "always_sensitive", "never_extractable"),
    [
        ({}, True, True),
        ({"SENSITIVE": False}, False, True),
        ({"EXTRACTABLE": True}, True, False),
        ({"SENSITIVE": False, "EXTRACTABLE": True}, False, False),
    ],
)
def test_generated_keys_remember_what_they_were(
    user: User, attributes: dict[str, bool], always_sensitive: bool, never_extractable: bool
) -> None:
    key = user.aes(**attributes)
    assert user.get(key, Attr.LOCAL) is True
    assert user.get(key, Attr.KEY_GEN_MECHANISM) == Mech.AES_KEY_GEN
    assert user.get(key, Attr.ALWAYS_SENSITIVE) is always_sensitive
    assert user.get(key, Attr.NEVER_EXTRACTABLE) is never_extractable
    # Becoming stricter later changes nothing of what was.
    user.set(key, SENSITIVE=True, EXTRACTABLE=False)
    assert user.get(key, Attr.ALWAYS_SENSITIVE) is always_sensitive
    assert user.get(key, Attr.NEVER_EXTRACTABLE) is never_extractable


def test_imported_keys_were_known_to_somebody(user: User) -> None:
    key = user.secret(bytes(32))
    assert user.get(key, Attr.LOCAL) is False
    assert user.get(key, Attr.ALWAYS_SENSITIVE) is False
    assert user.get(key, Attr.NEVER_EXTRACTABLE) is False
    assert user.get(key, Attr.SENSITIVE) is True
    assert user.get(key, Attr.EXTRACTABLE) is False


@pytest.mark.parametrize(
    ("sensitive", "extractable", "readable"),
    [(True, True, False), (True, False, False), (False, False, False), (False, True, True)],
)
def test_secrets_are_given_out_only_where_both_attributes_say_so(
    user: User, sensitive: bool, extractable: bool, readable: bool
) -> None:
    key = user.secret(b"k" * 32, SENSITIVE=sensitive, EXTRACTABLE=extractable)
    _, private = user.ec(SENSITIVE=sensitive, EXTRACTABLE=extractable)
    for handle in (key, private):
        if readable:
            assert len(user.get(handle, Attr.VALUE)) == 32
        else:
            assert refusal(user.get, handle, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE
            # Nor is it told by searching for it.
            assert user.find(VALUE=b"k" * 32) == []
    assert len(user.get(key, Attr.CHECK_VALUE)) == 3


CHANGES = [
    # Changed freely.
    ({"LABEL": b"x"}, None),
    ({"ID": b"x"}, None),
    ({"START_DATE": b"20270101"}, None),
    # One way only.
    ({"SENSITIVE": True}, None),
    ({"SENSITIVE": False}, Rv.ATTRIBUTE_READ_ONLY),
    ({"EXTRACTABLE": False}, None),
    ({"EXTRACTABLE": True}, Rv.ATTRIBUTE_READ_ONLY),
    ({"WRAP_WITH_TRUSTED": True}, None),
    ({"COPYABLE": False}, None),
    # Usage is taken, never added.
    ({"ENCRYPT": False}, None),
    ({"WRAP": True}, Rv.ATTRIBUTE_READ_ONLY),
    ({"SIGN": True}, Rv.ATTRIBUTE_READ_ONLY),
    # The token's, or settled for good.
    ({"LOCAL": False}, Rv.ATTRIBUTE_READ_ONLY),
    ({"ALWAYS_SENSITIVE": False}, Rv.ATTRIBUTE_READ_ONLY),
    ({"KEY_TYPE": 3}, Rv.ATTRIBUTE_READ_ONLY),
    ({"CLASS": 2}, Rv.ATTRIBUTE_READ_ONLY),
    ({"PRIVATE": False}, Rv.ATTRIBUTE_READ_ONLY),
    ({"MODIFIABLE": False}, Rv.ATTRIBUTE_READ_ONLY),
    ({"ALLOWED_MECHANISMS": (1,)}, Rv.ATTRIBUTE_READ_ONLY),
    ({"TRUSTED": True}, Rv.ATTRIBUTE_READ_ONLY),
    ({"VALUE_LEN": 16}, Rv.ATTRIBUTE_READ_ONLY),
    ({"VALUE": bytes(32)}, Rv.ATTRIBUTE_READ_ONLY),
    ({"MODULUS": b"x"}, Rv.ATTRIBUTE_TYPE_INVALID),
    ({"START_DATE": b"tomorrow"}, Rv.ATTRIBUTE_VALUE_INVALID),
    # All or nothing.
    ({"LABEL": b"half", "LOCAL": False}, Rv.ATTRIBUTE_READ_ONLY),
]  # fmt: skip


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_changes(user: User, change: dict[str, Any], expected: Rv | None, token: bool) -> None:
    key = user.aes(LABEL=b"before", TOKEN=token)
    if expected is None:
        user.set(key, **change)
        for name, value in change.items():
            assert user.get(key, Attr[name]) == value
    else:
        assert refusal(user.set, key, **change) is expected
        assert user.get(key, Attr.LABEL) == b"before"


def test_what_was_said_to_stay_stays(user: User) -> None:
    fixed = user.aes(MODIFIABLE=False)
    assert refusal(user.set, fixed, LABEL=b"x") is Rv.ACTION_PROHIBITED
    single = user.aes(COPYABLE=False)
    assert refusal(user.call, "C_CopyObject", single, {}) is Rv.ACTION_PROHIBITED
    lasting = user.aes(DESTROYABLE=False)
    assert refusal(user.call, "C_DestroyObject", lasting) is Rv.ACTION_PROHIBITED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"TOKEN": True, "LABEL": b"copy"}, None),
        ({"SENSITIVE": True}, None),
        ({"MODIFIABLE": False}, None),
        ({"SENSITIVE": False}, Rv.ATTRIBUTE_READ_ONLY),
        ({"EXTRACTABLE": True}, Rv.ATTRIBUTE_READ_ONLY),
        ({"PRIVATE": False}, Rv.TEMPLATE_INCONSISTENT),
        ({"WRAP": True}, Rv.ATTRIBUTE_READ_ONLY),
        ({"CLASS": 2}, Rv.ATTRIBUTE_READ_ONLY),
    ],
)
def test_copies(user: User, change: dict[str, Any], expected: Rv | None) -> None:
    key = user.aes()
    if expected is not None:
        assert refusal(user.call, "C_CopyObject", key, template(**change)) is expected
        return
    copy = user.call("C_CopyObject", key, template(**change))
    assert copy != key
    for name, value in change.items():
        assert user.get(copy, Attr[name]) == value
    sealed = user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    assert user.run("Decrypt", Mech.AES_ECB, copy, sealed) == bytes(16)


CREATIONS: list[tuple[dict[str, Any], Rv]] = [
    ({}, Rv.TEMPLATE_INCOMPLETE),
    ({"CLASS": 99}, Rv.ATTRIBUTE_VALUE_INVALID),
    ({"CLASS": SECRET}, Rv.TEMPLATE_INCOMPLETE),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.AES}, Rv.TEMPLATE_INCOMPLETE),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.AES, "VALUE": b"short"}, Rv.ATTRIBUTE_VALUE_INVALID),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.RSA, "VALUE": bytes(16)}, Rv.ATTRIBUTE_VALUE_INVALID),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.AES, "VALUE": bytes(16), "LOCAL": True},
     Rv.ATTRIBUTE_READ_ONLY),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.AES, "VALUE": bytes(16), "NEVER_EXTRACTABLE": True},
     Rv.ATTRIBUTE_READ_ONLY),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.AES, "VALUE": bytes(16), "TRUSTED": True},
     Rv.ATTRIBUTE_READ_ONLY),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.AES, "VALUE": bytes(16), "CHECK_VALUE": b"bad"},
     Rv.ATTRIBUTE_VALUE_INVALID),
    ({"CLASS": SECRET, "KEY_TYPE": KeyType.AES, "VALUE": bytes(16), "MODULUS": b"x"},
     Rv.ATTRIBUTE_TYPE_INVALID),
    ({"CLASS": 2, "KEY_TYPE": KeyType.EC, "EC_PARAMS": P256, "EC_POINT": b"\4" * 65},
     Rv.ATTRIBUTE_VALUE_INVALID),  # not on the curve
    ({"CLASS": 2, "KEY_TYPE": KeyType.EC, "EC_PARAMS": b"\6\1\1", "EC_POINT": b"\4" * 65},
     Rv.ATTRIBUTE_VALUE_INVALID),
    ({"CLASS": 3, "KEY_TYPE": KeyType.EC, "EC_PARAMS": P256, "VALUE": bytes(32)},
     Rv.ATTRIBUTE_VALUE_INVALID),  # zero
    ({"CLASS": 3, "KEY_TYPE": KeyType.EC, "EC_PARAMS": P256, "VALUE": b"\xff" * 32},
     Rv.ATTRIBUTE_VALUE_INVALID),  # beyond the order
    ({"CLASS": 3, "KEY_TYPE": KeyType.RSA, "MODULUS": b"\xff" * 256, "PUBLIC_EXPONENT": b"\3",
      "PRIVATE_EXPONENT": b"\5"}, Rv.TEMPLATE_INCOMPLETE),  # nobody searches for its primes
    ({"CLASS": 3, "KEY_TYPE": KeyType.RSA, "MODULUS": b"\xff" * 256, "PUBLIC_EXPONENT": b"\3",
      "PRIVATE_EXPONENT": b"\5", "PRIME_1": b"\1", "PRIME_2": b"\xff" * 256},
     Rv.ATTRIBUTE_VALUE_INVALID),
    ({"CLASS": 1, "CERTIFICATE_TYPE": 0}, Rv.TEMPLATE_INCOMPLETE),
    ({"CLASS": 1, "CERTIFICATE_TYPE": 0, "SUBJECT": b"s"}, Rv.TEMPLATE_INCOMPLETE),
    ({"CLASS": 1, "CERTIFICATE_TYPE": 1, "SUBJECT": b"s", "VALUE": b"v"},
     Rv.ATTRIBUTE_VALUE_INVALID),
]  # fmt: skip


@pytest.mark.parametrize(("attributes", "expected"), CREATIONS)
def test_what_can_not_be_created(user: User, attributes: dict[str, Any], expected: Rv) -> None:
    assert refusal(user.call, "C_CreateObject", template(**attributes)) is expected
    assert user.find() == []


GENERATIONS: list[tuple[Mech, dict[str, Any], Rv]] = [
    (Mech.AES_KEY_GEN, {}, Rv.TEMPLATE_INCOMPLETE),
    (Mech.AES_KEY_GEN, {"VALUE_LEN": 17}, Rv.KEY_SIZE_RANGE),
    (Mech.AES_KEY_GEN, {"VALUE_LEN": 2**63}, Rv.KEY_SIZE_RANGE),
    (Mech.AES_KEY_GEN, {"VALUE_LEN": 16, "CLASS": 2}, Rv.TEMPLATE_INCONSISTENT),
    (Mech.AES_KEY_GEN, {"VALUE_LEN": 16, "KEY_TYPE": 0}, Rv.TEMPLATE_INCONSISTENT),
    (Mech.AES_KEY_GEN, {"VALUE_LEN": 16, "VALUE": bytes(16)}, Rv.ATTRIBUTE_READ_ONLY),
    (Mech.AES_KEY_GEN, {"VALUE_LEN": 16, "ALWAYS_SENSITIVE": True}, Rv.ATTRIBUTE_READ_ONLY),
    (Mech.RSA_PKCS, {"VALUE_LEN": 16}, Rv.MECHANISM_INVALID),
    (Mech.EC_KEY_PAIR_GEN, {}, Rv.TEMPLATE_INCOMPLETE),
    (Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": b"\6\5\x2b\x81\4\0\x0a"}, Rv.CURVE_NOT_SUPPORTED),
    (Mech.EC_EDWARDS_KEY_PAIR_GEN, {"EC_PARAMS": P256}, Rv.CURVE_NOT_SUPPORTED),
    (Mech.RSA_PKCS_KEY_PAIR_GEN, {}, Rv.TEMPLATE_INCOMPLETE),
    (Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 1024}, Rv.KEY_SIZE_RANGE),
    (Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2**40}, Rv.KEY_SIZE_RANGE),
    (Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048, "PUBLIC_EXPONENT": b"\3"},
     Rv.ATTRIBUTE_VALUE_INVALID),
    (Mech.ML_DSA_KEY_PAIR_GEN, {"PARAMETER_SET": 9}, Rv.ATTRIBUTE_VALUE_INVALID),
]  # fmt: skip


@pytest.mark.parametrize(("mech", "attributes", "expected"), GENERATIONS)
def test_what_can_not_be_generated(
    user: User, mech: Mech, attributes: dict[str, Any], expected: Rv
) -> None:
    if "PAIR" in mech.name:
        assert refusal(user.pair, mech, attributes) is expected
    else:
        made = refusal(user.call, "C_GenerateKey", Mechanism(mech), template(**attributes))
        assert made is expected
    assert user.find() == []


def test_only_who_may_write_changes_the_token(module: Module) -> None:
    writer = User(connect(module))
    key = writer.aes(TOKEN=True)
    reader = User(connect(module, "reader"), 4)
    assert reader.find() == [key]
    for refused in (
        refusal(reader.aes, TOKEN=True),
        refusal(reader.ec, TOKEN=True),
        refusal(reader.set, key, LABEL=b"x"),
        refusal(reader.call, "C_DestroyObject", key),
        refusal(reader.call, "C_CopyObject", key, {}),
    ):
        assert refused is Rv.SESSION_READ_ONLY
    reader.aes()


def test_nobody_sees_private_objects_but_the_user(module: Module) -> None:
    owner = User(connect(module))
    key = owner.aes(TOKEN=True, LABEL=b"private")
    public = owner.call("C_CreateObject", template(CLASS=0, TOKEN=True, LABEL=b"public"))
    own = owner.call("C_CreateObject", template(CLASS=0, LABEL=b"session's"))
    stranger = User(connect(module, "stranger"), login=False)
    officer = User(connect(module, "officer"), login=False)
    officer.call("C_Login", 0, SO_PIN)
    for other in (stranger, officer):
        assert other.find() == [public]
        assert refusal(other.get, key, Attr.LABEL) is Rv.OBJECT_HANDLE_INVALID
        assert refusal(other.get, own, Attr.LABEL) is Rv.OBJECT_HANDLE_INVALID
        init = refusal(other.call, "C_EncryptInit", Mechanism(Mech.AES_ECB), key)
        assert init is Rv.KEY_HANDLE_INVALID
        assert refusal(other.aes) is Rv.USER_NOT_LOGGED_IN
        data = other.call("C_CreateObject", template(CLASS=0, LABEL=b"mine"))
        assert other.get(data, Attr.LABEL) == b"mine"


def test_session_objects_go_with_their_session(user: User) -> None:
    second = user.caller.one("C_OpenSession", 0, 6)
    key = user.aes(LABEL=b"of the first")
    assert user.caller.one("C_GetObjectSize", second, key) > 0
    other = user.caller.one("C_CreateObject", second, template(CLASS=0, LABEL=b"of the second"))
    user.caller.call("C_CloseSession", second)
    assert user.find() == [key]
    assert refusal(user.get, other, Attr.LABEL) is Rv.OBJECT_HANDLE_INVALID


def test_an_application_fills_its_own_room_and_no_more(user: User) -> None:
    large = b"x" * (64 << 10)
    small = user.call("C_CreateObject", template(CLASS=0))
    made = template(CLASS=0, VALUE=large, LABEL=large, APPLICATION=large, OBJECT_ID=large)
    count = 0
    while True:
        try:
            last = user.call("C_CreateObject", made)
        except CryptokiError as error:
            refused = error.rv
            break
        count += 1
    assert refused is Rv.DEVICE_MEMORY
    assert count * 4 * len(large) <= MAX_SESSION_BYTES
    grown = {"VALUE": large, "LABEL": large, "APPLICATION": large, "OBJECT_ID": large}
    assert refusal(user.set, small, **grown) is Rv.DEVICE_MEMORY
    user.call("C_DestroyObject", last)
    user.set(small, VALUE=large)


def test_the_security_officer_says_what_is_trusted(module: Module) -> None:
    user = User(connect(module))
    public, _ = user.ec(TOKEN=True)
    public = user.call("C_CopyObject", public, template(TOKEN=True, LABEL=b"shown"))
    assert refusal(user.set, public, TRUSTED=True) is Rv.ATTRIBUTE_READ_ONLY
    officer = User(connect(module, "officer"), login=False)
    officer.call("C_Login", 0, SO_PIN)
    officer.set(public, TRUSTED=True)
    assert user.get(public, Attr.TRUSTED) is True


def test_attributes_are_answered_one_by_one(user: User) -> None:
    key = user.aes(LABEL=b"label")
    rooms = [Room(Attr.LABEL, 5), Room(Attr.VALUE, 99), Room(Attr.MODULUS, 9), Room(Attr.CLASS, 8)]
    filled, rv = user.call("C_GetAttributeValue", key, rooms)
    assert rv in (Rv.ATTRIBUTE_SENSITIVE, Rv.ATTRIBUTE_TYPE_INVALID)
    assert filled == [
        (Attr.LABEL, 5, b"label"),
        (Attr.VALUE, -1, None),
        (Attr.MODULUS, -1, None),
        (Attr.CLASS, 8, SECRET),
    ]
    assert user.call("C_GetAttributeValue", key, [Room(Attr.LABEL, 0)]) == ([(3, 5, None)], Rv.OK)
    short = user.call("C_GetAttributeValue", key, [Room(Attr.LABEL, 2)])
    assert short == ([(3, 5, None)], Rv.BUFFER_TOO_SMALL)


def test_searches_find_what_matches(user: User) -> None:
    keys = [user.aes(TOKEN=at % 2 == 0, LABEL=b"l%d" % (at % 3), ID=b"i%d" % at) for at in range(9)]
    assert user.find(LABEL=b"l1") == [keys[4], keys[1], keys[7]]
    assert user.find(ID=b"i3") == [keys[3]]
    assert user.find(ID=b"i3", LABEL=b"l1") == []
    assert user.find(CLASS=SECRET, LABEL=b"none") == []
    assert len(user.find(KEY_TYPE=KeyType.AES)) == 9
    user.set(keys[4], LABEL=b"renamed")
    assert user.find(LABEL=b"l1") == [keys[1], keys[7]]
    assert user.find(LABEL=b"renamed") == [keys[4]]
    user.call("C_DestroyObject", keys[4])
    assert user.find(LABEL=b"renamed") == []
    user.call("C_FindObjectsInit", {})
    assert refusal(user.call, "C_FindObjectsInit", {}) is Rv.OPERATION_ACTIVE
    user.call("C_FindObjectsFinal")
    assert refusal(user.call, "C_FindObjects", 1) is Rv.OPERATION_NOT_INITIALIZED
    assert refusal(user.call, "C_FindObjectsFinal") is Rv.OPERATION_NOT_INITIALIZED


def test_public_keys_of_others_are_told_as_they_are(user: User) -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    numbers = key.public_numbers()
    handle = user.call("C_CreateObject", template(
        CLASS=2, KEY_TYPE=KeyType.RSA, MODULUS=numbers.n.to_bytes(256, "big"),
        PUBLIC_EXPONENT=b"\1\0\1",
    ))  # fmt: skip
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert user.get(handle, Attr.PUBLIC_KEY_INFO) == spki
    assert user.get(handle, Attr.MODULUS_BITS) == 2048


def test_points_may_come_bare_or_wrapped_whatever_they_begin_with(user: User) -> None:
    seen_ambiguous = False
    for _ in range(1500):
        point = (
            ec.generate_private_key(ec.SECP256R1())
            .public_key()
            .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        )
        if point[1] == 63:  # reads like the header of an OCTET STRING
            seen_ambiguous = True
        elif seen_ambiguous:
            break
        else:
            continue
        for given in (point, b"\4\x41" + point):
            handle = user.call("C_CreateObject", template(
                CLASS=2, KEY_TYPE=KeyType.EC, EC_PARAMS=P256, EC_POINT=given
            ))  # fmt: skip
            assert user.get(handle, Attr.EC_POINT) == b"\4\x41" + point
        break


def test_what_is_nested_in_templates_counts_towards_a_clients_objects(caller: Caller) -> None:
    user = User(caller, login=False)
    nested = {number: bytes(64 << 10) for number in range(1 << 20, (1 << 20) + 60)}
    for _ in range(MAX_SESSION_BYTES // (60 * (64 << 10))):
        user.secret(bytes(16), PRIVATE=False, UNWRAP_TEMPLATE=nested)
    refused = refusal(user.secret, bytes(16), PRIVATE=False, UNWRAP_TEMPLATE=nested)
    assert refused is Rv.DEVICE_MEMORY


def test_an_answer_has_no_more_than_a_message(caller: Caller) -> None:
    user = User(caller, login=False)
    data = user.call("C_CreateObject", template(CLASS=ObjectClass.DATA, VALUE=bytes(64 << 10)))
    rooms = [Room(Attr.VALUE, 64 << 10)]
    assert user.call("C_GetAttributeValue", data, rooms * 64)[1] == Rv.OK
    assert refusal(user.call, "C_GetAttributeValue", data, rooms * 65) is Rv.DEVICE_MEMORY


def test_nobody_puts_another_key_in_the_place_of_a_pairs_public_half(
    module: Module, user: User
) -> None:
    # Applications that find it by its label would encrypt for whoever has put it there.
    public, _ = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "TOKEN": True, "WRAP": True, "LABEL": b"sdf:enc:1"},
        {"TOKEN": True, "UNWRAP": True},
    )
    stranger = User(connect(module), login=False)
    assert refusal(stranger.set, public, LABEL=b"other") is Rv.USER_NOT_LOGGED_IN
    assert refusal(stranger.call, "C_DestroyObject", public) is Rv.USER_NOT_LOGGED_IN
    assert stranger.find(LABEL=b"sdf:enc:1") == [public]
    officer = User(connect(module), login=False)
    user.call("C_Logout")
    officer.call("C_Login", 0, SO_PIN)
    officer.set(public, TRUSTED=True)
    officer.call("C_Logout")
    user.call("C_Login", 1, PIN)
    user.call("C_DestroyObject", public)
    # Nor beside it, or where there is none yet.
    point = stranger.get(stranger.ec(PRIVATE=False)[0], Attr.EC_POINT)
    made = template(CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.EC, EC_PARAMS=P256,
                    EC_POINT=point, TOKEN=True)  # fmt: skip
    assert refusal(stranger.call, "C_CreateObject", made) is Rv.USER_NOT_LOGGED_IN
    assert refusal(stranger.secret, bytes(16), TOKEN=True, PRIVATE=False) is (Rv.USER_NOT_LOGGED_IN)
    refused = refusal(
        stranger.pair, Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256, "TOKEN": True}, {"PRIVATE": False}
    )
    assert refused is Rv.USER_NOT_LOGGED_IN
    # What is no key, or of the session, is anybody's, as PKCS#11 has it.
    stranger.call("C_CreateObject", template(CLASS=ObjectClass.DATA, TOKEN=True))
    _, own = stranger.pair(Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256}, {"PRIVATE": False})
    stranger.set(own, LABEL=b"mine")
