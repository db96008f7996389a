"""Batches: the same as one by one, each for itself, within their limits."""

from __future__ import annotations

from typing import Any

import pytest

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import KeyType, Mech
from secgear.services.crypto.pkcs11.mechanism import CtrParams, GcmParams, Mechanism, Mechanisms
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import MalformedMessage
from secgear.services.crypto.rpc.mechanisms import MAX_BATCH
from secgear.services.crypto.rpc.messages import build_request, parse_request
from secgear.services.crypto.token.calls.batches import MAX_BYTES
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, connect
from tests.services.crypto.conftest import User, flipped, refusal

DATA = [bytes([number]) * (number * 7) for number in range(20)]
NONCES = tuple(GcmParams(bytes([number]) * 12, b"%d" % number, 128) for number in range(20))


def test_a_batch_does_what_single_calls_do(user: User) -> None:
    key = user.aes()
    sealed = user.call("S_EncryptBatch", Mechanisms(Mech.AES_GCM, NONCES), key, DATA)
    assert sealed == [
        user.run("Encrypt", Mech.AES_GCM, key, data, nonce)
        for data, nonce in zip(DATA, NONCES, strict=True)
    ]
    assert user.call("S_DecryptBatch", Mechanisms(Mech.AES_GCM, NONCES), key, sealed) == DATA


@pytest.mark.parametrize("kind", ["ec", "hmac"])
def test_signatures_of_a_batch_are_each_verified(user: User, kind: str) -> None:
    if kind == "ec":
        public, private, mech = *user.ec(), Mech.ECDSA_SHA256
    else:
        public = private = user.secret(bytes(32), KeyType.GENERIC_SECRET, SIGN=True, VERIFY=True)
        mech = Mech.SHA256_HMAC
    one = Mechanisms(mech)
    signatures = user.call("S_SignBatch", one, private, DATA)
    user.verify(mech, public, DATA[3], signatures[3])
    assert user.call("S_VerifyBatch", one, public, DATA, signatures) == [b""] * len(DATA)
    signatures[5], signatures[7] = signatures[6], b""
    verdicts = user.call("S_VerifyBatch", one, public, DATA, signatures)
    assert verdicts[5] is Rv.SIGNATURE_INVALID
    assert verdicts[7] is Rv.SIGNATURE_LEN_RANGE
    assert [one for at, one in enumerate(verdicts) if at not in (5, 7)] == [b""] * 18


def test_one_that_fails_does_not_fail_the_others(user: User) -> None:
    key = user.aes()
    nonces = (*NONCES[:3], GcmParams(b"", b"", 128), *NONCES[4:])
    sealed = user.call("S_EncryptBatch", Mechanisms(Mech.AES_GCM, nonces), key, DATA)
    assert sealed[3] is Rv.MECHANISM_PARAM_INVALID
    sealed[3], sealed[4] = b"short", flipped(sealed[4])
    opened = user.call("S_DecryptBatch", Mechanisms(Mech.AES_GCM, NONCES), key, sealed)
    assert opened[3] is Rv.ENCRYPTED_DATA_LEN_RANGE
    assert opened[4] is Rv.ENCRYPTED_DATA_INVALID
    assert opened[5:] == DATA[5:]


RULES: list[tuple[str, Mech, str, Rv]] = [
    ("Encrypt", Mech.AES_GCM, "none", Rv.KEY_HANDLE_INVALID),
    ("Encrypt", Mech.SHA256, "aes", Rv.MECHANISM_INVALID),
    ("Sign", Mech.AES_GCM, "aes", Rv.MECHANISM_INVALID),
    ("Encrypt", Mech.ECDSA, "aes", Rv.MECHANISM_INVALID),
    ("Encrypt", Mech.AES_GCM, "weak", Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Decrypt", Mech.AES_GCM, "weak", Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Sign", Mech.ECDSA, "aes", Rv.KEY_TYPE_INCONSISTENT),
    ("Sign", Mech.ECDSA, "public", Rv.KEY_TYPE_INCONSISTENT),
    ("Sign", Mech.ECDSA, "asking", Rv.KEY_FUNCTION_NOT_PERMITTED),
    ("Sign", Mech.ECDSA, "limited", Rv.MECHANISM_INVALID),
]


