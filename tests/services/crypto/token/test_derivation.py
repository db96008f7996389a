"""Derived keys: SM2's key exchange, HKDF, and what a derivation may not be used for."""

from __future__ import annotations

import hmac
import threading
from typing import Any

import pytest

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import Attr, Kdf, KeyType, Mech, ObjectClass, Salt
from secgear.services.crypto.pkcs11.mechanism import (
    EcdhParams,
    EddsaParams,
    HkdfParams,
    KdfParams,
    Mechanism,
    Sm2ExchangeParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.token.mechanisms import MECHANISMS
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import connect
from tests.services.crypto.conftest import P256, User, refusal, template

PARAMS = bytes.fromhex("06082a811ccf5501822d")
READABLE = {"SENSITIVE": False, "EXTRACTABLE": True}
sm2_only = pytest.mark.skipif(
    Mech.SM2_EXCHANGE not in MECHANISMS, reason="the system's OpenSSL has no SM2"
)

# --- SM2 -----------------------------------------------------------------------------------------

# GM/T 0003.5 (GB/T 32918.5-2017), annex B.
EXAMPLE = {
    "da": "81EB26E941BB5AF16DF116495F90695272AE2CD63D6C4AE1678418BE48230029",
    "db": "785129917D45A9EA5437A59356B82338EAADDA6CEB199088F14AE10DEFA229B5",
    "ra": "D4DE15474DB74D06491C440D305E012400990F3E390C7E87153C12DB2EA60BB3",
    "rb": "7E07124814B309489125EAED101113164EBF0F3458C5BD88335C1F9D596243D6",
    "key": "6C89347354DE2484C60B4AB1FDE4C6E5",
    "sb": "D3A0FE15DEE185CEAE907A6B595CC32A266ED7B3367E9983A896DC32FA20F8EB",
    "sa": "18C7894B3816DF16CF07B05C5EC0BEF5D655D58F779CC1B400A4F3884644DB88",
}


def imported(user: User, scalar: str, **attributes: Any) -> tuple[int, bytes]:
    """The handle of a private key, and its point."""
    key = user.call("C_CreateObject", template(**{
        "CLASS": ObjectClass.PRIVATE_KEY, "KEY_TYPE": KeyType.SM2, "EC_PARAMS": PARAMS,
        "VALUE": bytes.fromhex(scalar), "DERIVE": True,
    } | attributes))  # fmt: skip
    return key, user.get(key, Attr.PUBLIC_KEY_INFO)[-65:]


def made(user: User, **private: Any) -> tuple[int, bytes]:
    public, key = user.pair(Mech.SM2_KEY_PAIR_GEN, {}, {"DERIVE": True} | private)
    return key, user.get(public, Attr.EC_POINT)


def exchange(
    user: User, own: int, ephemeral: int, peer: bytes, peer_ephemeral: bytes, *,
    initiator: bool, identity: bytes = b"", peer_identity: bytes = b"", **attributes: Any,
) -> int:  # fmt: skip
    params = Sm2ExchangeParams(initiator, ephemeral, peer, peer_ephemeral, identity, peer_identity)
    given = template(**{"KEY_TYPE": KeyType.SM4, "ENCRYPT": True, "DECRYPT": True} | attributes)
    return user.call("C_DeriveKey", Mechanism(Mech.SM2_EXCHANGE, params), own, given)


@sm2_only
def test_the_standards_example_of_a_key_exchange(user: User) -> None:
    names = ("da", "db", "ra", "rb")
    (da, pa), (db, pb), (ra, pra), (rb, prb) = (imported(user, EXAMPLE[name]) for name in names)
    first = exchange(user, da, ra, pb, prb, initiator=True, **READABLE)
    second = exchange(
        user, db, rb, pa, pra, initiator=False, identity=b"1234567812345678", **READABLE
    )
    for key in (first, second):
        assert user.get(key, Attr.VALUE).hex().upper() == EXAMPLE["key"]
        assert user.get(key, Attr.LOCAL) is False
    for key, own, other in ((first, "sa", "sb"), (second, "sb", "sa")):
        assert user.get(key, Attr.SM2_CONFIRMATION).hex().upper() == EXAMPLE[own]
        assert user.get(key, Attr.SM2_PEER_CONFIRMATION).hex().upper() == EXAMPLE[other]


@sm2_only
def test_two_modules_agree_on_a_key_that_neither_tells(user: User, module: Module) -> None:
    other = User(connect(module), login=False)
    (da, pa), (ra, pra) = made(user), made(user)
    (db, pb), (rb, prb) = (made(other, PRIVATE=False) for _ in range(2))
    names = {"identity": b"alice", "peer_identity": b"bob"}
    first = exchange(user, da, ra, pb, prb, initiator=True, **names)  # type: ignore[arg-type]
    second = exchange(
        other, db, rb, pa, pra, initiator=False, identity=b"bob", peer_identity=b"alice",
        PRIVATE=False,
    )  # fmt: skip
    sealed = user.run("Encrypt", Mech.SM4_ECB, first, bytes(16))
    assert other.run("Decrypt", Mech.SM4_ECB, second, sealed) == bytes(16)
    assert user.get(first, Attr.SM2_CONFIRMATION) == other.get(second, Attr.SM2_PEER_CONFIRMATION)
    assert refusal(user.get, first, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE


@sm2_only
def test_sides_that_do_not_mean_the_same_confirm_nothing(user: User) -> None:
    da, pa = made(user)
    db, pb = made(user)
    for change in ({"initiator": True}, {"identity": b"mallory"}, {"peer": made(user)[1]}):
        (ra, pra), (rb, prb) = made(user), made(user)
        first = exchange(user, da, ra, pb, prb, initiator=True)
        given: dict[str, Any] = {"initiator": False, "peer": pa} | change
        second = exchange(user, db, rb, peer_ephemeral=pra, **given)
        expected = user.get(first, Attr.SM2_PEER_CONFIRMATION)
        assert user.get(second, Attr.SM2_CONFIRMATION) != expected


@sm2_only
def test_an_ephemeral_key_is_used_once(user: User, caller: Caller) -> None:
    own, _ = made(user)
    peer, peer_ephemeral = made(user)[1], made(user)[1]
    ephemeral, _ = made(user)
    exchange(user, own, ephemeral, peer, peer_ephemeral, initiator=True)
    again = refusal(exchange, user, own, ephemeral, peer, peer_ephemeral, initiator=True)
    assert again is Rv.KEY_HANDLE_INVALID
    # Also of calls at the same time only one has it.
    ephemeral, _ = made(user)
    outcomes: list[Rv] = []
    barrier = threading.Barrier(4)
    sessions = [User(caller, login=False) for _ in range(4)]

    def run(one: User) -> None:
        barrier.wait()
        try:
            exchange(one, own, ephemeral, peer, peer_ephemeral, initiator=True)
        except CryptokiError as error:
            outcomes.append(error.rv)
        else:
            outcomes.append(Rv.OK)

    threads = [threading.Thread(target=run, args=(one,)) for one in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes.count(Rv.OK) == 1
    assert set(outcomes) <= {Rv.OK, Rv.KEY_HANDLE_INVALID, Rv.OBJECT_HANDLE_INVALID}


EXCHANGE_RULES: list[tuple[dict[str, Any], Rv]] = [
    ({"peer": b"\4" + bytes(64)}, Rv.MECHANISM_PARAM_INVALID),
    ({"peer": b""}, Rv.MECHANISM_PARAM_INVALID),
    ({"peer_ephemeral": b"\4" + b"\xff" * 64}, Rv.MECHANISM_PARAM_INVALID),
    ({"peer_ephemeral": bytes(1)}, Rv.MECHANISM_PARAM_INVALID),
    ({"identity": bytes(8192)}, Rv.MECHANISM_PARAM_INVALID),
    ({"ephemeral": 0}, Rv.KEY_HANDLE_INVALID),
    ({"ephemeral": 2**64 - 1}, Rv.KEY_HANDLE_INVALID),
    ({"KEY_TYPE": KeyType.GENERIC_SECRET}, Rv.TEMPLATE_INCOMPLETE),
    ({"KEY_TYPE": KeyType.GENERIC_SECRET, "VALUE_LEN": 0}, Rv.KEY_SIZE_RANGE),
    ({"KEY_TYPE": KeyType.GENERIC_SECRET, "VALUE_LEN": 4097}, Rv.KEY_SIZE_RANGE),
    ({"VALUE_LEN": 32}, Rv.KEY_SIZE_RANGE),
    ({"CLASS": ObjectClass.PRIVATE_KEY}, Rv.TEMPLATE_INCONSISTENT),
    ({"SM2_CONFIRMATION": bytes(32)}, Rv.ATTRIBUTE_READ_ONLY),
]


@sm2_only
@pytest.mark.parametrize(("change", "expected"), EXCHANGE_RULES)
def test_exchanges_that_can_not_be(user: User, change: dict[str, Any], expected: Rv) -> None:
    arguments: dict[str, Any] = {
        "own": made(user)[0], "ephemeral": made(user)[0], "peer": made(user)[1],
        "peer_ephemeral": made(user)[1], "initiator": True,
    }  # fmt: skip
    assert refusal(exchange, user, **arguments | change) is expected


@sm2_only
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"DERIVE": False}, Rv.KEY_FUNCTION_NOT_PERMITTED),
        ({"ALLOWED_MECHANISMS": (Mech.SM2_SM3,)}, Rv.MECHANISM_INVALID),
        ({"ALWAYS_AUTHENTICATE": True}, Rv.KEY_FUNCTION_NOT_PERMITTED),
    ],
)
def test_keys_that_may_not_derive(user: User, attributes: dict[str, Any], expected: Rv) -> None:
    good, bad = made(user)[0], made(user, **attributes)[0]
    points = made(user)[1], made(user)[1]
    assert refusal(exchange, user, bad, good, *points, initiator=True) is expected
    assert refusal(exchange, user, good, bad, *points, initiator=True) is expected


