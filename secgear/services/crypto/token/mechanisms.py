"""Mechanisms: one row each says what it is for, with which keys, and what does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ed448, padding
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from secgear.errors import PlatformUnavailable
from secgear.services.crypto.algorithms import aead, ccm, ciphers, signing, sm2
from secgear.services.crypto.algorithms.hashing import HASHES, NAMES
from secgear.services.crypto.algorithms.keys import MAX_RSA_BITS, MIN_RSA_BITS
from secgear.services.crypto.algorithms.operation import Signer, Transform
from secgear.services.crypto.pkcs11.constants import KeyType, Mech, MechanismFlag
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    ChachaParams,
    EddsaParams,
    GcmParams,
    LengthParam,
    MessageParams,
    Parameter,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv

Flags = MechanismFlag
_CIPHER: Final = Flags.ENCRYPT | Flags.DECRYPT
_AEAD: Final = _CIPHER | Flags.MESSAGE_ENCRYPT | Flags.MESSAGE_DECRYPT | Flags.MULTI_MESSAGE
_WRAPPER: Final = Flags.WRAP | Flags.UNWRAP
_SIGNER: Final = Flags.SIGN | Flags.VERIFY | Flags.MESSAGE_SIGN | Flags.MESSAGE_VERIFY
_CURVE: Final = Flags.EC_F_P | Flags.EC_NAMEDCURVE | Flags.EC_UNCOMPRESS
_RSA = (MIN_RSA_BITS, MAX_RSA_BITS)
_ECC = (256, 521)
_AES = (16, 32)
_SECRET = (1, 4096)


CipherMaker = Callable[[Any, Parameter, bool], Transform]


class Row(msgspec.Struct, frozen=True):
    """A mechanism. sizes: of keys, in bits for RSA and curves, in bytes for others.

    prepare: what is made of key material once for all operations of a key; None for nothing.
    cipher: makes an operation of a prepared key and a parameter, to encrypt or to decrypt.
    signer: the same, to sign and to verify. message: the parameter of an operation that is one
    message, from that message's parameter and its associated data.
    """

    number: int
    flags: MechanismFlag
    sizes: tuple[int, int] = (0, 0)
    key_types: tuple[int, ...] = ()
    prepare: Callable[[Any], Any] | None = None
    cipher: CipherMaker | None = None
    signer: Callable[[Any, Parameter], Signer] | None = None
    digest: Callable[[], Transform] | None = None
    message: Callable[[MessageParams, bytes], Parameter] | None = None


def lookup(mechanism: int, flag: MechanismFlag) -> Row:
    """The row of a mechanism, if it can do that. Raises CryptokiError."""
    row = MECHANISMS.get(mechanism)
    if row is None or flag not in row.flags:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    return row


def no_parameter(parameter: Parameter) -> None:
    """Raise CryptokiError where one is given that the mechanism does not have."""
    if parameter is not None and parameter != b"":
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)


# --- encryption ----------------------------------------------------------------------------------


BlockAlgorithm = Callable[[bytes], ciphers.BlockKey]


def _ecb(algorithm: BlockAlgorithm) -> CipherMaker:
    def make(key: bytes, parameter: Parameter, encrypt: bool) -> Transform:
        no_parameter(parameter)
        mode = modes.ECB()  # noqa: S305  (PKCS#11 has it)
        return ciphers.BlockCipher(algorithm(key), mode, encrypt=encrypt)

    return make


def _cbc(algorithm: BlockAlgorithm) -> CipherMaker:
    def make(key: bytes, parameter: Parameter, encrypt: bool) -> Transform:
        mode = modes.CBC(ciphers.iv_of(parameter))
        return ciphers.BlockCipher(algorithm(key), mode, encrypt=encrypt)

    return make


def _cbc_pad(algorithm: BlockAlgorithm) -> CipherMaker:
    def make(key: bytes, parameter: Parameter, encrypt: bool) -> Transform:
        return ciphers.PaddedCipher(algorithm(key), ciphers.iv_of(parameter), encrypt=encrypt)

    return make


def _ctr(algorithm: BlockAlgorithm) -> CipherMaker:
    def make(key: bytes, parameter: Parameter, encrypt: bool) -> Transform:
        return ciphers.CounterCipher(algorithm(key), ciphers.ctr_of(parameter), encrypt=encrypt)

    return make


def _gcm(key: aead.GcmKey, parameter: Parameter, encrypt: bool) -> Transform:
    params = aead.gcm_of(parameter)
    return aead.GcmEncryption(key, params) if encrypt else aead.GcmDecryption(key, params)


def _ccm(cipher: Callable[[bytes, int], ccm.Aead]) -> CipherMaker:
    def make(key: bytes, parameter: Parameter, encrypt: bool) -> Transform:
        params = ccm.ccm_of(parameter)
        return ccm.Ccm(cipher(key, params.mac), params, encrypt=encrypt)

    return make


def _chacha(key: ChaCha20Poly1305, parameter: Parameter, encrypt: bool) -> Transform:
    return aead.Chacha(key, aead.chacha_of(parameter), encrypt=encrypt)


def _gcm_message(params: MessageParams, aad: bytes) -> Parameter:
    return GcmParams(params.iv, aad, params.tag_bits)


def _ccm_message(params: MessageParams, aad: bytes) -> Parameter:
    if params.tag_bits % 8:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return CcmParams(params.size, params.iv, aad, params.tag_bits // 8)


def _chacha_message(params: MessageParams, aad: bytes) -> Parameter:
    if params.tag_bits != 128:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return ChachaParams(params.iv, aad)


def _rsa_cipher(key: Any, scheme: padding.AsymmetricPadding, encrypt: bool) -> Transform:
    if encrypt:
        return ciphers.RsaEncryption(key, scheme)
    return ciphers.RsaDecryption(key, scheme)


def _rsa_pkcs(key: Any, parameter: Parameter, encrypt: bool) -> Transform:
    no_parameter(parameter)
    return _rsa_cipher(key, padding.PKCS1v15(), encrypt)


def _rsa_oaep(key: Any, parameter: Parameter, encrypt: bool) -> Transform:
    return _rsa_cipher(key, ciphers.oaep_of(parameter), encrypt)


# --- signatures and MACs -------------------------------------------------------------------------


def _rsa_signer(digest: int | None) -> Callable[[Any, Parameter], Signer]:
    def make(key: Any, parameter: Parameter) -> Signer:
        no_parameter(parameter)
        algorithm = None if digest is None else HASHES[digest]
        return signing.RsaSigner(key, padding.PKCS1v15(), algorithm, digested=digest is None)

    return make


def _pss_signer(digest: int | None) -> Callable[[Any, Parameter], Signer]:
    def make(key: Any, parameter: Parameter) -> Signer:
        scheme, number = signing.pss_of(parameter, digest)
        return signing.RsaSigner(key, scheme, HASHES[number], digested=digest is None)

    return make


def _ecdsa_signer(digest: int | None) -> Callable[[Any, Parameter], Signer]:
    def make(key: Any, parameter: Parameter) -> Signer:
        no_parameter(parameter)
        return signing.EcdsaSigner(key, None if digest is None else HASHES[digest])

    return make


_ED448 = (ed448.Ed448PrivateKey, ed448.Ed448PublicKey)


def _eddsa_signer(key: Any, parameter: Parameter) -> Signer:
    """Neither prehashed nor with a context; of Ed448 the parameter may say so (RFC 8032, 5.2)."""
    ed448_key = isinstance(key, _ED448)
    if not ed448_key or parameter != EddsaParams(False, b""):
        no_parameter(parameter)
    return signing.MessageSigner(key, 114 if ed448_key else 64)


_ML_DSA_LENGTHS = {"44": 2420, "65": 3309, "87": 4627}  # FIPS 204, table 2


def _ml_dsa_signer(key: Any, parameter: Parameter) -> Signer:
    name = type(key).__name__
    length = next(size for digits, size in _ML_DSA_LENGTHS.items() if digits in name)
    return signing.MessageSigner(key, length, signing.context_of(parameter))


def _sm2_cipher(key: Any, parameter: Parameter, encrypt: bool) -> Transform:
    no_parameter(parameter)
    return ciphers.Sm2Cipher(key)


def _sm2_signer(key: Any, parameter: Parameter) -> Signer:
    no_parameter(parameter)
    return signing.Sm2Signer(key, None)


def _sm2_sm3_signer(key: Any, parameter: Parameter) -> Signer:
    return signing.Sm2Signer(key, signing.identity_of(parameter))


def _hmac_signer(digest: int, *, general: bool) -> Callable[[Any, Parameter], Signer]:
    algorithm = HASHES[digest]

    def make(key: bytes, parameter: Parameter) -> Signer:
        return signing.Hmac(key, algorithm, _length(parameter, algorithm.digest_size, general))

    return make


def _cmac_signer(*, general: bool) -> Callable[[Any, Parameter], Signer]:
    def make(key: bytes, parameter: Parameter) -> Signer:
        return signing.Cmac(key, _length(parameter, 16, general))

    return make


def _length(parameter: Parameter, full: int, general: bool) -> int:
    """Bytes of a MAC. Fewer than 4 are no protection, and nobody's standard."""
    if not general:
        no_parameter(parameter)
        return full
    if not isinstance(parameter, LengthParam) or not 4 <= parameter.length <= full:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter.length


