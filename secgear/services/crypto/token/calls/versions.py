"""Calls about named keys and their versions; they are no calls of PKCS#11 (numbers 170 to 189).

A name is bytes of ASCII; a version of 0 is the current one. The user has to be logged in to change
anything, as for every private key.
"""

from __future__ import annotations

import time
from typing import Final

from secgear.services.crypto.algorithms import keys
from secgear.services.crypto.pkcs11.constants import (
    UNAVAILABLE,
    Attr,
    KeyState,
    KeyType,
    Mech,
    MechanismFlag,
    ObjectClass,
)
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template
from secgear.services.crypto.token import generation, objects, versions
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.mechanisms import MECHANISMS
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.schema import How
from secgear.services.crypto.token.session import Session
from secgear.services.crypto.token.slot import Alteration
from secgear.services.crypto.token.versions import Named

MAX_LISTED: Final = 64 << 10  # bytes of one answer
_EMPTY: tuple[()] = ()
_GENERATORS: Final = {
    KeyType.AES: Mech.AES_KEY_GEN,
    KeyType.CHACHA20: Mech.CHACHA20_KEY_GEN,
    KeyType.SM4: Mech.SM4_KEY_GEN,
    KeyType.GENERIC_SECRET: Mech.GENERIC_SECRET_KEY_GEN,
    KeyType.HKDF: Mech.HKDF_KEY_GEN,
    KeyType.RSA: Mech.RSA_PKCS_KEY_PAIR_GEN,
    KeyType.EC: Mech.EC_KEY_PAIR_GEN,
    KeyType.EC_EDWARDS: Mech.EC_EDWARDS_KEY_PAIR_GEN,
    KeyType.EC_MONTGOMERY: Mech.EC_MONTGOMERY_KEY_PAIR_GEN,
    KeyType.SM2: Mech.SM2_KEY_PAIR_GEN,
    KeyType.ML_DSA: Mech.ML_DSA_KEY_PAIR_GEN,
    KeyType.ML_KEM: Mech.ML_KEM_KEY_PAIR_GEN,
}
"""What makes the next version of a key that was imported."""


@serves("S_NewKey")
def new_key(
    app: Application,
    handle: int,
    name: bytes | None,
    mechanism: Mechanism | None,
    public_template: Template,
    template: Template,
) -> tuple[int]:
    """A new key, with version 1: the handle of its secret or private half.

    public_template: of a key pair; empty for a secret key.
    """
    session = _changing(app, handle)
    own = versions.check_name(name)
    if mechanism is None:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    _check_absent(session, own)  # seen before the work of generating
    made = _generated(app, session, mechanism, public_template, template)
    return (_begun(app, session, own, made, "key made"),)


@serves("S_ImportNamedKey")
def import_named_key(
    app: Application, handle: int, name: bytes | None, template: Template
) -> tuple[int]:
    """A new key whose version 1 is made from its parts; what follows is generated."""
    session = _changing(app, handle)
    own = versions.check_name(name)
    item = objects.create({**template, int(Attr.TOKEN): True}, so=False)
    if item.object_class == ObjectClass.PRIVATE_KEY:
        public = keys.public_of(item.material)
        halves = [item, _public_half(item, public)]
    elif item.object_class == ObjectClass.SECRET_KEY:
        halves = [item]
    else:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    _check_private(halves)
    return (_begun(app, session, own, halves, "key imported"),)


@serves("S_RotateKey")
def rotate_key(app: Application, handle: int, name: bytes | None, state: int) -> tuple[int, int]:
    """The next version: its number, and the handle of its secret or private half.

    state: KeyState.ACTIVE, which makes it the current one, or PRE_ACTIVE.
    """
    session = _changing(app, handle)
    if state not in (KeyState.ACTIVE, KeyState.PRE_ACTIVE):
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    key = _known(app, session, name)
    secret, public = key.latest.secret, key.latest.public
    if secret is None:
        raise CryptokiError(Rv.KEY_HANDLE_INVALID)
    made = _generated(
        app,
        session,
        Mechanism(_generator(secret)),
        versions.template_of(public) if public is not None else {},
        versions.template_of(secret),
    )

    def decide() -> Alteration:
        newest = _known(app, session, key.name)  # somebody else may have rotated meanwhile
        fresh, changed = versions.following(newest, made, KeyState(state), now=_now())
        event = _event(app, session, "key rotated", newest, version=newest.latest.number + 1)
        return Alteration(event, new=fresh, changed=changed)

    kept = _secret_of(session.slot.alter(decide, session.generation))
    return int(kept.attributes[Attr.KEY_VERSION]), kept.id << 1  # type: ignore[arg-type]


