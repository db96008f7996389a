"""Wycheproof's vectors, through the calls of the interface: all pass or are refused as they say."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.services.crypto.client import Caller
from secgear.services.crypto.pkcs11.constants import (
    Attr,
    Kdf,
    KeyType,
    Mech,
    Mgf,
    ObjectClass,
    Salt,
)
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    ChachaParams,
    ContextParams,
    EcdhParams,
    GcmParams,
    HkdfParams,
    LengthParam,
    Mechanism,
    OaepParams,
    PssParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from tests.services.crypto.conftest import P256, ROOM, User, template

P384 = bytes.fromhex("06052b81040022")
READABLE = {"SENSITIVE": False, "EXTRACTABLE": True}
Case = dict[str, Any]
Run = Callable[[User, Case, Case], bool]


def octets(case: Case, name: str) -> bytes:
    return bytes.fromhex(case[name])


def aead(mech: Mech, key_type: KeyType, params: Callable[[Case, Case], Any]) -> Run:
    def run(user: User, group: Case, case: Case) -> bool:
        key = user.secret(octets(case, "key"), key_type, ENCRYPT=True, DECRYPT=True)
        parameter = params(group, case)
        sealed = octets(case, "ct") + octets(case, "tag")
        opened = user.run("Decrypt", mech, key, sealed, parameter)
        assert user.run("Encrypt", mech, key, opened, parameter) == sealed
        # In pieces it is the same, and nothing comes out before the end.
        user.call("C_DecryptInit", Mechanism(mech, parameter), key)
        pieces = [user.call("C_DecryptUpdate", part, ROOM) for part in (sealed[:7], sealed[7:])]
        assert pieces == [b"", b""]
        assert user.call("C_DecryptFinal", ROOM) == opened
        return opened == octets(case, "msg")

    return run


def cbc_pad(user: User, _: Case, case: Case) -> bool:
    key = user.secret(octets(case, "key"), ENCRYPT=True, DECRYPT=True)
    iv, sealed = octets(case, "iv"), octets(case, "ct")
    opened = user.run("Decrypt", Mech.AES_CBC_PAD, key, sealed, iv)
    assert user.run("Encrypt", Mech.AES_CBC_PAD, key, opened, iv) == sealed
    return opened == octets(case, "msg")


def mac(mech: Mech, key_type: KeyType) -> Run:
    def run(user: User, group: Case, case: Case) -> bool:
        key = user.secret(octets(case, "key"), key_type, SIGN=True, VERIFY=True)
        parameter = LengthParam(group["tagSize"] // 8)
        user.verify(mech, key, octets(case, "msg"), octets(case, "tag"), parameter)
        return user.run("Sign", mech, key, octets(case, "msg"), parameter) == octets(case, "tag")

    return run


def unwrap(mech: Mech) -> Run:
    def run(user: User, _: Case, case: Case) -> bool:
        outer = user.secret(octets(case, "key"), UNWRAP=True, WRAP=True)
        inner = template(CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.GENERIC_SECRET, SIGN=True)
        key = user.call("C_UnwrapKey", Mechanism(mech), outer, octets(case, "ct"), inner)
        # What was unwrapped is never told; what it signs says that it is the right key.
        right = user.secret(
            octets(case, "msg"), KeyType.GENERIC_SECRET, SIGN=True, VERIFY=True, **READABLE
        )
        assert user.call("C_WrapKey", Mechanism(mech), outer, right, ROOM) == octets(case, "ct")
        user.verify(Mech.SHA256_HMAC, right, b"", user.run("Sign", Mech.SHA256_HMAC, key, b""))
        return True

    return run


def public(key_type: KeyType, params: bytes | None, field: str = "publicKey") -> Callable[..., int]:
    def make(user: User, group: Case) -> int:
        given = group[field]
        attributes: Case = {"CLASS": ObjectClass.PUBLIC_KEY, "KEY_TYPE": key_type, "VERIFY": True}
        if key_type is KeyType.RSA:
            for attr, name in (("MODULUS", "modulus"), ("PUBLIC_EXPONENT", "publicExponent")):
                attributes[attr] = bytes.fromhex(given[name].removeprefix("00").rjust(6, "0"))
        elif key_type is KeyType.ML_DSA:
            attributes |= {"PARAMETER_SET": 2, "VALUE": bytes.fromhex(given)}
        else:
            point = given["uncompressed"] if "uncompressed" in given else given["pk"]
            attributes |= {"EC_PARAMS": params, "EC_POINT": bytes.fromhex(point)}
        return user.call("C_CreateObject", template(**attributes))

    return make


def verify(
    mech: Mech, make: Callable[..., int], parameter: Callable[[Case], Any] = lambda _: None
) -> Run:
    def run(user: User, group: Case, case: Case) -> bool:
        key = make(user, group)
        user.verify(mech, key, octets(case, "msg"), octets(case, "sig"), parameter(case))
        return True

    return run


@functools.cache  # a second each, and there are many cases to a key
def primes(n: int, e: int, d: int) -> tuple[int, int]:
    return rsa.rsa_recover_prime_factors(n, e, d)


def rsa_private(user: User, group: Case, **usage: bool) -> int:
    """The group's key: to look whether its primes are some takes longer than to use them."""
    if "handle" not in group:
        group["handle"] = rsa_import(User(user.caller, login=False), group, **usage)
    return int(group["handle"])


