"""Calls of PKCS#11 3.0 that work message by message, and those of 3.2 that verify."""

from __future__ import annotations

from typing import Any

import pytest

from secgear.services.crypto.pkcs11.constants import (
    Generator,
    KeyState,
    KeyType,
    Mech,
    MechanismFlag,
    Mgf,
)
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    ChachaParams,
    GcmParams,
    Mechanism,
    MessageParams,
    PssParams,
)
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, Size
from secgear.services.crypto.token.application import MAX_HELD
from secgear.services.crypto.token.mechanisms import MECHANISMS
from tests.services.crypto.conftest import P256, ROOM, User, flipped, refusal, template

DATA, AAD = bytes(range(100)), b"associated"
NONCE = bytes(range(12))
END = 1
AEADS = [
    (mech, kind, classic, params)
    for mech, kind, classic, params in (
        (Mech.AES_GCM, KeyType.AES, GcmParams(NONCE, AAD, 96), MessageParams(NONCE, tag_bits=96)),
        (Mech.SM4_GCM, KeyType.SM4, GcmParams(NONCE, AAD, 128), MessageParams(NONCE)),
        (Mech.AES_CCM, KeyType.AES, CcmParams(100, NONCE, AAD, 8),
         MessageParams(NONCE, tag_bits=64, size=100)),
        (Mech.SM4_CCM, KeyType.SM4, CcmParams(100, NONCE, AAD, 16),
         MessageParams(NONCE, size=100)),
        (Mech.CHACHA20_POLY1305, KeyType.CHACHA20, ChachaParams(NONCE, AAD),
         MessageParams(NONCE)),
    )
    if mech in MECHANISMS
]  # fmt: skip
by_aead = pytest.mark.parametrize(
    ("mech", "kind", "classic", "params"), AEADS, ids=[row[0].name for row in AEADS]
)


def new_key(user: User, kind: KeyType, **attributes: Any) -> int:
    value = bytes(16 if kind is KeyType.SM4 else 32)
    return user.secret(value, kind, **{"ENCRYPT": True, "DECRYPT": True} | attributes)


def params_of(params: MessageParams, iv: bytes, tag: bytes) -> MessageParams:
    return MessageParams(iv, 0, 0, tag, params.tag_bits, params.size)


@by_aead
def test_messages_are_what_single_operations_make(
    user: User, mech: Mech, kind: KeyType, classic: Any, params: MessageParams
) -> None:
    key = new_key(user, kind)
    expected = user.run("Encrypt", mech, key, DATA, classic)
    user.call("C_MessageEncryptInit", Mechanism(mech), key)
    user.call("C_MessageDecryptInit", Mechanism(mech), key)
    for _ in range(2):  # under one Init call
        sealed, iv, tag = user.call("C_EncryptMessage", params, AAD, DATA, ROOM)
        assert (sealed + tag, iv) == (expected, NONCE)
        opened = user.call("C_DecryptMessage", params_of(params, iv, tag), AAD, sealed, ROOM)
        assert opened == DATA
    user.caller.call("C_MessageEncryptFinal", user.session)
    user.caller.call("C_MessageDecryptFinal", user.session)
    over = refusal(user.call, "C_EncryptMessage", params, AAD, DATA, ROOM)
    assert over is Rv.OPERATION_NOT_INITIALIZED


@by_aead
def test_messages_in_pieces(
    user: User, mech: Mech, kind: KeyType, classic: Any, params: MessageParams
) -> None:
    key = new_key(user, kind)
    expected = user.run("Encrypt", mech, key, DATA, classic)
    user.call("C_MessageEncryptInit", Mechanism(mech), key)
    user.call("C_MessageDecryptInit", Mechanism(mech), key)
    for cut in (1, 33, 100):
        assert user.call("C_EncryptMessageBegin", params, AAD) == NONCE
        parts = [DATA[at : at + cut] for at in range(0, 100, cut)]
        made = [user.call("C_EncryptMessageNext", part, ROOM, 0) for part in parts[:-1]]
        last, tag = user.call("C_EncryptMessageNext", parts[-1], ROOM, END)
        sealed = b"".join(part for part, _ in made) + last
        assert sealed + tag == expected
        assert all(early == b"" for _, early in made)
        user.caller.call("C_DecryptMessageBegin", user.session, params_of(params, NONCE, tag), AAD)
        parts = [sealed[at : at + cut] for at in range(0, 100, cut)]
        # Nothing comes out before the tag was verified.
        assert all(user.call("C_DecryptMessageNext", part, ROOM, 0) == b"" for part in parts[:-1])
        assert user.call("C_DecryptMessageNext", parts[-1], ROOM, END) == DATA


