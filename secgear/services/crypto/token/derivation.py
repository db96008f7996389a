"""Keys that follow from other keys: ECDH, SM2's key exchange, HKDF, the KDF of SP 800-108.

Pure: no sessions, no store.

A key that may derive is as safe as what its owner lets be derived from it: whoever may use it can
derive a second time what is sensitive the first time, and read it. CKA_DERIVE_TEMPLATE and
CKA_ALLOWED_MECHANISMS of the base key are what PKCS#11 has against that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF

from secgear.services.crypto.algorithms import keys, sm2
from secgear.services.crypto.algorithms.hashing import HASHES, KDF_HASHES, NAMES
from secgear.services.crypto.pkcs11.constants import (
    UNAVAILABLE,
    Attr,
    Kdf,
    KeyType,
    Mech,
    ObjectClass,
    Salt,
)
from secgear.services.crypto.pkcs11.mechanism import (
    EcdhParams,
    HkdfParams,
    KdfParams,
    Mechanism,
    Parameter,
    Sm2ExchangeParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import MAX_BYTES, Template, Value
from secgear.services.crypto.token.generation import combined
from secgear.services.crypto.token.objects import (
    FIXED_LENGTHS,
    MAX_SECRET,
    Object,
    checked_secret,
    completed,
    finished,
)
from secgear.services.crypto.token.schema import How

_MIN_IMPOSED: Final = 16
"""Bytes of a key that is to be as its base key imposes: shorter ones can be tried out, and each is
the beginning of the next longer one."""
Named = Callable[[int], Object]
"""The key behind a handle in a parameter, if it may be used. Raises CryptokiError."""
_Deriver = Callable[[Any, Object, int | None, Named], tuple[bytes, dict[int, Value]]]


def other_key(parameter: object) -> int | None:
    """The handle of the key beside the base: SM2's ephemeral one, a salt."""
    if isinstance(parameter, HkdfParams) and parameter.extract and parameter.salt_type == Salt.KEY:
        return parameter.salt_key
    return parameter.ephemeral if isinstance(parameter, Sm2ExchangeParams) else None


def consumed_key(parameter: Parameter) -> int | None:
    """The handle of the key that a derivation uses up: SM2's ephemeral one."""
    return parameter.ephemeral if isinstance(parameter, Sm2ExchangeParams) else None


def derive(
    mechanism: Mechanism, base: Object, template: Template, named: Named, *, so: bool
) -> Object:
    """C_DeriveKey. Raises CryptokiError.

    What any of the keys imposes holds: HMAC does not tell which was meant to be the secret one.
    """
    params_type, deriver = _DERIVERS[mechanism.type]
    params = mechanism.parameter
    if not isinstance(params, params_type):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    other = other_key(params)
    bases = (base,) if other is None else (base, named(other))
    given = dict(template)
    for one in bases:
        given = dict(combined(given, one.attributes.get(Attr.DERIVE_TEMPLATE)))
    if mechanism.type == Mech.HKDF_DATA:
        return _data(params, base, given, named, so=so)
    if given.get(Attr.CLASS, ObjectClass.SECRET_KEY) != ObjectClass.SECRET_KEY:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    kind = int(given.setdefault(Attr.KEY_TYPE, int(KeyType.GENERIC_SECRET)))  # type: ignore[arg-type]
    attributes = completed(ObjectClass.SECRET_KEY, given, How.MAKE, so=so)
    length = _length(given.get(Attr.VALUE_LEN, FIXED_LENGTHS.get(kind)), MAX_SECRET)
    secret, told = deriver(params, base, length, named)
    if len(secret) < _MIN_IMPOSED and any(Attr.DERIVE_TEMPLATE in one.attributes for one in bases):
        raise CryptokiError(Rv.KEY_SIZE_RANGE)
    value = checked_secret(kind, secret, Rv.KEY_SIZE_RANGE)
    attributes |= told
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    attributes[Attr.ALWAYS_SENSITIVE] = (
        base.flag(Attr.ALWAYS_SENSITIVE) and attributes[Attr.SENSITIVE] is True
    )
    attributes[Attr.NEVER_EXTRACTABLE] = (
        base.flag(Attr.NEVER_EXTRACTABLE) and attributes[Attr.EXTRACTABLE] is False
    )
    return finished(attributes, value)


