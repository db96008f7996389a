"""Signatures, encryption, RSA: GM/T 0018, 6.4."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from ctypes import byref, c_ubyte
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import connect
from tests.services.crypto.conftest import User
from tests.services.crypto.library.cryptoki import Library
from tests.services.crypto.library.cryptoki import Session as Pkcs11
from tests.services.crypto.library.sdf import binding, oracle
from tests.services.crypto.library.sdf.binding import (
    MARK,
    EccPublic,
    EccSignature,
    Room,
    RsaPublic,
    Session,
    cipher,
    cipher_of,
)
from tests.services.crypto.library.sdf.test_sdf_keys import exported, exported_rsa, rsa_of

DIGEST = hashlib.sha256(b"text").digest()
ALICE = b"ALICE123@YAHOO.COM"


def signed(session: Session, digest: bytes = DIGEST, index: int = 1) -> EccSignature:
    signature = EccSignature()
    session.call("InternalSign_ECC", index, digest, len(digest), byref(signature))
    return signature


def external(
    session: Session, public: EccPublic, signature: EccSignature, digest: bytes = DIGEST
) -> str:
    return session.code(
        "ExternalVerify_ECC", binding.SM2_SIGN, byref(public), digest, len(digest), byref(signature)
    )


# --- SM2 signatures ----------------------------------------------------------------------------


def test_a_signature_verifies_here_and_elsewhere(user: Session) -> None:
    signature, public = signed(user), exported(user, "Sign")
    assert user.code("InternalVerify_ECC", 1, DIGEST, 32, byref(signature)) == "OK"
    assert external(user, public, signature) == "OK"
    assert oracle.verifies(public.point, DIGEST, *signature.numbers)


def test_openssl_verifies_what_is_signed_with_an_identity(user: Session, tmp_path: Path) -> None:
    public = exported(user, "Sign")
    signature = signed(user, user.hash(b"message", signer=public, identity=ALICE))
    spki = sm2.PublicKey.from_point(b"\4" + oracle.octets(*public.point)).spki()
    (tmp_path / "key").write_bytes(spki)
    (tmp_path / "signature").write_bytes(utils.encode_dss_signature(*signature.numbers))
    (tmp_path / "message").write_bytes(b"message")
    for name in (ALICE.decode(), "BILL456@YAHOO.COM"):
        done = subprocess.run(
            ["openssl", "pkeyutl", "-verify", "-rawin", "-digest", "sm3", "-pubin", "-keyform",
             "DER", "-inkey", "key", "-sigfile", "signature", "-in", "message", "-pkeyopt",
             f"distid:{name}"],
            cwd=tmp_path, capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode == 0) == (name == ALICE.decode()), done.stderr


def test_the_standards_example_verifies(session: Session, vector: Callable[[str], bytes]) -> None:
    example = json.loads(vector("crypto/gmt/sm2_gmt0003_5.json"))
    public = EccPublic.of((int(example["px"], 16), int(example["py"], 16)))
    case = example["sign"]
    digest = session.hash(
        case["msg_ascii"].encode(), signer=public, identity=case["id_ascii"].encode()
    )
    assert digest == bytes.fromhex(case["e"])
    assert session.hash(case["msg_ascii"].encode(), signer=public) == digest  # the usual identity
    signature = EccSignature.of(int(case["r"], 16), int(case["s"], 16))
    assert external(session, public, signature, digest) == "OK"


def test_signatures_of_others_and_out_of_range_are_refused(user: Session) -> None:
    public = exported(user, "Sign")
    r, s = signed(user).numbers
    for bad in ((r ^ 1, s), (r, s ^ 1), (0, s), (r, 0), (r + oracle.N, s), (r, oracle.N),
                (r, oracle.N - r), (2**256 + r, s), (2**511, s)):  # fmt: skip
        signature = EccSignature.of(*bad)
        assert external(user, public, signature) == "VERIFYERR"
        assert user.code("InternalVerify_ECC", 1, DIGEST, 32, byref(signature)) == "VERIFYERR"
    good = EccSignature.of(r, s)
    assert external(user, exported(user, "Enc"), good) == "VERIFYERR"
    assert external(user, public, good, bytes(32)) == "VERIFYERR"
    _, point = oracle.generate()
    assert external(user, EccPublic.of((point[0], point[1] ^ 1)), good) == "KEYERR"


def test_what_somebody_else_signs_verifies(session: Session) -> None:
    scalar, point = oracle.generate()
    signature = EccSignature.of(*oracle.sign(scalar, DIGEST))
    assert external(session, EccPublic.of(point), signature) == "OK"


@pytest.mark.parametrize("size", [0, 31, 33, 2**32 - 1])
def test_only_a_digest_is_signed(user: Session, size: int) -> None:
    signature = EccSignature()
    assert user.code("InternalSign_ECC", 1, bytes(64), size, byref(signature)) == "INARGERR"
    assert user.code("InternalVerify_ECC", 1, bytes(64), size, byref(signature)) == "INARGERR"
    assert bytes(signature) == bytes(128)
    assert user.code("InternalSign_ECC", 1, None, 32, byref(signature)) == "INARGERR"
    assert user.code("InternalSign_ECC", 1, DIGEST, 32, None) == "OUTARGERR"
    assert user.code("InternalVerify_ECC", 1, DIGEST, 32, None) == "INARGERR"


def test_a_key_for_encryption_does_not_sign(user: Session, module: Module) -> None:
    maker = User(connect(module))
    label = {"LABEL": b"sdf:sign:6", "TOKEN": True}
    maker.pair(Mech.SM2_KEY_PAIR_GEN, label | {"ENCRYPT": True}, label | {"DECRYPT": True})
    user.right(6, b"user-pin-1234")
    assert user.code("InternalSign_ECC", 6, DIGEST, 32, byref(EccSignature())) == "PARDENY"


# --- SM2 encryption ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16, 32, 1000, 4096])
def test_what_is_encrypted_for_somebody_he_can_read(session: Session, size: int) -> None:
    scalar, point = oracle.generate()
    message, out = os.urandom(size), cipher(size)
    session.call(
        "ExternalEncrypt_ECC",
        binding.SM2_ENC,
        byref(EccPublic.of(point)),
        message,
        size,
        byref(out),
    )
    assert oracle.decrypt(scalar, *out.parts) == message
    assert bytes(out.mark) == MARK


def test_what_is_encrypted_for_an_internal_key_comes_back(user: Session) -> None:
    message, out = b"encryption standard", cipher(19)
    user.call("InternalEncrypt_ECC", 2, binding.SM2_ENC, message, 19, byref(out))
    assert bytes(out.mark) == MARK
    assert user.output("InternalDecrypt_ECC", 2, binding.SM2_ENC, byref(out)) == message
    outside = cipher_of(*oracle.encrypt(exported(user, "Enc", 2).point, message))
    assert user.output("InternalDecrypt_ECC", 2, binding.SM2_ENC, byref(outside)) == message
    room = Room(18)
    arguments = (2, binding.SM2_ENC, byref(out), room.buffer, byref(room.length))
    assert user.code("InternalDecrypt_ECC", *arguments) == "NOBUFFER"
    assert room.length.value == 19
    out.digest[0] ^= 1
    room = Room(19)
    arguments = (2, binding.SM2_ENC, byref(out), room.buffer, byref(room.length))
    assert user.code("InternalDecrypt_ECC", *arguments) == "ENCDATAERR"
    assert bytes(room.buffer[:19]) == bytes(19)


def test_a_key_for_envelopes_only_does_not_decrypt(user: Session) -> None:
    out, room = cipher(16), Room(16)
    user.call("InternalEncrypt_ECC", 1, binding.SM2_ENC, bytes(16), 16, byref(out))
    arguments = (1, binding.SM2_ENC, byref(out), room.buffer, byref(room.length))
    assert user.code("InternalDecrypt_ECC", *arguments) == "PARDENY"
    user.made("ImportKeyWithISK_ECC", 1, byref(out))


@pytest.mark.parametrize("size", [0, 4097, 2**32 - 1])
def test_messages_have_a_limit(user: Session, size: int) -> None:
    out = cipher(8)
    code = user.code("InternalEncrypt_ECC", 1, binding.SM2_ENC, bytes(8), size, byref(out))
    assert code == "INARGERR"
    out.size = size
    room = Room(8)
    arguments = (2, binding.SM2_ENC, byref(out), room.buffer, byref(room.length))
    assert user.code("InternalDecrypt_ECC", *arguments) == "ENCDATAERR"


@pytest.mark.parametrize("algorithm", [0, binding.RSA, binding.SM2_EXCHANGE, binding.SM4_ECB])
def test_other_algorithms_are_not_supported(user: Session, algorithm: int) -> None:
    public, signature, out = exported(user, "Sign"), EccSignature(), cipher(16)
    data = (bytes(16), 16)
    assert user.code("InternalEncrypt_ECC", 1, algorithm, *data, byref(out)) == "ALGNOTSUPPORT"
    assert user.code(
        "ExternalEncrypt_ECC", algorithm, byref(public), *data, byref(out)
    ) == "ALGNOTSUPPORT"  # fmt: skip
    assert user.code(
        "ExternalVerify_ECC", algorithm, byref(public), DIGEST, 32, byref(signature)
    ) == "ALGNOTSUPPORT"  # fmt: skip


# --- RSA ---------------------------------------------------------------------------------------


def block_of(content: bytes, size: int = 256) -> bytes:
    return b"\0\1" + b"\xff" * (size - 3 - len(content)) + b"\0" + content


_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


def test_a_block_is_signed_and_the_signature_undone(user: Session) -> None:
    block = block_of(_SHA256 + DIGEST)
    signature = user.output("InternalPrivateKeyOperation_RSA", 1, block, 256)
    form, public = exported_rsa(user, "Sign")
    public.verify(signature, b"text", padding.PKCS1v15(), hashes.SHA256())
    assert user.output("InternalPublicKeyOperation_RSA", 1, signature, 256) == block
    assert user.output("ExternalPublicKeyOperation_RSA", byref(form), signature, 256) == block


@pytest.mark.parametrize(
    "block",
    [
        bytes(256),
        b"\0\2" + b"\xff" * 221 + b"\0" + DIGEST,  # what is encrypted with PKCS#1 v1.5
        b"\0\1" + b"\xff" * 7 + b"\0" + bytes(246),
        b"\0\1" + b"\xff" * 254,
        b"\1\1" + b"\xff" * 221 + b"\0" + DIGEST,
        b"\0\1" + b"\xff" * 100 + b"\xfe" * 121 + b"\0" + DIGEST,
        os.urandom(256),
        b"\0\1",
        b"",
    ],
)
def test_only_what_pkcs1_signs_is_signed(user: Session, block: bytes) -> None:
    # A private key that is applied to anything decrypts and forges, too.
    room = Room(256)
    arguments = (1, block, len(block), room.buffer, byref(room.length))
    assert user.code("InternalPrivateKeyOperation_RSA", *arguments) == "INARGERR"
    assert bytes(room.buffer) == bytes(256) + MARK


def test_blocks_for_keys_of_other_lengths_are_refused_and_nothing_hangs(
    user: Session, module: Module
) -> None:
    maker = User(connect(module))
    label = {"LABEL": b"sdf:sign:4", "TOKEN": True}
    maker.pair(Mech.RSA_PKCS_KEY_PAIR_GEN, label | {"MODULUS_BITS": 3072}, label | {"SIGN": True})
    user.right(4, b"user-pin-1234")
    room = Room(256)
    for index, size in ((1, 128), (4, 256)):
        block = block_of(DIGEST, size)
        arguments = (index, block, size, room.buffer, byref(room.length))
        room.length.value = 256
        assert user.code("InternalPrivateKeyOperation_RSA", *arguments) == "INARGERR"
    assert user.output("InternalPrivateKeyOperation_RSA", 1, block_of(DIGEST), 256)
    room.length.value = 256
    arguments = (4, bytes(256), 256, room.buffer, byref(room.length))
    assert user.code("InternalPublicKeyOperation_RSA", *arguments) in ("KEYTYPEERR", "INARGERR")


def test_room_for_rsa_is_checked(user: Session) -> None:
    block, room = block_of(DIGEST), Room(255)
    for name in ("InternalPrivateKeyOperation_RSA", "InternalPublicKeyOperation_RSA"):
        room.length.value = 255
        code = user.code(name, 1, block, 256, room.buffer, byref(room.length))
        assert (code, room.length.value) == ("NOBUFFER", 256)
        assert user.code(name, 1, block, 256, room.buffer, None) == "OUTARGERR"
        for size in (257, 2**32 - 1):
            assert user.code(name, 1, block, size, room.buffer, byref(room.length)) == "INARGERR"
    assert bytes(room.buffer) == bytes(255) + MARK


def test_public_keys_of_rsa_from_outside(session: Session) -> None:
    key = rsa.generate_private_key(65537, 2048)
    form, text = rsa_of(key), os.urandom(100)
    block = b"\0\2" + b"\x55" * (253 - len(text)) + b"\0" + text  # padded by the application
    sealed = session.output("ExternalPublicKeyOperation_RSA", byref(form), block, 256)
    assert key.decrypt(sealed, padding.PKCS1v15()) == text
    for bad in (RsaPublic(2048), RsaPublic(4096), RsaPublic(0)):
        code = session.code(
            "ExternalPublicKeyOperation_RSA", byref(bad), block, 256, (c_ubyte * 256)(),
            byref(Room(256).length),
        )  # fmt: skip
        assert code == "KEYERR"
    code = session.code(
        "ExternalPublicKeyOperation_RSA", byref(form), b"\xff" * 256, 256, (c_ubyte * 256)(),
        byref(Room(256).length),
    )  # fmt: skip
    assert code == "INARGERR"  # a number beyond the modulus


def test_objects_of_keys_from_outside_do_not_stay(user: Session) -> None:
    public, signature = exported(user, "Sign"), signed(user)
    application = Library(user.sdf.path)
    watching = Pkcs11(application)
    before = len(watching.find(TOKEN=False))
    for _ in range(3):
        external(user, public, signature)
        external(user, public, EccSignature())
        user.call("ExternalEncrypt_ECC", binding.SM2_ENC, byref(public), b"x", 1, byref(cipher(1)))
    assert len(watching.find(TOKEN=False)) == before
    application.close()