def rsa_import(user: User, group: Case, **usage: bool) -> int:
    given = group["privateKey"]
    names = {
        "MODULUS": "modulus", "PUBLIC_EXPONENT": "publicExponent",
        "PRIVATE_EXPONENT": "privateExponent", "PRIME_1": "prime1", "PRIME_2": "prime2",
    }  # fmt: skip
    parts = {attr: bytes.fromhex(given[name]) for attr, name in names.items() if name in given}
    if "PRIME_1" not in parts:  # the token asks for them
        n, e, d = (int.from_bytes(parts[attr], "big") for attr in list(parts)[:3])
        for attr, prime in zip(("PRIME_1", "PRIME_2"), primes(n, e, d), strict=True):
            parts[attr] = prime.to_bytes((prime.bit_length() + 7) // 8, "big")
    return user.call("C_CreateObject", template(
        CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.RSA, **parts, **usage
    ))  # fmt: skip


def rsa_decrypt(mech: Mech) -> Run:
    def run(user: User, group: Case, case: Case) -> bool:
        key = rsa_private(user, group, DECRYPT=True)
        parameter = None
        if mech is Mech.RSA_PKCS_OAEP:
            parameter = OaepParams(Mech.SHA256, Mgf.SHA256, 1, octets(case, "label"))
        return user.run("Decrypt", mech, key, octets(case, "ct"), parameter) == octets(case, "msg")

    return run


def rsa_sign(user: User, group: Case, case: Case) -> bool:
    mech = {
        "SHA-224": Mech.SHA224_RSA_PKCS, "SHA-256": Mech.SHA256_RSA_PKCS,
        "SHA-384": Mech.SHA384_RSA_PKCS, "SHA-512": Mech.SHA512_RSA_PKCS,
    }.get(group["sha"])  # fmt: skip
    if mech is None:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    key = rsa_private(user, group, SIGN=True)
    return user.run("Sign", mech, key, octets(case, "msg")) == octets(case, "sig")


def verify_der(mech: Mech, half: int) -> Run:
    """Keys as SubjectPublicKeyInfo; signatures as a client turns them into ``r || s``."""

    def run(user: User, group: Case, case: Case) -> bool:
        key = user.call("C_CreateObject", template(
            CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.EC,
            PUBLIC_KEY_INFO=octets(group, "publicKeyDer"), VERIFY=True,
        ))  # fmt: skip
        try:
            numbers = decode_dss_signature(octets(case, "sig"))
            signature = b"".join(number.to_bytes(half, "big") for number in numbers)
        except (ValueError, OverflowError):
            raise CryptokiError(Rv.SIGNATURE_INVALID) from None
        user.verify(mech, key, octets(case, "msg"), signature)
        return True

    return run


def agree_by_info(user: User, group: Case, case: Case) -> bool:
    """The peer's key as SubjectPublicKeyInfo; ECDH takes the point of what was imported."""
    public = user.call("C_CreateObject", template(
        CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.EC, PUBLIC_KEY_INFO=octets(case, "public")
    ))  # fmt: skip
    if user.get(public, Attr.EC_PARAMS) != P256:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    point = user.get(public, Attr.EC_POINT)
    return agree(KeyType.EC, P256)(user, group, case | {"public": point.hex()})


def ml_dsa_sign(user: User, group: Case, case: Case) -> bool:
    """Ours are hedged; the example's and ours are verified by the key of the seed."""
    if "msg" not in case or "Internal" in case["flags"]:
        raise CryptokiError(Rv.MECHANISM_INVALID)  # signatures of mu: not offered
    private = user.call("C_CreateObject", template(
        CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.ML_DSA, PARAMETER_SET=2,
        SEED=octets(group, "privateSeed"), SIGN=True,
    ))  # fmt: skip
    public = user.call("C_CreateObject", template(
        CLASS=ObjectClass.PUBLIC_KEY, KEY_TYPE=KeyType.ML_DSA,
        PUBLIC_KEY_INFO=user.get(private, Attr.PUBLIC_KEY_INFO), VERIFY=True,
    ))  # fmt: skip
    context, message = ml_dsa_context(case), octets(case, "msg")
    own = user.run("Sign", Mech.ML_DSA, private, message, context)
    user.verify(Mech.ML_DSA, public, message, own, context)
    user.verify(Mech.ML_DSA, public, message, octets(case, "sig"), context)
    return user.get(public, Attr.VALUE) == octets(group, "publicKey")


def hkdf(user: User, _: Case, case: Case) -> bool:
    base = user.secret(octets(case, "ikm"), KeyType.GENERIC_SECRET, DERIVE=True)
    salt, size = octets(case, "salt"), case["size"]
    where = Salt.DATA if salt else Salt.NULL
    params = HkdfParams(True, True, Mech.SHA256, where, salt, 0, octets(case, "info"))
    data = user.call("C_DeriveKey", Mechanism(Mech.HKDF_DATA, params), base,
                     template(CLASS=ObjectClass.DATA, VALUE_LEN=size))  # fmt: skip
    if size <= 4096:
        made = template(VALUE_LEN=size, **READABLE)
        key = user.call("C_DeriveKey", Mechanism(Mech.HKDF_DERIVE, params), base, made)
        assert user.get(key, Attr.VALUE) == user.get(data, Attr.VALUE)
    return user.get(data, Attr.VALUE) == octets(case, "okm")


def agree(key_type: KeyType, params: bytes) -> Run:
    def run(user: User, _: Case, case: Case) -> bool:
        private = octets(case, "private")
        if key_type is KeyType.EC:
            private = private[-32:].rjust(32, b"\0")
        base = user.call("C_CreateObject", template(
            CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=key_type, EC_PARAMS=params,
            VALUE=private, DERIVE=True,
        ))  # fmt: skip
        parameter = EcdhParams(Kdf.NULL, b"", octets(case, "public"))
        made = template(VALUE_LEN=32, **READABLE)
        key = user.call("C_DeriveKey", Mechanism(Mech.ECDH1_DERIVE, parameter), base, made)
        return user.get(key, Attr.VALUE) == octets(case, "shared")

    return run


def ml_dsa_context(case: Case) -> ContextParams | None:
    return ContextParams(0, octets(case, "ctx")) if case.get("ctx") else None


def ml_kem(user: User, group: Case, case: Case) -> bool:
    private = user.call("C_CreateObject", template(
        CLASS=ObjectClass.PRIVATE_KEY, KEY_TYPE=KeyType.ML_KEM,
        PARAMETER_SET={"ML-KEM-768": 2}[group["parameterSet"]], SEED=octets(case, "seed"),
        DECAPSULATE=True,
    ))  # fmt: skip
    key = user.call(
        "C_DecapsulateKey", Mechanism(Mech.ML_KEM), private, template(**READABLE),
        octets(case, "c"),
    )  # fmt: skip
    return user.get(key, Attr.VALUE) == octets(case, "K")


def gcm_params(group: Case, case: Case) -> GcmParams:
    return GcmParams(octets(case, "iv"), octets(case, "aad"), group["tagSize"])


def ccm_params(group: Case, case: Case) -> CcmParams:
    size = len(octets(case, "ct"))
    return CcmParams(size, octets(case, "iv"), octets(case, "aad"), group["tagSize"] // 8)


def chacha_params(_: Case, case: Case) -> ChachaParams:
    return ChachaParams(octets(case, "iv"), octets(case, "aad"))


PSS = PssParams(Mech.SHA256, Mgf.SHA256, 32)
GENERIC = KeyType.GENERIC_SECRET
FILES: dict[str, Run] = {
    "aes_gcm": aead(Mech.AES_GCM, KeyType.AES, gcm_params),
    "chacha20_poly1305": aead(Mech.CHACHA20_POLY1305, KeyType.CHACHA20, chacha_params),
    "sm4_gcm": aead(Mech.SM4_GCM, KeyType.SM4, gcm_params),
    "aes_ccm": aead(Mech.AES_CCM, KeyType.AES, ccm_params),
    "sm4_ccm": aead(Mech.SM4_CCM, KeyType.SM4, ccm_params),
    "hkdf_sha256": hkdf,
    "aes_cbc_pkcs5": cbc_pad,
    "aes_cmac": mac(Mech.AES_CMAC_GENERAL, KeyType.AES),
    "hmac_sha256": mac(Mech.SHA256_HMAC_GENERAL, GENERIC),
    "hmac_sha384": mac(Mech.SHA384_HMAC_GENERAL, GENERIC),
    "hmac_sha512": mac(Mech.SHA512_HMAC_GENERAL, GENERIC),
    "hmac_sm3": mac(Mech.SM3_HMAC_GENERAL, GENERIC),
    "aes_wrap": unwrap(Mech.AES_KEY_WRAP),
    "aes_kwp": unwrap(Mech.AES_KEY_WRAP_KWP),
    "ecdsa_secp256r1_sha256_p1363": verify(Mech.ECDSA_SHA256, public(KeyType.EC, P256)),
    "ecdsa_secp384r1_sha384_p1363": verify(Mech.ECDSA_SHA384, public(KeyType.EC, P384)),
    "ecdsa_secp256r1_sha256": verify_der(Mech.ECDSA_SHA256, 32),
    "ecdsa_secp384r1_sha384": verify_der(Mech.ECDSA_SHA384, 48),
    "ed25519": verify(Mech.EDDSA, public(KeyType.EC_EDWARDS, b"\6\3\x2b\x65\x70")),
    "mldsa_65_sign_seed": ml_dsa_sign,
    "mldsa_65_verify": verify(Mech.ML_DSA, public(KeyType.ML_DSA, None), ml_dsa_context),
    "rsa_signature_2048_sha256": verify(Mech.SHA256_RSA_PKCS, public(KeyType.RSA, None)),
    "rsa_pss_2048_sha256_mgf1_32": verify(
        Mech.SHA256_RSA_PKCS_PSS, public(KeyType.RSA, None), lambda _: PSS
    ),
    "rsa_pkcs1_2048_sig_gen": rsa_sign,
    "rsa_pkcs1_2048": rsa_decrypt(Mech.RSA_PKCS),
    "rsa_oaep_2048_sha256_mgf1sha256": rsa_decrypt(Mech.RSA_PKCS_OAEP),
    "ecdh_secp256r1_ecpoint": agree(KeyType.EC, P256),
    "ecdh_secp256r1": agree_by_info,
    "x25519": agree(KeyType.EC_MONTGOMERY, b"\6\3\x2b\x65\x6e"),
    "mlkem_768": ml_kem,
}
BEYOND: dict[str, Callable[[Case, Case], bool]] = {
    # What OpenSSL's interface does not take; it is refused, never computed wrongly.
    "aes_gcm": lambda _, case: not 8 <= len(octets(case, "iv")) <= 128,
    "sm4_gcm": lambda _, case: not 8 <= len(octets(case, "iv")) <= 128,
    # MACs of less than 4 bytes and keys of none.
    "hmac_sha256": lambda _, case: not case["key"],
    # Keys of less than 16 bytes can't be wrapped under RFC 3394; generic secrets of none neither.
    "aes_kwp": lambda _, case: not case["msg"],
    # Compressed points, and digests that nobody should sign any more.
    "ecdh_secp256r1_ecpoint": lambda _, case: "CompressedPoint" in case["flags"],
    "rsa_pkcs1_2048_sig_gen": lambda group, _: group["sha"] in (
        "SHA-1", "SHA-512/224", "SHA-512/256", "SHA3-224", "SHA3-256", "SHA3-384", "SHA3-512"
    ),
    # Signatures of what FIPS 204 calls mu.
    "mldsa_65_sign_seed": lambda _, case: "msg" not in case or "Internal" in case["flags"],
    # Small-order points: the result would be zero, which OpenSSL refuses (RFC 7748, 6.1).
    "x25519": lambda _, case: "ZeroSharedSecret" in case["flags"],
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_vectors(vector: Callable[[str], bytes], caller: Caller, name: str) -> None:
    document = json.loads(vector(f"crypto/wycheproof/{name}_test.json"))
    user = User(caller)
    beyond = BEYOND.get(name, lambda *_: False)
    counts = {"passed": 0, "refused": 0, "beyond": 0}
    for group in document["testGroups"]:
        for case in group["tests"]:
            session = caller.one("C_OpenSession", 0, 6)
            user.session, rv = session, Rv.OK
            try:
                good = FILES[name](user, group, case)
            except CryptokiError as error:
                good, rv = False, error.rv
            finally:
                caller.call("C_CloseSession", session)
            where = f"{name} {case['tcId']}: {case.get('comment', '')} {case['flags']}"
            assert rv is not Rv.GENERAL_ERROR, where
            if case["result"] == "valid" and beyond(group, case):
                assert not good, where
                counts["beyond"] += 1
            elif case["result"] == "valid":
                assert good, where
                counts["passed"] += 1
            elif case["result"] == "invalid":
                assert not good, where
                counts["refused"] += 1
    assert counts["passed"] > 0
    assert sum(counts.values()) <= document["numberOfTests"]
