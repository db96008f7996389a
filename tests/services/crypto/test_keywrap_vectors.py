"""NIST's vectors of AES key wrap (SP 800-38F), through the calls.

Those of the inverse cipher, which PKCS#11 does not have, and of Triple DES are not run.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import Rv
from tests.services.crypto.conftest import ROOM, User, refusal, template

MECHS = {"KW": Mech.AES_KEY_WRAP, "KWP": Mech.AES_KEY_WRAP_KWP}
GENERIC = template(CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.GENERIC_SECRET, SIGN=True)


@pytest.mark.parametrize("bits", [128, 192, 256])
@pytest.mark.parametrize("name", MECHS)
@pytest.mark.parametrize("direction", ["AE", "AD"])
def test_nist(
    vector: Callable[[str], bytes], caller: Caller, direction: str, name: str, bits: int
) -> None:
    text = vector(f"crypto/nist/keywrap/{name}_{direction}_{bits}.txt").decode()
    cases = re.findall(r"^K = (\w+)\r?\n((?:[CP] = \w+\r?\n|FAIL\r?\n)+)", text, re.MULTILINE)
    assert len(cases) == 500
    user, refused = User(caller), 0
    mechanism = Mechanism(MECHS[name])
    for key, rest in cases:
        given = {line[0]: bytes.fromhex(line[4:]) for line in rest.split("\n") if " = " in line}
        outer = user.secret(bytes.fromhex(key), WRAP=True, UNWRAP=True)
        if "P" not in given:
            bad = refusal(user.call, "C_UnwrapKey", mechanism, outer, given["C"], GENERIC)
            assert bad is Rv.WRAPPED_KEY_INVALID
            refused += 1
            continue
        right = user.secret(
            given["P"], KeyType.GENERIC_SECRET, SIGN=True, SENSITIVE=False, EXTRACTABLE=True
        )
        assert user.call("C_WrapKey", mechanism, outer, right, ROOM) == given["C"]
        key = user.call("C_UnwrapKey", mechanism, outer, given["C"], GENERIC)
        macs = [user.run("Sign", Mech.SHA256_HMAC, one, b"") for one in (key, right)]
        assert macs[0] == macs[1]
        for handle in (outer, right, key):
            user.call("C_DestroyObject", handle)
    assert refused == (100 if direction == "AD" else 0)