@pytest.mark.parametrize(("what", "mech", "kind", "expected"), RULES)
def test_batches_obey_the_rules_of_keys(
    user: User, what: str, mech: Mech, kind: str, expected: Rv
) -> None:
    key = {
        "none": lambda: 998,
        "aes": user.aes,
        "weak": lambda: user.aes(ENCRYPT=False, DECRYPT=False),
        "public": lambda: user.ec()[0],
        "asking": lambda: user.ec(ALWAYS_AUTHENTICATE=True)[1],
        "limited": lambda: user.ec(ALLOWED_MECHANISMS=(Mech.ECDSA_SHA256,))[1],
    }[kind]()
    refused = refusal(user.call, f"S_{what}Batch", Mechanisms(mech), key, [bytes(16)])
    assert refused is expected


def test_a_batch_needs_the_login_that_its_key_needs(user: User, module: Module) -> None:
    key = user.aes(TOKEN=True)
    other = User(connect(module), login=False)
    call = ("S_EncryptBatch", Mechanisms(Mech.AES_ECB), key, [bytes(16)])
    assert refusal(other.call, *call) is Rv.KEY_HANDLE_INVALID
    other.caller.call("C_Login", other.session, 1, PIN)
    assert other.call(*call) == user.call(*call)


def test_numbers_that_do_not_fit_each_other_are_refused(user: User) -> None:
    key = user.aes()
    for parameters in (NONCES[:2], NONCES[:4], ()):
        batch = Mechanisms(Mech.AES_GCM, parameters)
        assert refusal(user.call, "S_EncryptBatch", batch, key, DATA[:3]) is Rv.ARGUMENTS_BAD
    public, private = user.ec()
    del private
    one = Mechanisms(Mech.ECDSA_SHA256)
    assert refusal(user.call, "S_VerifyBatch", one, public, DATA, []) is Rv.ARGUMENTS_BAD
    assert user.call("S_EncryptBatch", Mechanisms(Mech.AES_ECB), key, []) == []


def test_the_largest_batches_are_served_and_larger_ones_refused(user: User) -> None:
    key, one = user.aes(), Mechanisms(Mech.AES_CBC_PAD, (bytes(16),))
    size = MAX_BYTES // MAX_BATCH
    full = [bytes(size)] * MAX_BATCH
    assert len(user.call("S_EncryptBatch", one, key, full)) == MAX_BATCH
    full[0] += b"\0"
    assert refusal(user.call, "S_EncryptBatch", one, key, full) is Rv.DATA_LEN_RANGE
    call = BY_NAME["S_EncryptBatch"]
    body = build_request(call, (1, one, 2, [b""] * (MAX_BATCH + 1)), call.since)
    with pytest.raises(MalformedMessage):
        parse_request(body, call.since)


def test_p11_kits_clients_have_no_batches(module: Module) -> None:
    caller: Caller = connect(module, version=2)
    with pytest.raises(CryptokiError) as refused:
        caller.call("S_EncryptBatch", 1, Mechanisms(Mech.AES_ECB), 2, [])
    assert refused.value.rv is Rv.FUNCTION_NOT_SUPPORTED


def test_a_batch_leaves_operations_of_the_session_alone(user: User) -> None:
    key: Any = user.aes()
    user.call("C_EncryptInit", Mechanism(Mech.AES_ECB), key)
    user.call("S_EncryptBatch", Mechanisms(Mech.AES_ECB), key, [bytes(16)])
    assert user.call("C_Encrypt", bytes(16), 16) == user.run(
        "Encrypt", Mech.AES_ECB, key, bytes(16)
    )


@pytest.mark.parametrize("params", [
    GcmParams(bytes(12), b"", 128), CtrParams(128, bytes(16)),
])  # fmt: skip
def test_one_nonce_encrypts_one_input(user: User, params: Any) -> None:
    mech = Mech.AES_GCM if isinstance(params, GcmParams) else Mech.AES_CTR
    key, one = user.aes(), Mechanisms(mech, (params,))
    refused = refusal(user.call, "S_EncryptBatch", one, key, [b"first", b"other"])
    assert refused is Rv.MECHANISM_PARAM_INVALID
    sealed = user.call("S_EncryptBatch", one, key, [b"first"])
    assert user.call("S_DecryptBatch", one, key, sealed * 2) == [b"first"] * 2
