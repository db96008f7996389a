"""Every kind of parameter, as C programs give it, arrives as the token takes it."""

from __future__ import annotations

import hashlib
import hmac
from ctypes import Structure, addressof, byref, c_ulong, create_string_buffer
from typing import Any, get_args

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_der_public_key

from secgear.services.crypto.library.layouts import BY_HAND, LAYOUTS
from secgear.services.crypto.pkcs11 import mechanism as parameters
from secgear.services.crypto.pkcs11.constants import Attr, Kdf, KeyType, Mech, Mgf, ObjectClass
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.rpc.mechanisms import parameter_type
from tests.services.crypto.library.cryptoki import (
    Library,
    Mechanism,
    Session,
    buffer_of,
    mechanism_of,
    template,
)
from tests.services.crypto.library.parameters import (
    CcmParams,
    ChachaParams,
    ContextParams,
    Counter,
    CtrParams,
    DataParam,
    EcdhParams,
    EddsaParams,
    HkdfParams,
    KdfParams,
    MacParams,
    OaepParams,
    PssParams,
    RsaAesParams,
)

P256 = bytes.fromhex("06082a8648ce3d030107")
ED25519 = bytes.fromhex("06032b6570")
DATA = b"what is signed or encrypted"


def secret(session: Session, value: bytes, kind: KeyType, **attributes: Any) -> int:
    return session.create(CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=kind, VALUE=value, **attributes)


def public_key(session: Session, handle: int) -> Any:
    return load_der_public_key(session.get(handle, Attr.PUBLIC_KEY_INFO))


def test_every_parameter_that_the_token_takes_is_laid_out_in_c() -> None:
    structures = {
        one.__name__ for one in get_args(parameters.Parameter) if one not in (bytes, type(None))
    }
    known = {*LAYOUTS, *BY_HAND}
    assert structures <= known
    used = {parameter_type(mech) for mech in Mech} - {bytes}
    assert {one.__name__ for one in used} <= known


def test_ctr_has_its_block(session: Session) -> None:
    value = bytes(range(16))
    parameter = CtrParams(bits=128)
    parameter.block[:] = b"0123456789abcdef"
    made = session.run(
        "Encrypt", Mech.AES_CTR, secret(session, value, KeyType.AES), DATA, parameter
    )
    encryptor = Cipher(algorithms.AES(value), modes.CTR(b"0123456789abcdef")).encryptor()
    assert made == encryptor.update(DATA)


def test_chacha_has_its_nonce_and_what_is_not_secret(session: Session) -> None:
    value = bytes(range(32))
    key = secret(session, value, KeyType.CHACHA20)
    made = session.run(
        "Encrypt", Mech.CHACHA20_POLY1305, key, DATA, ChachaParams.of(bytes(12), b"header")
    )
    assert made == ChaCha20Poly1305(value).encrypt(bytes(12), DATA, b"header")


def test_a_mac_has_its_length(session: Session) -> None:
    key = secret(session, b"a key of a mac..", KeyType.GENERIC_SECRET)
    made = session.run("Sign", Mech.SHA256_HMAC_GENERAL, key, DATA, MacParams(length=20))
    assert made == hmac.digest(b"a key of a mac..", DATA, "sha256")[:20]


@pytest.fixture
def rsa(session: Session) -> tuple[int, int]:
    return session.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "ENCRYPT": True},
        {"SIGN": True, "DECRYPT": True},
    )