@by_aead
def test_a_changed_message_is_refused_and_the_next_one_is_not(
    user: User, mech: Mech, kind: KeyType, classic: Any, params: MessageParams
) -> None:
    del classic
    key = new_key(user, kind)
    user.call("C_MessageEncryptInit", Mechanism(mech), key)
    user.call("C_MessageDecryptInit", Mechanism(mech), key)
    sealed, iv, tag = user.call("C_EncryptMessage", params, AAD, DATA, ROOM)
    good = params_of(params, iv, tag)
    bad = params_of(params, iv, bytes([tag[0] ^ 1]) + tag[1:])
    for given, aad, text in (
        (bad, AAD, sealed), (good, b"other", sealed), (good, AAD, flipped(sealed)),
        (params_of(params, flipped(iv), tag), AAD, sealed),
    ):  # fmt: skip
        refused = refusal(user.call, "C_DecryptMessage", given, aad, text, ROOM)
        assert refused is Rv.ENCRYPTED_DATA_INVALID
        user.caller.call("C_DecryptMessageBegin", user.session, given, aad)
        refused = refusal(user.call, "C_DecryptMessageNext", text, ROOM, END)
        assert refused is Rv.ENCRYPTED_DATA_INVALID
        ended = refusal(user.call, "C_DecryptMessageNext", text, ROOM, END)
        assert ended is Rv.OPERATION_NOT_INITIALIZED
    assert user.call("C_DecryptMessage", good, AAD, sealed, ROOM) == DATA


@pytest.mark.parametrize("generator", [Generator.GENERATE, Generator.GENERATE_RANDOM])
def test_initialisation_vectors_of_the_token_do_not_repeat(
    user: User, generator: Generator
) -> None:
    key = new_key(user, KeyType.AES)
    user.call("C_MessageEncryptInit", Mechanism(Mech.AES_GCM), key)
    user.call("C_MessageDecryptInit", Mechanism(Mech.AES_GCM), key)
    seen = set()
    for _ in range(50):
        # The client's own bytes are not used, whatever they are.
        asked = MessageParams(NONCE, generator=generator)
        sealed, iv, tag = user.call("C_EncryptMessage", asked, AAD, DATA, ROOM)
        seen.add(iv)
        opened = user.call("C_DecryptMessage", params_of(asked, iv, tag), AAD, sealed, ROOM)
        assert opened == DATA
        seen.add(user.call("C_EncryptMessageBegin", asked, AAD))
        user.call("C_EncryptMessageNext", b"", ROOM, END)
    assert len(seen) == 100
    assert NONCE not in seen


PARAM_RULES = [
    MessageParams(NONCE, generator=Generator.GENERATE_COUNTER),
    MessageParams(NONCE, generator=Generator.GENERATE_COUNTER_XOR),
    MessageParams(NONCE, generator=5),
    MessageParams(NONCE, generator=2**64 - 1),
    MessageParams(NONCE, fixed_bits=32, generator=Generator.GENERATE_RANDOM),
    MessageParams(NONCE[:11], generator=Generator.GENERATE),
    MessageParams(b""),
    MessageParams(NONCE, tag_bits=0),
    MessageParams(NONCE, tag_bits=32),
    MessageParams(NONCE, tag_bits=2**63),
]


@pytest.mark.parametrize("params", PARAM_RULES)
def test_parameters_of_messages_that_do_not_fit(user: User, params: MessageParams) -> None:
    user.call("C_MessageEncryptInit", Mechanism(Mech.AES_GCM), new_key(user, KeyType.AES))
    for call in (
        ("C_EncryptMessage", params, b"", b"", ROOM),
        ("C_EncryptMessageBegin", params, b""),
    ):
        assert refusal(user.call, *call) is Rv.MECHANISM_PARAM_INVALID
    user.call("C_EncryptMessage", MessageParams(NONCE), b"", b"", ROOM)  # goes on


def test_tags_that_are_not_as_long_as_they_say(user: User) -> None:
    user.call("C_MessageDecryptInit", Mechanism(Mech.AES_GCM), new_key(user, KeyType.AES))
    for tag, bits in ((bytes(12), 128), (bytes(16), 96), (b"", 0)):
        params = MessageParams(NONCE, tag=tag, tag_bits=bits)
        refused = refusal(user.call, "C_DecryptMessage", params, b"", b"", ROOM)
        assert refused is Rv.MECHANISM_PARAM_INVALID


