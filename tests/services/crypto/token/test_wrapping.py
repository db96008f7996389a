"""How keys leave and come: the rules of PKCS#11, and the attacks that these alone allow.

The attacks are those of Clulow (2003), and of Bortolozzo, Centenaro, Focardi and Steel (2010).
"""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from secgear.services.crypto.algorithms import keys, sm2
from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import Attr, Kdf, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import (
    EcdhParams,
    GcmParams,
    Mechanism,
    OaepParams,
    RsaAesParams,
)
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.token.mechanisms import MECHANISMS
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import SO_PIN, connect
from tests.services.crypto.conftest import P256, ROOM, User, refusal, rsa_of, template

KWP = Mechanism(Mech.AES_KEY_WRAP_KWP)
OAEP = Mechanism(Mech.RSA_PKCS_OAEP, OaepParams(Mech.SHA256, 2, 1, b""))
AES_TEMPLATE = {"CLASS": ObjectClass.SECRET_KEY, "KEY_TYPE": KeyType.AES}


def wrapper(user: User, **attributes: Any) -> int:
    return user.aes(
        **{"ENCRYPT": False, "DECRYPT": False, "WRAP": True, "UNWRAP": True} | attributes
    )


def wrap(user: User, outer: int, inner: int, mechanism: Mechanism = KWP) -> bytes:
    return user.call("C_WrapKey", mechanism, outer, inner, ROOM)


def unwrap(
    user: User, outer: int, wrapped: bytes, mechanism: Mechanism = KWP, **attributes: Any
) -> int:
    made = template(**AES_TEMPLATE | attributes)
    return user.call("C_UnwrapKey", mechanism, outer, wrapped, made)


@pytest.mark.parametrize("mech", [Mech.AES_KEY_WRAP, Mech.AES_KEY_WRAP_KWP])
def test_a_sensitive_key_leaves_and_comes_back(user: User, mech: Mech) -> None:
    outer, key = wrapper(user), user.aes(EXTRACTABLE=True)
    wrapped = wrap(user, outer, key, Mechanism(mech))
    again = unwrap(user, outer, wrapped, Mechanism(mech), DECRYPT=True)
    sealed = user.run("Encrypt", Mech.AES_ECB, key, b"0123456789abcdef")
    assert user.run("Decrypt", Mech.AES_ECB, again, sealed) == b"0123456789abcdef"
    assert user.get(again, Attr.LOCAL) is False
    assert user.get(again, Attr.ALWAYS_SENSITIVE) is False
    assert user.get(again, Attr.SENSITIVE) is True


def test_private_keys_leave_as_pkcs8(user: User) -> None:
    outer = wrapper(user)
    public, private = user.ec(EXTRACTABLE=True)
    wrapped = wrap(user, outer, private)
    again = unwrap(
        user, outer, wrapped, CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.EC, SIGN=True
    )
    user.verify(Mech.ECDSA, public, bytes(32), user.run("Sign", Mech.ECDSA, again, bytes(32)))
    wrong = {"CLASS": ObjectClass.PRIVATE_KEY, "KEY_TYPE": KeyType.RSA}
    assert refusal(unwrap, user, outer, wrapped, **wrong) is Rv.WRAPPED_KEY_INVALID