def test_pss_and_oaep_have_their_hashes_salt_and_label(
    session: Session, rsa: tuple[int, int]
) -> None:
    public = public_key(session, rsa[0])
    signature = session.run(
        "Sign", Mech.SHA256_RSA_PKCS_PSS, rsa[1], DATA,
        PssParams.of(Mech.SHA256, Mgf.SHA256, 20),
    )  # fmt: skip
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
    public.verify(signature, DATA, scheme, hashes.SHA256())
    oaep = padding.OAEP(padding.MGF1(hashes.SHA384()), hashes.SHA384(), b"the label")
    encrypted = public.encrypt(DATA, oaep)
    parameter = OaepParams.of(Mech.SHA384, Mgf.SHA384, 1, b"the label")
    assert session.run("Decrypt", Mech.RSA_PKCS_OAEP, rsa[1], encrypted, parameter) == DATA
    other = OaepParams.of(Mech.SHA384, Mgf.SHA384, 1, b"another")
    session.call("C_DecryptInit", byref(mechanism_of(Mech.RSA_PKCS_OAEP, other)), rsa[1])
    buffer, size = buffer_of(256), c_ulong(256)
    rv = session.rv("C_Decrypt", encrypted, len(encrypted), buffer, byref(size))
    assert rv == Rv.ENCRYPTED_DATA_INVALID


def test_ecdh_has_the_others_key(session: Session) -> None:
    _, private = session.pair(Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256}, {"DERIVE": True})
    public = session.find(CLASS=ObjectClass.PUBLIC_KEY)[-1]
    other = ec.generate_private_key(ec.SECP256R1())
    numbers = other.public_key().public_numbers()
    point = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    made = template(KEY_TYPE=KeyType.AES, VALUE_LEN=32, SENSITIVE=False, EXTRACTABLE=True)
    mechanism = mechanism_of(Mech.ECDH1_DERIVE, EcdhParams.of(Kdf.NULL, b"", point))
    key = session.number("C_DeriveKey", byref(mechanism), private, made, len(made))
    agreed = other.exchange(ec.ECDH(), public_key(session, public))
    assert session.get(key, Attr.VALUE) == agreed


def test_eddsa_needs_no_parameter_and_takes_one(session: Session) -> None:
    public, private = session.pair(
        Mech.EC_EDWARDS_KEY_PAIR_GEN, {"EC_PARAMS": ED25519, "VERIFY": True}, {"SIGN": True}
    )
    key = public_key(session, public)
    assert isinstance(key, ed25519.Ed25519PublicKey)
    key.verify(session.run("Sign", Mech.EDDSA, private, DATA), DATA)
    # With a context it is another algorithm (RFC 8032, 5.1), which the token does not have.
    mechanism = mechanism_of(Mech.EDDSA, EddsaParams.of(0, b"context"))
    rv = session.rv("C_SignInit", byref(mechanism), private)
    assert rv == Rv.MECHANISM_PARAM_INVALID


def test_ml_dsa_has_its_context(session: Session) -> None:
    public, private = session.pair(
        Mech.ML_DSA_KEY_PAIR_GEN, {"PARAMETER_SET": 2, "VERIFY": True}, {"SIGN": True}
    )
    signature = session.run("Sign", Mech.ML_DSA, private, DATA, ContextParams.of(0, b"context"))
    for context, expected in ((b"context", Rv.OK), (b"another", Rv.SIGNATURE_INVALID)):
        mechanism = mechanism_of(Mech.ML_DSA, ContextParams.of(0, context))
        session.call("C_VerifyInit", byref(mechanism), public)
        rv = session.rv("C_Verify", DATA, len(DATA), signature, len(signature))
        assert rv == expected


def test_ml_kem_encapsulates_with_the_calls_of_3_2(session: Session) -> None:
    public, private = session.pair(
        Mech.ML_KEM_KEY_PAIR_GEN, {"PARAMETER_SET": 2, "ENCAPSULATE": True}, {"DECAPSULATE": True}
    )
    made = template(KEY_TYPE=KeyType.GENERIC_SECRET, SENSITIVE=False, EXTRACTABLE=True)
    mechanism, size, key = byref(Mechanism(Mech.ML_KEM)), c_ulong(0), c_ulong(0)
    wanted = (mechanism, public, made, len(made))
    session.call("C_EncapsulateKey", *wanted, None, byref(size), byref(key))
    assert (size.value, key.value) == (1088, 0)
    ciphertext = buffer_of(1088)
    size.value = 1087
    rv = session.rv("C_EncapsulateKey", *wanted, ciphertext, byref(size), byref(key))
    assert rv == Rv.BUFFER_TOO_SMALL
    session.call("C_EncapsulateKey", *wanted, ciphertext, byref(size), byref(key))
    same = session.number("C_DecapsulateKey", mechanism, private, made, len(made), ciphertext, size)
    assert session.get(key.value, Attr.VALUE) == session.get(same, Attr.VALUE)


