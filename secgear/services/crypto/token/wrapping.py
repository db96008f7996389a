"""Keys that leave and come back, encrypted under other keys. Pure: no sessions, no store.

Whether a key may leave at all is for `calls.keys` to say; here is how.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import padding

from secgear.services.crypto.algorithms import aead, ciphers, keys
from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Attr, Mech, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import (
    GcmParams,
    Mechanism,
    Parameter,
    RsaAesParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template
from secgear.services.crypto.token.generation import combined
from secgear.services.crypto.token.mechanisms import no_parameter
from secgear.services.crypto.token.objects import Object, checked_secret, completed, finished
from secgear.services.crypto.token.schema import How

_NONCE, _TAG = 12, 16  # bytes around what GCM wraps
_PRIVATE: Final = frozenset(
    {Mech.AES_KEY_WRAP_KWP, Mech.AES_GCM_WRAP, Mech.SM4_GCM_WRAP, Mech.RSA_AES_KEY_WRAP}
)
"""Mechanisms for private keys, too: what they carry may have any length."""
_Direction = Callable[[Object, Parameter, bytes], bytes]


def wrap(mechanism: Mechanism, wrapper: Object, key: Object) -> bytes:
    """C_WrapKey: the key's bytes under the wrapper. Raises CryptokiError."""
    if key.object_class == ObjectClass.SECRET_KEY:
        data = bytes(key.material)
    elif key.object_class == ObjectClass.PRIVATE_KEY and mechanism.type in _PRIVATE:
        data = keys.to_pkcs8(key.material)
    else:
        raise CryptokiError(Rv.KEY_NOT_WRAPPABLE)
    if mechanism.type in _GCM and wrapper.attributes[Attr.ALLOWED_MECHANISMS] != (mechanism.type,):
        # Who may also encrypt with the key, under a nonce of their choice, can undo this: GCM adds
        # the same to both. A list that nobody can change says that the key does nothing else.
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)
    rsa_aes = mechanism.type == Mech.RSA_AES_KEY_WRAP
    if rsa_aes and key.flag(Attr.SENSITIVE) and not wrapper.flag(Attr.TRUSTED):
        # Who may unwrap with OAEP can let in the AES key by itself, with the right to decrypt. So
        # only under a key whose private half is not here, as the officer has said.
        raise CryptokiError(Rv.KEY_NOT_WRAPPABLE)
    try:
        return _MECHANISMS[mechanism.type][0](wrapper, mechanism.parameter, data)
    except CryptokiError as error:
        if error.rv is Rv.DATA_LEN_RANGE:
            raise CryptokiError(Rv.KEY_SIZE_RANGE) from error
        raise


def unwrap(
    mechanism: Mechanism, unwrapper: Object, wrapped: bytes, template: Template, *, so: bool
) -> Object:
    """C_UnwrapKey. Raises CryptokiError.

    What comes out is sensitive: a sensitive key that was wrapped could be read otherwise by who
    lets it in again, and whoever may unwrap with an RSA key could decrypt with it.
    """
    given = combined(template, unwrapper.attributes.get(Attr.UNWRAP_TEMPLATE))
    object_class, kind = given.get(Attr.CLASS), given.get(Attr.KEY_TYPE)
    if not isinstance(object_class, int) or not isinstance(kind, int):
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    if object_class not in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    given = dict(given)
    length = given.pop(Attr.VALUE_LEN, None)
    attributes = completed(object_class, given, How.MAKE, so=so)
    if attributes[Attr.SENSITIVE] is not True:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    data = _unwrapped(mechanism, unwrapper, wrapped)
    if object_class == ObjectClass.PRIVATE_KEY:
        material = keys.from_pkcs8(data)
        if keys.type_of(material) != kind:
            raise CryptokiError(Rv.WRAPPED_KEY_INVALID)
    else:
        material = checked_secret(kind, data, Rv.WRAPPED_KEY_INVALID)
        if length is not None and length != len(data):
            raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    return finished(attributes, material)


def _unwrapped(mechanism: Mechanism, unwrapper: Object, wrapped: bytes) -> bytes:
    try:
        return _MECHANISMS[mechanism.type][1](unwrapper, mechanism.parameter, wrapped)
    except (keywrap.InvalidUnwrap, InvalidTag):
        raise CryptokiError(Rv.WRAPPED_KEY_INVALID) from None
    except CryptokiError as error:
        known = {
            Rv.ENCRYPTED_DATA_INVALID: Rv.WRAPPED_KEY_INVALID,
            Rv.ENCRYPTED_DATA_LEN_RANGE: Rv.WRAPPED_KEY_LEN_RANGE,
            Rv.DATA_LEN_RANGE: Rv.WRAPPED_KEY_LEN_RANGE,
        }
        raise CryptokiError(known.get(error.rv, error.rv)) from None


# --- AES key wrap (RFC 3394, RFC 5649) -----------------------------------------------------------


