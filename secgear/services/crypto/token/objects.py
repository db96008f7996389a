"""Objects: their attributes, and the key material that some of them hold.

An object is never changed in place: a change makes a new one, which replaces the old one once it is
durable. So whoever works with an object works with all of one state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, final

import msgspec
from cryptography.hazmat.primitives import hashes

from secgear.services.crypto.algorithms import keys
from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Attr, KeyType, ObjectClass
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template, Value, check_kind, weight_of
from secgear.services.crypto.token.schema import KEYS, RULES, SECRETS, How, Rules
from secgear.services.crypto.token.usage import usual

MAX_SECRET = 4096  # bytes of a generic secret
_MIN_CHECKED = 16  # bytes of a key that has a check value
FIXED_LENGTHS: Final[Mapping[int, int]] = {int(KeyType.CHACHA20): 32, int(KeyType.SM4): 16}
"""Bytes of keys that have one size only, by CKA_KEY_TYPE."""
_SIZES = {KeyType.AES: (16, 24, 32), KeyType.CHACHA20: (32,), KeyType.SM4: (16,)}


@final
class Object:
    """One object. Its `repr` shows no attribute.

    size: bytes of its attributes that are no secret. material: of a secret key its bytes, of others
    OpenSSL's object, None where there is no key.
    wraps_sensitive: whether sensitive keys may leave under it. Only a key that was generated here,
    that could never be extracted and never decrypt may wrap them: its owner can't get at what it
    wrapped but by unwrapping it. Copies inherit it, and usage can't be added to a key.
    """

    __slots__ = ("_prepared", "attributes", "id", "material", "size", "wraps_sensitive")

    def __init__(
        self,
        id: int,
        attributes: Mapping[int, Value],
        material: Any = None,
        *,
        wraps_sensitive: bool = False,
    ) -> None:
        self.id = id
        self.attributes = attributes
        self.material = material
        self.wraps_sensitive = wraps_sensitive
        self.size = sum(map(weight_of, attributes.values()))
        self._prepared: dict[Callable[[Any], Any], Any] = {}

    def __repr__(self) -> str:
        return f"<Object {self.id}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an object of the token can't be pickled")

    def numbered(self, id: int) -> Object:
        """The object under another id."""
        attributes = {**self.attributes, int(Attr.UNIQUE_ID): f"{id:016x}".encode()}
        return Object(id, attributes, self.material, wraps_sensitive=self.wraps_sensitive)

    def prepared(self, make: Callable[[Any], Any] | None) -> Any:
        """The key material as `make` turns it, once: what it makes ends with the object."""
        if make is None:
            return self.material
        made = self._prepared.get(make)
        if made is None:
            made = self._prepared[make] = make(self.material)
        return made

    def flag(self, attr: int) -> bool:
        """Whether a boolean attribute is there and true."""
        return self.attributes.get(attr) is True

    @property
    def token(self) -> bool:
        """Whether it outlives its session."""
        return self.attributes[Attr.TOKEN] is True

    @property
    def private(self) -> bool:
        """Whether one has to be logged in to see it."""
        return self.attributes[Attr.PRIVATE] is True

    @property
    def object_class(self) -> int:
        """CKA_CLASS."""
        return int(self.attributes[Attr.CLASS])  # type: ignore[arg-type]

    @property
    def key_type(self) -> int:
        """CKA_KEY_TYPE, CK_UNAVAILABLE_INFORMATION for what is no key."""
        return int(self.attributes.get(Attr.KEY_TYPE, UNAVAILABLE))  # type: ignore[arg-type]

    def get(self, attr: int) -> Value:
        """An attribute's value. Raises CryptokiError for a sensitive one or one it has not."""
        value = self.attributes.get(attr)
        if value is not None:
            return value
        secret = self.object_class in SECRETS and attr in keys.SECRET_ATTRIBUTES
        if secret and (self.flag(Attr.SENSITIVE) or not self.flag(Attr.EXTRACTABLE)):
            raise CryptokiError(Rv.ATTRIBUTE_SENSITIVE)
        if self.object_class == ObjectClass.SECRET_KEY and attr == Attr.VALUE:
            return bytes(self.material)
        if self.object_class == ObjectClass.PRIVATE_KEY and secret:
            value = keys.components(self.material).get(attr)
        if value is None:
            raise CryptokiError(Rv.ATTRIBUTE_TYPE_INVALID)
        return value

    def matches(self, template: Template) -> bool:
        """Whether it has all these attributes with these values. A secret one matches nothing."""
        attributes = self.attributes
        for attr, wanted in template.items():
            value = attributes.get(attr)
            if value is None:
                try:
                    value = self.get(attr)
                except CryptokiError:
                    return False
            if value != wanted:
                return False
        return True

    def changed(self, template: Template, *, copy: bool = False, so: bool = False) -> Object:
        """The object with other attributes, under its own id.

        copy: it is to be a copy, in which more may be different. Raises CryptokiError.
        """
        rules = RULES[self.object_class]
        attributes = dict(self.attributes)
        for attr, value in template.items():
            rule = rules.get(attr)
            if rule is None:
                raise CryptokiError(Rv.ATTRIBUTE_TYPE_INVALID)
            if attributes.get(attr) == value:
                continue
            how = rule.how
            allowed = (
                How.CHANGE in how
                or (How.UP in how and value is True)
                or (How.DOWN in how and value is False)
                or (How.COPY in how and copy)
            )
            if not allowed:
                raise CryptokiError(Rv.ATTRIBUTE_READ_ONLY)
            if How.SO in how and value is True and not so:
                raise CryptokiError(Rv.ATTRIBUTE_READ_ONLY)
            attributes[attr] = value
        return Object(self.id, attributes, self.material, wraps_sensitive=self.wraps_sensitive)