def test_mechanisms_that_pkcs11_has_no_numbers_for(session: Session) -> None:
    session.call("C_DigestInit", byref(Mechanism(Mech.SM3)))
    assert session.sized("C_Digest", b"abc", 3) == hashlib.new("sm3", b"abc").digest()
    key = secret(session, bytes(16), KeyType.SM4)
    made = session.run("Encrypt", Mech.SM4_CBC_PAD, key, DATA, bytes(16))
    assert session.run("Decrypt", Mech.SM4_CBC_PAD, key, made, bytes(16)) == DATA


def test_a_null_mechanism_ends_what_is_under_way(session: Session) -> None:
    key = secret(session, bytes(16), KeyType.AES)
    mechanism = byref(Mechanism(Mech.AES_ECB))
    session.call("C_EncryptInit", mechanism, key)
    assert session.rv("C_EncryptInit", mechanism, key) == Rv.OPERATION_ACTIVE
    session.call("C_EncryptInit", None, key)
    session.call("C_EncryptInit", mechanism, key)
    session.call("C_SessionCancel", 0x100)


@pytest.mark.parametrize(
    "parameter",
    [
        ChachaParams(nonce=None, nonce_size=12, aad=None, aad_size=0),
        ChachaParams.of(bytes(12), bytes((64 << 10) + 1)),
    ],
)
def test_a_parameter_that_points_nowhere_or_too_far_is_invalid(
    session: Session, parameter: Structure
) -> None:
    key = secret(session, bytes(32), KeyType.CHACHA20)
    mechanism = mechanism_of(Mech.CHACHA20_POLY1305, parameter)
    rv = session.rv("C_EncryptInit", byref(mechanism), key)
    assert rv == Rv.MECHANISM_PARAM_INVALID


def test_ecdsa_through_the_library_is_ecdsa(session: Session) -> None:
    public, private = session.pair(
        Mech.EC_KEY_PAIR_GEN, {"EC_PARAMS": P256, "VERIFY": True}, {"SIGN": True}
    )
    raw = session.run("Sign", Mech.ECDSA_SHA256, private, DATA)
    signature = encode_dss_signature(
        *(int.from_bytes(part, "big") for part in (raw[:32], raw[32:]))
    )
    public_key(session, public).verify(signature, DATA, ec.ECDSA(hashes.SHA256()))


def test_the_library_tells_about_itself(ready: Library) -> None:
    info = buffer_of(256)
    ready.call("C_GetInfo", info)
    raw = bytes(info)
    assert raw[:2] == bytes((3, 2))
    assert raw[2:34] == b"secGear".ljust(32)
    assert raw[48:80] == b"secGear PKCS#11 library".ljust(32)


def test_ccm_has_its_length_nonce_and_mac(session: Session) -> None:
    value = bytes(range(16))
    key = secret(session, value, KeyType.AES)
    parameter = CcmParams.of(len(DATA), bytes(13), b"header", 12)
    made = session.run("Encrypt", Mech.AES_CCM, key, DATA, parameter)
    assert made == AESCCM(value, 12).encrypt(bytes(13), DATA, b"header")


def test_hkdf_has_its_salt_and_info(session: Session) -> None:
    key = secret(session, bytes(range(32)), KeyType.GENERIC_SECRET, DERIVE=True)
    made = template(
        KEY_TYPE=KeyType.GENERIC_SECRET, VALUE_LEN=42, SENSITIVE=False, EXTRACTABLE=True
    )
    parameter = HkdfParams.of(1, 1, Mech.SHA256, 2, b"some salt", 0, b"some info")
    mechanism = mechanism_of(Mech.HKDF_DERIVE, parameter)
    derived = session.number("C_DeriveKey", byref(mechanism), key, made, len(made))
    expected = HKDF(hashes.SHA256(), 42, b"some salt", b"some info").derive(bytes(range(32)))
    assert session.get(derived, Attr.VALUE) == expected