# --- the table -----------------------------------------------------------------------------------


_MODES: Final[Mapping[str, Callable[[BlockAlgorithm], CipherMaker]]] = {
    "ECB": _ecb,
    "CBC": _cbc,
    "CBC_PAD": _cbc_pad,
    "CTR": _ctr,
}


def _rows() -> Iterator[Row]:
    yield from _symmetric_rows()
    yield from _digest_rows()
    yield from _rsa_rows()
    yield from _curve_rows()
    yield from _lattice_rows()
    yield from _system_rows()


def _symmetric_rows() -> Iterator[Row]:
    aes = (KeyType.AES,)
    yield Row(Mech.AES_KEY_GEN, Flags.GENERATE, _AES)
    for prefix, algorithm, gcm, kind, sizes in (
        ("AES", algorithms.AES, aead.aes_gcm_key, KeyType.AES, _AES),
        ("SM4", algorithms.SM4, aead.sm4_gcm_key, KeyType.SM4, (16, 16)),
    ):
        for mode, maker in _MODES.items():
            number = Mech[f"{prefix}_{mode}"]
            yield Row(number, _CIPHER, sizes, (kind,), cipher=maker(algorithm))
        number = Mech[f"{prefix}_GCM"]
        yield Row(number, _AEAD, sizes, (kind,), prepare=gcm, cipher=_gcm, message=_gcm_message)
    yield Row(Mech.SM4_KEY_GEN, Flags.GENERATE, (16, 16))
    yield Row(Mech.AES_CCM, _AEAD, _AES, aes, cipher=_ccm(ccm.aes_ccm), message=_ccm_message)
    yield Row(Mech.AES_CMAC, _SIGNER, _AES, aes, signer=_cmac_signer(general=False))
    yield Row(Mech.AES_CMAC_GENERAL, _SIGNER, _AES, aes, signer=_cmac_signer(general=True))
    yield Row(Mech.AES_KEY_WRAP, _WRAPPER, _AES, aes)
    yield Row(Mech.AES_KEY_WRAP_KWP, _WRAPPER, _AES, aes)
    yield Row(Mech.AES_GCM_WRAP, _WRAPPER, _AES, aes)
    yield Row(Mech.SM4_GCM_WRAP, _WRAPPER, (16, 16), (KeyType.SM4,))
    yield Row(Mech.CHACHA20_KEY_GEN, Flags.GENERATE, (32, 32))
    chacha = (KeyType.CHACHA20,)
    number = Mech.CHACHA20_POLY1305
    yield Row(
        number, _AEAD, (32, 32), chacha,
        prepare=ChaCha20Poly1305, cipher=_chacha, message=_chacha_message,
    )  # fmt: skip
    yield Row(Mech.GENERIC_SECRET_KEY_GEN, Flags.GENERATE, _SECRET)
    yield Row(Mech.HKDF_KEY_GEN, Flags.GENERATE, _SECRET)
    material = (KeyType.HKDF, KeyType.GENERIC_SECRET)
    yield Row(Mech.HKDF_DERIVE, Flags.DERIVE, _SECRET, material)
    yield Row(Mech.HKDF_DATA, Flags.DERIVE, _SECRET, material)
    yield Row(
        Mech.SP800_108_COUNTER_KDF, Flags.DERIVE, _SECRET,
        (KeyType.GENERIC_SECRET, KeyType.AES),
    )  # fmt: skip