def _kw(key: Object, parameter: Parameter, data: bytes) -> bytes:
    no_parameter(parameter)
    if len(data) < 16 or len(data) % 8:
        raise CryptokiError(Rv.KEY_SIZE_RANGE)
    return keywrap.aes_key_wrap(key.material, data)


def _kw_back(key: Object, parameter: Parameter, wrapped: bytes) -> bytes:
    no_parameter(parameter)
    return keywrap.aes_key_unwrap(key.material, wrapped)


def _kwp(key: Object, parameter: Parameter, data: bytes) -> bytes:
    no_parameter(parameter)
    return keywrap.aes_key_wrap_with_padding(key.material, data)


def _kwp_back(key: Object, parameter: Parameter, wrapped: bytes) -> bytes:
    no_parameter(parameter)
    return keywrap.aes_key_unwrap_with_padding(key.material, wrapped)


# --- GCM: nonce || ciphertext || tag -------------------------------------------------------------


def _gcm(prepare: Callable[[bytes], aead.GcmKey]) -> tuple[_Direction, _Direction]:
    """Of ours. The nonce is made here. parameter: associated data, or nothing."""

    def params(parameter: Parameter, nonce: bytes) -> GcmParams:
        if parameter is not None and not isinstance(parameter, bytes):
            raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
        return GcmParams(nonce, parameter or b"", 8 * _TAG)

    def there(key: Object, parameter: Parameter, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        operation = aead.GcmEncryption(key.prepared(prepare), params(parameter, nonce))
        return nonce + operation.whole(data)

    def back(key: Object, parameter: Parameter, wrapped: bytes) -> bytes:
        given = params(parameter, wrapped[:_NONCE])
        if len(wrapped) <= _NONCE + _TAG:
            raise CryptokiError(Rv.WRAPPED_KEY_LEN_RANGE)
        return aead.GcmDecryption(key.prepared(prepare), given).whole(wrapped[_NONCE:])

    return there, back


# --- public keys ---------------------------------------------------------------------------------


def _rsa(key: Object, parameter: Parameter, data: bytes) -> bytes:
    no_parameter(parameter)
    return ciphers.RsaEncryption(key.material, padding.PKCS1v15()).whole(data)


def _rsa_back(key: Object, parameter: Parameter, wrapped: bytes) -> bytes:
    no_parameter(parameter)
    return ciphers.RsaDecryption(key.material, padding.PKCS1v15()).whole(wrapped)


def _oaep(key: Object, parameter: Parameter, data: bytes) -> bytes:
    return ciphers.RsaEncryption(key.material, ciphers.oaep_of(parameter)).whole(data)


def _oaep_back(key: Object, parameter: Parameter, wrapped: bytes) -> bytes:
    return ciphers.RsaDecryption(key.material, ciphers.oaep_of(parameter)).whole(wrapped)


def _rsa_aes(key: Object, parameter: Parameter, data: bytes) -> bytes:
    """A new AES key under OAEP, then the data under that (PKCS#11 2.40, 2.1.22)."""
    params = _rsa_aes_of(parameter)
    inner = os.urandom(params.bits // 8)
    return _oaep(key, params.oaep, inner) + keywrap.aes_key_wrap_with_padding(inner, data)


def _rsa_aes_back(key: Object, parameter: Parameter, wrapped: bytes) -> bytes:
    params = _rsa_aes_of(parameter)
    size = (key.material.key_size + 7) // 8
    inner = _oaep_back(key, params.oaep, wrapped[:size])
    if 8 * len(inner) != params.bits:
        raise CryptokiError(Rv.WRAPPED_KEY_INVALID)
    return keywrap.aes_key_unwrap_with_padding(inner, wrapped[size:])


def _rsa_aes_of(parameter: Parameter) -> RsaAesParams:
    if not isinstance(parameter, RsaAesParams) or parameter.bits not in (128, 192, 256):
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return parameter


def _sm2(key: Object, parameter: Parameter, data: bytes) -> bytes:
    no_parameter(parameter)
    return ciphers.Sm2Cipher(key.material).whole(data)


_MECHANISMS: Final[Mapping[int, tuple[_Direction, _Direction]]] = {
    int(Mech.AES_KEY_WRAP): (_kw, _kw_back),
    int(Mech.AES_KEY_WRAP_KWP): (_kwp, _kwp_back),
    int(Mech.AES_GCM_WRAP): _gcm(aead.aes_gcm_key),
    int(Mech.SM4_GCM_WRAP): _gcm(aead.sm4_gcm_key),
    int(Mech.RSA_PKCS): (_rsa, _rsa_back),
    int(Mech.RSA_PKCS_OAEP): (_oaep, _oaep_back),
    int(Mech.RSA_AES_KEY_WRAP): (_rsa_aes, _rsa_aes_back),
    int(Mech.SM2_ENCRYPT): (_sm2, _sm2),  # which way it goes, the half of the pair says
}
_GCM: Final = (Mech.AES_GCM_WRAP, Mech.SM4_GCM_WRAP)
