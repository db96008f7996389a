"""Known answers of every algorithm: what `selftest` tries before the module opens.

From the standards that are named with each, and where these have no example that is short enough
the digest of what two implementations agree on. All in hexadecimal.
"""

from __future__ import annotations

from typing import Final

import msgspec

from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    ChachaParams,
    CtrParams,
    GcmParams,
    Parameter,
)


class Sealed(msgspec.Struct, frozen=True):
    """A cipher's answer: encrypted it is that, and decrypted it is this again."""

    mech: Mech
    key: str
    parameter: Parameter
    plain: str
    sealed: str


class Mac(msgspec.Struct, frozen=True):
    """A MAC's answer."""

    mech: Mech
    key: str
    message: str
    mac: str


DIGESTS: Final = {
    # Of "abc": FIPS 180-4, FIPS 202, GB/T 32905.
    Mech.SHA_1: "a9993e364706816aba3e25717850c26c9cd0d89d",
    Mech.SHA224: "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
    Mech.SHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    Mech.SHA384: "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed"
    "8086072ba1e7cc2358baeca134c825a7",
    Mech.SHA512: "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    Mech.SHA3_224: "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf",
    Mech.SHA3_256: "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
    Mech.SHA3_384: "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b2"
    "98d88cea927ac7f539f1edf228376d25",
    Mech.SHA3_512: "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e"
    "10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
    Mech.SM3: "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
}

_BLOCK = "6bc1bee22e409f96e93d7e117393172a"
_AES = "2b7e151628aed2a6abf7158809cf4f3c"
_SM4 = "0123456789abcdeffedcba9876543210"
_IV = bytes(range(16))
_FEED = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
_A_2_2 = "".join(c * 8 for c in "abcdefab")
_RFC_8998 = "".join(c * 16 for c in "abcdefea")
_RFC_8998_NONCE = bytes.fromhex("00001234567800000000abcd")

CIPHERS: Final = (
    # NIST SP 800-38A, F.1.1, F.2.1, F.5.1.
    Sealed(Mech.AES_ECB, _AES, None, _BLOCK, "3ad77bb40d7a3660a89ecaf32466ef97"),
    Sealed(Mech.AES_CBC, _AES, _IV, _BLOCK, "7649abac8119b246cee98e9b12e9197d"),
    Sealed(
        Mech.AES_CBC_PAD, _AES, _IV, _BLOCK,
        "7649abac8119b246cee98e9b12e9197d8964e0b149c10b7b682e6e39aaeb731c",
    ),
    Sealed(
        Mech.AES_CTR, _AES, CtrParams(128, bytes(range(0xF0, 0x100))), _BLOCK,
        "874d6191b620e3261bef6864990db6ce",
    ),
    # McGrew and Viega, The Galois/Counter Mode of Operation, test case 4.
    Sealed(
        Mech.AES_GCM, "feffe9928665731c6d6a8f9467308308",
        GcmParams(bytes.fromhex("cafebabefacedbaddecaf888"), _FEED, 128),
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
        "5bc94fbc3221a5db94fae95ae7121a47",
    ),
    # NIST SP 800-38C, C.1.
    Sealed(
        Mech.AES_CCM, bytes(range(0x40, 0x50)).hex(),
        CcmParams(4, bytes(range(0x10, 0x17)), bytes(range(8)), 4), "20212223", "7162015b4dac255d",
    ),
    # GB/T 32907, annex A; draft-ribose-cfrg-sm4-10, A.2.2 and A.2.5; RFC 8998, A.
    Sealed(Mech.SM4_ECB, _SM4, None, _SM4, "681edf34d206965e86b3e94f536e4246"),
    Sealed(
        Mech.SM4_CBC, _SM4, _IV, _A_2_2,
        "78ebb11cc40b0a48312aaeb2040244cb4cb7016951909226979b0d15dc6a8f6d",
    ),
    Sealed(
        Mech.SM4_CBC_PAD, _SM4, _IV, _BLOCK,
        "784626c834ab18614677eb2074f2c557e11c0fdbbf77b51ec05a90416ed14936",
    ),
    Sealed(
        Mech.SM4_CTR, _SM4, CtrParams(128, _IV), "".join(c * 16 for c in "ab"),
        "ac3236cb970cc20791364c395a1342d1",
    ),
    Sealed(
        Mech.SM4_GCM, _SM4, GcmParams(_RFC_8998_NONCE, _FEED, 128), _RFC_8998,
        "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
        "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d"
        "83de3541e4c2b58177e065a9bf7b62ec",
    ),
    Sealed(
        Mech.SM4_CCM, _SM4, CcmParams(64, _RFC_8998_NONCE, _FEED, 16), _RFC_8998,
        "48af93501fa62adbcd414cce6034d895dda1bf8f132f042098661572e7483094"
        "fd12e518ce062c98acee28d95df4416bed31a2f04476c18bb40c84a74b97dc5b"
        "16842d4fa186f56ab33256971fa110f4",
    ),
    # RFC 8439, 2.8.2, the first 16 bytes of its message.
    Sealed(
        Mech.CHACHA20_POLY1305, bytes(range(0x80, 0xA0)).hex(),
        ChachaParams(bytes.fromhex("070000004041424344454647"),
                     bytes.fromhex("50515253c0c1c2c3c4c5c6c7")),
        b"Ladies and Gentl".hex(),
        "d31a8d34648e60db7b86afbc53ef7ec264c88e0484647c2813aa825d29c0bfb2",
    ),
)  # fmt: skip

