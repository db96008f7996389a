"""Examples of the Chinese standards and of OpenSSL's tests of their algorithms, through calls."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.services.crypto.pkcs11.constants import KeyType, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import CtrParams, GcmParams, Mechanism, Parameter
from secgear.services.crypto.token.mechanisms import MECHANISMS
from tests.services.crypto.conftest import ROOM, User, template

Vector = Callable[[str], bytes]
SM2_PARAMS = bytes.fromhex("06082a811ccf5501822d")
FILES: dict[str, tuple[Mech, Callable[[dict[str, bytes]], Parameter]]] = {
    "draft-ribose-cfrg-sm4-10-ecb": (Mech.SM4_ECB, lambda _: None),
    "draft-ribose-cfrg-sm4-10-cbc": (Mech.SM4_CBC, lambda case: case["IV"]),
    "draft-ribose-cfrg-sm4-10-ctr": (Mech.SM4_CTR, lambda case: CtrParams(128, case["IV"])),
    "rfc8998": (Mech.SM4_GCM, lambda case: GcmParams(case["IV"], case["AAD"], 128)),
}


def cases(text: bytes) -> list[dict[str, bytes]]:
    """Blocks of ``NAME = hexadecimal``."""
    blocks = re.split(r"\n\s*\n", text.decode())
    found = [dict(re.findall(r"^(\w+) = (\w+)$", block, re.MULTILINE)) for block in blocks]
    return [
        {name: bytes.fromhex(value) for name, value in case.items() if name not in ("COUNT", "Len")}
        for case in found
        if len(case) > 1
    ]


@pytest.mark.parametrize("name", FILES)
def test_sm4(vector: Vector, user: User, name: str) -> None:
    mech, parameter = FILES[name]
    found = [case for case in cases(vector(f"crypto/gmt/SM4/{name}.txt")) if "KEY" in case]
    assert found
    for case in found:
        key = user.secret(case["KEY"], KeyType.SM4, ENCRYPT=True, DECRYPT=True)
        sealed = case["CIPHERTEXT"] + case.get("TAG", b"")
        assert user.run("Encrypt", mech, key, case["PLAINTEXT"], parameter(case)) == sealed
        assert user.run("Decrypt", mech, key, sealed, parameter(case)) == case["PLAINTEXT"]


def test_sm3(vector: Vector, user: User) -> None:
    text = vector("crypto/gmt/SM3/oscca.txt")
    lengths = [int(size) // 8 for size in re.findall(rb"^Len = (\d+)$", text, re.MULTILINE)]
    found = [case for case in cases(text) if "MD" in case]
    assert len(found) == len(lengths) > 3
    for case, length in zip(found, lengths, strict=True):
        user.call("C_DigestInit", Mechanism(Mech.SM3))
        assert user.call("C_Digest", case["Msg"][:length], ROOM) == case["MD"]


def test_sm4_encrypted_a_million_times(vector: Vector, user: User) -> None:
    """The standard's second example: CBC over zeros is one encryption after the other."""
    once, often = json.loads(vector("crypto/gmt/sm3_sm4_gmt.json"))["sm4"]
    key = user.secret(bytes.fromhex(often["key"]), KeyType.SM4, ENCRYPT=True)
    first = user.run("Encrypt", Mech.SM4_ECB, key, bytes.fromhex(once["pt"]))
    assert first.hex() == once["ct"]
    user.call("C_EncryptInit", Mechanism(Mech.SM4_CBC, bytes.fromhex(often["pt"])), key)
    blocks = 62_500
    for _ in range(often["rounds"] // blocks):
        last = user.call("C_EncryptUpdate", bytes(16 * blocks), ROOM)[-16:]
    assert last.hex() == often["ct"]


@pytest.mark.skipif(Mech.SM2 not in MECHANISMS, reason="the system's OpenSSL has no SM2")
def test_sm2_of_openssl(vector: Vector, user: User) -> None:
    source = json.loads(vector("crypto/gmt/sm2_openssl.json"))
    der = base64.b64decode("".join(source["pkcs8_pem"].splitlines()[1:-1]))
    kind = {"KEY_TYPE": KeyType.SM2, "EC_PARAMS": SM2_PARAMS}
    public = user.call("C_CreateObject", template(
        CLASS=ObjectClass.PUBLIC_KEY, EC_POINT=der[-65:], VERIFY=True, **kind
    ))  # fmt: skip
    private = user.call("C_CreateObject", template(
        CLASS=ObjectClass.PRIVATE_KEY, VALUE=der[36:68], DECRYPT=True, **kind
    ))  # fmt: skip
    for case in source["verify_digest"]:
        numbers = decode_dss_signature(bytes.fromhex(case["sig_der"]))
        signature = b"".join(number.to_bytes(32, "big") for number in numbers)
        user.verify(Mech.SM2, public, bytes.fromhex(case["e"]), signature)
    given = bytes.fromhex(source["decrypt"]["ct_der"])
    x, y, digest, text = given[5:37], given[39:71], given[73:105], given[107:]
    opened = user.run("Decrypt", Mech.SM2_ENCRYPT, private, b"\4" + x + y + digest + text)
    assert opened.decode() == source["decrypt"]["pt_ascii"]
