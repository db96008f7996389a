"""Calls that GM/T 0018 needs and PKCS#11 does not have."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives import hashes

from secgear.services.crypto.algorithms import rsa_public, signing, sm2
from secgear.services.crypto.pkcs11.constants import (
    Attr,
    KeyType,
    Mech,
    MechanismFlag,
    ObjectClass,
    UserType,
)
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template
from secgear.services.crypto.rpc.messages import EMPTY_BUFFER, Size
from secgear.services.crypto.token import envelopes
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.objects import event
from secgear.services.crypto.token.calls.operations import usable
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.mechanisms import MECHANISMS, lookup
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.session import Active, Kind

_EMPTY: tuple[()] = ()
_SECRET, _PUBLIC, _PRIVATE = (
    ObjectClass.SECRET_KEY,
    ObjectClass.PUBLIC_KEY,
    ObjectClass.PRIVATE_KEY,
)
_MAX_ENVELOPE: Final = 1 << 16  # bytes; a session key has at most 4096


@serves("S_CheckPIN")
def check_pin(app: Application, handle: int, pin: bytes | None) -> tuple[()]:
    """Whether this is the user's PIN. It counts like a login, and changes no state.

    For a second party in an application where the user is logged in already.
    """
    app.session(handle).slot.login(UserType.USER, pin or b"", app.actor)
    return _EMPTY


@serves("S_GenerateEnvelopedKey")
def generate_enveloped_key(
    app: Application,
    handle: int,
    generator: Mechanism | None,
    template: Template,
    mechanism: Mechanism | None,
    wrapper: int,
    room: int,
) -> tuple[bytes | Size, int]:
    """A new secret key, and an envelope with it for the holder of the wrapper's other half."""
    session = app.session(handle)
    if generator is None or mechanism is None:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    lookup(generator.type, MechanismFlag.GENERATE)
    row = envelopes.row_of(mechanism, MechanismFlag.ENCRYPT)
    outer = app.find(session, wrapper, Rv.WRAPPING_KEY_HANDLE_INVALID)
    usable(outer, row, (_SECRET, _PUBLIC), Attr.WRAP, Rv.WRAPPING_KEY_TYPE_INCONSISTENT)
    _check_login(outer)
    key = envelopes.generate(generator, template, so=app.is_so(session.slot))
    sealed = envelopes.seal(row, mechanism, outer, key, 0 if room == EMPTY_BUFFER else room)
    if isinstance(sealed, int):
        return (Size(sealed), 0)
    made = event(app, session, "key generated in an envelope", key)
    return (sealed, app.add(session, [key], made)[0])


@serves("S_OpenEnvelopedKey")
def open_enveloped_key(
    app: Application,
    handle: int,
    mechanism: Mechanism | None,
    unwrapper: int,
    envelope: bytes | None,
    template: Template,
) -> tuple[int]:
    """The secret key in an envelope."""
    session = app.session(handle)
    if mechanism is None:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    row = envelopes.row_of(mechanism, MechanismFlag.DECRYPT)
    outer = app.find(session, unwrapper, Rv.KEY_HANDLE_INVALID)
    usable(outer, row, (_SECRET, _PRIVATE), Attr.UNWRAP, Rv.UNWRAPPING_KEY_TYPE_INCONSISTENT)
    _check_login(outer)
    sealed = _limited(envelope)
    key = envelopes.open_(row, mechanism, outer, sealed, template, so=app.is_so(session.slot))
    return (app.add(session, [key], event(app, session, "key taken from an envelope", key))[0],)