def test_rsa_carries_keys(user: User) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "WRAP": True},
        {"UNWRAP": True},
    )
    key = user.aes(EXTRACTABLE=True)
    for mechanism in (OAEP, Mechanism(Mech.RSA_PKCS)):
        again = unwrap(user, private, wrap(user, public, key, mechanism), mechanism, DECRYPT=True)
        sealed = user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
        assert user.run("Decrypt", Mech.AES_ECB, again, sealed) == bytes(16)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ({}, {"EXTRACTABLE": False}, Rv.KEY_UNEXTRACTABLE),
        ({"WRAP": False}, {"EXTRACTABLE": True}, Rv.KEY_FUNCTION_NOT_PERMITTED),
        ({}, {"EXTRACTABLE": True, "WRAP_WITH_TRUSTED": True}, Rv.KEY_NOT_WRAPPABLE),
        ({"ALLOWED_MECHANISMS": (Mech.AES_KEY_WRAP,)}, {"EXTRACTABLE": True},
         Rv.MECHANISM_INVALID),
        # Sensitive keys leave only under keys that nobody could know and that decrypt nothing.
        ({"DECRYPT": True}, {"EXTRACTABLE": True}, Rv.KEY_NOT_WRAPPABLE),
        ({"EXTRACTABLE": True}, {"EXTRACTABLE": True}, Rv.KEY_NOT_WRAPPABLE),
        ({"SENSITIVE": False}, {"EXTRACTABLE": True}, Rv.KEY_NOT_WRAPPABLE),
        # What is not sensitive may leave as it likes.
        ({"DECRYPT": True}, {"EXTRACTABLE": True, "SENSITIVE": False}, None),
    ],
)  # fmt: skip
def test_what_may_leave(
    user: User, outer: dict[str, Any], inner: dict[str, Any], expected: Rv | None
) -> None:
    outer_key, key = wrapper(user, **outer), user.aes(**inner)
    if expected is None:
        assert len(wrap(user, outer_key, key)) == 40
    else:
        assert refusal(wrap, user, outer_key, key) is expected


def test_a_wrapping_key_that_its_owner_knows_wraps_nothing_sensitive(user: User) -> None:
    known = user.secret(bytes(32), WRAP=True)
    assert refusal(wrap, user, known, user.aes(EXTRACTABLE=True)) is Rv.KEY_NOT_WRAPPABLE


def test_decrypting_what_was_wrapped_fails_also_by_way_of_a_copy(user: User) -> None:
    key = user.aes(EXTRACTABLE=True)
    outer = wrapper(user, DECRYPT=True, COPYABLE=True)
    copy = user.call("C_CopyObject", outer, {})
    user.set(outer, DECRYPT=False)
    assert refusal(wrap, user, outer, key) is Rv.KEY_NOT_WRAPPABLE
    assert refusal(wrap, user, copy, key) is Rv.KEY_NOT_WRAPPABLE
    clean = wrapper(user)
    assert refusal(user.set, clean, DECRYPT=True) is Rv.ATTRIBUTE_READ_ONLY
    asked = template(DECRYPT=True)
    assert refusal(user.call, "C_CopyObject", clean, asked) is Rv.ATTRIBUTE_READ_ONLY


def test_a_key_that_comes_back_is_not_told(user: User) -> None:
    outer, key = wrapper(user), user.aes(EXTRACTABLE=True)
    wrapped = wrap(user, outer, key)
    told = {"SENSITIVE": False, "EXTRACTABLE": True}
    assert refusal(unwrap, user, outer, wrapped, **told) is Rv.TEMPLATE_INCONSISTENT
    again = unwrap(user, outer, wrapped, EXTRACTABLE=True)
    assert refusal(user.get, again, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE
    assert refusal(wrap, user, wrapper(user, DECRYPT=True), again) is Rv.KEY_NOT_WRAPPABLE


def test_a_right_to_unwrap_is_none_to_decrypt(user: User) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "ENCRYPT": True},
        {"UNWRAP": True},
    )
    sealed = user.run("Encrypt", Mech.RSA_PKCS, public, b"a message")
    told = {"KEY_TYPE": KeyType.GENERIC_SECRET, "SENSITIVE": False, "EXTRACTABLE": True}
    refused = refusal(unwrap, user, private, sealed, Mechanism(Mech.RSA_PKCS), **told)
    assert refused is Rv.TEMPLATE_INCONSISTENT


