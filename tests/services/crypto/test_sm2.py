"""SM2 through the calls: the examples of GM/T 0003.5, and what must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from secgear.services.crypto.algorithms.sm2_keys import ORDER
from secgear.services.crypto.pkcs11.constants import Attr, KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.token.mechanisms import MECHANISMS
from tests.adversary.crypto_host import MemoryStore, connect, open_module
from tests.services.crypto.conftest import User, refusal, template

PARAMS = bytes.fromhex("06082a811ccf5501822d")

pytestmark = pytest.mark.skipif(
    Mech.SM2 not in MECHANISMS, reason="the system's OpenSSL has no SM2"
)


def pair(user: User, **attributes: Any) -> tuple[int, int]:
    usage = {"VERIFY": True, "ENCRYPT": True} | attributes
    return user.pair(Mech.SM2_KEY_PAIR_GEN, usage, {"SIGN": True, "DECRYPT": True} | attributes)


def imported(user: User, scalar: str, point: str) -> tuple[int, int]:
    private = template(
        CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.SM2, EC_PARAMS=PARAMS,
        VALUE=bytes.fromhex(scalar), SIGN=True, DECRYPT=True,
    )  # fmt: skip
    public = template(
        CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.SM2, EC_PARAMS=PARAMS,
        EC_POINT=bytes.fromhex(point), VERIFY=True, ENCRYPT=True,
    )  # fmt: skip
    return user.call("C_CreateObject", public), user.call("C_CreateObject", private)


def test_the_standards_examples(vector: Callable[[str], bytes], user: User) -> None:
    example = json.loads(vector("crypto/gmt/sm2_gmt0003_5.json"))
    public, private = imported(user, example["d"], "04" + example["px"] + example["py"])
    signed, sealed = example["sign"], example["encrypt"]
    signature = bytes.fromhex(signed["r"] + signed["s"])
    identity, message = signed["id_ascii"].encode(), signed["msg_ascii"].encode()
    user.verify(Mech.SM2_SM3, public, message, signature, identity)
    user.verify(Mech.SM2, public, bytes.fromhex(signed["e"]), signature)
    again = user.run("Sign", Mech.SM2_SM3, private, message)
    user.verify(Mech.SM2_SM3, public, message, again, identity)
    ciphertext = bytes.fromhex("04" + "".join(sealed[part] for part in ("c1x", "c1y", "c3", "c2")))
    opened = user.run("Decrypt", Mech.SM2_ENCRYPT, private, ciphertext)
    assert opened == sealed["msg_ascii"].encode()


def test_signatures_out_of_range_and_of_others_are_refused(user: User) -> None:
    public, private = pair(user)
    good = user.run("Sign", Mech.SM2_SM3, private, b"message")
    r, s = good[:32], good[32:]
    zero, order = bytes(32), ORDER.to_bytes(32, "big")
    opposite = (ORDER - int.from_bytes(r, "big")).to_bytes(32, "big")  # r + s = n
    for bad in (zero + s, r + zero, order + s, r + order, r + opposite, s + r, b"\xff" * 64):
        refused = refusal(user.verify, Mech.SM2_SM3, public, b"message", bad)
        assert refused is Rv.SIGNATURE_INVALID
    der = b"\x30\x44" + good
    assert refusal(user.verify, Mech.SM2_SM3, public, b"message", der) is Rv.SIGNATURE_LEN_RANGE
    other = refusal(user.verify, Mech.SM2_SM3, public, b"message", good, b"another identity")
    assert other is Rv.SIGNATURE_INVALID
    assert refusal(user.run, "Sign", Mech.SM2, private, bytes(31)) is Rv.DATA_LEN_RANGE


def test_ciphertexts_that_were_changed_are_refused(user: User) -> None:
    public, private = pair(user)
    sealed = user.run("Encrypt", Mech.SM2_ENCRYPT, public, b"a key to carry")
    assert user.run("Decrypt", Mech.SM2_ENCRYPT, private, sealed) == b"a key to carry"
    for at in (0, 1, 40, 65, 96, 97, len(sealed) - 1):  # tag, C1, C3, C2
        changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        refused = refusal(user.run, "Decrypt", Mech.SM2_ENCRYPT, private, changed)
        assert refused is Rv.ENCRYPTED_DATA_INVALID
    assert refusal(user.run, "Decrypt", Mech.SM2_ENCRYPT, private, b"") is Rv.ENCRYPTED_DATA_INVALID
    assert refusal(user.run, "Encrypt", Mech.SM2_ENCRYPT, public, b"") is Rv.DATA_LEN_RANGE


@pytest.mark.parametrize(
    "attributes",
    [
        {"CLASS": 2, "EC_PARAMS": PARAMS, "EC_POINT": b"\4" + bytes(64)},
        {"CLASS": 2, "EC_PARAMS": PARAMS, "EC_POINT": b"\4" + b"\1" * 64},
        {"CLASS": 3, "EC_PARAMS": PARAMS, "VALUE": bytes(32)},
        {"CLASS": 3, "EC_PARAMS": PARAMS, "VALUE": ORDER.to_bytes(32, "big")},
        {"CLASS": 3, "EC_PARAMS": PARAMS, "VALUE": b"short"},
    ],
)
def test_what_is_no_key_is_refused(user: User, attributes: dict[str, Any]) -> None:
    made = template(KEY_TYPE=KeyType.SM2, **attributes)
    assert refusal(user.call, "C_CreateObject", made) is Rv.ATTRIBUTE_VALUE_INVALID


def test_keys_outlive_a_restart_and_leave_nowhere(store: MemoryStore) -> None:
    user = User(connect(open_module(store)))
    public, private = pair(user, TOKEN=True, LABEL=b"sm2")
    assert refusal(user.get, private, Attr.VALUE) is Rv.ATTRIBUTE_SENSITIVE
    signature = user.run("Sign", Mech.SM2_SM3, private, b"before")
    again = User(connect(open_module(store)))
    assert sorted(again.find(LABEL=b"sm2")) == sorted([public, private])
    again.verify(Mech.SM2_SM3, public, b"before", signature)
    assert len(again.run("Sign", Mech.SM2_SM3, private, b"after")) == 64