def counter_kdf(*params: tuple[int, bytes], more: int = 0) -> Mechanism:
    """The parameter of SP 800-108 from its parts: 1 for the counter, 4 for bytes."""
    kept = [create_string_buffer(value, max(len(value), 1)) for _, value in params]
    parts = (DataParam * len(params))(
        *(
            DataParam(kind, addressof(buffer), len(value))
            for (kind, value), buffer in zip(params, kept, strict=True)
        )
    )
    given = KdfParams(Mech.SHA256_HMAC, len(params), addressof(parts), more, None)
    mechanism = mechanism_of(Mech.SP800_108_COUNTER_KDF, given)
    mechanism.parts = (kept, parts)
    return mechanism


def counter(bits: int, little_endian: int = 0) -> tuple[int, bytes]:
    return (1, bytes(Counter(little_endian, bits)))


def test_sp_800_108_has_its_counter_and_what_is_around_it(session: Session) -> None:
    value = bytes(range(32))
    key = secret(session, value, KeyType.GENERIC_SECRET, DERIVE=True)
    made = template(
        KEY_TYPE=KeyType.GENERIC_SECRET, VALUE_LEN=40, SENSITIVE=False, EXTRACTABLE=True
    )
    mechanism = counter_kdf((4, b"label"), (4, b"\0"), counter(32), (4, b"context"))
    derived = session.number("C_DeriveKey", byref(mechanism), key, made, len(made))
    blocks = [
        hmac.digest(value, b"label\0" + i.to_bytes(4, "big") + b"context", "sha256") for i in (1, 2)
    ]
    assert session.get(derived, Attr.VALUE) == b"".join(blocks)[:40]
    for wrong in (
        counter_kdf((4, b"label")),  # no counter
        counter_kdf(counter(32), counter(32)),
        counter_kdf(counter(32, little_endian=1)),
        counter_kdf((1, b"short")),
        counter_kdf(counter(32), (3, bytes(24))),  # the length, which has to be bytes
        counter_kdf(counter(32), more=1),
    ):
        rv = session.rv("C_DeriveKey", byref(wrong), key, made, len(made), byref(c_ulong()))
        assert rv == Rv.MECHANISM_PARAM_INVALID


def test_wrapping_with_rsa_and_aes_has_a_structure_in_its_structure(session: Session) -> None:
    public, private = session.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "WRAP": True},
        {"UNWRAP": True},
    )
    key = session.create(
        CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES, VALUE=bytes(16), ENCRYPT=True,
        SENSITIVE=False, EXTRACTABLE=True,
    )  # fmt: skip
    oaep = OaepParams.of(Mech.SHA256, Mgf.SHA256, 1, b"")
    mechanism = mechanism_of(Mech.RSA_AES_KEY_WRAP, RsaAesParams(256, addressof(oaep)))
    wrapped = session.sized("C_WrapKey", byref(mechanism), public, key)
    made = template(CLASS=ObjectClass.SECRET_KEY, KEY_TYPE=KeyType.AES, ENCRYPT=True)
    same = session.number(
        "C_UnwrapKey", byref(mechanism), private, wrapped, len(wrapped), made, len(made)
    )
    assert session.run("Encrypt", Mech.AES_ECB, same, bytes(16)) == (
        session.run("Encrypt", Mech.AES_ECB, key, bytes(16))
    )
    nothing = mechanism_of(Mech.RSA_AES_KEY_WRAP, RsaAesParams(256, None))
    rv = session.rv("C_WrapKey", byref(nothing), public, key, None, byref(c_ulong()))
    assert rv == Rv.MECHANISM_PARAM_INVALID