def completed(object_class: int, template: Template, where: How, *, so: bool) -> dict[int, Value]:
    """The attributes of a new object: those that were given and the defaults of the others.

    where: `How.CREATE` or `How.MAKE`. Raises CryptokiError for attributes that nobody may give,
    or not with this value.
    """
    rules = RULES[object_class]
    attributes: dict[int, Value] = {
        attr: rule.default for attr, rule in rules.items() if rule.default is not None
    }
    for attr, value in template.items():
        rule = rules.get(attr)
        if rule is None:
            raise CryptokiError(Rv.ATTRIBUTE_TYPE_INVALID)
        check_kind(attr, value)
        if where not in rule.how and attributes.get(attr) != value:
            raise CryptokiError(Rv.ATTRIBUTE_READ_ONLY)
        if How.SO in rule.how and value is True and not so:
            raise CryptokiError(Rv.ATTRIBUTE_READ_ONLY)
        attributes[attr] = value
    attributes[Attr.CLASS] = object_class
    _check_nested(rules, template)
    return attributes


def create(template: Template, *, so: bool) -> Object:
    """C_CreateObject: an object from its parts. Raises CryptokiError."""
    object_class = template.get(Attr.CLASS)
    if object_class is None:
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    if object_class not in RULES:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    number = int(object_class)  # type: ignore[arg-type]
    attributes = completed(number, template, How.CREATE, so=so)
    if number == ObjectClass.CERTIFICATE:
        _check_certificate(template)
    if number not in KEYS:
        return finished(attributes, None)
    key_type = template.get(Attr.KEY_TYPE)
    if not isinstance(key_type, int):
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    attributes.update(usual(number, key_type, template))
    material: Any
    if number == ObjectClass.PUBLIC_KEY:
        material = keys.import_public(key_type, template)
    elif number == ObjectClass.PRIVATE_KEY:
        material = keys.import_private(key_type, template)
    else:
        value = template.get(Attr.VALUE)
        if not isinstance(value, bytes):
            raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
        material = checked_secret(key_type, value, Rv.ATTRIBUTE_VALUE_INVALID)
    return finished(attributes, material)