def test_a_key_that_asks_for_a_login_each_time_does_nothing_where_none_can_be_made(
    user: User,
) -> None:
    outer = wrapper(user)
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "ENCRYPT": True},
        {"UNWRAP": True, "ALWAYS_AUTHENTICATE": True},
    )
    sealed = user.run("Encrypt", Mech.RSA_PKCS, public, bytes(32))
    refused = refusal(unwrap, user, private, sealed, Mechanism(Mech.RSA_PKCS))
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED
    public, private = user.pair(
        Mech.EC_KEY_PAIR_GEN,
        {"EC_PARAMS": P256},
        {"DERIVE": True, "ALWAYS_AUTHENTICATE": True},
    )
    params = EcdhParams(Kdf.NULL, b"", user.get(public, Attr.EC_POINT))
    derived = Mechanism(Mech.ECDH1_DERIVE, params)
    refused = refusal(user.call, "C_DeriveKey", derived, private, {})
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED
    assert wrap(user, outer, user.aes(EXTRACTABLE=True))


def test_a_wrapping_key_that_was_let_in_again_wraps_nothing_sensitive(user: User) -> None:
    first = wrapper(user)
    second = wrapper(user, EXTRACTABLE=True, SENSITIVE=True)
    again = unwrap(user, first, wrap(user, first, second), DECRYPT=True, WRAP=True)
    key = user.aes(EXTRACTABLE=True)
    for outer in (second, again):
        assert refusal(wrap, user, outer, key) is Rv.KEY_NOT_WRAPPABLE


def test_an_rsa_key_that_decrypts_wraps_nothing_sensitive(user: User) -> None:
    public, _ = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "WRAP": True},
        {"UNWRAP": True, "DECRYPT": True},
    )
    assert refusal(wrap, user, public, user.aes(EXTRACTABLE=True), OAEP) is Rv.KEY_NOT_WRAPPABLE


def test_a_trusted_key_may_carry_what_asks_for_trust(module: Module) -> None:
    user = User(connect(module))
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "WRAP": True, "TOKEN": True},
        {"UNWRAP": True, "TOKEN": True},
    )
    key = user.aes(EXTRACTABLE=True, WRAP_WITH_TRUSTED=True)
    assert refusal(wrap, user, public, key, OAEP) is Rv.KEY_NOT_WRAPPABLE
    officer = User(connect(module, "officer"), login=False)
    officer.call("C_Login", 0, SO_PIN)
    officer.set(public, TRUSTED=True)
    assert unwrap(user, private, wrap(user, public, key, OAEP), OAEP)


def test_keys_impose_attributes_on_what_they_carry(user: User) -> None:
    outer = wrapper(
        user,
        WRAP_TEMPLATE=template(ENCRYPT=True),
        UNWRAP_TEMPLATE=template(EXTRACTABLE=False, DECRYPT=True),
    )
    key = user.aes(EXTRACTABLE=True)
    other = user.aes(EXTRACTABLE=True, ENCRYPT=False)
    assert refusal(wrap, user, outer, other) is Rv.KEY_NOT_WRAPPABLE
    wrapped = wrap(user, outer, key)
    again = unwrap(user, outer, wrapped)
    assert user.get(again, Attr.DECRYPT) is True
    assert user.get(again, Attr.EXTRACTABLE) is False
    bad = refusal(unwrap, user, outer, wrapped, EXTRACTABLE=True)
    assert bad is Rv.TEMPLATE_INCONSISTENT


@pytest.mark.parametrize("at", [0, 8, 39])
def test_a_changed_wrapped_key_is_refused(user: User, at: int) -> None:
    outer, key = wrapper(user), user.aes(EXTRACTABLE=True)
    wrapped = bytearray(wrap(user, outer, key))
    wrapped[at] ^= 1
    assert refusal(unwrap, user, outer, bytes(wrapped)) is Rv.WRAPPED_KEY_INVALID
    assert refusal(unwrap, user, outer, b"") is Rv.WRAPPED_KEY_INVALID