def _data(params: Any, base: Object, given: dict[int, Value], named: Named, *, so: bool) -> Object:
    """A data object with what HKDF makes (PKCS#11 3.0, 2.62.4)."""
    if given.get(Attr.CLASS, ObjectClass.DATA) != ObjectClass.DATA:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    if Attr.VALUE in given:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    length = _length(given.pop(Attr.VALUE_LEN, None), MAX_BYTES)
    given.setdefault(Attr.PRIVATE, base.private)
    attributes = completed(ObjectClass.DATA, given, How.MAKE, so=so)
    attributes[Attr.VALUE], _ = _hkdf(params, base, length, named)
    return finished(attributes, None)


def _length(given: Value | None, most: int) -> int | None:
    """CKA_VALUE_LEN, None where none is given."""
    if given is not None and (type(given) is not int or not 0 < given <= most):
        raise CryptokiError(Rv.KEY_SIZE_RANGE)
    return given


# --- ECDH ----------------------------------------------------------------------------------------


def _ecdh(
    params: EcdhParams, base: Object, length: int | None, _: Named
) -> tuple[bytes, dict[int, Value]]:
    """PKCS#11 2.40, current mechanisms, 2.3.4 to 2.3.6."""
    secret = _agree(base, params.public_data)
    if params.kdf == Kdf.NULL:
        if params.shared_data:
            raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
        if length is not None and length > len(secret):
            raise CryptokiError(Rv.KEY_SIZE_RANGE)
        return secret[:length], {}  # "the leading bytes"
    digest = KDF_HASHES.get(params.kdf)
    if digest is None:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    if length is None:
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    return X963KDF(HASHES[digest], length, params.shared_data or None).derive(secret), {}


def _agree(base: Object, point: bytes) -> bytes:
    try:
        other = _public(base, point)
        if base.key_type == KeyType.EC:
            return bytes(base.material.exchange(ec.ECDH(), other))
        return bytes(base.material.exchange(other))
    except ValueError as error:  # of low order
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID) from error


def _public(own: Object, point: bytes) -> Any:
    """A peer's public key of the same kind as one's own. Raises CryptokiError."""
    described: dict[int, Value] = {
        Attr.EC_PARAMS: own.attributes[Attr.EC_PARAMS],
        Attr.EC_POINT: point,
    }
    try:
        return keys.import_public(own.key_type, described)
    except CryptokiError:  # off the curve
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID) from None


# --- SM2 -----------------------------------------------------------------------------------------


def _sm2_exchange(
    params: Sm2ExchangeParams, base: Object, length: int | None, named: Named
) -> tuple[bytes, dict[int, Value]]:
    """GM/T 0003.3; see `Sm2ExchangeParams`."""
    if length is None:
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    if max(len(params.identity), len(params.peer_identity)) > sm2.MAX_ID:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    ephemeral = named(params.ephemeral)
    if ephemeral.object_class != ObjectClass.PRIVATE_KEY or ephemeral.key_type != KeyType.SM2:
        raise CryptokiError(Rv.KEY_TYPE_INCONSISTENT)
    peer, peer_ephemeral = _public(base, params.peer_public), _public(base, params.peer_ephemeral)
    try:
        agreed = base.material.exchange(
            ephemeral.material,
            peer,
            peer_ephemeral,
            initiator=params.initiator,
            size=length,
            id=params.identity or sm2.DEFAULT_ID,
            peer_id=params.peer_identity or sm2.DEFAULT_ID,
        )
    except ValueError as error:  # the point at infinity
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID) from error
    own, other = agreed.responder_tag, agreed.initiator_tag
    if params.initiator:
        own, other = other, own
    return agreed.key, {Attr.SM2_CONFIRMATION: own, Attr.SM2_PEER_CONFIRMATION: other}


