"""New keys: generated, or agreed on. Pure: no sessions, no store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from secgear.services.crypto.algorithms import keys, sm2
from secgear.services.crypto.pkcs11.constants import (
    UNAVAILABLE,
    Attr,
    KeyType,
    Mech,
    ObjectClass,
)
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template, Value
from secgear.services.crypto.token.mechanisms import no_parameter
from secgear.services.crypto.token.objects import (
    FIXED_LENGTHS,
    MAX_SECRET,
    Object,
    checked_secret,
    completed,
    finished,
)
from secgear.services.crypto.token.schema import How

_SECRET_KEYS: Final = {
    int(Mech.AES_KEY_GEN): KeyType.AES,
    int(Mech.CHACHA20_KEY_GEN): KeyType.CHACHA20,
    int(Mech.SM4_KEY_GEN): KeyType.SM4,
    int(Mech.GENERIC_SECRET_KEY_GEN): KeyType.GENERIC_SECRET,
    int(Mech.HKDF_KEY_GEN): KeyType.HKDF,
}
_PAIRS: Final = {
    int(Mech.RSA_PKCS_KEY_PAIR_GEN): KeyType.RSA,
    int(Mech.EC_KEY_PAIR_GEN): KeyType.EC,
    int(Mech.EC_EDWARDS_KEY_PAIR_GEN): KeyType.EC_EDWARDS,
    int(Mech.EC_MONTGOMERY_KEY_PAIR_GEN): KeyType.EC_MONTGOMERY,
    int(Mech.SM2_KEY_PAIR_GEN): KeyType.SM2,
    int(Mech.ML_DSA_KEY_PAIR_GEN): KeyType.ML_DSA,
    int(Mech.ML_KEM_KEY_PAIR_GEN): KeyType.ML_KEM,
}
_EXPONENT: Final = 65537


def generate(mechanism: Mechanism, template: Template, *, so: bool) -> Object:
    """C_GenerateKey. Raises CryptokiError."""
    no_parameter(mechanism.parameter)
    kind = _SECRET_KEYS[mechanism.type]
    attributes = _begun(ObjectClass.SECRET_KEY, kind, template, so=so)
    length = FIXED_LENGTHS.get(kind, template.get(Attr.VALUE_LEN))
    if not isinstance(length, int):
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    if length > MAX_SECRET:
        raise CryptokiError(Rv.KEY_SIZE_RANGE)
    value = checked_secret(kind, os.urandom(length), Rv.KEY_SIZE_RANGE)
    _mark_generated(attributes, mechanism.type)
    return finished(attributes, value, wraps_sensitive=_wraps_sensitive(attributes, attributes))


def generate_pair(
    mechanism: Mechanism, public_template: Template, private_template: Template, *, so: bool
) -> tuple[Object, Object]:
    """C_GenerateKeyPair: public key, private key. Raises CryptokiError."""
    no_parameter(mechanism.parameter)
    kind = _PAIRS[mechanism.type]
    public = _begun(ObjectClass.PUBLIC_KEY, kind, public_template, so=so)
    private = _begun(ObjectClass.PRIVATE_KEY, kind, private_template, so=so)
    key = _GENERATORS[kind](public_template)
    _test_pair(kind, key)
    _mark_generated(public, mechanism.type)
    _mark_generated(private, mechanism.type)
    wraps_sensitive = _wraps_sensitive(public, private)
    return (
        finished(public, keys.public_of(key), wraps_sensitive=wraps_sensitive),
        finished(private, key),
    )


def shared(secret: bytes, template: Template, *, so: bool) -> Object:
    """The key that a KEM has agreed on. Raises CryptokiError."""
    given = dict(template)
    if given.get(Attr.CLASS, ObjectClass.SECRET_KEY) != ObjectClass.SECRET_KEY:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    kind = given.setdefault(Attr.KEY_TYPE, int(KeyType.GENERIC_SECRET))
    if given.pop(Attr.VALUE_LEN, len(secret)) != len(secret):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    attributes = completed(ObjectClass.SECRET_KEY, given, How.MAKE, so=so)
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    value = checked_secret(int(kind), secret, Rv.KEY_SIZE_RANGE)  # type: ignore[arg-type]
    return finished(attributes, value)


# --- attributes ----------------------------------------------------------------------------------


def _begun(
    object_class: ObjectClass, kind: KeyType, template: Template, *, so: bool
) -> dict[int, Value]:
    if template.get(Attr.CLASS, object_class) != object_class:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    if template.get(Attr.KEY_TYPE, kind) != kind:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    attributes = completed(object_class, template, How.MAKE, so=so)
    attributes[Attr.KEY_TYPE] = kind
    return attributes


def _mark_generated(attributes: dict[int, Value], mechanism: int) -> None:
    attributes[Attr.LOCAL] = True
    attributes[Attr.KEY_GEN_MECHANISM] = mechanism
    if Attr.SENSITIVE in attributes:
        attributes[Attr.ALWAYS_SENSITIVE] = attributes[Attr.SENSITIVE]
        attributes[Attr.NEVER_EXTRACTABLE] = attributes[Attr.EXTRACTABLE] is False


def _wraps_sensitive(wrapper: Template, secret: Template) -> bool:
    """See `Object.wraps_sensitive`. wrapper, secret: the pair's halves, or twice the same key."""
    return (
        wrapper.get(Attr.WRAP) is True
        and secret.get(Attr.DECRYPT) is False
        and secret.get(Attr.EXTRACTABLE) is False
        and secret.get(Attr.SENSITIVE) is True
    )


