"""The calls of our own that GM/T 0018 needs: envelopes, PINs once more, Z, RSA, files."""

from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest

from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import Size
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, connect
from tests.services.crypto.conftest import ROOM, User, refusal, template

SM4_GEN = Mechanism(Mech.SM4_KEY_GEN)
SM2, RSA, ECB = Mechanism(Mech.SM2_ENCRYPT), Mechanism(Mech.RSA_PKCS), Mechanism(Mech.SM4_ECB)
USES = {"ENCRYPT": True, "DECRYPT": True, "SIGN": True, "VERIFY": True}


def sm2_pair(user: User, **private: Any) -> tuple[int, int]:
    return user.pair(
        Mech.SM2_KEY_PAIR_GEN, {"WRAP": True, "ENCRYPT": True}, {"UNWRAP": True} | private
    )


def rsa_pair(user: User, **private: Any) -> tuple[int, int]:
    public = {"MODULUS_BITS": 2048, "WRAP": True, "ENCRYPT": True, "VERIFY": True}
    return user.pair(Mech.RSA_PKCS_KEY_PAIR_GEN, public, {"UNWRAP": True} | private)


def kek(user: User, **more: Any) -> int:
    return user.call("C_GenerateKey", SM4_GEN, template(WRAP=True, UNWRAP=True, **more))


def enveloped(user: User, mech: Mechanism, wrapper: int, **more: Any) -> tuple[bytes, int]:
    return user.call(
        "S_GenerateEnvelopedKey", SM4_GEN, template(**USES | more), mech, wrapper, ROOM
    )


def opened(user: User, mech: Mechanism, key: int, envelope: bytes, **more: Any) -> int:
    return user.call(
        "S_OpenEnvelopedKey", mech, key, envelope, template(KEY_TYPE=KeyType.SM4, **USES | more)
    )


@pytest.mark.parametrize("kind", ["sm2", "rsa", "kek"])
def test_both_ends_of_an_envelope_have_the_same_key(user: User, kind: str) -> None:
    if kind == "kek":
        mech, wrapper, unwrapper = ECB, *(kek(user),) * 2
    else:
        mech, (wrapper, unwrapper) = (
            (SM2, sm2_pair(user)) if kind == "sm2" else (RSA, rsa_pair(user))
        )
    envelope, key = enveloped(user, mech, wrapper)
    assert len(envelope) == {"sm2": 97 + 16, "rsa": 256, "kek": 16}[kind]
    other = opened(user, mech, unwrapper, envelope)
    text = bytes(range(64))
    assert user.run("Decrypt", Mech.SM4_CBC, other, user.run(
        "Encrypt", Mech.SM4_CBC, key, text, bytes(16)), bytes(16)) == text  # fmt: skip
    assert user.run("Sign", Mech.SM3_HMAC, key, text) == user.run(
        "Sign", Mech.SM3_HMAC, other, text
    )


def test_what_was_in_an_envelope_does_not_leave_again(user: User) -> None:
    public, private = sm2_pair(user)
    envelope, key = enveloped(user, SM2, public)
    for handle in (key, opened(user, SM2, private, envelope)):
        assert user.get(handle, Attr.SENSITIVE) is True
        assert user.get(handle, Attr.EXTRACTABLE) is False
        assert user.get(handle, Attr.NEVER_EXTRACTABLE) is False
        assert user.get(handle, Attr.ALWAYS_SENSITIVE) is False
        assert refusal(user.get, handle, Attr.VALUE) == Rv.ATTRIBUTE_SENSITIVE
        wrapper = user.aes(WRAP=True, DECRYPT=False)
        wrap = Mechanism(Mech.AES_KEY_WRAP)
        assert refusal(user.call, "C_WrapKey", wrap, wrapper, handle, ROOM) == Rv.KEY_UNEXTRACTABLE


def test_a_key_from_an_envelope_wraps_nothing_sensitive(user: User) -> None:
    # Who opens the envelope would read it.
    public, _ = sm2_pair(user)
    generic = Mechanism(Mech.AES_KEY_GEN)
    uses = template(VALUE_LEN=32, WRAP=True, ENCRYPT=True)
    _, key = user.call("S_GenerateEnvelopedKey", generic, uses, SM2, public, ROOM)
    held, wrap = user.aes(EXTRACTABLE=True), Mechanism(Mech.AES_KEY_WRAP)
    assert refusal(user.call, "C_WrapKey", wrap, key, held, ROOM) == Rv.KEY_NOT_WRAPPABLE
    assert refusal(enveloped, user, ECB, kek(user), SENSITIVE=False) == Rv.TEMPLATE_INCONSISTENT
    assert refusal(enveloped, user, ECB, kek(user), EXTRACTABLE=True) == Rv.TEMPLATE_INCONSISTENT