def _digest_rows() -> Iterator[Row]:
    generic = (KeyType.GENERIC_SECRET,)
    for number, algorithm in HASHES.items():
        name = Mech(number).name
        digest = _digest_maker(algorithm)
        yield Row(number, Flags.DIGEST, digest=digest)
        if number == Mech.SHA_1:
            continue  # neither signatures nor MACs of ours are made with it
        # GM/T 0018 has one kind of session key, for SM4 and HMAC-SM3 alike.
        kinds = (*generic, KeyType.SM4) if number == Mech.SM3 else generic
        for suffix, general in (("_HMAC", False), ("_HMAC_GENERAL", True)):
            signer = _hmac_signer(number, general=general)
            yield Row(Mech[name + suffix], _SIGNER, _SECRET, kinds, signer=signer)


def _digest_maker(algorithm: Any) -> Callable[[], Transform]:
    return lambda: signing.Digest(algorithm)


def _rsa_rows() -> Iterator[Row]:
    keys = (KeyType.RSA,)
    yield Row(Mech.RSA_PKCS_KEY_PAIR_GEN, Flags.GENERATE_KEY_PAIR, _RSA)
    everything = _CIPHER | _SIGNER | _WRAPPER | Flags.SIGN_RECOVER | Flags.VERIFY_RECOVER
    yield Row(
        Mech.RSA_PKCS, everything, _RSA, keys, cipher=_rsa_pkcs, signer=_rsa_signer(None),
    )  # fmt: skip
    yield Row(Mech.RSA_PKCS_OAEP, _CIPHER | _WRAPPER, _RSA, keys, cipher=_rsa_oaep)
    yield Row(Mech.RSA_AES_KEY_WRAP, _WRAPPER, _RSA, keys)
    yield Row(Mech.RSA_PKCS_PSS, _SIGNER, _RSA, keys, signer=_pss_signer(None))
    for name, digest in NAMES.items():
        yield Row(Mech[f"{name}_RSA_PKCS"], _SIGNER, _RSA, keys, signer=_rsa_signer(digest))
        yield Row(Mech[f"{name}_RSA_PKCS_PSS"], _SIGNER, _RSA, keys, signer=_pss_signer(digest))