def combined(template: Template, imposed: Value | None) -> Template:
    """The template, with what the key that makes the new one imposes. Raises CryptokiError."""
    if not isinstance(imposed, Mapping):
        return template
    for attr, value in imposed.items():
        if template.get(attr, value) != value:
            raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    return {**template, **imposed}


# --- key pairs -----------------------------------------------------------------------------------


def _rsa(template: Template) -> rsa.RSAPrivateKey:
    bits = template.get(Attr.MODULUS_BITS)
    if not isinstance(bits, int):
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    if not keys.MIN_RSA_BITS <= bits <= keys.MAX_RSA_BITS or bits % 8:
        raise CryptokiError(Rv.KEY_SIZE_RANGE)
    exponent = template.get(Attr.PUBLIC_EXPONENT, b"\1\0\1")
    if not isinstance(exponent, bytes) or int.from_bytes(exponent, "big") != _EXPONENT:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    return rsa.generate_private_key(_EXPONENT, bits)


def _ec(template: Template) -> ec.EllipticCurvePrivateKey:
    curve = keys.CURVES.get(_params(template))
    if curve is None:
        raise CryptokiError(Rv.CURVE_NOT_SUPPORTED)
    return ec.generate_private_key(curve)


def _raw(kind: KeyType) -> Callable[[Template], Any]:
    return lambda template: keys.raw_curve(kind, template).private.generate()


def _sm2(template: Template) -> sm2.PrivateKey:
    if template.get(Attr.EC_PARAMS, keys.SM2_PARAMS) != keys.SM2_PARAMS:
        raise CryptokiError(Rv.CURVE_NOT_SUPPORTED)
    return sm2.PrivateKey.generate()


def _lattice(sets: Mapping[int, Any]) -> Callable[[Template], Any]:
    def make(template: Template) -> Any:
        number = template.get(Attr.PARAMETER_SET)
        if not isinstance(number, int):
            raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
        if number not in sets:
            raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
        return sets[number][0].generate()

    return make


_GENERATORS: Final[Mapping[KeyType, Callable[[Template], Any]]] = {
    KeyType.RSA: _rsa,
    KeyType.EC: _ec,
    KeyType.EC_EDWARDS: _raw(KeyType.EC_EDWARDS),
    KeyType.EC_MONTGOMERY: _raw(KeyType.EC_MONTGOMERY),
    KeyType.SM2: _sm2,
    KeyType.ML_DSA: _lattice(keys.ML_DSA),
    KeyType.ML_KEM: _lattice(keys.ML_KEM),
}


def _params(template: Template) -> bytes:
    params = template.get(Attr.EC_PARAMS)
    if not isinstance(params, bytes):
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    return params


def _test_pair(kind: KeyType, key: Any) -> None:
    """The pairwise consistency test: a new pair has to understand itself (FIPS 140-3 IG 10.3.A)."""
    if kind is KeyType.SM2:
        return  # `sm2` has done it
    probe = os.urandom(32)
    public = key.public_key()
    try:
        match kind:
            case KeyType.RSA:
                scheme = padding.PKCS1v15()
                public.verify(
                    key.sign(probe, scheme, hashes.SHA256()), probe, scheme, hashes.SHA256()
                )
            case KeyType.EC:
                algorithm = ec.ECDSA(hashes.SHA256())
                public.verify(key.sign(probe, algorithm), probe, algorithm)
            case KeyType.EC_MONTGOMERY:
                curves = keys.RAW_CURVES[kind]
                kinds = [curve.private for curve in curves if isinstance(key, curve.private)]
                other = kinds[0].generate()
                if key.exchange(other.public_key()) != other.exchange(public):
                    raise InvalidSignature
            case KeyType.ML_KEM:
                secret, ciphertext = public.encapsulate()
                if key.decapsulate(ciphertext) != secret:
                    raise InvalidSignature
            case _:
                public.verify(key.sign(probe), probe)
    except InvalidSignature:
        raise CryptokiError(Rv.FIPS_SELF_TEST_FAILED) from None
