"""Named keys: each is a set of objects on a token, one or a pair for every version.

What a version is allowed to do stands in its own objects, so that the rules hold however somebody
reaches them. Every change rewrites the objects it touches in one change of the token, together with
its record in the audit trail: there is never a half-rotated key.

The newest active version is the current one, and the only one whose label is the key's name: an
application that looks for `web` finds that. Older ones are labelled `web@1`. A version that is not
current is deactivated, unless CKA_KEY_MIN_ENCRYPTION says that it goes on.

Versions can be neither copied, changed nor destroyed by the calls of PKCS#11: a copy would not know
of what becomes of the original.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from secgear.services.crypto.pkcs11.constants import Attr, KeyState, ObjectClass
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template, Value
from secgear.services.crypto.token.lifecycle import check_step
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.schema import RULES, How
from secgear.services.crypto.token.table import Table

MAX_NAME: Final = 128
MAX_VERSIONS: Final = 1024
"""Of one key: a change of its settings writes them all."""
_NAME: Final = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_OF_ONE_VERSION: Final = frozenset(
    {
        Attr.CLASS,
        Attr.LABEL,
        Attr.ID,
        Attr.START_DATE,
        Attr.END_DATE,
        Attr.CHECK_VALUE,
        Attr.TRUSTED,
        Attr.PUBLIC_KEY_INFO,
    }
)
"""Attributes that the next version does not have from the one before."""


class Settings(NamedTuple):
    """Of a named key. min_encryption: 0 for the current version alone."""

    min_decryption: int = 1
    min_encryption: int = 0
    deletable: bool = False


class Version(NamedTuple):
    """One version. secret: private or secret key. public: of a pair."""

    number: int
    state: KeyState
    created: int
    secret: Object | None
    public: Object | None

    @property
    def objects(self) -> tuple[Object, ...]:
        """Both, as far as they are there."""
        return tuple(item for item in (self.secret, self.public) if item is not None)

    @property
    def any(self) -> Object:
        """One of them, for what both know."""
        return self.objects[0]


class Named(NamedTuple):
    """A key with its versions, in the order of their numbers; there is at least one."""

    name: bytes
    settings: Settings
    versions: tuple[Version, ...]

    @property
    def latest(self) -> Version:
        """The version with the highest number."""
        return self.versions[-1]

    @property
    def current(self) -> Version | None:
        """The version that protects, None if no one is active."""
        return next((one for one in self.versions[::-1] if one.state is KeyState.ACTIVE), None)

    def version(self, number: int) -> Version:
        """A version; 0 is the current one. Raises CryptokiError(KEY_HANDLE_INVALID)."""
        found = self.current if not number else None
        for one in self.versions:
            if number and one.number == number:
                found = one
        if found is None:
            raise CryptokiError(Rv.KEY_HANDLE_INVALID)
        return found


def check_name(name: bytes | None) -> bytes:
    """A name that a key can have. Raises CryptokiError."""
    if name is None or len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    return name


def look_up(table: Table, name: bytes, *, private: bool) -> Named | None:
    """The key of that name, None where there is none. private: with objects that are private."""
    found: dict[int, list[Object]] = {}
    for item in table.find({Attr.KEY_NAME: name}):
        if private or not item.private:
            found.setdefault(_number(item, Attr.KEY_VERSION), []).append(item)
    if not found:
        return None
    versions = tuple(_version(number, found[number]) for number in sorted(found))
    newest = versions[-1].any
    settings = Settings(
        _number(newest, Attr.KEY_MIN_DECRYPTION),
        _number(newest, Attr.KEY_MIN_ENCRYPTION),
        newest.flag(Attr.KEY_DELETABLE),
    )
    return Named(name, settings, versions)


def names(table: Table, *, private: bool) -> list[bytes]:
    """The names of all keys, sorted. private: also of those whose objects are all private."""
    return sorted(
        {
            name
            for item in table.all()
            if isinstance(name := item.attributes.get(Attr.KEY_NAME), bytes)
            and (private or not item.private)
        }
    )


def first(name: bytes, items: Iterable[Object], *, now: int) -> list[Object]:
    """Version 1 of a new key, of its fresh objects."""
    version = _version_of(1, KeyState.ACTIVE, now, list(items))
    return _settled(Named(name, Settings(), (version,)))


def following(
    key: Named, items: Iterable[Object], state: KeyState, *, now: int
) -> tuple[list[Object], list[Object]]:
    """The next version's objects, and those of others that change with it. Raises CryptokiError."""
    if len(key.versions) >= MAX_VERSIONS:
        raise CryptokiError(Rv.DEVICE_MEMORY)
    new = _version_of(key.latest.number + 1, state, now, list(items))
    settled = _settled(key._replace(versions=(*key.versions, new)))
    fresh = [item for item in settled if _number(item, Attr.KEY_VERSION) == new.number]
    return fresh, [item for item in settled if item not in fresh]