def finished(
    attributes: dict[int, Value], material: Any, *, wraps_sensitive: bool = False
) -> Object:
    """An object with what follows from its key: attributes that describe it; the secret is gone."""
    number = int(attributes[Attr.CLASS])  # type: ignore[arg-type]
    if number in SECRETS:
        for attr in keys.SECRET_ATTRIBUTES:
            attributes.pop(attr, None)
    if number == ObjectClass.SECRET_KEY:
        attributes[Attr.VALUE_LEN] = len(material)
        _set_check_value(attributes, material)
    elif number == ObjectClass.PUBLIC_KEY:
        attributes.update(keys.describe(material, private=False))
        attributes[Attr.KEY_TYPE] = keys.type_of(material)
    elif number == ObjectClass.PRIVATE_KEY:
        public = keys.public_of(material)
        attributes.update(keys.describe(public, private=True))
        attributes[Attr.PUBLIC_KEY_INFO] = keys.to_spki(public)
        attributes[Attr.KEY_TYPE] = keys.type_of(material)
    plain = {
        attr: int(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for attr, value in attributes.items()
    }
    return Object(
        0,
        {int(attr): value for attr, value in plain.items()},
        material,
        wraps_sensitive=wraps_sensitive,
    )


def checked_secret(key_type: int, value: bytes, error: Rv) -> bytes:
    """A secret key's bytes, if a key of this type can have as many. Raises CryptokiError."""
    sizes = _SIZES.get(key_type)  # type: ignore[call-overload]
    if key_type in (KeyType.GENERIC_SECRET, KeyType.HKDF):
        fits = 0 < len(value) <= MAX_SECRET
    else:
        fits = sizes is not None and len(value) in sizes
    if not fits:
        raise CryptokiError(error)
    return bytes(value)


def _set_check_value(attributes: dict[int, Value], value: bytes) -> None:
    """CKA_CHECK_VALUE: three bytes that tell keys apart (PKCS#11 2.40, 4.10.2).

    A secret that is short enough to be tried out has none: it would tell which one it is.
    """
    check = attributes.get(Attr.CHECK_VALUE)
    if check == b"" or (check is None and len(value) < _MIN_CHECKED):
        attributes.pop(Attr.CHECK_VALUE, None)
        return
    if len(value) < _MIN_CHECKED:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    made = _check_value(int(attributes[Attr.KEY_TYPE]), value)  # type: ignore[arg-type]
    if check is not None and check != made:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    attributes[Attr.CHECK_VALUE] = made


def _check_value(key_type: int, value: bytes) -> bytes:
    if key_type == KeyType.AES:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        return Cipher(algorithms.AES(value), modes.ECB()).encryptor().update(bytes(16))[:3]  # noqa: S305
    digest = hashes.Hash(hashes.SHA1())  # noqa: S303  (as the specification has it)
    digest.update(value)
    return digest.finalize()[:3]


def _check_certificate(template: Template) -> None:
    for attr in (Attr.CERTIFICATE_TYPE, Attr.SUBJECT):
        if attr not in template:
            raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)
    if template[Attr.CERTIFICATE_TYPE] != 0:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    if not template.get(Attr.VALUE) and not template.get(Attr.URL):
        raise CryptokiError(Rv.TEMPLATE_INCOMPLETE)


def _check_nested(rules: Rules, template: Template) -> None:
    for attr in (Attr.WRAP_TEMPLATE, Attr.UNWRAP_TEMPLATE, Attr.DERIVE_TEMPLATE):
        if attr in rules and isinstance(inner := template.get(attr), Mapping):
            for inner_attr, value in inner.items():
                check_kind(inner_attr, value)


_encode = msgspec.msgpack.Encoder().encode


def pack(item: Object) -> bytes:
    """The object's bytes; they are secret."""
    number = item.object_class
    if number == ObjectClass.SECRET_KEY:
        secret = bytes(item.material)
    elif number == ObjectClass.PRIVATE_KEY:
        secret = keys.to_bytes(item.material)
    else:
        secret = b""
    return _encode([item.id, item.attributes, secret, item.wraps_sensitive])


def unpack(data: bytes) -> Object:
    """The same, from bytes that this token has sealed."""
    id, raw, secret, wraps_sensitive = msgspec.msgpack.decode(data)
    attributes: dict[int, Value] = {attr: _thawed(value) for attr, value in raw.items()}
    number = attributes[Attr.CLASS]
    material: Any = None
    if number == ObjectClass.SECRET_KEY:
        material = secret
    elif number == ObjectClass.PRIVATE_KEY:
        material = keys.from_bytes(int(attributes[Attr.KEY_TYPE]), secret)  # type: ignore[arg-type]
    elif number == ObjectClass.PUBLIC_KEY:
        kind, der = attributes[Attr.KEY_TYPE], attributes[Attr.PUBLIC_KEY_INFO]
        material = keys.from_spki(int(kind), der)  # type: ignore[arg-type]
    return Object(id, attributes, material, wraps_sensitive=wraps_sensitive)


def _thawed(value: Any) -> Value:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, dict):
        return {attr: _thawed(inner) for attr, inner in value.items()}
    return value  # type: ignore[no-any-return]
