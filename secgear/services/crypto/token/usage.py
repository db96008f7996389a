"""What an imported key may do when nobody says: what keys of its type are usually for.

Usage can't be added to a key, so one without any would be of no use. Many applications import keys
without a word about it, as PKCS#11 lets tokens have defaults. Wrapping is for nobody by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from secgear.services.crypto.pkcs11.constants import Attr, KeyType, ObjectClass
from secgear.services.crypto.pkcs11.values import Template, Value

_USAGES: Final = frozenset(
    (
        *(Attr.ENCRYPT, Attr.DECRYPT, Attr.SIGN, Attr.SIGN_RECOVER, Attr.VERIFY),
        *(Attr.VERIFY_RECOVER, Attr.WRAP, Attr.UNWRAP, Attr.DERIVE),
        *(Attr.ENCAPSULATE, Attr.DECAPSULATE),
    )
)
_CIPHER = (Attr.ENCRYPT, Attr.DECRYPT)
_USUAL: Final[Mapping[tuple[int, int], tuple[Attr, ...]]] = {
    (ObjectClass.SECRET_KEY, KeyType.AES): (*_CIPHER, Attr.SIGN, Attr.VERIFY),
    (ObjectClass.SECRET_KEY, KeyType.SM4): _CIPHER,
    (ObjectClass.SECRET_KEY, KeyType.CHACHA20): _CIPHER,
    (ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET): (Attr.SIGN, Attr.VERIFY),
    (ObjectClass.SECRET_KEY, KeyType.HKDF): (Attr.DERIVE,),
    (ObjectClass.PUBLIC_KEY, KeyType.RSA): (Attr.ENCRYPT, Attr.VERIFY),
    (ObjectClass.PUBLIC_KEY, KeyType.SM2): (Attr.ENCRYPT, Attr.VERIFY),
    (ObjectClass.PUBLIC_KEY, KeyType.EC): (Attr.VERIFY,),
    (ObjectClass.PUBLIC_KEY, KeyType.EC_EDWARDS): (Attr.VERIFY,),
    (ObjectClass.PUBLIC_KEY, KeyType.ML_DSA): (Attr.VERIFY,),
    (ObjectClass.PUBLIC_KEY, KeyType.ML_KEM): (Attr.ENCAPSULATE,),
    (ObjectClass.PRIVATE_KEY, KeyType.RSA): (Attr.DECRYPT, Attr.SIGN),
    (ObjectClass.PRIVATE_KEY, KeyType.SM2): (Attr.DECRYPT, Attr.SIGN),
    (ObjectClass.PRIVATE_KEY, KeyType.EC): (Attr.SIGN, Attr.DERIVE),
    (ObjectClass.PRIVATE_KEY, KeyType.EC_EDWARDS): (Attr.SIGN,),
    (ObjectClass.PRIVATE_KEY, KeyType.EC_MONTGOMERY): (Attr.DERIVE,),
    (ObjectClass.PRIVATE_KEY, KeyType.ML_DSA): (Attr.SIGN,),
    (ObjectClass.PRIVATE_KEY, KeyType.ML_KEM): (Attr.DECAPSULATE,),
}


def usual(object_class: int, key_type: int, template: Template) -> dict[int, Value]:
    """The usages of a key that is imported with this template; none if it says anything of them."""
    if not _USAGES.isdisjoint(template):
        return {}
    return {int(attr): True for attr in _USUAL.get((object_class, key_type), ())}