@serves("S_ExchangeEnvelope")
def exchange_envelope(
    app: Application,
    handle: int,
    opening: Mechanism | None,
    own: int,
    sealing: Mechanism | None,
    other: int,
    envelope: bytes | None,
    room: int,
) -> tuple[bytes | Size]:
    """What is in an envelope, in one for somebody else.

    To be able to is to be able to read it, so one's own key needs the right to decrypt.
    """
    session = app.session(handle)
    if opening is None or sealing is None:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    opener = envelopes.row_of(opening, MechanismFlag.DECRYPT)
    sealer = envelopes.row_of(sealing, MechanismFlag.ENCRYPT)
    private = app.find(session, own, Rv.KEY_HANDLE_INVALID)
    usable(private, opener, (_SECRET, _PRIVATE), Attr.DECRYPT, Rv.KEY_TYPE_INCONSISTENT)
    _check_login(private)
    public = app.find(session, other, Rv.WRAPPING_KEY_HANDLE_INVALID)
    usable(public, sealer, (_PUBLIC,), Attr.ENCRYPT, Rv.WRAPPING_KEY_TYPE_INCONSISTENT)
    sealed = envelopes.exchange(
        (opener, opening, private), (sealer, sealing, public), _limited(envelope)
    )
    if len(sealed) > (0 if room == EMPTY_BUFFER else room):
        return (Size(len(sealed)),)
    session.slot.record(event(app, session, "envelope exchanged", private))
    return (sealed,)


@serves("S_DigestInitSM2")
def digest_init_sm2(
    app: Application, handle: int, point: bytes | None, identity: bytes | None
) -> tuple[()]:
    """Begin the digest that is signed with SM2: it starts with the signer's Z.

    point: the signer's public key, 65 bytes. identity: none for that of GM/T 0009.
    """
    session = app.session(handle)
    if Mech.SM2 not in MECHANISMS:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    try:
        public = sm2.PublicKey.from_point(point or b"")
        prefix = sm2.identity_digest(public, identity or sm2.DEFAULT_ID)
    except ValueError:
        raise CryptokiError(Rv.DATA_INVALID) from None
    digest = signing.Digest(hashes.SM3())
    digest.update(prefix)
    with session.lock:
        session.begin(Kind.DIGEST, Active(digest))
    return _EMPTY


@serves("S_PublicRSA")
def public_rsa(
    app: Application, handle: int, number: int, block: bytes | None, room: int
) -> tuple[bytes | Size]:
    """RSA with a public key and no padding. Nobody needs a token for it: the key is public."""
    session = app.session(handle)
    key = app.find(session, number, Rv.KEY_HANDLE_INVALID)
    if key.object_class != _PUBLIC or key.key_type != KeyType.RSA:
        raise CryptokiError(Rv.KEY_TYPE_INCONSISTENT)
    try:
        result = rsa_public.apply(key.material, block or b"")
    except ValueError:
        raise CryptokiError(Rv.DATA_LEN_RANGE) from None
    if len(result) > (0 if room == EMPTY_BUFFER else room):
        return (Size(len(result)),)
    return (result,)


@serves("S_WriteValue")
def write_value(
    app: Application, handle: int, number: int, offset: int, data: bytes | None
) -> tuple[()]:
    """Overwrite a part of a data object's value, which keeps its length.

    Two that write different parts at the same time lose nothing.
    """
    session = app.session(handle)
    item = app.find(session, number, Rv.OBJECT_HANDLE_INVALID)
    if item.object_class != ObjectClass.DATA:
        raise CryptokiError(Rv.OBJECT_HANDLE_INVALID)
    app.check_access(session, item)
    if not item.flag(Attr.MODIFIABLE):
        raise CryptokiError(Rv.ACTION_PROHIBITED)
    piece = data or b""

    def change(newest: Object) -> Object:
        value = newest.attributes[Attr.VALUE]
        assert isinstance(value, bytes)  # noqa: S101  (of a data object it is)
        end = offset + len(piece)
        if end > len(value):
            raise CryptokiError(Rv.DATA_LEN_RANGE)
        return newest.changed({int(Attr.VALUE): value[:offset] + piece + value[end:]})

    app.modify(session, number, change, event(app, session, "object changed", item))
    return _EMPTY


def _limited(envelope: bytes | None) -> bytes:
    if not envelope or len(envelope) > _MAX_ENVELOPE:
        raise CryptokiError(Rv.WRAPPED_KEY_LEN_RANGE)
    return envelope


def _check_login(key: Object) -> None:
    """Refuse a key that asks for a login at each use: these calls have no place for one."""
    if key.flag(Attr.ALWAYS_AUTHENTICATE):
        raise CryptokiError(Rv.KEY_FUNCTION_NOT_PERMITTED)