def configured(key: Named, template: Template) -> list[Object]:
    """The objects that change when a key gets other settings. Raises CryptokiError."""
    before = key.settings
    wanted = {**_attributes(before), **template}
    if len(wanted) != len(before):
        raise CryptokiError(Rv.ATTRIBUTE_TYPE_INVALID)
    decryption, encryption = wanted[Attr.KEY_MIN_DECRYPTION], wanted[Attr.KEY_MIN_ENCRYPTION]
    deletable = wanted[Attr.KEY_DELETABLE]
    if not isinstance(decryption, int) or not isinstance(encryption, int):
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    oldest, latest = key.versions[0].number, key.latest.number
    if not oldest <= decryption <= latest:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    if encryption and not decryption <= encryption <= latest:
        raise CryptokiError(Rv.ATTRIBUTE_VALUE_INVALID)
    settings = Settings(decryption, encryption, deletable is True)
    return _settled(key._replace(settings=settings))


def stepped(key: Named, number: int, state: int) -> list[Object]:
    """The objects that change when a version goes to another state. Raises CryptokiError."""
    version = key.version(number)
    after = version._replace(state=check_step(version.state, state))
    versions = tuple(after if one is version else one for one in key.versions)
    return _settled(key._replace(versions=versions))


def trimmed(key: Named, least: int) -> list[int]:
    """Ids of the objects of versions below `least`, which nobody can use any more.

    Raises CryptokiError if somebody still can.
    """
    settings = key.settings
    if not 1 <= least <= settings.min_decryption:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    if settings.min_encryption and least > settings.min_encryption:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    return [item.id for one in key.versions if one.number < least for item in one.objects]


def template_of(item: Object) -> dict[int, Value]:
    """The template by which a key's next version is made like this one."""
    rules = RULES[item.object_class]
    return {
        attr: value
        for attr, value in item.attributes.items()
        if How.MAKE in rules[attr].how and attr not in _OF_ONE_VERSION
    }


# --- settling ------------------------------------------------------------------------------------


def _settled(key: Named) -> list[Object]:
    """The objects of a key that are not yet as its versions and settings say they should be."""
    current = key.current
    least = key.settings.min_encryption or (current.number if current else 0)
    changed = []
    for version in key.versions:
        state = version.state
        if state is KeyState.ACTIVE and version is not current and version.number < least:
            state = KeyState.DEACTIVATED
        label = key.name if version is current else b"%s@%d" % (key.name, version.number)
        attributes: Mapping[int, Value] = {
            Attr.LABEL: label,
            Attr.ID: b"%s:%d" % (key.name, version.number),
            Attr.COPYABLE: False,
            Attr.MODIFIABLE: False,
            Attr.DESTROYABLE: False,
            Attr.KEY_NAME: key.name,
            Attr.KEY_VERSION: version.number,
            Attr.KEY_STATE: int(state),
            Attr.KEY_CREATED: version.created,
            **_attributes(key.settings),
        }
        plain = {int(attr): value for attr, value in attributes.items()}
        for item in version.objects:
            new = {**item.attributes, **plain}
            if new != item.attributes:
                changed.append(
                    Object(item.id, new, item.material, wraps_sensitive=item.wraps_sensitive)
                )
    return changed


def _attributes(settings: Settings) -> dict[int, Value]:
    return {
        int(Attr.KEY_MIN_DECRYPTION): settings.min_decryption,
        int(Attr.KEY_MIN_ENCRYPTION): settings.min_encryption,
        int(Attr.KEY_DELETABLE): settings.deletable,
    }


def _version(number: int, items: list[Object]) -> Version:
    known = items[0]
    state = KeyState(_number(known, Attr.KEY_STATE))
    return _version_of(number, state, _number(known, Attr.KEY_CREATED), items)


def _version_of(number: int, state: KeyState, created: int, items: list[Object]) -> Version:
    halves = {item.object_class == ObjectClass.PUBLIC_KEY: item for item in items}
    return Version(number, state, created, halves.get(False), halves.get(True))


def _number(item: Object, attr: Attr) -> int:
    return int(item.attributes[attr])  # type: ignore[arg-type]