def _curve_rows() -> Iterator[Row]:
    keys = (KeyType.EC,)
    yield Row(Mech.EC_KEY_PAIR_GEN, Flags.GENERATE_KEY_PAIR | _CURVE, _ECC)
    yield Row(Mech.ECDSA, _SIGNER | _CURVE, _ECC, keys, signer=_ecdsa_signer(None))
    for name, digest in NAMES.items():
        signer = _ecdsa_signer(digest)
        yield Row(Mech[f"ECDSA_{name}"], _SIGNER | _CURVE, _ECC, keys, signer=signer)
    both = (KeyType.EC, KeyType.EC_MONTGOMERY)
    yield Row(Mech.ECDH1_DERIVE, Flags.DERIVE | _CURVE, (255, 521), both)
    yield Row(Mech.EC_EDWARDS_KEY_PAIR_GEN, Flags.GENERATE_KEY_PAIR, (255, 448))
    yield Row(Mech.EDDSA, _SIGNER, (255, 448), (KeyType.EC_EDWARDS,), signer=_eddsa_signer)
    yield Row(Mech.EC_MONTGOMERY_KEY_PAIR_GEN, Flags.GENERATE_KEY_PAIR, (255, 448))


def _lattice_rows() -> Iterator[Row]:
    yield Row(Mech.ML_DSA_KEY_PAIR_GEN, Flags.GENERATE_KEY_PAIR)
    yield Row(Mech.ML_DSA, _SIGNER, key_types=(KeyType.ML_DSA,), signer=_ml_dsa_signer)
    yield Row(Mech.ML_KEM_KEY_PAIR_GEN, Flags.GENERATE_KEY_PAIR)
    yield Row(Mech.ML_KEM, Flags.ENCAPSULATE | Flags.DECAPSULATE, key_types=(KeyType.ML_KEM,))


def _system_rows() -> Iterator[Row]:
    """SM2 and SM4-CCM: offered where the system's OpenSSL has SM2 and passes its examples.

    It is tried here, at import, because a sealed enclave loads no libraries.
    """
    try:
        sm2.PrivateKey.generate()
    except PlatformUnavailable:
        return
    keys, bits = (KeyType.SM2,), (256, 256)
    yield Row(Mech.SM2_KEY_PAIR_GEN, Flags.GENERATE_KEY_PAIR | _CURVE, bits)
    yield Row(Mech.SM2, _SIGNER | _CURVE, bits, keys, signer=_sm2_signer)
    yield Row(Mech.SM2_SM3, _SIGNER | _CURVE, bits, keys, signer=_sm2_sm3_signer)
    yield Row(Mech.SM2_ENCRYPT, _CIPHER | _WRAPPER | _CURVE, bits, keys, cipher=_sm2_cipher)
    yield Row(Mech.SM2_EXCHANGE, Flags.DERIVE | _CURVE, bits, keys)
    sm4 = (KeyType.SM4,)
    yield Row(Mech.SM4_CCM, _AEAD, (16, 16), sm4, cipher=_ccm(ccm.Sm4Ccm), message=_ccm_message)


MECHANISMS: Final[Mapping[int, Row]] = {int(row.number): row for row in _rows()}
