"""Two operations at once, operation states, and signatures that contain what they sign."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from secgear.services.crypto.pkcs11.constants import KeyType, Mech
from secgear.services.crypto.pkcs11.mechanism import CtrParams, GcmParams, Mechanism
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.messages import Size
from tests.adversary.crypto_host import PIN
from tests.services.crypto.conftest import ROOM, User, refusal

DATA = bytes(range(96))
CTR = Mechanism(Mech.AES_CTR, CtrParams(128, bytes(16)))
PARTS = (DATA[:10], DATA[10:50], DATA[50:])


@pytest.fixture
def keys(user: User) -> tuple[int, int]:
    mac = user.secret(bytes(32), KeyType.GENERIC_SECRET, SIGN=True, VERIFY=True)
    return user.aes(), mac


def test_digests_and_ciphertexts_at_once(user: User, keys: tuple[int, int]) -> None:
    sealed = user.run("Encrypt", Mech.AES_CTR, keys[0], DATA, CTR.parameter)
    for call, init, given in (
        ("C_DigestEncryptUpdate", "C_EncryptInit", DATA),
        ("C_DecryptDigestUpdate", "C_DecryptInit", sealed),
    ):
        user.call("C_DigestInit", Mechanism(Mech.SHA256))
        user.call(init, CTR, keys[0])
        made = b""
        for at in (slice(10), slice(10, 50), slice(50, None)):
            # A first try with too little room has digested nothing.
            assert isinstance(user.call(call, given[at], 1), Size)
            made += user.call(call, given[at], ROOM)
        assert made == (sealed if given is DATA else DATA)
        assert user.call("C_DigestFinal", ROOM) == hashlib.sha256(DATA).digest()
        user.call(init.replace("Init", "Final"), ROOM)


def test_signatures_and_ciphertexts_at_once(user: User, keys: tuple[int, int]) -> None:
    mac = Mechanism(Mech.SHA256_HMAC)
    user.call("C_SignInit", mac, keys[1])
    user.call("C_EncryptInit", CTR, keys[0])
    sealed = [user.call("C_SignEncryptUpdate", part, ROOM) for part in PARTS]
    signature = user.call("C_SignFinal", ROOM)
    assert signature == user.run("Sign", Mech.SHA256_HMAC, keys[1], DATA)
    user.call("C_EncryptFinal", ROOM)
    for given, verdict in ((signature, None), (bytes(32), Rv.SIGNATURE_INVALID)):
        user.call("C_VerifyInit", mac, keys[1])
        user.call("C_DecryptInit", CTR, keys[0])
        opened = [user.call("C_DecryptVerifyUpdate", part, ROOM) for part in sealed]
        assert b"".join(opened) == DATA
        user.call("C_DecryptFinal", ROOM)
        if verdict is None:
            user.caller.call("C_VerifyFinal", user.session, given)
        else:
            assert refusal(user.call, "C_VerifyFinal", given) is verdict


@pytest.mark.parametrize(
    ("call", "inits"),
    [
        ("C_DigestEncryptUpdate", ("Digest", "Encrypt")),
        ("C_DecryptDigestUpdate", ("Decrypt", "Digest")),
        ("C_SignEncryptUpdate", ("Sign", "Encrypt")),
        ("C_DecryptVerifyUpdate", ("Decrypt", "Verify")),
    ],
)
def test_both_have_to_be_under_way(
    user: User, keys: tuple[int, int], call: str, inits: tuple[str, str]
) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "Digest": (Mechanism(Mech.SHA256),),
        "Encrypt": (CTR, keys[0]), "Decrypt": (CTR, keys[0]),
        "Sign": (Mechanism(Mech.SHA256_HMAC), keys[1]),
        "Verify": (Mechanism(Mech.SHA256_HMAC), keys[1]),
    }  # fmt: skip
    for one in inits:
        assert refusal(user.call, call, DATA, ROOM) is Rv.OPERATION_NOT_INITIALIZED
        user.call(f"C_{one}Init", *arguments[one])
    assert len(user.call(call, DATA, ROOM)) == len(DATA)


def test_of_authenticated_data_nothing_is_digested_before_its_tag(
    user: User, keys: tuple[int, int]
) -> None:
    gcm = GcmParams(bytes(12), b"", 128)
    sealed = user.run("Encrypt", Mech.AES_GCM, keys[0], DATA, gcm)
    user.call("C_DigestInit", Mechanism(Mech.SHA256))
    user.call("C_DecryptInit", Mechanism(Mech.AES_GCM, gcm), keys[0])
    assert user.call("C_DecryptDigestUpdate", sealed, ROOM) == b""
    assert user.call("C_DecryptFinal", ROOM) == DATA
    assert user.call("C_DigestFinal", ROOM) == hashlib.sha256(b"").digest()


def test_states_are_not_saved(user: User) -> None:
    refused = refusal(user.call, "C_GetOperationState", ROOM)
    assert refused is Rv.OPERATION_NOT_INITIALIZED
    user.call("C_DigestInit", Mechanism(Mech.SHA256))
    assert refusal(user.call, "C_GetOperationState", ROOM) is Rv.STATE_UNSAVEABLE
    assert refusal(user.call, "C_SetOperationState", b"state", 0, 0) is Rv.SAVED_STATE_INVALID
    assert user.call("C_Digest", DATA, ROOM) == hashlib.sha256(DATA).digest()


# --- recovery ------------------------------------------------------------------------------------

RSA = Mechanism(Mech.RSA_PKCS)


def rsa_pair(user: User, **private: Any) -> tuple[int, int]:
    public = {"MODULUS_BITS": 2048, "VERIFY_RECOVER": True, "VERIFY": True}
    given = {"SIGN_RECOVER": True, "SIGN": True} | private
    return user.pair(Mech.RSA_PKCS_KEY_PAIR_GEN, public, given)


def test_what_was_signed_is_told(user: User) -> None:
    public, private = rsa_pair(user)
    for data in (b"", b"x", bytes(245)):
        user.call("C_SignRecoverInit", RSA, private)
        assert user.call("C_SignRecover", data, 0) == Size(256)
        signature = user.call("C_SignRecover", data, ROOM)
        assert signature == user.run("Sign", Mech.RSA_PKCS, private, data)
        user.call("C_VerifyRecoverInit", RSA, public)
        assert user.call("C_VerifyRecover", signature, ROOM) == data
    for bad, expected in (
        (bytes(256), Rv.SIGNATURE_INVALID), (b"\xff" * 256, Rv.SIGNATURE_INVALID),
        (signature[:-1], Rv.SIGNATURE_LEN_RANGE), (b"", Rv.SIGNATURE_LEN_RANGE),
        (signature[:-1] + bytes([signature[-1] ^ 1]), Rv.SIGNATURE_INVALID),
    ):  # fmt: skip
        user.call("C_VerifyRecoverInit", RSA, public)
        assert refusal(user.call, "C_VerifyRecover", bad, ROOM) is expected
    user.call("C_SignRecoverInit", RSA, private)
    assert refusal(user.call, "C_SignRecover", bytes(246), ROOM) is Rv.DATA_LEN_RANGE
    assert refusal(user.call, "C_SignRecover", b"", ROOM) is Rv.OPERATION_NOT_INITIALIZED


def test_keys_that_do_not_recover(user: User) -> None:
    public, private = user.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN, {"MODULUS_BITS": 2048, "VERIFY": True}, {"SIGN": True}
    )
    for call, mechanism, key, expected in (
        ("Sign", RSA, private, Rv.KEY_FUNCTION_NOT_PERMITTED),
        ("Verify", RSA, public, Rv.KEY_FUNCTION_NOT_PERMITTED),
        ("Sign", RSA, public, Rv.KEY_TYPE_INCONSISTENT),
        ("Sign", RSA, user.ec()[1], Rv.KEY_TYPE_INCONSISTENT),
        ("Sign", Mechanism(Mech.SHA256_RSA_PKCS), private, Rv.MECHANISM_INVALID),
        ("Sign", RSA, 9998, Rv.KEY_HANDLE_INVALID),
    ):
        assert refusal(user.call, f"C_{call}RecoverInit", mechanism, key) is expected


def test_recovery_with_a_key_that_asks_for_a_login(user: User) -> None:
    _, private = rsa_pair(user, ALWAYS_AUTHENTICATE=True)
    user.call("C_SignRecoverInit", RSA, private)
    assert refusal(user.call, "C_SignRecover", b"x", ROOM) is Rv.USER_NOT_LOGGED_IN
    user.call("C_SignRecoverInit", RSA, private)
    user.caller.call("C_Login", user.session, 2, PIN)
    assert len(user.call("C_SignRecover", b"x", ROOM)) == 256
