"""Asymmetric keys: between OpenSSL's objects and the attributes that PKCS#11 describes them with.

Private keys live in OpenSSL's objects; as bytes they exist only on their way in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed448,
    ed25519,
    mldsa,
    mlkem,
    rsa,
    x448,
    x25519,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from secgear.errors import PlatformUnavailable
from secgear.services.crypto.algorithms import sm2
from secgear.services.crypto.pkcs11.constants import Attr, KeyType
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template, Value

PrivateKey = Any  # one of cryptography's private key types; they have no common base
PublicKey = Any

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
_MIN_IMPORTED_RSA_BITS: Final = 1024  # to read and verify what is old; never generated

CURVES: Final[Mapping[bytes, ec.EllipticCurve]] = {
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
}
"""By CKA_EC_PARAMS: the DER of the curve's object identifier (RFC 5480)."""
_CURVE_NAMES = {curve.name: params for params, curve in CURVES.items()}


class RawCurve(NamedTuple):
    """A curve whose keys are bytes as they are.

    params: CKA_EC_PARAMS, an object identifier (RFC 8410) or, as in PKCS#11 3.0, a name. size: of a
    public key, in bytes.
    """

    params: tuple[bytes, bytes]
    private: Any
    public: Any
    size: int


RAW_CURVES: Final[Mapping[int, tuple[RawCurve, ...]]] = {
    int(KeyType.EC_EDWARDS): (
        RawCurve(
            (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519"),
            ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey, 32,
        ),
        RawCurve(
            (bytes.fromhex("06032b6571"), b"\x13\x0aedwards448"),
            ed448.Ed448PrivateKey, ed448.Ed448PublicKey, 57,
        ),
    ),
    int(KeyType.EC_MONTGOMERY): (
        RawCurve(
            (bytes.fromhex("06032b656e"), b"\x13\x0acurve25519"),
            x25519.X25519PrivateKey, x25519.X25519PublicKey, 32,
        ),
        RawCurve(
            (bytes.fromhex("06032b656f"), b"\x13\x08curve448"),
            x448.X448PrivateKey, x448.X448PublicKey, 56,
        ),
    ),
}  # fmt: skip
"""By CKA_KEY_TYPE."""
SM2_PARAMS: Final = bytes.fromhex("06082a811ccf5501822d")  # 1.2.156.10197.1.301, GM/T 0006
ML_DSA: Final[Mapping[int, Any]] = {
    1: (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    2: (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    3: (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}
"""By CKA_PARAMETER_SET."""
ML_KEM: Final[Mapping[int, Any]] = {
    2: (mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey),
    3: (mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey),
}


def to_bytes(key: PrivateKey) -> bytes:
    """A private key for the token's own store: PrivateKeyInfo in DER, of SM2 its number."""
    return bytes(key.scalar()) if isinstance(key, sm2.PrivateKey) else to_pkcs8(key)


def from_bytes(kind: int, data: bytes) -> PrivateKey:
    """The same, from the token's own store: it was checked when it was made."""
    if kind == KeyType.SM2:
        return sm2.PrivateKey.from_scalar(data)
    return from_pkcs8(data, own=True)


def public_of(key: PrivateKey) -> PublicKey:
    """The public key that belongs to a private one."""
    return key.public if isinstance(key, sm2.PrivateKey) else key.public_key()


_SM2_PKCS8 = (
    # PrivateKeyInfo of an SM2 key, around its number and its point: all of it has one length
    # (RFC 5208, RFC 5915; OpenSSL writes and reads the same).
    bytes.fromhex("308187020100301306072a8648ce3d020106082a811ccf5501822d046d306b0201010420"),
    bytes.fromhex("a144034200"),
)


def to_pkcs8(key: PrivateKey) -> bytes:
    """A private key's bytes: PrivateKeyInfo in DER."""
    if isinstance(key, sm2.PrivateKey):
        return _SM2_PKCS8[0] + key.scalar() + _SM2_PKCS8[1] + key.public.point
    der: bytes = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return der


def from_pkcs8(der: bytes, *, own: bool = False) -> PrivateKey:
    """A private key from its bytes. own: they are ours, and were checked when they were made.

    Raises CryptokiError for what is no private key of a kind that the token has.
    """
    try:
        if der.startswith(_SM2_PKCS8[0]):
            at = len(_SM2_PKCS8[0])
            own_key = sm2.PrivateKey.from_scalar(der[at : at + 32])
            if to_pkcs8(own_key) != der:
                raise ValueError("another point than the key's")
            return own_key
        key = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
        type_of(key)
        if isinstance(key, rsa.RSAPrivateKey) and not own:
            key = _checked_rsa(key.private_numbers())
    except (ValueError, TypeError, KeyError, UnsupportedAlgorithm, PlatformUnavailable) as error:
        raise CryptokiError(Rv.WRAPPED_KEY_INVALID) from error
    return key


def to_spki(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo in DER."""
    if isinstance(key, sm2.PublicKey):
        return key.spki()
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def from_spki(kind: int, der: bytes) -> PublicKey:
    """A public key from its SubjectPublicKeyInfo. Raises ValueError."""
    if kind == KeyType.SM2:
        return sm2.PublicKey.from_spki(der)
    return load_der_public_key(der)


def type_of(key: PrivateKey | PublicKey) -> KeyType:
    """CKA_KEY_TYPE. Raises KeyError for a key of another kind, or one that is too short."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        if not _MIN_IMPORTED_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise KeyError(key.key_size)
        return KeyType.RSA
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        if key.curve.name not in _CURVE_NAMES:
            raise KeyError(key.curve.name)
        return KeyType.EC
    for kind, curves in RAW_CURVES.items():
        if any(isinstance(key, (curve.private, curve.public)) for curve in curves):
            return KeyType(kind)
    if isinstance(key, sm2.PrivateKey | sm2.PublicKey):
        return KeyType.SM2
    for kind, sets in ((KeyType.ML_DSA, ML_DSA), (KeyType.ML_KEM, ML_KEM)):
        if any(isinstance(key, classes) for classes in sets.values()):
            return KeyType(kind)
    raise KeyError(type(key).__name__)


def describe(key: PublicKey, *, private: bool) -> dict[int, Value]:
    """The attributes that are no secret. private: those that belong to the private key's object."""
    kind = type_of(key)
    attributes: dict[int, Value] = {}
    if kind is KeyType.RSA:
        numbers = key.public_numbers()
        attributes[Attr.MODULUS] = _octets(numbers.n)
        attributes[Attr.PUBLIC_EXPONENT] = _octets(numbers.e)
        if not private:
            attributes[Attr.MODULUS_BITS] = key.key_size
    elif kind is KeyType.EC:
        attributes[Attr.EC_PARAMS] = _CURVE_NAMES[key.curve.name]
        if not private:
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            attributes[Attr.EC_POINT] = _octet_string(point)
    elif kind is KeyType.SM2:
        attributes[Attr.EC_PARAMS] = SM2_PARAMS
        if not private:
            attributes[Attr.EC_POINT] = _octet_string(key.point)
    elif kind in (KeyType.EC_EDWARDS, KeyType.EC_MONTGOMERY):
        attributes[Attr.EC_PARAMS] = next(
            curve.params[0] for curve in RAW_CURVES[kind] if isinstance(key, curve.public)
        )
        if not private:
            attributes[Attr.EC_POINT] = _octet_string(key.public_bytes_raw())
    else:
        sets = ML_DSA if kind is KeyType.ML_DSA else ML_KEM
        attributes[Attr.PARAMETER_SET] = next(
            number for number, classes in sets.items() if isinstance(key, classes)
        )
        if not private:
            attributes[Attr.VALUE] = key.public_bytes_raw()
    if not private:
        attributes[Attr.PUBLIC_KEY_INFO] = to_spki(key)
    return attributes


def components(key: PrivateKey) -> dict[int, bytes]:
    """The attributes that are the secret."""
    kind = type_of(key)
    if kind is KeyType.RSA:
        numbers = key.private_numbers()
        return {
            Attr.PRIVATE_EXPONENT: _octets(numbers.d),
            Attr.PRIME_1: _octets(numbers.p),
            Attr.PRIME_2: _octets(numbers.q),
            Attr.EXPONENT_1: _octets(numbers.dmp1),
            Attr.EXPONENT_2: _octets(numbers.dmq1),
            Attr.COEFFICIENT: _octets(numbers.iqmp),
        }
    if kind is KeyType.EC:
        size = (key.curve.key_size + 7) // 8
        return {Attr.VALUE: key.private_numbers().private_value.to_bytes(size, "big")}
    if kind is KeyType.SM2:
        return {Attr.VALUE: bytes(key.scalar())}
    if kind in (KeyType.ML_DSA, KeyType.ML_KEM):
        return {Attr.SEED: key.private_bytes_raw()}
    return {Attr.VALUE: key.private_bytes_raw()}


SECRET_ATTRIBUTES: Final = frozenset(
    int(attr)
    for attr in (
        Attr.VALUE,
        Attr.SEED,
        Attr.PRIVATE_EXPONENT,
        Attr.PRIME_1,
        Attr.PRIME_2,
        Attr.EXPONENT_1,
        Attr.EXPONENT_2,
        Attr.COEFFICIENT,
    )
)
"""What `components` may hold: never given out of a sensitive or unextractable key."""


def import_public(kind: int, template: Template) -> PublicKey:
    """The public key that a template describes: by its parts, its SubjectPublicKeyInfo, or both.

    That has to be in the one form that the token gives it itself: DER, the point uncompressed.
    Raises CryptokiError.
    """
    info = template.get(Attr.PUBLIC_KEY_INFO)
    if not isinstance(info, bytes) or not info:
        return _imported(_PUBLIC, kind, template)
    alone = not any(attr in template for attr in (Attr.MODULUS, Attr.EC_POINT, Attr.VALUE))
    table = dict.fromkeys(_PUBLIC, lambda _: from_spki(kind, info)) if alone else _PUBLIC
    key = _imported(table, kind, template)
    described = describe(key, private=False) | {int(Attr.KEY_TYPE): int(type_of(key))}
    fixed = (Attr.KEY_TYPE, Attr.PUBLIC_KEY_INFO, Attr.EC_PARAMS, Attr.PARAMETER_SET)
    given = {attr: template[attr] for attr in (fixed if alone else fixed[:2]) if attr in template}
    if any(described.get(attr) != value for attr, value in given.items()):
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    return key


def import_private(kind: int, template: Template) -> PrivateKey:
    """The private key that a template describes, once it was found consistent."""
    return _imported(_PRIVATE, kind, template)


def _imported(table: Mapping[int, Callable[[Template], Any]], kind: int, template: Template) -> Any:
    if kind not in table:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    try:
        key = table[kind](template)
        type_of(key)
    except (ValueError, TypeError, KeyError, OverflowError, UnsupportedAlgorithm) as error:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID) from error
    except PlatformUnavailable as error:  # no OpenSSL here that has SM2
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID) from error
    return key


def _rsa_public(template: Template) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(
        _number(template, Attr.PUBLIC_EXPONENT), _number(template, Attr.MODULUS)
    ).public_key()


def _rsa_private(template: Template) -> rsa.RSAPrivateKey:
    n, d = _number(template, Attr.MODULUS), _number(template, Attr.PRIVATE_EXPONENT)
    e = _number(template, Attr.PUBLIC_EXPONENT)
    # The primes have to be given: a search for them can be made to last for hours.
    p, q = _number(template, Attr.PRIME_1), _number(template, Attr.PRIME_2)
    if p < 2 or q < 2:
        raise ValueError("no RSA key")
    parts = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return _checked_rsa(rsa.RSAPrivateNumbers(p, q, d, *parts, rsa.RSAPublicNumbers(e, n)))


def _checked_rsa(numbers: rsa.RSAPrivateNumbers) -> rsa.RSAPrivateKey:
    """The key, if it is one. Raises ValueError.

    The sizes are looked at first: to test for primality takes the longer the larger a number is.
    """
    p, q, n = numbers.p, numbers.q, numbers.public_numbers.n
    if not _MIN_IMPORTED_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS or p * q != n:
        raise ValueError("no RSA key")
    if abs(p.bit_length() - q.bit_length()) > 1:
        raise ValueError("primes of different sizes")
    return numbers.private_key()


def rsa_key(p: int, q: int, e: int) -> rsa.RSAPrivateKey:
    """The key of two primes. Raises ValueError."""
    d = rsa.rsa_recover_private_exponent(e, p, q)
    public = rsa.RSAPublicNumbers(e, p * q)
    parts = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, *parts, public).private_key(
        unsafe_skip_rsa_key_validation=True
    )


def _ec_public(template: Template) -> ec.EllipticCurvePublicKey:
    curve = CURVES[_bytes(template, Attr.EC_PARAMS)]
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    point = _unwrapped(_bytes(template, Attr.EC_POINT), size)
    return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)


def _ec_private(template: Template) -> ec.EllipticCurvePrivateKey:
    curve = CURVES[_bytes(template, Attr.EC_PARAMS)]
    return ec.derive_private_key(_number(template, Attr.VALUE), curve)


def raw_curve(kind: int, template: Template) -> RawCurve:
    """The curve of CKA_EC_PARAMS. Raises CryptokiError."""
    params = _bytes(template, Attr.EC_PARAMS)
    for curve in RAW_CURVES[kind]:
        if params in curve.params:
            return curve
    raise CryptokiError(Rv.CURVE_NOT_SUPPORTED)


def _raw_public(kind: KeyType) -> Callable[[Template], Any]:
    def load(template: Template) -> Any:
        curve = raw_curve(kind, template)
        point = _unwrapped(_bytes(template, Attr.EC_POINT), curve.size)
        return curve.public.from_public_bytes(point)

    return load


def _raw_private(kind: KeyType) -> Callable[[Template], Any]:
    def load(template: Template) -> Any:
        curve = raw_curve(kind, template)
        return curve.private.from_private_bytes(_bytes(template, Attr.VALUE))

    return load


def _sm2_public(template: Template) -> sm2.PublicKey:
    _expect(template, (SM2_PARAMS,))
    return sm2.PublicKey.from_point(_unwrapped(_bytes(template, Attr.EC_POINT), 65))


def _sm2_private(template: Template) -> sm2.PrivateKey:
    _expect(template, (SM2_PARAMS,))
    return sm2.PrivateKey.from_scalar(_bytes(template, Attr.VALUE))


def _lattice(sets: Mapping[int, Any], *, private: bool) -> Callable[[Template], Any]:
    def load(template: Template) -> Any:
        number = template.get(Attr.PARAMETER_SET)
        if not isinstance(number, int):
            raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
        secret, public = sets[number]
        if private:
            return secret.from_seed_bytes(_bytes(template, Attr.SEED))
        return public.from_public_bytes(_bytes(template, Attr.VALUE))

    return load


_PUBLIC: Final[Mapping[int, Callable[[Template], Any]]] = {
    int(KeyType.RSA): _rsa_public,
    int(KeyType.EC): _ec_public,
    int(KeyType.EC_EDWARDS): _raw_public(KeyType.EC_EDWARDS),
    int(KeyType.EC_MONTGOMERY): _raw_public(KeyType.EC_MONTGOMERY),
    int(KeyType.SM2): _sm2_public,
    int(KeyType.ML_DSA): _lattice(ML_DSA, private=False),
    int(KeyType.ML_KEM): _lattice(ML_KEM, private=False),
}
_PRIVATE: Final[Mapping[int, Callable[[Template], Any]]] = {
    int(KeyType.RSA): _rsa_private,
    int(KeyType.EC): _ec_private,
    int(KeyType.EC_EDWARDS): _raw_private(KeyType.EC_EDWARDS),
    int(KeyType.EC_MONTGOMERY): _raw_private(KeyType.EC_MONTGOMERY),
    int(KeyType.SM2): _sm2_private,
    int(KeyType.ML_DSA): _lattice(ML_DSA, private=True),
    int(KeyType.ML_KEM): _lattice(ML_KEM, private=True),
}


def _bytes(template: Template, attr: Attr) -> bytes:
    value = template.get(attr)
    if not isinstance(value, bytes):
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    return value


def _number(template: Template, attr: Attr) -> int:
    octets = _bytes(template, attr)
    if len(octets) > MAX_RSA_BITS // 8 + 1:
        raise ValueError("too large")
    return int.from_bytes(octets, "big")


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")


def _expect(template: Template, params: tuple[bytes, ...]) -> None:
    if _bytes(template, Attr.EC_PARAMS) not in params:
        raise CryptokiError(Rv.CURVE_NOT_SUPPORTED)


def _octet_string(content: bytes) -> bytes:
    """DER. No point that occurs here has more than 255 bytes."""
    if len(content) < 0x80:
        return bytes((4, len(content))) + content
    return bytes((4, 0x81, len(content))) + content


def _unwrapped(point: bytes, size: int) -> bytes:
    """A point of `size` bytes: a DER OCTET STRING, or as it is, as many callers give it."""
    if len(point) != size:
        point = point[-size:] if point == _octet_string(point[-size:]) else b""
    return point