def test_keys_do_only_what_they_may(user: User) -> None:
    public, private = user.pair(Mech.SM2_KEY_PAIR_GEN, {"ENCRYPT": True}, {"DECRYPT": True})
    assert refusal(enveloped, user, SM2, public) == Rv.KEY_FUNCTION_NOT_PERMITTED
    assert refusal(opened, user, SM2, private, bytes(113)) == Rv.KEY_FUNCTION_NOT_PERMITTED
    public, private = sm2_pair(user)
    assert refusal(enveloped, user, SM2, private) == Rv.WRAPPING_KEY_TYPE_INCONSISTENT
    assert refusal(enveloped, user, RSA, public) == Rv.WRAPPING_KEY_TYPE_INCONSISTENT
    assert refusal(enveloped, user, Mechanism(Mech.AES_ECB), user.aes(WRAP=True)) == (
        Rv.MECHANISM_INVALID
    )
    guarded = sm2_pair(user, ALWAYS_AUTHENTICATE=True)
    envelope, _ = enveloped(user, SM2, guarded[0])
    assert refusal(opened, user, SM2, guarded[1], envelope) == Rv.KEY_FUNCTION_NOT_PERMITTED


def test_templates_of_the_wrapping_keys_hold(user: User) -> None:
    strict = kek(
        user, WRAP_TEMPLATE={int(Attr.SIGN): False}, UNWRAP_TEMPLATE={int(Attr.SIGN): False}
    )
    assert refusal(enveloped, user, ECB, strict) == Rv.KEY_NOT_WRAPPABLE
    envelope, _ = enveloped(user, ECB, strict, SIGN=False)
    assert refusal(opened, user, ECB, strict, envelope) == Rv.TEMPLATE_INCONSISTENT
    assert user.get(opened(user, ECB, strict, envelope, SIGN=False), Attr.SIGN) is False
    refused = refusal(opened, user, ECB, strict, envelope, SIGN=False, SENSITIVE=False)
    assert refused == Rv.TEMPLATE_INCONSISTENT


def test_bad_envelopes_are_refused_and_say_no_more(user: User) -> None:
    public, private = sm2_pair(user)
    envelope, _ = enveloped(user, SM2, public)
    for at in (1, 40, 70, 100):
        changed = bytearray(envelope)
        changed[at] ^= 1
        assert refusal(opened, user, SM2, private, bytes(changed)) == Rv.WRAPPED_KEY_INVALID
    for short in (b"", bytes(1), envelope[:96]):
        refused = refusal(opened, user, SM2, private, short)
        assert refused in (Rv.WRAPPED_KEY_INVALID, Rv.WRAPPED_KEY_LEN_RANGE)
    assert refusal(opened, user, SM2, private, bytes(1 << 17)) == Rv.WRAPPED_KEY_LEN_RANGE
    # A key of another length than the algorithm has.
    long = user.run("Encrypt", Mech.SM2_ENCRYPT, public, bytes(17))
    assert refusal(opened, user, SM2, private, long) == Rv.WRAPPED_KEY_INVALID


def test_nothing_is_made_where_the_envelope_does_not_fit(user: User) -> None:
    public, _ = sm2_pair(user)
    before = user.find(CLASS=ObjectClass.SECRET_KEY)
    for room in (0, 112):
        told = user.call("S_GenerateEnvelopedKey", SM4_GEN, template(), SM2, public, room)
        assert told == (Size(113), 0)
    assert user.find(CLASS=ObjectClass.SECRET_KEY) == before


def test_an_exchanged_envelope_has_the_same_content(user: User) -> None:
    public, private = sm2_pair(user, DECRYPT=True)
    _, other_private = other = sm2_pair(user)
    envelope, key = enveloped(user, SM2, public)
    again = user.call("S_ExchangeEnvelope", SM2, private, SM2, other[0], envelope, ROOM)
    assert again != envelope
    text = bytes(16)
    assert user.run("Encrypt", Mech.SM4_ECB, key, text) == user.run(
        "Encrypt", Mech.SM4_ECB, opened(user, SM2, other_private, again), text
    )
    assert user.call("S_ExchangeEnvelope", SM2, private, SM2, other[0], envelope, 5) == Size(113)


def test_who_may_not_decrypt_exchanges_no_envelopes(user: User) -> None:
    public, private = sm2_pair(user)
    envelope, _ = enveloped(user, SM2, public)
    refused = refusal(user.call, "S_ExchangeEnvelope", SM2, private, SM2, public, envelope, ROOM)
    assert refused == Rv.KEY_FUNCTION_NOT_PERMITTED