# --- HKDF ----------------------------------------------------------------------------------------


def _hkdf(
    params: HkdfParams, base: Object, length: int | None, named: Named
) -> tuple[bytes, dict[int, Value]]:
    """RFC 5869, in PKCS#11 3.0 current mechanisms, 2.62."""
    algorithm = HASHES.get(params.hash)
    if algorithm is None or not (params.extract or params.expand):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    size = algorithm.digest_size
    pseudorandom = bytes(base.material)
    if params.extract:
        pseudorandom = HKDF.extract(algorithm, _salt(params, named), pseudorandom)
    elif len(pseudorandom) < size:  # RFC 5869, 2.3
        raise CryptokiError(Rv.KEY_SIZE_RANGE)
    if not params.expand:
        if length not in (None, size):
            raise CryptokiError(Rv.KEY_SIZE_RANGE)
        return pseudorandom, {}
    if length is None:
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    if length > 255 * size:
        raise CryptokiError(Rv.KEY_SIZE_RANGE)
    return HKDFExpand(algorithm, length, params.info).derive(pseudorandom), {}


def _salt(params: HkdfParams, named: Named) -> bytes | None:
    if params.salt_type == Salt.NULL and not params.salt:
        return None
    if params.salt_type == Salt.DATA and params.salt:
        return params.salt
    if params.salt_type != Salt.KEY:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    salt = named(params.salt_key)
    if salt.object_class != ObjectClass.SECRET_KEY:
        raise CryptokiError(Rv.KEY_TYPE_INCONSISTENT)
    return bytes(salt.material)


# --- SP 800-108 ----------------------------------------------------------------------------------


def _counter_kdf(
    params: KdfParams, base: Object, length: int | None, _: Named
) -> tuple[bytes, dict[int, Value]]:
    """NIST SP 800-108, 4.1; see `KdfParams`."""
    if params.counter_bits not in (8, 16, 24, 32) or not params.before + params.after:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    if length is None:
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    location = CounterLocation.MiddleFixed
    if not params.before or not params.after:
        location = CounterLocation.AfterFixed if params.before else CounterLocation.BeforeFixed
    given: dict[str, Any] = {
        "mode": Mode.CounterMode,
        "length": length,
        "rlen": params.counter_bits // 8,
        "llen": None,
        "location": location,
        "label": None,
        "context": None,
        "fixed": params.before + params.after,
    }
    if location is CounterLocation.MiddleFixed:
        given["break_location"] = len(params.before)
    try:
        if params.prf == Mech.AES_CMAC and base.key_type == KeyType.AES:
            kdf: KBKDFCMAC | KBKDFHMAC = KBKDFCMAC(algorithms.AES, **given)
        elif params.prf in _PRFS and base.key_type == KeyType.GENERIC_SECRET:
            kdf = KBKDFHMAC(_PRFS[params.prf], **given)
        else:
            raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
        return kdf.derive(bytes(base.material)), {}
    except ValueError:  # the counter is too short for as many bytes
        raise CryptokiError(Rv.KEY_SIZE_RANGE) from None


_PRFS: Final = {int(Mech[f"{name}_HMAC"]): HASHES[number] for name, number in NAMES.items()}

_DERIVERS: Final[Mapping[int, tuple[type, _Deriver]]] = {
    int(Mech.ECDH1_DERIVE): (EcdhParams, _ecdh),
    int(Mech.SM2_EXCHANGE): (Sm2ExchangeParams, _sm2_exchange),
    int(Mech.HKDF_DERIVE): (HkdfParams, _hkdf),
    int(Mech.HKDF_DATA): (HkdfParams, _hkdf),
    int(Mech.SP800_108_COUNTER_KDF): (KdfParams, _counter_kdf),
}