def test_an_unwrapped_key_fits_its_template(user: User) -> None:
    outer, key = wrapper(user), user.aes(EXTRACTABLE=True)
    wrapped = wrap(user, outer, key)
    assert refusal(unwrap, user, outer, wrapped, VALUE_LEN=16) is Rv.TEMPLATE_INCONSISTENT
    assert refusal(unwrap, user, outer, wrapped, LOCAL=True) is Rv.ATTRIBUTE_READ_ONLY
    incomplete = template(CLASS=ObjectClass.SECRET_KEY)
    given = refusal(user.call, "C_UnwrapKey", KWP, outer, wrapped, incomplete)
    assert given is Rv.TEMPLATE_INCOMPLETE
    assert unwrap(user, outer, wrapped, VALUE_LEN=32)


# --- wrapping with GCM, SM2, and RSA with AES ----------------------------------------------------

RSA_AES = Mechanism(Mech.RSA_AES_KEY_WRAP, RsaAesParams(256, OaepParams(Mech.SHA256, 2, 1, b"")))
needs_sm2 = pytest.mark.skipif(Mech.SM2 not in MECHANISMS, reason="the system's OpenSSL has no SM2")


def gcm_wrapper(user: User, mech: Mech, **attributes: Any) -> int:
    generator, size = (
        (Mech.AES_KEY_GEN, {"VALUE_LEN": 32})
        if mech is Mech.AES_GCM_WRAP
        else (Mech.SM4_KEY_GEN, {})
    )
    given = {"WRAP": True, "UNWRAP": True, "ALLOWED_MECHANISMS": (int(mech),), **size}
    return user.call("C_GenerateKey", Mechanism(generator), template(**given | attributes))


@pytest.mark.parametrize("mech", [Mech.AES_GCM_WRAP, Mech.SM4_GCM_WRAP])
@pytest.mark.parametrize("aad", [None, b"for whom"])
def test_gcm_carries_sensitive_keys(user: User, mech: Mech, aad: bytes | None) -> None:
    outer, key, mechanism = (
        gcm_wrapper(user, mech),
        user.aes(EXTRACTABLE=True),
        Mechanism(mech, aad),
    )
    wrapped = wrap(user, outer, key, mechanism)
    assert len(wrapped) == 12 + 32 + 16
    assert wrapped != wrap(user, outer, key, mechanism)  # under another nonce
    again = unwrap(user, outer, wrapped, mechanism, DECRYPT=True)
    sealed = user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    assert user.run("Decrypt", Mech.AES_ECB, again, sealed) == bytes(16)
    for at in (0, 12, 30, 59):
        changed = wrapped[:at] + bytes([wrapped[at] ^ 1]) + wrapped[at + 1 :]
        assert refusal(unwrap, user, outer, changed, mechanism) is Rv.WRAPPED_KEY_INVALID
    other = Mechanism(mech, b"for somebody else")
    assert refusal(unwrap, user, outer, wrapped, other) is Rv.WRAPPED_KEY_INVALID
    for short in (b"", wrapped[:28]):
        assert refusal(unwrap, user, outer, short, mechanism) in (
            Rv.WRAPPED_KEY_LEN_RANGE,
            Rv.WRAPPED_KEY_INVALID,
            Rv.MECHANISM_PARAM_INVALID,
        )


