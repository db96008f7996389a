"""Calls that make keys, and let them in and out (PKCS#11 2.40, 5.13; 3.2 for encapsulation)."""

from __future__ import annotations

from collections.abc import Mapping

from secgear.services.crypto.pkcs11.constants import Attr, MechanismFlag, ObjectClass
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, Size
from secgear.services.crypto.token import derivation, generation, wrapping
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.objects import event
from secgear.services.crypto.token.calls.operations import usable
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.mechanisms import lookup, no_parameter
from secgear.services.crypto.token.objects import Object

_SECRET, _PUBLIC, _PRIVATE = (
    ObjectClass.SECRET_KEY,
    ObjectClass.PUBLIC_KEY,
    ObjectClass.PRIVATE_KEY,
)
_ML_KEM_CIPHERTEXT = {"768": 1088, "1024": 1568}  # FIPS 203, table 3


@serves("C_GenerateKey")
def generate_key(
    app: Application, handle: int, mechanism: Mechanism | None, template: Template
) -> tuple[int]:
    """A secret key."""
    session = app.session(handle)
    wanted = _given(mechanism)
    lookup(wanted.type, MechanismFlag.GENERATE)
    key = generation.generate(wanted, template, so=app.is_so(session.slot))
    return (app.add(session, [key], event(app, session, "key generated", key))[0],)


@serves("C_GenerateKeyPair")
def generate_key_pair(
    app: Application,
    handle: int,
    mechanism: Mechanism | None,
    public_template: Template,
    private_template: Template,
) -> tuple[int, ...]:
    """A key pair: handles of the public and the private key."""
    session = app.session(handle)
    wanted = _given(mechanism)
    lookup(wanted.type, MechanismFlag.GENERATE_KEY_PAIR)
    for template in (public_template, private_template):
        # Seen before the work of generating, which takes long.
        if template.get(Attr.TOKEN) is True and not session.write:
            raise CryptokiError(Rv.SESSION_READ_ONLY)
    if private_template.get(Attr.PRIVATE, True) is True and not app.is_user(session.slot):
        raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
    public, private = generation.generate_pair(
        wanted, public_template, private_template, so=app.is_so(session.slot)
    )
    made = event(app, session, "key pair generated", private)
    return tuple(app.add(session, [public, private], made))


@serves("C_WrapKey")
def wrap_key(
    app: Application, handle: int, mechanism: Mechanism | None, wrapper: int, key: int, room: int
) -> tuple[bytes | Size]:
    """A key's bytes, encrypted under another key."""
    session = app.session(handle)
    wanted = _given(mechanism)
    row = lookup(wanted.type, MechanismFlag.WRAP)
    outer = app.find(session, wrapper, Rv.WRAPPING_KEY_HANDLE_INVALID)
    inner = app.find(session, key, Rv.KEY_HANDLE_INVALID)
    classes = (_SECRET, _PUBLIC)
    usable(outer, row, classes, Attr.WRAP, Rv.WRAPPING_KEY_TYPE_INCONSISTENT)
    _check_wrappable(outer, inner)
    wrapped = wrapping.wrap(wanted, outer, inner)
    if len(wrapped) > (0 if room == EMPTY_BUFFER else room):
        return (Size(len(wrapped)),)
    session.slot.record(event(app, session, "key wrapped", inner))
    return (wrapped,)


@serves("C_UnwrapKey")
def unwrap_key(
    app: Application,
    handle: int,
    mechanism: Mechanism | None,
    unwrapper: int,
    wrapped: bytes | None,
    template: Template,
) -> tuple[int]:
    """A key from its encrypted bytes."""
    session = app.session(handle)
    wanted = _given(mechanism)
    row = lookup(wanted.type, MechanismFlag.UNWRAP)
    outer = app.find(session, unwrapper, Rv.KEY_HANDLE_INVALID)
    classes = (_SECRET, _PRIVATE)
    usable(outer, row, classes, Attr.UNWRAP, Rv.UNWRAPPING_KEY_TYPE_INCONSISTENT)
    _check_login(outer)
    key = wrapping.unwrap(wanted, outer, wrapped or b"", template, so=app.is_so(session.slot))
    return (app.add(session, [key], event(app, session, "key unwrapped", key))[0],)


