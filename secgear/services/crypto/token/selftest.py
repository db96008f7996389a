"""Power-up tests: every algorithm answers as its standard says, or no module opens here.

GM/T 0028 and FIPS 140-3 (IG 10.3.A) ask for known answers before an algorithm is used; pairs that
are generated are tested one by one in `token.generation`. What is tried are the rows that serve the
calls. Signatures with a random part are verified against a known one, and made and verified.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from secgear.errors import CryptoModuleError
from secgear.services.crypto.algorithms import keys
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
    EcdhParams,
    HkdfParams,
    KdfParams,
    Mechanism,
    OaepParams,
    Parameter,
    PssParams,
    Sm2ExchangeParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError
from secgear.services.crypto.token import derivation, wrapping
from secgear.services.crypto.token import known_answers as known
from secgear.services.crypto.token.mechanisms import MECHANISMS, Row
from secgear.services.crypto.token.objects import Object, create

_P256: Final = known.ECDSA[0].params
_Table = Mapping[int, Row]
_octets = bytes.fromhex
_GENERIC: Final = {
    int(Attr.CLASS): int(ObjectClass.SECRET_KEY),
    int(Attr.KEY_TYPE): int(KeyType.GENERIC_SECRET),
}


@functools.cache
def run() -> None:
    """Try everything, once in a process. Raises CryptoModuleError."""
    failed = sorted({Mech(number).name for number in check(MECHANISMS)})
    if failed:
        raise CryptoModuleError(f"the self-test failed: {', '.join(failed)}; no module is opened")


def check(table: _Table) -> Iterator[int]:
    """The mechanisms that do not answer as they should, of those that are offered."""
    for mechs, test in _tests(table):
        offered = [int(mech) for mech in mechs if mech in table]
        if not offered:
            continue
        try:
            passed = test()
        except Exception:  # noqa: BLE001  (whatever happens, it is no right answer)
            passed = False
        if not passed:
            yield from offered


def _tests(table: _Table) -> Iterator[tuple[tuple[Mech, ...], Callable[[], bool]]]:
    """Each test with the mechanisms that depend on it."""
    for mech, digest in known.DIGESTS.items():
        yield (mech,), functools.partial(_digest, table, mech, digest)
    for answer in known.CIPHERS:
        yield (answer.mech,), functools.partial(_cipher, table, answer)
    for mac in known.MACS:
        general = Mech[f"{mac.mech.name}_GENERAL"]
        yield (mac.mech, general), functools.partial(_mac, table, mac)
    yield (
        (Mech.AES_KEY_WRAP,),
        functools.partial(_wrap, Mech.AES_KEY_WRAP, known.KW_KEY, known.KW_DATA, known.KW_WRAPPED),
    )
    yield (
        (Mech.AES_KEY_WRAP_KWP,),
        functools.partial(
            _wrap, Mech.AES_KEY_WRAP_KWP, known.KWP_KEY, known.KWP_DATA, known.KWP_WRAPPED
        ),
    )
    yield (Mech.AES_GCM_WRAP,), functools.partial(_gcm_wrap, Mech.AES_GCM_WRAP, KeyType.AES)
    yield (Mech.SM4_GCM_WRAP,), functools.partial(_gcm_wrap, Mech.SM4_GCM_WRAP, KeyType.SM4)
    yield _named("RSA"), functools.partial(_rsa, table)
    for curve in known.ECDSA:
        yield _named("ECDSA"), functools.partial(_ecdsa, table, curve)
    for raw in known.EDDSA:
        yield (Mech.EDDSA,), functools.partial(_eddsa, table, raw)
    yield (Mech.ECDH1_DERIVE,), _ecdh
    for raw in known.MONTGOMERY:
        yield (Mech.ECDH1_DERIVE,), functools.partial(_montgomery, raw)
    yield (Mech.HKDF_DERIVE, Mech.HKDF_DATA), _hkdf
    yield (Mech.SP800_108_COUNTER_KDF,), _counter_kdf
    yield (Mech.ML_DSA,), functools.partial(_ml_dsa, table)
    yield (Mech.ML_KEM,), _ml_kem
    yield _named("SM2"), _sm2  # whose signatures and encryption are tried when it is loaded


def _named(word: str) -> tuple[Mech, ...]:
    return tuple(
        mech for mech in Mech if word in mech.name.split("_") and not mech.name.endswith("_GEN")
    )


# --- what needs no objects -----------------------------------------------------------------------


def _digest(table: _Table, mech: Mech, answer: str) -> bool:
    maker = table[mech].digest
    return maker is not None and maker().whole(b"abc").hex() == answer


def _cipher(table: _Table, answer: known.Sealed) -> bool:
    maker, prepare = table[answer.mech].cipher, table[answer.mech].prepare
    plain, sealed, key = _octets(answer.plain), _octets(answer.sealed), _octets(answer.key)
    ready = prepare(key) if prepare is not None else key
    return maker is not None and (
        maker(ready, answer.parameter, True).whole(plain) == sealed
        and maker(ready, answer.parameter, False).whole(sealed) == plain
    )


def _mac(table: _Table, answer: known.Mac) -> bool:
    made = _signed(table, answer.mech, _octets(answer.key), _octets(answer.message))
    return made.hex() == answer.mac


def _signed(
    table: _Table, mech: Mech, key: Any, message: bytes, parameter: Parameter = None
) -> bytes:
    maker = table[mech].signer
    if maker is None:
        return b""
    signer = maker(key, parameter)
    signer.update(message)
    return signer.sign()


def _verified(
    table: _Table, mech: Mech, key: Any, message: bytes, signature: bytes, *,
    parameter: Parameter = None,
) -> bool:  # fmt: skip
    """Whether the signature is right, and wrong for another message."""
    maker = table[mech].signer
    if maker is None:
        return False
    for data, right in ((message, True), (message + b"\0", False)):
        signer = maker(key, parameter)
        signer.update(data)
        try:
            signer.verify(signature)
        except CryptokiError:
            if right:
                return False
        else:
            if not right:
                return False
    return True


# --- asymmetric keys -----------------------------------------------------------------------------


def _rsa(table: _Table) -> bool:
    p, q = int(known.RSA_PRIME_1, 16), int(known.RSA_PRIME_2, 16)
    private = keys.rsa_key(p, q, 65537)
    public, pss = private.public_key(), PssParams(Mech.SHA256, Mgf.SHA256, 32)
    signature = _signed(table, Mech.SHA256_RSA_PKCS, private, b"abc")
    oaep, maker = OaepParams(Mech.SHA256, Mgf.SHA256, 1, b""), table[Mech.RSA_PKCS_OAEP].cipher
    if maker is None:
        return False
    sealed = maker(public, oaep, True).whole(b"abc")
    return (
        hashlib.sha256(signature).hexdigest() == known.RSA_SIGNATURE_DIGEST
        and _verified(table, Mech.SHA256_RSA_PKCS, public, b"abc", signature)
        and _verified(
            table, Mech.SHA256_RSA_PKCS_PSS, public, b"abc",
            _signed(table, Mech.SHA256_RSA_PKCS_PSS, private, b"abc", pss), parameter=pss,
        )
        and len(sealed) == 256
        and maker(private, oaep, False).whole(sealed) == b"abc"
    )  # fmt: skip


def _ecdsa(table: _Table, curve: known.Curve) -> bool:
    private = _private(KeyType.EC, curve.key, EC_PARAMS=_octets(curve.params)).material
    public = private.public_key()
    made = _signed(table, curve.mech, private, b"abc")
    return _verified(table, curve.mech, public, b"sample", _octets(curve.signature)) and _verified(
        table, curve.mech, public, b"abc", made
    )


def _eddsa(table: _Table, answer: known.Raw) -> bool:
    params = _octets(answer.params)
    private = _private(KeyType.EC_EDWARDS, answer.key, EC_PARAMS=params).material
    message, signature = _octets(answer.given), _octets(answer.answer)
    return _signed(table, Mech.EDDSA, private, message) == signature and _verified(
        table, Mech.EDDSA, private.public_key(), message, signature
    )


def _ml_dsa(table: _Table) -> bool:
    for number, digest in known.ML_DSA.items():
        private = keys.ML_DSA[number][0].from_seed_bytes(bytes(range(32)))
        public = private.public_key()
        made = _signed(table, Mech.ML_DSA, private, b"abc")
        if hashlib.sha256(public.public_bytes_raw()).hexdigest() != digest:
            return False
        if not _verified(table, Mech.ML_DSA, public, b"abc", made):
            return False
    return True


def _ml_kem() -> bool:
    for number, (digest, size, rejected) in known.ML_KEM.items():
        private = keys.ML_KEM[number][0].from_seed_bytes(bytes(range(64)))
        public = private.public_key()
        secret, ciphertext = public.encapsulate()
        if hashlib.sha256(public.public_bytes_raw()).hexdigest() != digest:
            return False
        if private.decapsulate(ciphertext) != secret:
            return False
        if private.decapsulate(bytes(size)).hex() != rejected:
            return False
    return True


# --- what works on objects -----------------------------------------------------------------------


def _object(object_class: ObjectClass, kind: KeyType, value: str, **attributes: Any) -> Object:
    template = {int(Attr[name]): given for name, given in attributes.items()}
    template |= {
        int(Attr.CLASS): int(object_class),
        int(Attr.KEY_TYPE): int(kind),
        int(Attr.VALUE): _octets(value),
    }
    return create(template, so=False)


def _private(kind: KeyType, value: str, **attributes: Any) -> Object:
    return _object(ObjectClass.PRIVATE_KEY, kind, value, **attributes)


def _wrap(mech: Mech, key: str, data: str, wrapped: str) -> bool:
    wrapper = _object(ObjectClass.SECRET_KEY, KeyType.AES, key)
    inner = _object(ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, data)
    again = wrapping.unwrap(Mechanism(mech), wrapper, _octets(wrapped), _GENERIC, so=False)
    return bool(
        wrapping.wrap(Mechanism(mech), wrapper, inner).hex() == wrapped
        and again.material == inner.material
    )


def _gcm_wrap(mech: Mech, kind: KeyType) -> bool:
    """There and back: the mode has answers of its own."""
    wrapper = _object(ObjectClass.SECRET_KEY, kind, known.KW_KEY, ALLOWED_MECHANISMS=(int(mech),))
    inner = _object(ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, known.KW_DATA)
    wrapped = wrapping.wrap(Mechanism(mech), wrapper, inner)
    again = wrapping.unwrap(Mechanism(mech), wrapper, wrapped, _GENERIC, so=False)
    return bool(again.material == inner.material and inner.material not in wrapped)


def _derived(mech: Mech, params: Parameter, base: Object, size: int, *named: Object) -> bytes:
    template = {int(Attr.VALUE_LEN): size}
    made = derivation.derive(Mechanism(mech, params), base, template, named.__getitem__, so=False)
    return bytes(made.material)


def _ecdh() -> bool:
    base = _private(KeyType.EC, known.ECDH_KEY, EC_PARAMS=_octets(_P256))
    params = EcdhParams(Kdf.NULL, b"", _octets(known.ECDH_PEER))
    return _derived(Mech.ECDH1_DERIVE, params, base, 32) == _octets(known.ECDH_SHARED)


def _montgomery(answer: known.Raw) -> bool:
    base = _private(KeyType.EC_MONTGOMERY, answer.key, EC_PARAMS=_octets(answer.params))
    params, shared = EcdhParams(Kdf.NULL, b"", _octets(answer.given)), _octets(answer.answer)
    return _derived(Mech.ECDH1_DERIVE, params, base, len(shared)) == shared


def _hkdf() -> bool:
    base = _object(ObjectClass.SECRET_KEY, KeyType.HKDF, known.HKDF_KEY)
    salt, info = _octets(known.HKDF_SALT), _octets(known.HKDF_INFO)
    params = HkdfParams(True, True, Mech.SHA256, Salt.DATA, salt, 0, info)
    return _derived(Mech.HKDF_DERIVE, params, base, 32) == _octets(known.HKDF_OUTPUT)


def _counter_kdf() -> bool:
    base = _object(ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, known.HKDF_KEY)
    params = KdfParams(Mech.SHA256_HMAC, 32, b"", _octets(known.HKDF_INFO))
    made = _derived(Mech.SP800_108_COUNTER_KDF, params, base, 32)
    return made == _octets(known.KDF_OUTPUT)


def _sm2() -> bool:
    own, ephemeral, peer, peer_ephemeral = (
        _private(KeyType.SM2, value, EC_PARAMS=keys.SM2_PARAMS)
        for value in (known.SM2_A, known.SM2_EPHEMERAL_A, known.SM2_B, known.SM2_EPHEMERAL_B)
    )
    points = peer.material.public.point, peer_ephemeral.material.public.point
    params = Sm2ExchangeParams(True, 0, *points, b"", b"")
    return _derived(Mech.SM2_EXCHANGE, params, own, 16, ephemeral) == _octets(known.SM2_SHARED)