@pytest.mark.parametrize(
    "allowed", [(), (Mech.AES_GCM,), (Mech.AES_GCM_WRAP, Mech.AES_GCM)], ids=str
)
def test_gcm_wraps_only_with_keys_that_do_nothing_else(
    user: User, allowed: tuple[int, ...]
) -> None:
    """Encrypting zeros under the nonce of a wrapped key would give what hides it."""
    outer = gcm_wrapper(user, Mech.AES_GCM_WRAP, ALLOWED_MECHANISMS=allowed, ENCRYPT=True)
    refused = refusal(wrap, user, outer, user.aes(EXTRACTABLE=True), Mechanism(Mech.AES_GCM_WRAP))
    assert refused in (Rv.KEY_FUNCTION_NOT_PERMITTED, Rv.MECHANISM_INVALID)
    clean = gcm_wrapper(user, Mech.AES_GCM_WRAP, ENCRYPT=True)
    wrapped = wrap(user, clean, user.aes(EXTRACTABLE=True), Mechanism(Mech.AES_GCM_WRAP))
    same_nonce = GcmParams(wrapped[:12], b"", 128)
    refused = refusal(user.run, "Encrypt", Mech.AES_GCM, clean, bytes(32), same_nonce)
    assert refused is Rv.MECHANISM_INVALID
    freed = template(ALLOWED_MECHANISMS=())
    assert refusal(user.call, "C_CopyObject", clean, freed) is Rv.ATTRIBUTE_READ_ONLY


@needs_sm2
def test_sm2_carries_secret_keys(user: User) -> None:
    public, private = user.pair(Mech.SM2_KEY_PAIR_GEN, {"WRAP": True}, {"UNWRAP": True})
    key, mechanism = user.aes(EXTRACTABLE=True), Mechanism(Mech.SM2_ENCRYPT)
    wrapped = wrap(user, public, key, mechanism)
    again = unwrap(user, private, wrapped, mechanism, DECRYPT=True)
    sealed = user.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    assert user.run("Decrypt", Mech.AES_ECB, again, sealed) == bytes(16)
    changed = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    assert refusal(unwrap, user, private, changed, mechanism) is Rv.WRAPPED_KEY_INVALID
    both, _ = user.pair(Mech.SM2_KEY_PAIR_GEN, {"WRAP": True}, {"UNWRAP": True, "DECRYPT": True})
    assert refusal(wrap, user, both, key, mechanism) is Rv.KEY_NOT_WRAPPABLE


@needs_sm2
def test_private_keys_of_sm2_leave_in_the_form_that_openssl_has(user: User) -> None:
    public, private = user.pair(
        Mech.SM2_KEY_PAIR_GEN, {"VERIFY": True}, {"SIGN": True, "EXTRACTABLE": True}
    )
    outer, mechanism = gcm_wrapper(user, Mech.SM4_GCM_WRAP), Mechanism(Mech.SM4_GCM_WRAP)
    wrapped = wrap(user, outer, private, mechanism)
    kind = {"CLASS": ObjectClass.PRIVATE_KEY, "KEY_TYPE": KeyType.SM2}
    again = unwrap(user, outer, wrapped, mechanism, SIGN=True, **kind)
    user.verify(Mech.SM2_SM3, public, b"data", user.run("Sign", Mech.SM2_SM3, again, b"data"))
    wrong = {"CLASS": ObjectClass.PRIVATE_KEY, "KEY_TYPE": KeyType.EC}
    assert refusal(unwrap, user, outer, wrapped, mechanism, **wrong) is Rv.WRAPPED_KEY_INVALID
    key = sm2.PrivateKey.generate()
    read = subprocess.run(
        ["openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER"],
        input=keys.to_pkcs8(key), capture_output=True, check=True,
    )  # fmt: skip
    assert read.stdout == key.public.spki()
    generated = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "SM2"], capture_output=True, check=True
    )
    made = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER"],
        input=generated.stdout, capture_output=True, check=True,
    )  # fmt: skip
    assert keys.to_pkcs8(keys.from_pkcs8(made.stdout)) == made.stdout
    swapped = keys.to_pkcs8(key)[:-65] + sm2.PrivateKey.generate().public.point
    for bad in (swapped, keys.to_pkcs8(key) + b"\0", keys.to_pkcs8(key)[:-1]):
        assert refusal(keys.from_pkcs8, bad) is Rv.WRAPPED_KEY_INVALID


