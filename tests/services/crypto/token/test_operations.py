"""Encrypting, digesting, signing: the state machine of operations, and what no vector covers."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.calls import CALLS
from secgear.services.crypto.pkcs11.constants import (
    Attr,
    KeyType,
    Mech,
    MechanismFlag,
    Mgf,
    ObjectClass,
)
from secgear.services.crypto.pkcs11.mechanism import (
    CtrParams,
    EcdhParams,
    EddsaParams,
    GcmParams,
    Mechanism,
    PssParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import OWN
from secgear.services.crypto.rpc.mechanisms import MAX_PARAMETER
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, Size
from secgear.services.crypto.token import application
from secgear.services.crypto.token.application import MAX_HELD, Application
from secgear.services.crypto.token.calls.registry import table
from secgear.services.crypto.token.dispatch import answer
from secgear.services.crypto.token.mechanisms import MECHANISMS
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, connect
from tests.services.crypto.conftest import P256, ROOM, User, refusal, template

IV = bytes(range(16))
GCM = GcmParams(bytes(12), b"aad", 128)
CIPHERS: list[tuple[Mech, Any, int]] = [
    (Mech.AES_ECB, None, 16),
    (Mech.AES_CBC, IV, 16),
    (Mech.AES_CBC_PAD, IV, 1),
    (Mech.AES_CTR, CtrParams(32, IV), 1),
    (Mech.AES_GCM, GCM, 1),
    (Mech.AES_GCM, GcmParams(bytes(12), b"", 96), 1),
]


@pytest.mark.parametrize(("mech", "parameter", "unit"), CIPHERS)
def test_in_pieces_it_is_the_same(user: User, mech: Mech, parameter: Any, unit: int) -> None:
    key = user.aes()
    data = bytes(range(256))[: 160 if unit == 16 else 157]
    whole = user.run("Encrypt", mech, key, data, parameter)
    for what, given_data, wanted in (("Encrypt", data, whole), ("Decrypt", whole, data)):
        assert user.run(what, mech, key, given_data, parameter) == wanted
        for cut in (1, 16, 33, 64):
            user.call(f"C_{what}Init", Mechanism(mech, parameter), key)
            pieces = [
                user.call(f"C_{what}Update", given_data[at : at + cut], ROOM)
                for at in range(0, len(given_data), cut)
            ]
            assert b"".join(pieces) + user.call(f"C_{what}Final", ROOM) == wanted


@pytest.mark.parametrize(("mech", "parameter", "unit"), CIPHERS)
def test_asking_for_the_size_and_too_little_room_change_nothing(
    user: User, mech: Mech, parameter: Any, unit: int
) -> None:
    key, data = user.aes(), bytes(48)
    expected = user.run("Encrypt", mech, key, data, parameter)
    user.call("C_EncryptInit", Mechanism(mech, parameter), key)
    size = user.call("C_Encrypt", data, 0)
    assert isinstance(size, Size)
    assert size.number >= len(expected)
    assert user.call("C_Encrypt", data, 5) == Size(len(expected))
    assert user.call("C_Encrypt", data, EMPTY_BUFFER) == Size(len(expected))
    assert user.call("C_Encrypt", data, len(expected)) == expected
    assert refusal(user.call, "C_Encrypt", data, ROOM) is Rv.OPERATION_NOT_INITIALIZED
    user.call("C_EncryptInit", Mechanism(mech, parameter), key)
    made = b""
    for part in (data[:20], data[20:]):
        short = user.call("C_EncryptUpdate", part, 1)
        made += user.call("C_EncryptUpdate", part, ROOM) if isinstance(short, Size) else short
    assert made + user.call("C_EncryptFinal", ROOM) == expected


def test_one_operation_of_a_kind_at_a_time(user: User) -> None:
    key = user.aes()
    init = ("C_EncryptInit", Mechanism(Mech.AES_ECB), key)
    user.call(*init)
    assert refusal(user.call, *init) is Rv.OPERATION_ACTIVE
    user.call("C_DecryptInit", Mechanism(Mech.AES_ECB), key)
    user.call("C_DigestInit", Mechanism(Mech.SHA256))
    user.call("C_EncryptUpdate", bytes(16), ROOM)
    assert refusal(user.call, "C_Encrypt", bytes(16), ROOM) is Rv.OPERATION_ACTIVE
    user.call(*init)
    user.call("C_EncryptInit", None, 0)  # PKCS#11 3.0: ends it
    assert refusal(user.call, "C_Encrypt", bytes(16), ROOM) is Rv.OPERATION_NOT_INITIALIZED
    user.call("C_FindObjectsInit", {})
    user.call("C_SessionCancel", MechanismFlag.SIGN | MechanismFlag.FIND_OBJECTS)
    assert refusal(user.call, "C_FindObjects", 1) is Rv.OPERATION_NOT_INITIALIZED
    user.call("C_DigestUpdate", b"goes on")
    user.call("C_SessionCancel", MechanismFlag.DIGEST)
    assert refusal(user.call, "C_DigestFinal", ROOM) is Rv.OPERATION_NOT_INITIALIZED


@pytest.mark.parametrize(
    ("mech", "parameter", "data", "what", "expected"),
    [
        (Mech.AES_ECB, None, bytes(15), "Encrypt", Rv.DATA_LEN_RANGE),
        (Mech.AES_ECB, None, bytes(15), "Decrypt", Rv.ENCRYPTED_DATA_LEN_RANGE),
        (Mech.AES_CBC_PAD, IV, bytes(15), "Decrypt", Rv.ENCRYPTED_DATA_LEN_RANGE),
        (Mech.AES_CBC_PAD, IV, b"", "Decrypt", Rv.ENCRYPTED_DATA_LEN_RANGE),
        (Mech.AES_GCM, GCM, bytes(15), "Decrypt", Rv.ENCRYPTED_DATA_LEN_RANGE),
        (Mech.AES_GCM, GCM, bytes(32), "Decrypt", Rv.ENCRYPTED_DATA_INVALID),
        # The counter would come back to where it began.
        (Mech.AES_CTR, CtrParams(1, bytes(16)), bytes(33), "Encrypt", Rv.DATA_LEN_RANGE),
        (Mech.AES_CTR, CtrParams(8, b"\xff" * 16), bytes(17), "Encrypt", Rv.DATA_LEN_RANGE),
    ],
)
def test_data_that_does_not_fit_ends_the_operation(
    user: User, mech: Mech, parameter: Any, data: bytes, what: str, expected: Rv
) -> None:
    key = user.aes()
    assert refusal(user.run, what, mech, key, data, parameter) is expected
    again = refusal(user.call, f"C_{what}", data, ROOM)
    assert again is Rv.OPERATION_NOT_INITIALIZED


@pytest.mark.parametrize(
    ("mech", "parameter"),
    [
        (Mech.AES_ECB, IV),
        (Mech.AES_CBC, None),
        (Mech.AES_CBC, IV[:15]),
        (Mech.AES_CTR, CtrParams(0, IV)),
        (Mech.AES_CTR, CtrParams(129, IV)),
        (Mech.AES_CTR, CtrParams(64, IV[:8])),
        (Mech.AES_GCM, GcmParams(b"", b"", 128)),
        (Mech.AES_GCM, GcmParams(bytes(12), b"", 32)),
        (Mech.AES_GCM, GcmParams(bytes(12), b"", 121)),
        (Mech.AES_GCM, GcmParams(bytes(12), b"", 2**63)),
        (Mech.AES_GCM, None),
    ],
)
def test_parameters_that_do_not_fit_begin_nothing(user: User, mech: Mech, parameter: Any) -> None:
    key = user.aes()
    refused = refusal(user.call, "C_EncryptInit", Mechanism(mech, parameter), key)
    assert refused is Rv.MECHANISM_PARAM_INVALID
    assert refusal(user.call, "C_Encrypt", bytes(16), ROOM) is Rv.OPERATION_NOT_INITIALIZED


KEY_RULES: list[tuple[str, Mech, Any, Callable[[User], int], Rv]] = [
    ("Encrypt", Mech.AES_ECB, None, lambda u: 999, Rv.KEY_HANDLE_INVALID),
    ("Encrypt", Mech.AES_ECB, None, lambda u: u.ec()[0], Rv.KEY_TYPE_INCONSISTENT),
    ("Encrypt", Mech.AES_ECB, None, lambda u: u.aes(ENCRYPT=False),
     Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Sign", Mech.ECDSA, None, lambda u: u.ec()[0], Rv.KEY_TYPE_INCONSISTENT),
    ("Sign", Mech.ECDSA, None, lambda u: u.ec(SIGN=False)[1], Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Sign", Mech.ECDSA, None, lambda u: u.ec(ALLOWED_MECHANISMS=(Mech.ECDSA_SHA256,))[1],
     Rv.MECHANISM_INVALID),
    ("Verify", Mech.ECDSA, None, lambda u: u.ec()[1], Rv.KEY_TYPE_INCONSISTENT),
    ("Sign", Mech.RSA_PKCS, None, lambda u: u.ec()[1], Rv.KEY_TYPE_INCONSISTENT),
    ("Sign", Mech.AES_ECB, None, lambda u: u.aes(), Rv.MECHANISM_INVALID),
    ("Encrypt", Mech.SHA256, None, lambda u: u.aes(), Rv.MECHANISM_INVALID),
    ("Sign", Mech.AES_CMAC, None, lambda u: u.aes(), Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Sign", Mech.SHA256_HMAC, None, lambda u: u.aes(SIGN=True), Rv.KEY_TYPE_INCONSISTENT),
]  # fmt: skip


@pytest.mark.parametrize(("what", "mech", "parameter", "make", "expected"), KEY_RULES)
def test_keys_are_used_for_what_they_are_for(
    user: User, what: str, mech: Mech, parameter: Any, make: Callable[[User], int], expected: Rv
) -> None:
    key = make(user)
    refused = refusal(user.call, f"C_{what}Init", Mechanism(mech, parameter), key)
    assert refused is expected


@pytest.mark.parametrize(
    "mech", [m for m in Mech if MECHANISMS.get(m) is not None and MECHANISMS[m].digest]
)
def test_digests(user: User, mech: Mech) -> None:
    name = mech.name.lower().replace("sha_1", "sha1")
    data = bytes(range(200))
    expected = hashlib.new(name, data).digest()
    user.call("C_DigestInit", Mechanism(mech))
    assert user.call("C_Digest", data, 0) == Size(len(expected))
    assert user.call("C_Digest", data, 64) == expected
    user.call("C_DigestInit", Mechanism(mech))
    for part in (data[:77], b"", data[77:]):
        user.caller.call("C_DigestUpdate", user.session, part)
    assert user.call("C_DigestFinal", 64) == expected


def test_only_a_key_that_may_be_known_is_digested(user: User) -> None:
    open_key = user.secret(b"k" * 32, SENSITIVE=False, EXTRACTABLE=True)
    user.call("C_DigestInit", Mechanism(Mech.SHA256))
    user.caller.call("C_DigestKey", user.session, open_key)
    assert user.call("C_DigestFinal", 32) == hashlib.sha256(b"k" * 32).digest()
    user.call("C_DigestInit", Mechanism(Mech.SHA256))
    assert refusal(user.call, "C_DigestKey", user.aes()) is Rv.KEY_INDIGESTIBLE


PAIRS: list[tuple[Mech, dict[str, Any], list[tuple[Mech, Any]]]] = [
    (Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048}, [
        (Mech.SHA256_RSA_PKCS, None), (Mech.SHA3_384_RSA_PKCS, None),
        (Mech.SHA384_RSA_PKCS_PSS, PssParams(Mech.SHA384, Mgf.SHA384, 48)),
    ]),
    (Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256}, [(Mech.ECDSA_SHA256, None), (Mech.ECDSA, None)]),
    (Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": bytes.fromhex("06052b81040023")},
     [(Mech.ECDSA_SHA512, None), (Mech.ECDSA_SHA3_256, None)]),
    (Mech.EC_EDWARDS_KEY_PAIR_GEN, {"EC_PARAMS": b"\x13\x0cedwards25519"}, [(Mech.EDDSA, None)]),
    (Mech.EC_EDWARDS_KEY_PAIR_GEN, {"EC_PARAMS": b"\x13\x0aedwards448"},
     [(Mech.EDDSA, None), (Mech.EDDSA, EddsaParams(False, b""))]),
    (Mech.SM2_KEY_PAIR_GEN, {}, [(Mech.SM2, None), (Mech.SM2_SM3, None), (Mech.SM2_SM3, b"ALICE")]),
    (Mech.ML_DSA_KEY_PAIR_GEN, {"PARAMETER_SET": 1}, [(Mech.ML_DSA, None)]),
    (Mech.ML_DSA_KEY_PAIR_GEN, {"PARAMETER_SET": 3}, [(Mech.ML_DSA, None)]),
]  # fmt: skip


@pytest.mark.parametrize(("generator", "public", "mechanisms"), PAIRS)
def test_generated_pairs_sign_for_each_other(
    user: User, generator: Mech, public: dict[str, Any], mechanisms: list[tuple[Mech, Any]]
) -> None:
    verifier, signer = user.pair(generator, public | {"VERIFY": True}, {"SIGN": True})
    message = b"message of 32 bytes, which fits."
    for mech, parameter in mechanisms:
        signature = user.run("Sign", mech, signer, message, parameter)
        user.verify(mech, verifier, message, signature, parameter)
        changed = bytes([signature[0] ^ 1]) + signature[1:]
        bad = refusal(user.verify, mech, verifier, message, changed, parameter)
        assert bad is Rv.SIGNATURE_INVALID
        other = refusal(user.verify, mech, verifier, message[::-1], signature, parameter)
        assert other is Rv.SIGNATURE_INVALID
        short = refusal(user.verify, mech, verifier, message, signature[:-1], parameter)
        assert short is Rv.SIGNATURE_LEN_RANGE
        user.call("C_VerifyInit", Mechanism(mech, parameter), verifier)
        for part in (message[:5], message[5:]):
            user.caller.call("C_VerifyUpdate", user.session, part)
        user.caller.call("C_VerifyFinal", user.session, signature)


def test_rsa_signs_what_was_digested_elsewhere(user: User) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048, "VERIFY": True}, {"SIGN": True}
    )
    digest = hashlib.sha256(b"data").digest()
    info = bytes.fromhex("3031300d060960864801650304020105000420") + digest
    signature = user.run("Sign", Mech.RSA_PKCS, private, info)
    user.verify(Mech.SHA256_RSA_PKCS, public, b"data", signature)
    pss = PssParams(Mech.SHA256, Mgf.SHA256, 32)
    signature = user.run("Sign", Mech.RSA_PKCS_PSS, private, digest, pss)
    user.verify(Mech.SHA256_RSA_PKCS_PSS, public, b"data", signature, pss)
    long = refusal(user.run, "Sign", Mech.RSA_PKCS, private, bytes(246))
    assert long is Rv.DATA_LEN_RANGE
    short = refusal(user.run, "Sign", Mech.RSA_PKCS_PSS, private, digest[:-1], pss)
    assert short is Rv.DATA_LEN_RANGE
    salt = PssParams(Mech.SHA256, Mgf.SHA256, 1000)
    assert refusal(user.run, "Sign", Mech.RSA_PKCS_PSS, private, digest, salt) is Rv.KEY_SIZE_RANGE
    other = PssParams(Mech.SHA384, Mgf.SHA256, 32)
    wrong = refusal(user.run, "Sign", Mech.SHA256_RSA_PKCS_PSS, private, b"", other)
    assert wrong is Rv.MECHANISM_PARAM_INVALID


@pytest.mark.parametrize("size", [1, 20, 31, 32, 48, 64, 100])
def test_ecdsa_takes_digests_of_any_size(user: User, size: int) -> None:
    public, private = user.ec()
    digest = bytes(range(1, size + 1))
    signature = user.run("Sign", Mech.ECDSA, private, digest)
    user.verify(Mech.ECDSA, public, digest, signature)
    if size >= 32:  # the leftmost bits count
        user.verify(Mech.ECDSA, public, digest[:32], signature)


@pytest.mark.parametrize(
    ("generator", "params"),
    [
        (Mech.EC_KEY_PAIR_GEN, P256),
        (Mech.EC_MONTGOMERY_KEY_PAIR_GEN, b"\x13\x0acurve25519"),
    ],
)
@pytest.mark.parametrize("kdf", [1, 6])
def test_two_sides_agree(user: User, generator: Mech, params: bytes, kdf: int) -> None:
    sides = [user.pair(generator, {"EC_PARAMS": params}, {"DERIVE": True}) for _ in range(2)]
    made = template(KEY_TYPE=KeyType.AES, VALUE_LEN=32, ENCRYPT=True, DECRYPT=True)
    keys = []
    for own, other in (sides, sides[::-1]):
        point = user.get(other[0], Attr.EC_POINT)
        parameter = EcdhParams(kdf, b"info" if kdf != 1 else b"", point)
        keys.append(user.call("C_DeriveKey", Mechanism(Mech.ECDH1_DERIVE, parameter), own[1], made))
    sealed = user.run("Encrypt", Mech.AES_GCM, keys[0], b"hello", GCM)
    assert user.run("Decrypt", Mech.AES_GCM, keys[1], sealed, GCM) == b"hello"
    assert user.get(keys[0], Attr.ALWAYS_SENSITIVE) is True
    assert user.get(keys[0], Attr.LOCAL) is False


def test_two_sides_agree_by_encapsulation(user: User) -> None:
    public, private = user.pair(
        Mech.ML_KEM_KEY_PAIR_GEN, {"PARAMETER_SET": 3, "ENCAPSULATE": True}, {"DECAPSULATE": True}
    )
    made = template(KEY_TYPE=KeyType.AES, ENCRYPT=True, DECRYPT=True)
    mechanism = Mechanism(Mech.ML_KEM)
    assert user.call("C_EncapsulateKey", mechanism, public, made, 0) == (Size(1568), 0)
    ciphertext, one = user.call("C_EncapsulateKey", mechanism, public, made, ROOM)
    other = user.call("C_DecapsulateKey", mechanism, private, made, ciphertext)
    sealed = user.run("Encrypt", Mech.AES_GCM, one, b"hello", GCM)
    assert user.run("Decrypt", Mech.AES_GCM, other, sealed, GCM) == b"hello"


def test_random_bytes(user: User) -> None:
    assert len(user.call("C_GenerateRandom", 32)) == 32
    assert user.call("C_GenerateRandom", 32) != user.call("C_GenerateRandom", 32)
    assert refusal(user.call, "C_GenerateRandom", 2**31) is Rv.ARGUMENTS_BAD


def test_what_is_not_supported_says_so(user: User) -> None:
    served = table()
    names = {call.name for call in CALLS.values() if call.id not in served}
    assert not names


def test_many_threads_in_sessions_of_their_own_get_right_results(module: Module) -> None:
    caller = connect(module)
    user = User(caller)
    public, private = user.ec()
    key, wrong = user.aes(), []

    def work(number: int) -> None:
        own = User(caller, login=False)
        for at in range(40):
            message = b"%d/%d" % (number, at)
            params = GcmParams(number.to_bytes(4, "big") + at.to_bytes(8, "big"), message, 128)
            sealed = own.run("Encrypt", Mech.AES_GCM, key, message, params)
            signature = own.run("Sign", Mech.ECDSA_SHA256, private, message)
            own.verify(Mech.ECDSA_SHA256, public, message, signature)
            if own.run("Decrypt", Mech.AES_GCM, key, sealed, params) != message:
                wrong.append(message)
        done.append(number)

    done: list[int] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(16))
    assert not wrong


CLASSES = st.sampled_from([*(int(c) for c in ObjectClass), 99])
VALUES = st.one_of(st.booleans(), st.integers(0, 2**64 - 1), st.binary(max_size=40))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_whatever_comes_there_is_an_answer_and_the_token_lives(
    module: Module, data: st.DataObject
) -> None:
    call = data.draw(st.sampled_from([c for c in CALLS.values() if c.name != "C_InitToken"]))
    rest = data.draw(st.binary())
    attributes = data.draw(st.dictionaries(st.sampled_from([int(a) for a in Attr]), VALUES))
    attributes[Attr.CLASS] = data.draw(CLASSES)
    app = Application(module, "fuzzer", initialised=True)
    caller = Caller(lambda body: answer(app, body, OWN))
    session = caller.one("C_OpenSession", 0, 6)
    head = call.id.to_bytes(4, "big") + len(call.request).to_bytes(4, "big")
    body = head + call.request.encode() + session.to_bytes(8, "big") + rest
    reply = answer(app, body, OWN)
    rv = Rv.OK
    try:
        caller.call("C_CreateObject", session, attributes)
    except CryptokiError as error:
        rv = error.rv
    app.close_all()
    assert len(reply) >= 8
    assert rv is not Rv.GENERAL_ERROR
    assert module.slots[0].sessions == (0, 0)


def test_a_parameter_that_an_operation_would_keep_is_not_large(user: User) -> None:
    key = user.aes()
    for size, expected in ((MAX_PARAMETER, None), (MAX_PARAMETER + 1, Rv.MECHANISM_PARAM_INVALID)):
        mechanism = Mechanism(Mech.AES_GCM, GcmParams(bytes(12), bytes(size), 128))
        if expected is None:
            user.call("C_EncryptInit", mechanism, key)
            user.call("C_EncryptInit", None, 0)
        else:
            assert refusal(user.call, "C_EncryptInit", mechanism, key) is expected


def test_operations_of_all_sessions_keep_no_more_than_their_share(caller: Caller) -> None:
    first = User(caller)
    ed25519 = {"EC_PARAMS": bytes.fromhex("06032b6570")}
    _, key = first.pair(Mech.EC_EDWARDS_KEY_PAIR_GEN, ed25519, {"SIGN": True})
    users = [first, *(User(caller, login=False) for _ in range(MAX_HELD // (4 << 20)))]
    for user in users:
        user.call("C_SignInit", Mechanism(Mech.EDDSA), key)
    for user in users[:-1]:
        user.call("C_SignUpdate", bytes(4 << 20)[:-64])
        user.call("C_SignUpdate", bytes(64))
    assert refusal(users[-1].call, "C_SignUpdate", b"x") is Rv.DEVICE_MEMORY
    assert refusal(users[-1].call, "C_SignUpdate", b"x") is Rv.OPERATION_NOT_INITIALIZED
    assert len(first.call("C_SignFinal", ROOM)) == 64
    users[-1].call("C_SignInit", Mechanism(Mech.EDDSA), key)
    users[-1].call("C_SignUpdate", b"x")


def test_a_call_under_way_when_its_client_leaves_opens_no_session(module: Module) -> None:
    app = Application(module, "test", initialised=True)
    slot = module.slot(0)
    app.open_session(slot, 6)
    app.leave()
    assert refusal(app.open_session, slot, 6) is Rv.DEVICE_REMOVED
    assert slot.sessions == (0, 0)


def test_right_pins_at_once_do_not_lock_each_other_out(module: Module) -> None:
    callers = [connect(module, f"client {number}") for number in range(14)]
    start = threading.Barrier(len(callers))
    users: list[User] = []

    def work(caller: Caller) -> None:
        start.wait()
        users.append(User(caller))

    threads = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(users) == len(callers)


def test_an_operation_that_a_logout_overtakes_does_not_begin(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    public, private = user.ec(TOKEN=True)
    other = User(user.caller, login=False)
    find = Application.find

    def find_and_leave(app: Application, *arguments: Any) -> Any:
        found = find(app, *arguments)
        monkeypatch.undo()
        other.caller.call("C_Logout", other.session)
        return found

    monkeypatch.setattr(Application, "find", find_and_leave)
    refused = refusal(user.call, "C_SignInit", Mechanism(Mech.ECDSA), private)
    assert refused is Rv.USER_NOT_LOGGED_IN
    assert refusal(user.call, "C_Sign", bytes(32), ROOM) is Rv.OPERATION_NOT_INITIALIZED
    user.call("C_VerifyInit", Mechanism(Mech.ECDSA), public)  # which is not private


@pytest.mark.parametrize("what", ["digest", "signature"])
def test_what_operations_were_given_counts_as_what_they_keep(user: User, what: str) -> None:
    # A key that is not private takes no PIN, and a digest no key.
    much = bytes(2 << 20)
    public, _ = user.ec(PRIVATE=False)
    others = [User(user.caller, login=False) for _ in range(MAX_HELD // len(much))]

    def keep(one: User) -> None:
        if what == "digest":  # whose output has no room
            one.call("C_DigestInit", Mechanism(Mech.SHA256))
            assert one.call("C_Digest", much, EMPTY_BUFFER) == Size(32)
        else:
            mechanism = Mechanism(Mech.ECDSA)
            one.caller.call("C_VerifySignatureInit", one.session, mechanism, public, much)

    for one in others[:-1]:
        keep(one)
    if what == "signature":
        keep(others[-1])
    last = User(user.caller, login=False)
    assert refusal(keep, last) is Rv.DEVICE_MEMORY
    others[0].caller.call("C_SessionCancel", others[0].session, 0xFFFFFFFF)
    keep(last)


def test_what_searches_have_found_counts_as_well(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        user.aes(PRIVATE=False)
    monkeypatch.setattr(application, "MAX_HELD", 1000)
    first, second, third = (User(user.caller, login=False) for _ in range(3))
    first.call("C_FindObjectsInit", {})
    second.call("C_FindObjectsInit", {})
    assert refusal(third.call, "C_FindObjectsInit", {}) is Rv.DEVICE_MEMORY
    assert refusal(third.call, "C_FindObjects", 10) is Rv.OPERATION_NOT_INITIALIZED
    assert len(first.call("C_FindObjects", 10)) == 10
    third.call("C_FindObjectsInit", {})


def test_a_login_of_its_own_is_for_one_operation(user: User) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "ENCRYPT": True},
        {"SIGN": True, "DECRYPT": True, "ALWAYS_AUTHENTICATE": True},
    )
    sealed = user.run("Encrypt", Mech.RSA_PKCS, public, b"secret")
    mechanism = Mechanism(Mech.RSA_PKCS)
    user.call("C_DecryptInit", mechanism, private)
    user.call("C_SignInit", mechanism, private)
    user.call("C_Login", 2, PIN)
    user.call("C_Sign", b"digest", ROOM)
    assert refusal(user.call, "C_Decrypt", sealed, ROOM) is Rv.USER_NOT_LOGGED_IN
    user.call("C_DecryptInit", mechanism, private)
    user.call("C_Login", 2, PIN)
    assert user.call("C_Decrypt", sealed, ROOM) == b"secret"
