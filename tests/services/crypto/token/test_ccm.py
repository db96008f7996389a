"""CCM: its parameters, the length that it has to be told, and many threads at once."""

from __future__ import annotations

import threading

import pytest

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import KeyType, Mech
from secgear.services.crypto.pkcs11.mechanism import CcmParams, Mechanism, Parameter
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.messages import Size
from secgear.services.crypto.token.mechanisms import MECHANISMS
from tests.services.crypto.conftest import ROOM, User, refusal

MECHS = [mech for mech in (Mech.AES_CCM, Mech.SM4_CCM) if mech in MECHANISMS]
NONCE = bytes(12)


def key_of(user: User, mech: Mech, value: bytes = bytes(16)) -> int:
    kind = KeyType.AES if mech is Mech.AES_CCM else KeyType.SM4
    return user.secret(value, kind, ENCRYPT=True, DECRYPT=True)


@pytest.mark.parametrize("mech", MECHS)
@pytest.mark.parametrize(
    "parameter",
    [
        None,
        CcmParams(0, bytes(6), b"", 16),
        CcmParams(0, bytes(14), b"", 16),
        CcmParams(0, NONCE, b"", 2),
        CcmParams(0, NONCE, b"", 5),
        CcmParams(0, NONCE, b"", 18),
        CcmParams(0, NONCE, b"", 2**63),
        CcmParams((1 << 20) + 1, NONCE, b"", 16),
        CcmParams(2**64 - 1, NONCE, b"", 16),
        CcmParams(1 << 16, bytes(13), b"", 16),  # more than its two bytes of length can say
    ],
)
def test_parameters_that_ccm_does_not_have(user: User, mech: Mech, parameter: Parameter) -> None:
    key = key_of(user, mech)
    refused = refusal(user.call, "C_EncryptInit", Mechanism(mech, parameter), key)
    assert refused is Rv.MECHANISM_PARAM_INVALID


@pytest.mark.parametrize("mech", MECHS)
def test_the_data_is_as_long_as_it_was_said_to_be(user: User, mech: Mech) -> None:
    key, params = key_of(user, mech), CcmParams(10, NONCE, b"aad", 8)
    user.call("C_EncryptInit", Mechanism(mech, params), key)
    assert user.call("C_Encrypt", bytes(10), 0) == Size(18)
    sealed = user.call("C_Encrypt", bytes(10), ROOM)
    assert user.run("Decrypt", mech, key, sealed, params) == bytes(10)
    for length in (0, 9, 11):
        refused = refusal(user.run, "Encrypt", mech, key, bytes(length), params)
        assert refused is Rv.DATA_LEN_RANGE
    for wrong in (b"", sealed[:-1], sealed + b"\0", sealed[:8]):
        refused = refusal(user.run, "Decrypt", mech, key, wrong, params)
        assert refused is Rv.ENCRYPTED_DATA_LEN_RANGE
    other = CcmParams(10, NONCE, b"other", 8)
    refused = refusal(user.run, "Decrypt", mech, key, sealed, other)
    assert refused is Rv.ENCRYPTED_DATA_INVALID


@pytest.mark.parametrize("mech", MECHS)
def test_empty_data_has_a_mac(user: User, mech: Mech) -> None:
    key, params = key_of(user, mech), CcmParams(0, NONCE, b"aad", 16)
    sealed = user.run("Encrypt", mech, key, b"", params)
    assert len(sealed) == 16
    assert user.run("Decrypt", mech, key, sealed, params) == b""
    changed = bytes([sealed[0] ^ 1]) + sealed[1:]
    refused = refusal(user.run, "Decrypt", mech, key, changed, params)
    assert refused is Rv.ENCRYPTED_DATA_INVALID


@pytest.mark.parametrize("mech", MECHS)
def test_threads_do_not_mix_up_their_keys(user: User, caller: Caller, mech: Mech) -> None:
    """SM4-CCM calls back into Python for each block, and others run in between."""
    params, data = CcmParams(500, NONCE, b"", 16), bytes(500)
    keys = [key_of(user, mech, bytes([number]) * 16) for number in range(6)]
    expected = [user.run("Encrypt", mech, key, data, params) for key in keys]
    assert len(set(expected)) == 6
    wrong: list[int] = []

    def work(number: int) -> None:
        own = User(caller, login=False)
        for _ in range(20):
            if own.run("Encrypt", mech, keys[number], data, params) != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