@serves("S_ConfigureKey")
def configure_key(
    app: Application, handle: int, name: bytes | None, template: Template
) -> tuple[()]:
    """Change a key's settings: CKA_KEY_MIN_DECRYPTION, _MIN_ENCRYPTION, _DELETABLE."""
    session = _changing(app, handle)

    def decide() -> Alteration:
        key = _known(app, session, name)
        changed = versions.configured(key, template)
        told = {Attr(attr).name.lower(): value for attr, value in template.items()}
        plain = {key: value for key, value in told.items() if isinstance(value, int)}
        return Alteration(
            _event(app, session, "key settings changed", key, **plain), changed=changed
        )

    session.slot.alter(decide, session.generation)
    return _EMPTY


@serves("S_SetKeyState")
def set_key_state(
    app: Application, handle: int, name: bytes | None, number: int, state: int
) -> tuple[()]:
    """Take a version to another state of its life: see `lifecycle`."""
    session = _changing(app, handle)

    def decide() -> Alteration:
        key = _known(app, session, name)
        version = key.version(number)
        changed = versions.stepped(key, number, state)
        name_of = KeyState(state).name
        event = _event(
            app, session, "key state changed", key, version=version.number, state=name_of
        )
        return Alteration(event, changed=changed)

    session.slot.alter(decide, session.generation)
    return _EMPTY


@serves("S_TrimKey")
def trim_key(app: Application, handle: int, name: bytes | None, least: int) -> tuple[()]:
    """Destroy the versions below `least`; both minimum versions have to be as high before."""
    session = _changing(app, handle)

    def decide() -> Alteration:
        key = _known(app, session, name)
        gone = versions.trimmed(key, least)
        return Alteration(_event(app, session, "key trimmed", key, below=least), gone=gone)

    session.slot.alter(decide, session.generation)
    return _EMPTY


@serves("S_DestroyKey")
def destroy_key(app: Application, handle: int, name: bytes | None) -> tuple[()]:
    """Destroy a key with all of its versions, if its settings allow that."""
    session = _changing(app, handle)

    def decide() -> Alteration:
        key = _known(app, session, name)
        if not key.settings.deletable:
            raise CryptokiError(Rv.ACTION_PROHIBITED)
        gone = [item.id for version in key.versions for item in version.objects]
        return Alteration(_event(app, session, "key destroyed", key), gone=gone)

    session.slot.alter(decide, session.generation)
    return _EMPTY


@serves("S_FindKey")
def find_key(
    app: Application, handle: int, name: bytes | None, number: int
) -> tuple[int, int, int]:
    """A version's number, and the handles of its secret or private and of its public half.

    A half that is not there, or that this session may not see, is 0.
    """
    session = app.session(handle)
    version = _known(app, session, name).version(number)
    secret, public = version.secret, version.public
    return (
        version.number,
        secret.id << 1 if secret is not None else 0,
        public.id << 1 if public is not None else 0,
    )


@serves("S_ListKeys")
def list_keys(app: Application, handle: int, after: bytes | None) -> tuple[bytes]:
    """Names of keys behind `after`, in their order, a line each; as many as go into one answer."""
    session = app.session(handle)
    listed: list[bytes] = []
    size = 0
    for name in versions.names(session.slot.table, private=app.is_user(session.slot)):
        if name <= (after or b""):
            continue
        size += len(name) + 1
        if size > MAX_LISTED:
            break
        listed.append(name)
    return (b"\n".join(listed),)


# --- their parts ---------------------------------------------------------------------------------