def test_too_little_room_changes_nothing(user: User) -> None:
    key, params = new_key(user, KeyType.AES), MessageParams(NONCE)
    whole = user.run("Encrypt", Mech.AES_GCM, key, DATA, GcmParams(NONCE, b"", 128))
    user.call("C_MessageEncryptInit", Mechanism(Mech.AES_GCM), key)
    for room in (0, 99, EMPTY_BUFFER):
        short = user.call("C_EncryptMessage", params, b"", DATA, room)
        assert short == (Size(100), b"", b"")
    assert user.call("C_EncryptMessage", params, b"", DATA, 100)[0] == whole[:100]
    user.call("C_EncryptMessageBegin", params, b"")
    assert user.call("C_EncryptMessageNext", DATA, 99, END) == (Size(100), b"")
    assert user.call("C_EncryptMessageNext", DATA, 100, END) == (whole[:100], whole[100:])
    user.call("C_MessageDecryptInit", Mechanism(Mech.AES_GCM), key)
    sealed = params_of(params, NONCE, whole[100:])
    assert user.call("C_DecryptMessage", sealed, b"", whole[:100], 99) == Size(100)
    user.caller.call("C_DecryptMessageBegin", user.session, sealed, b"")
    user.call("C_DecryptMessageNext", whole[:50], EMPTY_BUFFER, 0)
    assert user.call("C_DecryptMessageNext", whole[50:100], 50, END) == Size(100)
    assert user.call("C_DecryptMessageNext", whole[50:100], 100, END) == DATA


STATES: list[tuple[list[tuple[Any, ...]], tuple[Any, ...], Rv]] = [
    ([], ("C_EncryptMessage", MessageParams(NONCE), b"", b"", ROOM), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_EncryptMessageNext", b"", ROOM, 0), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_MessageEncryptFinal",), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_DecryptMessageBegin", MessageParams(NONCE), b""), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_SignMessage", b"", b"", ROOM), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_SignMessageNext", b"", b"", 1, ROOM), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_VerifyMessage", b"", b"", b""), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_MessageVerifyFinal",), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_VerifySignature", b""), Rv.OPERATION_NOT_INITIALIZED),
    ([], ("C_VerifySignatureFinal",), Rv.OPERATION_NOT_INITIALIZED),
    (["init"], "init", Rv.OPERATION_ACTIVE),
    (["init"], ("C_EncryptMessageNext", b"", ROOM, 0), Rv.OPERATION_NOT_INITIALIZED),
    (["init", "begin"], "begin", Rv.OPERATION_ACTIVE),
    (["init", "begin"], ("C_EncryptMessage", MessageParams(NONCE), b"", b"", ROOM),
     Rv.OPERATION_ACTIVE),
    (["init", "begin"], ("C_MessageEncryptFinal",), Rv.OPERATION_ACTIVE),
    (["init", "begin", "end"], ("C_EncryptMessageNext", b"", ROOM, 0),
     Rv.OPERATION_NOT_INITIALIZED),
    (["init", "stop"], "begin", Rv.OPERATION_NOT_INITIALIZED),
    (["init", "begin", "cancel"], "begin", Rv.OPERATION_NOT_INITIALIZED),
    (["init", "begin", "none"], "begin", Rv.OPERATION_NOT_INITIALIZED),
    (["init", "logout"], "begin", Rv.OPERATION_NOT_INITIALIZED),
]  # type: ignore[list-item]  # fmt: skip


@pytest.mark.parametrize(("before", "call", "expected"), STATES)
def test_the_states_of_message_calls(user: User, before: Any, call: Any, expected: Rv) -> None:
    calls = {
        "init": ("C_MessageEncryptInit", Mechanism(Mech.AES_GCM), new_key(user, KeyType.AES)),
        "begin": ("C_EncryptMessageBegin", MessageParams(NONCE), b""),
        "end": ("C_EncryptMessageNext", b"", ROOM, END),
        "stop": ("C_MessageEncryptFinal",),
        "cancel": ("C_SessionCancel", MechanismFlag.MESSAGE_ENCRYPT),
        "none": ("C_MessageEncryptInit", None, 0),
        "logout": ("C_Logout",),
    }
    for one in before:
        name, *arguments = calls[one]
        user.caller.call(name, user.session, *arguments)
    name, *arguments = calls[call] if isinstance(call, str) else call
    assert refusal(user.caller.call, name, user.session, *arguments) is expected