def test_a_pin_is_checked_though_the_user_is_logged_in(user: User, module: Module) -> None:
    user.call("S_CheckPIN", PIN)
    assert refusal(user.call, "S_CheckPIN", b"wrong") == Rv.PIN_INCORRECT
    stranger = User(connect(module), login=False)
    stranger.call("S_CheckPIN", PIN)
    assert refusal(sm2_pair, stranger) == Rv.USER_NOT_LOGGED_IN  # to know it is no login


def test_guessing_by_checks_locks_the_pin(user: User) -> None:
    for _ in range(10):
        assert refusal(user.call, "S_CheckPIN", b"wrong") == Rv.PIN_INCORRECT
    assert refusal(user.call, "S_CheckPIN", PIN) == Rv.PIN_LOCKED


def test_a_digest_that_begins_with_z_is_what_sm2_signs(user: User) -> None:
    public, private = user.pair(Mech.SM2_KEY_PAIR_GEN, {"VERIFY": True}, {"SIGN": True})
    point = user.get(public, Attr.EC_POINT)[-65:]
    for identity in (b"", b"ALICE123@YAHOO.COM"):
        user.call("S_DigestInitSM2", point, identity)
        user.call("C_DigestUpdate", b"message ")
        user.call("C_DigestUpdate", b"digest")
        digest = user.call("C_DigestFinal", ROOM)
        signature = user.run("Sign", Mech.SM2, private, digest)
        user.verify(Mech.SM2_SM3, public, b"message digest", signature, identity or None)
    assert refusal(user.call, "S_DigestInitSM2", bytes(65), b"") == Rv.DATA_INVALID
    assert refusal(user.call, "S_DigestInitSM2", point, bytes(sm2.MAX_ID + 1)) == Rv.DATA_INVALID
    user.call("S_DigestInitSM2", point, b"")
    assert refusal(user.call, "S_DigestInitSM2", point, b"") == Rv.OPERATION_ACTIVE


def test_rsa_with_the_public_key_undoes_a_signature(user: User) -> None:
    public, private = rsa_pair(user, SIGN=True)
    digest = hashlib.sha256(b"text").digest()
    signature = user.run("Sign", Mech.RSA_PKCS, private, digest)
    block = user.call("S_PublicRSA", public, signature, ROOM)
    assert block == b"\0\1" + b"\xff" * (253 - 32) + b"\0" + digest
    assert user.call("S_PublicRSA", public, signature, 255) == Size(256)
    for bad in (b"", signature[1:], b"\xff" * 256, signature + b"\0"):
        assert refusal(user.call, "S_PublicRSA", public, bad, ROOM) == Rv.DATA_LEN_RANGE
    assert refusal(user.call, "S_PublicRSA", private, signature, ROOM) == Rv.KEY_TYPE_INCONSISTENT


def test_writes_to_different_parts_of_a_value_are_all_there(user: User, module: Module) -> None:
    data = user.call("C_CreateObject", template(
        CLASS=ObjectClass.DATA, TOKEN=True, PRIVATE=False, VALUE=bytes(64)
    ))  # fmt: skip

    def write(at: int) -> None:
        writer = User(connect(module), login=False)
        for turn in range(8):
            writer.call("S_WriteValue", data, 8 * at + turn, bytes((8 * at + turn,)))

    threads = [threading.Thread(target=write, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert user.get(data, Attr.VALUE) == bytes(range(64))


def test_a_value_keeps_its_length(user: User) -> None:
    data = user.call("C_CreateObject", template(CLASS=ObjectClass.DATA, VALUE=b"abcd"))
    user.call("S_WriteValue", data, 2, b"xy")
    user.call("S_WriteValue", data, 4, b"")
    for offset, piece in ((3, b"xy"), (5, b""), (2**64 - 1, b"x")):
        assert refusal(user.call, "S_WriteValue", data, offset, piece) == Rv.DATA_LEN_RANGE
    assert user.get(data, Attr.VALUE) == b"abxy"
    assert refusal(user.call, "S_WriteValue", user.aes(), 0, b"x") == Rv.OBJECT_HANDLE_INVALID
    fixed = user.call(
        "C_CreateObject", template(CLASS=ObjectClass.DATA, VALUE=b"abcd", MODIFIABLE=False)
    )
    with pytest.raises(CryptokiError, match="ACTION_PROHIBITED"):
        user.call("S_WriteValue", fixed, 0, b"x")