def named(app: Application, session: Session, name: bytes | None) -> Named | None:
    """The key of that name, as far as the session may see it."""
    own = versions.check_name(name)
    return versions.look_up(session.slot.table, own, private=app.is_user(session.slot))


def _known(app: Application, session: Session, name: bytes | None) -> Named:
    key = named(app, session, name)
    if key is None:
        raise CryptokiError(Rv.KEY_HANDLE_INVALID)
    return key


def _changing(app: Application, handle: int) -> Session:
    """The session, if it may change keys. Raises CryptokiError."""
    session = app.session(handle)
    if not session.write:
        raise CryptokiError(Rv.SESSION_READ_ONLY)
    if not app.is_user(session.slot):
        raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
    return session


def _check_absent(session: Session, name: bytes) -> None:
    if versions.look_up(session.slot.table, name, private=True) is not None:
        raise CryptokiError(Rv.FUNCTION_REJECTED)


def _begun(
    app: Application, session: Session, name: bytes, halves: list[Object], action: str
) -> int:
    """Keep a new key; the handle of its secret or private half."""

    def decide() -> Alteration:
        _check_absent(session, name)
        fresh = versions.first(name, halves, now=_now())
        detail: dict[str, str | int | bool] = {"name": name.decode(), "version": 1}
        detail["class"] = ObjectClass(_secret_of(fresh).object_class).name
        return Alteration(Event(action, app.actor, session.slot.number, detail), new=fresh)

    return _secret_of(session.slot.alter(decide, session.generation)).id << 1


def _generated(
    app: Application,
    session: Session,
    mechanism: Mechanism,
    public_template: Template,
    template: Template,
) -> list[Object]:
    """The fresh objects of a version. Raises CryptokiError."""
    so = app.is_so(session.slot)
    flags = MECHANISMS[mechanism.type].flags if mechanism.type in MECHANISMS else MechanismFlag(0)
    whole = {**template, int(Attr.TOKEN): True}
    if MechanismFlag.GENERATE in flags:
        if public_template:
            raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
        made = [generation.generate(mechanism, whole, so=so)]
    elif MechanismFlag.GENERATE_KEY_PAIR in flags:
        public = {**public_template, int(Attr.TOKEN): True}
        made = list(generation.generate_pair(mechanism, public, whole, so=so))
    else:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    _check_private(made)
    return made


def _check_private(halves: list[Object]) -> None:
    """A key's secret is private, and stays here: the rules above rest on it. Raises CryptokiError.

    One that left and came back would be a copy that knows nothing of its version's state.
    """
    secret = _secret_of(halves)
    if not secret.private or secret.flag(Attr.EXTRACTABLE):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)


def _public_half(item: Object, public: object) -> Object:
    """The public key of a private one that was imported, with the uses that go with it."""
    attributes = objects.completed(ObjectClass.PUBLIC_KEY, {}, How.CREATE, so=False)
    attributes[Attr.TOKEN] = True
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    for private, shared in (
        (Attr.SIGN, Attr.VERIFY),
        (Attr.DECRYPT, Attr.ENCRYPT),
        (Attr.UNWRAP, Attr.WRAP),
        (Attr.DECAPSULATE, Attr.ENCAPSULATE),
    ):
        attributes[shared] = item.flag(private)
    if allowed := item.attributes.get(Attr.ALLOWED_MECHANISMS):
        attributes[Attr.ALLOWED_MECHANISMS] = allowed
    return objects.finished(attributes, public)


def _secret_of(halves: list[Object]) -> Object:
    return next(item for item in halves if item.object_class != ObjectClass.PUBLIC_KEY)


def _generator(secret: Object) -> int:
    made_by = secret.attributes[Attr.KEY_GEN_MECHANISM]
    if made_by != UNAVAILABLE:
        return int(made_by)  # type: ignore[arg-type]
    return int(_GENERATORS[KeyType(secret.key_type)])


def _event(
    app: Application, session: Session, action: str, key: Named, **detail: str | int | bool
) -> Event:
    return Event(action, app.actor, session.slot.number, {"name": key.name.decode(), **detail})


def _now() -> int:
    """Seconds since 1970, by the host's clock."""
    return int(time.time())