KEY_RULES: list[tuple[str, Mech, Any, Rv]] = [
    ("Encrypt", Mech.AES_CBC, lambda u: u.aes(), Rv.MECHANISM_INVALID),
    ("Encrypt", Mech.RSA_PKCS, lambda u: u.aes(), Rv.MECHANISM_INVALID),
    ("Encrypt", Mech.AES_GCM, lambda u: u.aes(ENCRYPT=False), Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Decrypt", Mech.AES_GCM, lambda u: u.aes(DECRYPT=False), Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Encrypt", Mech.AES_GCM, lambda u: u.ec()[1], Rv.KEY_TYPE_INCONSISTENT),
    ("Sign", Mech.AES_GCM, lambda u: u.aes(), Rv.MECHANISM_INVALID),
    ("Sign", Mech.ECDSA, lambda u: u.ec()[0], Rv.KEY_TYPE_INCONSISTENT),
    ("Sign", Mech.ECDSA, lambda u: u.ec(SIGN=False)[1], Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Sign", Mech.ECDSA, lambda u: u.ec(ALWAYS_AUTHENTICATE=True)[1],
     Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Verify", Mech.ECDSA, lambda u: u.ec()[1], Rv.KEY_TYPE_INCONSISTENT),
    ("Verify", Mech.ECDSA, lambda u: 12346, Rv.KEY_HANDLE_INVALID),
]  # fmt: skip


@pytest.mark.parametrize(("what", "mech", "make", "expected"), KEY_RULES)
def test_keys_of_message_calls(user: User, what: str, mech: Mech, make: Any, expected: Rv) -> None:
    assert refusal(user.call, f"C_Message{what}Init", Mechanism(mech), make(user)) is expected


def test_messages_are_signed_and_verified(user: User) -> None:
    public, private = user.ec()
    user.call("C_MessageSignInit", Mechanism(Mech.ECDSA_SHA256), private)
    user.call("C_MessageVerifyInit", Mechanism(Mech.ECDSA_SHA256), public)
    for message in (b"one", b"two"):
        assert user.call("C_SignMessage", b"", message, 0) == Size(64)
        signature = user.call("C_SignMessage", b"", message, ROOM)
        user.caller.call("C_VerifyMessage", user.session, b"", message, signature)
        refused = refusal(user.call, "C_VerifyMessage", b"", message + b"!", signature)
        assert refused is Rv.SIGNATURE_INVALID
        user.caller.call("C_SignMessageBegin", user.session, b"")
        assert user.call("C_SignMessageNext", b"", message[:1], 0, ROOM) == b""
        assert user.call("C_SignMessageNext", b"", message[1:], 1, 63) == Size(64)
        signature = user.call("C_SignMessageNext", b"", message[1:], 1, ROOM)
        user.caller.call("C_VerifyMessageBegin", user.session, b"")
        user.caller.call("C_VerifyMessageNext", user.session, b"", message[:1], None)
        user.caller.call("C_VerifyMessageNext", user.session, b"", message[1:], signature)
    # They have no parameter of their own.
    assert refusal(user.call, "C_SignMessage", b"x", b"", ROOM) is Rv.MECHANISM_PARAM_INVALID
    assert refusal(user.call, "C_SignMessageBegin", b"x") is Rv.MECHANISM_PARAM_INVALID


def test_the_parameter_of_signed_messages_is_that_of_the_first_call(user: User) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048, "VERIFY": True}, {"SIGN": True}
    )
    pss = Mechanism(Mech.SHA256_RSA_PKCS_PSS, PssParams(Mech.SHA256, Mgf.SHA256, 32))
    user.call("C_MessageSignInit", pss, private)
    signature = user.call("C_SignMessage", b"", DATA, ROOM)
    user.verify(pss.type, public, DATA, signature, pss.parameter)  # type: ignore[arg-type]
    user.call("C_MessageSignInit", None, 0)
    bad = Mechanism(Mech.SHA256_RSA_PKCS_PSS, PssParams(Mech.SHA384, Mgf.SHA256, 32))
    refused = refusal(user.call, "C_MessageSignInit", bad, private)
    assert refused is Rv.MECHANISM_PARAM_INVALID
    refused = refusal(user.call, "C_SignMessage", b"", DATA, ROOM)
    assert refused is Rv.OPERATION_NOT_INITIALIZED