@sm2_only
def test_a_key_of_the_token_is_no_ephemeral_key_nor_is_the_base_itself(user: User) -> None:
    kept, own, points = made(user, TOKEN=True)[0], made(user)[0], (made(user)[1], made(user)[1])
    for bad in (kept, own, user.ec(DERIVE=True)[1], user.aes(DERIVE=True)):
        refused = refusal(exchange, user, own, bad, *points, initiator=True)
        assert refused in (Rv.KEY_HANDLE_INVALID, Rv.KEY_TYPE_INCONSISTENT)
        user.get(bad, Attr.LABEL)  # it is still there


# --- HKDF ----------------------------------------------------------------------------------------

# RFC 5869, A.1 to A.3: input, salt, info, pseudorandom key, output.
RFC_5869 = [
    ("0b" * 22, "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9",
     "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
     "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
    (bytes(range(0x50)).hex(), bytes(range(0x60, 0xB0)).hex(), bytes(range(0xB0, 0x100)).hex(),
     "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
     "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e"
     "09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"),
    ("0b" * 22, "", "",
     "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
     "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
]  # fmt: skip


def hkdf(**changed: Any) -> HkdfParams:
    given: dict[str, Any] = {
        "extract": True, "expand": True, "hash": Mech.SHA256, "salt_type": Salt.NULL,
        "salt": b"", "salt_key": 0, "info": b"",
    }  # fmt: skip
    return HkdfParams(**given | changed)


def derived(user: User, base: int, params: Any, **attributes: Any) -> int:
    mechanism = Mechanism(Mech.HKDF_DERIVE, params)
    return user.call("C_DeriveKey", mechanism, base, template(**attributes))


@pytest.mark.parametrize("case", RFC_5869)
def test_hkdf_in_both_steps_and_at_once(user: User, case: tuple[str, ...]) -> None:
    secret, salt, info, pseudorandom, output = map(bytes.fromhex, case)
    base = user.secret(secret, KeyType.GENERIC_SECRET, DERIVE=True)
    salted: dict[str, Any] = {"salt_type": Salt.DATA, "salt": salt} if salt else {}
    wanted = {"VALUE_LEN": len(output), **READABLE}
    whole = derived(user, base, hkdf(info=info, **salted), **wanted)
    assert user.get(whole, Attr.VALUE) == output
    first = derived(
        user, base, hkdf(expand=False, **salted), KEY_TYPE=KeyType.HKDF, DERIVE=True, **READABLE
    )
    assert user.get(first, Attr.VALUE) == pseudorandom
    second = derived(user, first, hkdf(extract=False, info=info), **wanted)
    assert user.get(second, Attr.VALUE) == output
    if salt:
        key = user.secret(salt, KeyType.HKDF, DERIVE=True)
        by_key = hkdf(info=info, salt_type=Salt.KEY, salt_key=key)
        assert user.get(derived(user, base, by_key, **wanted), Attr.VALUE) == output
    data = user.call("C_DeriveKey", Mechanism(Mech.HKDF_DATA, hkdf(info=info, **salted)), base,
                     template(CLASS=ObjectClass.DATA, VALUE_LEN=len(output)))  # fmt: skip
    assert user.get(data, Attr.VALUE) == output
    assert user.get(data, Attr.PRIVATE) is True


@pytest.mark.parametrize("mech", [Mech.SHA512, Mech.SHA3_256, Mech.SM3])
def test_hkdf_with_other_hashes(user: User, mech: Mech) -> None:
    base = user.call("C_GenerateKey", Mechanism(Mech.HKDF_KEY_GEN), template(
        VALUE_LEN=32, DERIVE=True
    ))  # fmt: skip
    keys = [
        derived(user, base, hkdf(hash=mech, info=info), KEY_TYPE=KeyType.AES, VALUE_LEN=32,
                ENCRYPT=True, DECRYPT=True)
        for info in (b"one", b"one", b"two")
    ]  # fmt: skip
    sealed = [user.run("Encrypt", Mech.AES_ECB, key, bytes(16)) for key in keys]
    assert sealed[0] == sealed[1] != sealed[2]
    assert refusal(user.get, keys[0], Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE
    assert user.get(keys[0], Attr.ALWAYS_SENSITIVE) is True
    assert user.get(keys[0], Attr.NEVER_EXTRACTABLE) is True


HKDF_RULES: list[tuple[Any, dict[str, Any], Rv]] = [
    (hkdf(extract=False, expand=False), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (hkdf(hash=Mech.AES_ECB), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (hkdf(salt_type=0), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (hkdf(salt=b"x"), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (hkdf(salt_type=Salt.DATA), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (hkdf(salt_type=Salt.KEY), {"VALUE_LEN": 32}, Rv.KEY_HANDLE_INVALID),
    (hkdf(), {}, Rv.TEMPLATE_INCOMPLETE),
    (hkdf(), {"VALUE_LEN": 0}, Rv.KEY_SIZE_RANGE),
    (hkdf(), {"VALUE_LEN": 4097}, Rv.KEY_SIZE_RANGE),
    (hkdf(expand=False), {"VALUE_LEN": 16}, Rv.KEY_SIZE_RANGE),
    (
        hkdf(extract=False),
        {"VALUE_LEN": 32},
        Rv.KEY_SIZE_RANGE,
    ),  # 31 bytes are no output of SHA-256
    (hkdf(), {"VALUE_LEN": 17, "KEY_TYPE": KeyType.AES}, Rv.KEY_SIZE_RANGE),
    (hkdf(), {"VALUE_LEN": 32, "CLASS": ObjectClass.DATA}, Rv.TEMPLATE_INCONSISTENT),
    (b"octets", {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
]


@pytest.mark.parametrize(("params", "attributes", "expected"), HKDF_RULES)
def test_what_hkdf_refuses(
    user: User, params: Any, attributes: dict[str, Any], expected: Rv
) -> None:
    base = user.secret(bytes(31), KeyType.GENERIC_SECRET, DERIVE=True)
    if isinstance(params, bytes):
        with pytest.raises(CryptokiError) as refused:
            user.call("C_DeriveKey", Mechanism(Mech.HKDF_DERIVE), base, template(**attributes))
        assert refused.value.rv is expected
    else:
        assert refusal(derived, user, base, params, **attributes) is expected


def test_imported_hkdf_keys_derive_unless_it_is_said_otherwise(user: User) -> None:
    derived(user, user.secret(bytes(32), KeyType.HKDF), hkdf(), VALUE_LEN=32)
    other = user.secret(bytes(32), KeyType.HKDF, DERIVE=False)
    refused = refusal(derived, user, other, hkdf(), VALUE_LEN=32)
    assert refused is Rv.KEY_FUNCTION_NOT_PERMITTED


def test_hkdf_gives_data_only_where_the_base_key_imposes_nothing(user: User) -> None:
    imposed = {int(Attr.SENSITIVE): True, int(Attr.EXTRACTABLE): False}
    base = user.call("C_GenerateKey", Mechanism(Mech.HKDF_KEY_GEN), template(
        VALUE_LEN=32, DERIVE=True, DERIVE_TEMPLATE=imposed
    ))  # fmt: skip
    derived(user, base, hkdf(), VALUE_LEN=32)
    assert refusal(derived, user, base, hkdf(), VALUE_LEN=32, SENSITIVE=False) is (
        Rv.TEMPLATE_INCONSISTENT
    )
    mechanism = Mechanism(Mech.HKDF_DATA, hkdf())
    refused = refusal(user.call, "C_DeriveKey", mechanism, base, template(VALUE_LEN=32))
    assert refused is Rv.ATTRIBUTE_TYPE_INVALID


def test_what_a_key_imposes_holds_where_it_is_the_salt(user: User) -> None:
    # HMAC(key, x) is the first block of HKDF-Expand, and HKDF-Extract with the key as the salt.
    imposed = {int(Attr.SENSITIVE): True}
    base = user.call("C_GenerateKey", Mechanism(Mech.HKDF_KEY_GEN), template(
        VALUE_LEN=32, DERIVE=True, DERIVE_TEMPLATE=imposed
    ))  # fmt: skip
    chosen = user.secret(b"info\x01", KeyType.GENERIC_SECRET, DERIVE=True)
    salted = hkdf(expand=False, salt_type=Salt.KEY, salt_key=base)
    refused = refusal(derived, user, chosen, salted, VALUE_LEN=32, **READABLE)
    assert refused is Rv.TEMPLATE_INCONSISTENT
    data = Mechanism(Mech.HKDF_DATA, salted)
    refused = refusal(user.call, "C_DeriveKey", data, chosen, template(VALUE_LEN=32))
    assert refused is Rv.ATTRIBUTE_TYPE_INVALID
    same = [
        derived(user, chosen, salted, VALUE_LEN=32, SIGN=True),
        derived(user, base, hkdf(extract=False, info=b"info"), VALUE_LEN=32, SIGN=True),
    ]
    first, second = (user.run("Sign", Mech.SHA256_HMAC, key, b"") for key in same)
    assert first == second


def test_what_has_to_be_sensitive_is_not_told_byte_by_byte(user: User) -> None:
    # A MAC tells which of 256 keys of one byte it is, then which of 256 of two, and so on.
    imposed = {int(Attr.SENSITIVE): True}
    base = user.call("C_GenerateKey", Mechanism(Mech.GENERIC_SECRET_KEY_GEN), template(
        VALUE_LEN=32, DERIVE=True, DERIVE_TEMPLATE=imposed
    ))  # fmt: skip
    _, own = user.pair(Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256}, {
        "DERIVE": True, "DERIVE_TEMPLATE": imposed,
    })  # fmt: skip
    public, _ = user.pair(Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256})
    point = user.get(public, Attr.EC_POINT)
    ways: list[tuple[Mech, Any, int]] = [
        (Mech.HKDF_DERIVE, hkdf(), base),
        (Mech.SP800_108_COUNTER_KDF, KdfParams(Mech.SHA256_HMAC, 32, b"", b"x"), base),
        (Mech.ECDH1_DERIVE, EcdhParams(Kdf.NULL, b"", point), own),
        (Mech.ECDH1_DERIVE, EcdhParams(Kdf.SHA256_KDF, b"", point), own),
    ]
    for mech, params, key in ways:
        mechanism = Mechanism(mech, params)
        for size in (1, 15):
            refused = refusal(user.call, "C_DeriveKey", mechanism, key, template(VALUE_LEN=size))
            assert refused is Rv.KEY_SIZE_RANGE
        user.call("C_DeriveKey", mechanism, key, template(VALUE_LEN=16))


def test_secrets_that_can_be_tried_out_have_no_check_value(user: User) -> None:
    short = user.secret(b"1234", KeyType.GENERIC_SECRET)
    assert refusal(user.get, short, Attr.CHECK_VALUE) is Rv.ATTRIBUTE_TYPE_INVALID
    given = refusal(user.secret, b"1234", KeyType.GENERIC_SECRET, CHECK_VALUE=b"abc")
    assert given is Rv.ATTRIBUTE_VALUE_INVALID
    assert len(user.get(user.secret(bytes(16), KeyType.GENERIC_SECRET), Attr.CHECK_VALUE)) == 3


# --- SP 800-108 ----------------------------------------------------------------------------------


def counter_kdf(user: User, base: int, params: Any, **attributes: Any) -> int:
    mechanism = Mechanism(Mech.SP800_108_COUNTER_KDF, params)
    return user.call("C_DeriveKey", mechanism, base, template(**attributes))


@pytest.mark.parametrize(("prf", "name"), [("SHA256", "sha256"), ("SHA512", "sha512"),
                                           ("SHA3_256", "sha3_256")])  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize(
    ("before", "after"), [(b"", b"label\0context"), (b"all", b""), (b"a", b"b")]
)
def test_the_counter_kdf_is_one_mac_after_the_other(
    user: User, prf: str, name: str, bits: int, before: bytes, after: bytes
) -> None:
    base = user.secret(b"secret" * 6, KeyType.GENERIC_SECRET, DERIVE=True)
    params = KdfParams(Mech[f"{prf}_HMAC"], bits, before, after)
    key = counter_kdf(user, base, params, VALUE_LEN=150, **READABLE)
    blocks = [
        hmac.digest(b"secret" * 6, before + at.to_bytes(bits // 8, "big") + after, name)
        for at in range(1, 6)
    ]
    assert user.get(key, Attr.VALUE) == b"".join(blocks)[:150]


def test_the_counter_kdf_with_cmac(user: User) -> None:
    base = user.secret(bytes(16), DERIVE=True)
    key = counter_kdf(
        user, base, KdfParams(Mech.AES_CMAC, 32, b"", b"fixed"), VALUE_LEN=16, **READABLE
    )
    mac = user.secret(bytes(16), SIGN=True)
    expected = user.run("Sign", Mech.AES_CMAC, mac, b"\0\0\0\1fixed")
    assert user.get(key, Attr.VALUE) == expected


KDF_RULES: list[tuple[KdfParams, dict[str, Any], Rv]] = [
    (KdfParams(Mech.SHA256_HMAC, 0, b"", b"x"), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (KdfParams(Mech.SHA256_HMAC, 40, b"", b"x"), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (KdfParams(Mech.SHA256_HMAC, 32, b"", b""), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (KdfParams(Mech.SHA_1_HMAC, 32, b"", b"x"), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (KdfParams(Mech.SHA256, 32, b"", b"x"), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (KdfParams(Mech.AES_CMAC, 32, b"", b"x"), {"VALUE_LEN": 32}, Rv.MECHANISM_PARAM_INVALID),
    (KdfParams(Mech.SHA256_HMAC, 32, b"", b"x"), {}, Rv.TEMPLATE_INCOMPLETE),
    (KdfParams(Mech.SHA224_HMAC, 8, b"", b"x"), {"VALUE_LEN": 4097}, Rv.KEY_SIZE_RANGE),
]


@pytest.mark.parametrize(("params", "attributes", "expected"), KDF_RULES)
def test_what_the_counter_kdf_refuses(
    user: User, params: KdfParams, attributes: dict[str, Any], expected: Rv
) -> None:
    base = user.secret(bytes(32), KeyType.GENERIC_SECRET, DERIVE=True)
    assert refusal(counter_kdf, user, base, params, **attributes) is expected


# --- curves whose keys are bytes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "size"),
    [(b"\6\3\x2b\x65\x6e", 32), (b"\x13\x0acurve25519", 32),
     (b"\6\3\x2b\x65\x6f", 56), (b"\x13\x08curve448", 56)],
)  # fmt: skip
def test_two_sides_agree_on_montgomery_curves(user: User, params: bytes, size: int) -> None:
    one, two = (
        user.pair(Mech.EC_MONTGOMERY_KEY_PAIR_GEN, {"EC_PARAMS": params}, {"DERIVE": True})
        for _ in range(2)
    )
    keys = []
    for (_, own), (other, _) in ((one, two), (two, one)):
        point = user.get(other, Attr.EC_POINT)
        mechanism = Mechanism(Mech.ECDH1_DERIVE, EcdhParams(Kdf.NULL, b"", point))
        keys.append(user.call("C_DeriveKey", mechanism, own, template(**READABLE)))
    assert user.get(keys[0], Attr.VALUE) == user.get(keys[1], Attr.VALUE)
    assert len(user.get(keys[0], Attr.VALUE)) == size
    for bad in (b"", bytes(size - 1), bytes(size + 1), bytes(size)):  # the last has a low order
        mechanism = Mechanism(Mech.ECDH1_DERIVE, EcdhParams(Kdf.NULL, b"", bad))
        refused = refusal(user.call, "C_DeriveKey", mechanism, one[1], {})
        assert refused is Rv.MECHANISM_PARAM_INVALID


def test_curves_that_are_not_here(user: User) -> None:
    for mech in (Mech.EC_MONTGOMERY_KEY_PAIR_GEN, Mech.EC_EDWARDS_KEY_PAIR_GEN):
        for params in (b"", b"\x13\x0bcurve25519", b"\6\3\x2b\x65\x72"):
            refused = refusal(user.pair, mech, {"EC_PARAMS": params})
            assert refused is Rv.CURVE_NOT_SUPPORTED
        assert refusal(user.pair, mech, {}) is Rv.TEMPLATE_INCOMPLETE


def test_keys_of_448_bits_leave_and_come_back(user: User) -> None:
    public, private = user.pair(
        Mech.EC_EDWARDS_KEY_PAIR_GEN,
        {"EC_PARAMS": b"\6\3\x2b\x65\x71", "VERIFY": True},
        {"SIGN": True, "EXTRACTABLE": True},
    )
    outer = user.aes(ENCRYPT=False, DECRYPT=False, WRAP=True, UNWRAP=True)
    kwp = Mechanism(Mech.AES_KEY_WRAP_KWP)
    wrapped = user.call("C_WrapKey", kwp, outer, private, 1000)
    again = user.call("C_UnwrapKey", kwp, outer, wrapped, template(
        CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.EC_EDWARDS, SIGN=True
    ))  # fmt: skip
    info = user.get(public, Attr.PUBLIC_KEY_INFO)
    same = user.call("C_CreateObject", template(
        CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.EC_EDWARDS, PUBLIC_KEY_INFO=info,
        VERIFY=True,
    ))  # fmt: skip
    signature = user.run("Sign", Mech.EDDSA, again, b"data")
    assert len(signature) == 114
    user.verify(Mech.EDDSA, same, b"data", signature)
    for params in (EddsaParams(True, b""), EddsaParams(False, b"context")):
        refused = refusal(user.call, "C_SignInit", Mechanism(Mech.EDDSA, params), again)
        assert refused is Rv.MECHANISM_PARAM_INVALID
    _, ed25519 = user.pair(
        Mech.EC_EDWARDS_KEY_PAIR_GEN, {"EC_PARAMS": b"\6\3\x2b\x65\x70"}, {"SIGN": True}
    )
    plain = Mechanism(Mech.EDDSA, EddsaParams(False, b""))  # Ed25519ctx, which is not here
    assert refusal(user.call, "C_SignInit", plain, ed25519) is Rv.MECHANISM_PARAM_INVALID