@serves("C_DeriveKey")
def derive_key(
    app: Application, handle: int, mechanism: Mechanism | None, base: int, template: Template
) -> tuple[int]:
    """A key that two sides agree on, or that follows from another key."""
    session = app.session(handle)
    wanted = _given(mechanism)
    row = lookup(wanted.type, MechanismFlag.DERIVE)
    consumed: dict[int, Object] = {}

    def named(number: int) -> Object:
        if number in consumed:
            return consumed[number]
        key = app.find(session, number, Rv.KEY_HANDLE_INVALID)
        usable(key, row, (_PRIVATE, _SECRET), Attr.DERIVE, Rv.KEY_TYPE_INCONSISTENT)
        _check_login(key)
        return key

    own = named(base)
    if (number := derivation.consumed_key(wanted.parameter)) is not None:
        key = named(number)
        if key.token or number == base:
            raise CryptokiError(Rv.KEY_HANDLE_INVALID)
        # First, so that of two calls at once only one has it.
        app.remove(session, number, key, event(app, session, "object destroyed", key))
        consumed[number] = key
    key = derivation.derive(wanted, own, template, named, so=app.is_so(session.slot))
    return (app.add(session, [key], event(app, session, "key derived", key))[0],)


@serves("C_EncapsulateKey")
def encapsulate_key(
    app: Application,
    handle: int,
    mechanism: Mechanism | None,
    public: int,
    template: Template,
    room: int,
) -> tuple[bytes | Size, int]:
    """A new secret key, and what its other holder makes it from."""
    session = app.session(handle)
    wanted = _given(mechanism)
    row = lookup(wanted.type, MechanismFlag.ENCAPSULATE)
    no_parameter(wanted.parameter)
    other = app.find(session, public, Rv.KEY_HANDLE_INVALID)
    usable(other, row, (_PUBLIC,), Attr.ENCAPSULATE, Rv.KEY_TYPE_INCONSISTENT)
    name = type(other.material).__name__
    size = next(size for digits, size in _ML_KEM_CIPHERTEXT.items() if digits in name)
    if size > (0 if room == EMPTY_BUFFER else room):
        return (Size(size), 0)
    secret, ciphertext = other.material.encapsulate()
    key = generation.shared(secret, template, so=app.is_so(session.slot))
    return (ciphertext, app.add(session, [key], event(app, session, "key encapsulated", key))[0])


@serves("C_DecapsulateKey")
def decapsulate_key(
    app: Application,
    handle: int,
    mechanism: Mechanism | None,
    private: int,
    template: Template,
    ciphertext: bytes | None,
) -> tuple[int]:
    """The secret key that somebody has encapsulated."""
    session = app.session(handle)
    wanted = _given(mechanism)
    row = lookup(wanted.type, MechanismFlag.DECAPSULATE)
    no_parameter(wanted.parameter)
    own = app.find(session, private, Rv.KEY_HANDLE_INVALID)
    usable(own, row, (_PRIVATE,), Attr.DECAPSULATE, Rv.KEY_TYPE_INCONSISTENT)
    _check_login(own)
    try:
        secret = own.material.decapsulate(ciphertext or b"")
    except ValueError:
        raise CryptokiError(Rv.ENCRYPTED_DATA_LEN_RANGE) from None
    key = generation.shared(secret, template, so=app.is_so(session.slot))
    return (app.add(session, [key], event(app, session, "key decapsulated", key))[0],)


def _given(mechanism: Mechanism | None) -> Mechanism:
    if mechanism is None:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    return mechanism


def _check_login(key: Object) -> None:
    """Refuse a key that asks for a login at each use: only operations with an Init call have one.

    Raises CryptokiError.
    """
    if key.flag(Attr.ALWAYS_AUTHENTICATE):
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)


def _check_wrappable(wrapper: Object, key: Object) -> None:
    """Whether the key may leave under the wrapper. Raises CryptokiError."""
    if key.object_class not in (_SECRET, _PRIVATE):
        raise CryptokiError(Rv.KEY_NOT_WRAPPABLE)
    if not key.flag(Attr.EXTRACTABLE):
        raise CryptokiError(Rv.KEY_UNEXTRACTABLE)
    trusted = wrapper.flag(Attr.TRUSTED)
    if key.flag(Attr.WRAP_WITH_TRUSTED) and not trusted:
        raise CryptokiError(Rv.KEY_NOT_WRAPPABLE)
    if key.flag(Attr.SENSITIVE) and not (trusted or wrapper.wraps_sensitive):
        raise CryptokiError(Rv.KEY_NOT_WRAPPABLE)
    required = wrapper.attributes.get(Attr.WRAP_TEMPLATE)
    if isinstance(required, Mapping) and not key.matches(required):
        raise CryptokiError(Rv.KEY_NOT_WRAPPABLE)