def test_what_messages_keep_is_limited(user: User) -> None:
    key = new_key(user, KeyType.AES)
    piece = bytes(1 << 20)
    sessions = [User(user.caller, login=False) for _ in range(MAX_HELD // (4 << 20) + 1)]
    refused = None
    for one in sessions:
        one.call("C_MessageDecryptInit", Mechanism(Mech.AES_GCM), key)
        params = MessageParams(NONCE, tag=bytes(16))
        one.caller.call("C_DecryptMessageBegin", one.session, params, b"")
        for _ in range(4):
            try:
                one.call("C_DecryptMessageNext", piece, ROOM, 0)
            except Exception as error:
                refused = error.rv  # type: ignore[attr-defined]
                break
    assert refused is Rv.DEVICE_MEMORY


def test_signatures_that_come_before_what_they_sign(user: User) -> None:
    public, private = user.ec()
    init = Mechanism(Mech.ECDSA_SHA256)
    signature = user.run("Sign", Mech.ECDSA_SHA256, private, DATA)

    def begin(given: bytes) -> None:
        user.call("C_VerifySignatureInit", init, public, given)

    begin(signature)
    assert refusal(begin, signature) is Rv.OPERATION_ACTIVE
    user.caller.call("C_VerifySignature", user.session, DATA)
    begin(signature)
    for part in (DATA[:7], DATA[7:]):
        user.caller.call("C_VerifySignatureUpdate", user.session, part)
    user.caller.call("C_VerifySignatureFinal", user.session)
    begin(flipped(signature))
    assert refusal(user.call, "C_VerifySignature", DATA) is Rv.SIGNATURE_INVALID
    assert refusal(user.call, "C_VerifySignature", DATA) is Rv.OPERATION_NOT_INITIALIZED
    begin(b"")
    assert refusal(user.call, "C_VerifySignature", DATA) is Rv.SIGNATURE_LEN_RANGE
    begin(signature)
    user.caller.call("C_VerifySignatureUpdate", user.session, DATA)
    assert refusal(user.call, "C_VerifySignature", b"") is Rv.OPERATION_ACTIVE


def test_each_message_is_a_use_of_the_key_as_it_is_then(user: User) -> None:
    def begun(key: int) -> int:
        user.caller.call("C_SessionCancel", user.session, 0xFFFFFFFF)
        user.call("C_MessageEncryptInit", Mechanism(Mech.AES_GCM), key)
        user.call("C_EncryptMessage", MessageParams(NONCE), AAD, DATA, ROOM)
        return key

    def refused() -> set[Rv]:
        params = MessageParams(NONCE)
        return {
            refusal(user.call, "C_EncryptMessage", params, AAD, DATA, ROOM),
            refusal(user.call, "C_EncryptMessageBegin", params, AAD),
        }

    for token in (False, True):
        user.set(begun(user.aes(TOKEN=token)), ENCRYPT=False)
        assert refused() == {Rv.KEY_FUNCTION_NOT_PERMITTED}
        user.call("C_DestroyObject", begun(user.aes(TOKEN=token)))
        assert refused() == {Rv.KEY_HANDLE_INVALID}
        user.caller.call("C_MessageEncryptFinal", user.session)


def test_messages_end_with_the_life_of_a_version(user: User) -> None:
    made = Mechanism(Mech.EC_KEY_PAIR_GEN)
    key = user.call(
        "S_NewKey", b"web", made, template(EC_PARAMS=P256, VERIFY=True), template(SIGN=True)
    )
    user.call("C_MessageSignInit", Mechanism(Mech.ECDSA), key)
    user.call("C_SignMessage", None, bytes(32), ROOM)
    user.call("S_SetKeyState", b"web", 1, KeyState.COMPROMISED)
    refused = refusal(user.call, "C_SignMessage", None, bytes(32), ROOM)
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED


def test_associated_data_of_messages_that_have_begun_is_limited(user: User) -> None:
    key = new_key(user, KeyType.AES, PRIVATE=False)
    much = bytes(1 << 20)
    others = [User(user.caller, login=False) for _ in range((MAX_HELD >> 21) + 1)]
    tagged = params_of(MessageParams(NONCE), NONCE, bytes(16))
    for one in others:
        one.call("C_MessageEncryptInit", Mechanism(Mech.AES_GCM), key)
        one.call("C_MessageDecryptInit", Mechanism(Mech.AES_GCM), key)
    for one in others[:-1]:
        one.call("C_EncryptMessageBegin", MessageParams(NONCE), much)
        one.caller.call("C_DecryptMessageBegin", one.session, tagged, much)
    last = others[-1]
    for name, params in (("Encrypt", MessageParams(NONCE)), ("Decrypt", tagged)):
        assert refusal(last.call, f"C_{name}MessageBegin", params, much) is Rv.DEVICE_MEMORY
        assert refusal(last.call, f"C_{name}MessageNext", b"", ROOM, END) is (
            Rv.OPERATION_NOT_INITIALIZED
        )
    others[0].call("C_EncryptMessageNext", b"", ROOM, END)
    last.call("C_EncryptMessageBegin", MessageParams(NONCE), much)