_JEFE, _ASKS = b"Jefe".hex(), b"what do ya want for nothing?".hex()

MACS: Final = (
    Mac(Mech.AES_CMAC, _AES, _BLOCK, "070a16b46b4d4144f79bdd9dd04a287c"),  # RFC 4493
    # RFC 4231, test case 2, and the same with the other hashes.
    Mac(
        Mech.SHA224_HMAC, _JEFE, _ASKS,
        "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
    ),
    Mac(
        Mech.SHA256_HMAC, _JEFE, _ASKS,
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    Mac(
        Mech.SHA384_HMAC, _JEFE, _ASKS,
        "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e"
        "8e2240ca5e69e2c78b3239ecfab21649",
    ),
    Mac(
        Mech.SHA512_HMAC, _JEFE, _ASKS,
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    ),
    Mac(
        Mech.SHA3_224_HMAC, _JEFE, _ASKS,
        "7fdb8dd88bd2f60d1b798634ad386811c2cfc85bfaf5d52bbace5e66",
    ),
    Mac(
        Mech.SHA3_256_HMAC, _JEFE, _ASKS,
        "c7d4072e788877ae3596bbb0da73b887c9171f93095b294ae857fbe2645e1ba5",
    ),
    Mac(
        Mech.SHA3_384_HMAC, _JEFE, _ASKS,
        "f1101f8cbf9766fd6764d2ed61903f21ca9b18f57cf3e1a23ca13508a93243ce"
        "48c045dc007f26a21b3f5e0e9df4c20a",
    ),
    Mac(
        Mech.SHA3_512_HMAC, _JEFE, _ASKS,
        "5a4bfeab6166427c7a3647b747292b8384537cdb89afb3bf5665e4c5e709350b"
        "287baec921fd7ca0ee7a0c31d022a95e1fc92ba9d77df883960275beb4e62024",
    ),
    Mac(
        Mech.SM3_HMAC, _JEFE, _ASKS,
        "2e87f1d16862e6d964b50a5200bf2b10b764faa9680a296a2405f24bec39f882",
    ),
)  # fmt: skip

RSA_PRIME_1: Final = (
    "dc431050f782e894fb5248247d98cb7d58b8d1e24f3b55d041c56e4de086b0d5"
    "bb028bda42eeb5d234d5681e5809d415e6a289ad4cfbf78f978f6c35814f50ee"
    "bff1c5b80a69f788e81e6bab5ddaa78369d659d143ec6f17e79813a575cfad9c"
    "569156b90113e2e9110ad9e7b48a1c9348a6e653321191290ea36cfb3a5b18f1"
)
"""Of a public test key: Wycheproof, rsa_oaep_2048_sha256_mgf1sha256_test.json."""
RSA_PRIME_2: Final = (
    "bd1a81e7977f9898122273ae3222b598ea5fb19eb4eabc38308a5e32196603b2"
    "e500ffb79f5b886816611debc472fac45544070beb057c941378a6868af3b7a0"
    "3d3f9880ec47d5e089b94fbde542aba9ae8d72c57088d7abf5b131f39098f7bc"
    "160f90536abc9492fd4e06f3ed7299d4b97bb03677207d95669f140cfbc20f25"
)
RSA_SIGNATURE_DIGEST: Final = "d2307a36bff7a8be4eb7070cc261a14d8d1f897e95595afdef4c439871fed3e9"
"""SHA-256 of its PKCS#1 v1.5 signature with SHA-256 of "abc"."""


class Curve(msgspec.Struct, frozen=True):
    """ECDSA over "sample". params: CKA_EC_PARAMS."""

    mech: Mech
    params: str
    key: str
    signature: str


ECDSA: Final = (
    # RFC 6979, A.2.5 to A.2.7.
    Curve(
        Mech.ECDSA_SHA256, "06082a8648ce3d030107",
        "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
        "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
        "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    ),
    Curve(
        Mech.ECDSA_SHA384, "06052b81040022",
        "6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d8"
        "96d5724e4c70a825f872c9ea60d2edf5",
        "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c"
        "81a648152e44acf96e36dd1e80fabe4699ef4aeb15f178cea1fe40db2603138f"
        "130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8",
    ),
    Curve(
        Mech.ECDSA_SHA512, "06052b81040023",
        "00fad06daa62ba3b25d2fb40133da757205de67f5bb0018fee8c86e1b68c7e75"
        "caa896eb32f1f47c70855836a6d16fcc1466f6d8fbec67db89ec0c08b0e996b8"
        "3538",
        "00c328fafcbd79dd77850370c46325d987cb525569fb63c5d3bc53950e6d4c5f"
        "174e25a1ee9017b5d450606add152b534931d7d4e8455cc91f9b15bf05ec36e3"
        "77fa00617cce7cf5064806c467f678d3b4080d6f1cc50af26ca209417308281b"
        "68af282623eaa63e5b5c0723d8b8c37ff0777b1a20f8ccb1dccc43997f1ee0e4"
        "4da4a67a",
    ),
)  # fmt: skip


class Raw(msgspec.Struct, frozen=True):
    """EdDSA of a message, or agreement with a point. params: CKA_EC_PARAMS."""

    params: str
    key: str
    given: str
    answer: str


EDDSA: Final = (
    # RFC 8032, 7.1, test 2, and 7.4, blank.
    Raw(
        "06032b6570", "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    Raw(
        "06032b6571",
        "6c82a562cb808d10d632be89c8513ebf6c929f34ddfa8c9f63c9960ef6e348a3"
        "528c8a3fcc2f044e39a3fc5b94492f8f032e7549a20098f95b", "",
        "533a37f6bbe457251f023c0d88f976ae2dfb504a843e34d2074fd823d41a591f"
        "2b233f034f628281f2fd7a22ddd47d7828c59bd0a21bfd3980ff0d2028d4b18a"
        "9df63e006c5d1c2d345b925d8dc00b4104852db99ac5c7cdda8530a113a0f4db"
        "b61149f05a7363268c71d95808ff2e652600",
    ),
)  # fmt: skip
MONTGOMERY: Final = (
    # RFC 7748, 5.2.
    Raw(
        "06032b656e", "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    Raw(
        "06032b656f",
        "3d262fddf9ec8e88495266fea19a34d28882acef045104d0d1aae121700a779c"
        "984c24f8cdd78fbff44943eba368f54b29259a4f1c600ad3",
        "06fce640fa3487bfda5f6cf2d5263f8aad88334cbd07437f020f08f9814dc031"
        "ddbdc38c19c6da2583fa5429db94ada18aa7a7fb4ef8a086",
        "ce3e4ff95a60dc6697da1db1d85e6afbdf79b50a2412d7546d5f239fe14fbaad"
        "eb445fc66a01b0779d98223961111e21766282f73dd96b6f",
    ),
)  # fmt: skip

# RFC 5903, 8.1.
ECDH_KEY: Final = "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433"
ECDH_PEER: Final = (
    "04d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"
    "56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab"
)
ECDH_SHARED: Final = "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"
# RFC 5869, A.1.
HKDF_KEY: Final = "0b" * 22
HKDF_SALT: Final = "000102030405060708090a0b0c"
HKDF_INFO: Final = "f0f1f2f3f4f5f6f7f8f9"
HKDF_OUTPUT: Final = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
# SP 800-108 with the same key, HKDF_INFO after a counter of 32 bits: one HMAC.
KDF_OUTPUT: Final = "4f95d5aed6e38be1ee2e10294e0ce5531fc972d1e553907e7eed2c23cf65b9df"

# GB/T 32918.5-2017, annex B. Its signature and its ciphertext are in `algorithms.sm2`.
SM2_A: Final = "81eb26e941bb5af16df116495f90695272ae2cd63d6c4ae1678418be48230029"
SM2_EPHEMERAL_A: Final = "d4de15474db74d06491c440d305e012400990f3e390c7e87153c12db2ea60bb3"
SM2_B: Final = "785129917d45a9ea5437a59356b82338eaadda6ceb199088f14ae10defa229b5"
SM2_EPHEMERAL_B: Final = "7e07124814b309489125eaed101113164ebf0f3458c5bd88335c1f9d596243d6"
SM2_SHARED: Final = "6c89347354de2484c60b4ab1fde4c6e5"

# RFC 3394, 4.1; RFC 5649, 6.
KW_KEY: Final = "000102030405060708090a0b0c0d0e0f"
KW_DATA: Final = "00112233445566778899aabbccddeeff"
KW_WRAPPED: Final = "1fa68b0a8112b447aef34bd8fb5a7b829d3e862371d2cfe5"
KWP_KEY: Final = "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"
KWP_DATA: Final = "c37b7e6492584340bed12207808941155068f738"
KWP_WRAPPED: Final = "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"

ML_DSA: Final = {
    # Parameter set: SHA-256 of the public key that the seed 00 01 … 1f makes.
    1: "9f107644c1084526af3bc8098680b05499a2325a644e388fb4f970e058d19d46",
    2: "d666806e11cee19a7c989f7445f90dd419cf4d2d51db8c0fdb4c0f0a542238c9",
    3: "91dc389cfaa01470b7f66eee45a4ae9026d154817c754dfe22298b3fa241ffcd",
}
ML_KEM: Final = {
    # Parameter set: the same of the seed 00 … 3f, the bytes of a ciphertext, and the secret that
    # decapsulating zeros gives: FIPS 203's implicit rejection.
    2: (
        "0b7934c83125c788995e2ba6bd761e33046b3e40571be53e023309a29f398cc9", 1088,
        "c8fbeddafdacef2ffeb8b354ea644f11b5c150f3e2c4a74ce38abba8f854ae16",
    ),
    3: (
        "c7b8fa0aa471d5ae18922d6ccad5b31e1d84f92ae723abfd13747018740a8530", 1568,
        "294cb5b6b0f37a047745a2a69991f66ac85936e1b077e717eaeb26bb0ba42c68",
    ),
}  # fmt: skip