def test_rsa_with_aes_lets_keys_in_and_out(user: User) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048, "WRAP": True}, {"UNWRAP": True}
    )
    ec_public, ec_private = user.ec(EXTRACTABLE=True, SENSITIVE=False)
    wrapped = wrap(user, public, ec_private, RSA_AES)
    kind = {"CLASS": ObjectClass.PRIVATE_KEY, "KEY_TYPE": KeyType.EC}
    again = unwrap(user, private, wrapped, RSA_AES, SIGN=True, **kind)
    signature = user.run("Sign", Mech.ECDSA, again, bytes(32))
    user.verify(Mech.ECDSA, ec_public, bytes(32), signature)
    for bad in (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), wrapped[:256], b"\0" * 296):
        refused = refusal(unwrap, user, private, bad, RSA_AES, **kind)
        assert refused is Rv.WRAPPED_KEY_INVALID
    assert refusal(unwrap, user, private, b"", RSA_AES, **kind) is Rv.WRAPPED_KEY_LEN_RANGE
    for params in (RsaAesParams(129, RSA_AES.parameter.oaep), RsaAesParams(0, OAEP.parameter)):  # type: ignore[union-attr, arg-type]
        refused = refusal(wrap, user, public, ec_private, Mechanism(RSA_AES.type, params))
        assert refused is Rv.MECHANISM_PARAM_INVALID
    other = Mechanism(RSA_AES.type, RsaAesParams(128, OAEP.parameter))  # type: ignore[arg-type]
    assert refusal(unwrap, user, private, wrapped, other, **kind) is Rv.WRAPPED_KEY_INVALID


def test_rsa_with_aes_carries_nothing_sensitive_whose_aes_key_could_be_let_in(
    user: User, module: Module
) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "WRAP": True, "TOKEN": True},
        {"UNWRAP": True},
    )
    key = user.aes(EXTRACTABLE=True)
    assert refusal(wrap, user, public, key, RSA_AES) is Rv.KEY_NOT_WRAPPABLE
    open_key = user.aes(EXTRACTABLE=True, SENSITIVE=False)
    wrapped = wrap(user, public, open_key, RSA_AES)
    assert unwrap(user, private, wrapped[:256], OAEP, DECRYPT=True)  # this is how
    officer = User(connect(module, "officer"), login=False)
    officer.call("C_Login", 0, SO_PIN)
    officer.set(public, TRUSTED=True)
    assert wrap(user, public, key, RSA_AES)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        (2**21701 - 1, 2**23209 - 1),  # it would take an hour to find that these are primes
        (2**2203 - 1, 2**521 - 1),
        (2**1279 - 1, (2**607 - 1) * (2**521 - 1)),
    ],
    ids=["large", "of different sizes", "no primes"],
)
def test_rsa_keys_that_are_none_come_in_by_no_way(caller: Caller, p: int, q: int) -> None:
    # Neither takes a PIN: keys that are not private are anybody's to make and to unwrap.
    user = User(caller, login=False)
    key = rsa_of(p, q)
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    value = bytes(range(32))
    unwrapper = user.secret(value, PRIVATE=False, UNWRAP=True)
    refused = refusal(
        user.call, "C_UnwrapKey", Mechanism(Mech.AES_KEY_WRAP_KWP), unwrapper,
        keywrap.aes_key_wrap_with_padding(value, der),
        template(CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.RSA, PRIVATE=False),
    )  # fmt: skip
    assert refused is Rv.WRAPPED_KEY_INVALID
    given = {
        name: number.to_bytes((number.bit_length() + 7) // 8, "big")
        for name, number in (
            ("MODULUS", p * q), ("PUBLIC_EXPONENT", 65537), ("PRIME_1", p), ("PRIME_2", q),
            ("PRIVATE_EXPONENT", key.private_numbers().d),
        )
    }  # fmt: skip
    made = template(CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.RSA, PRIVATE=False, **given)
    assert refusal(user.call, "C_CreateObject", made) is Rv.ATTRIBUTE_VALUE_INVALID
