"""Import of keys that data owners have sealed: import keys, and what becomes of what they open.

A token has an import key: the secret of an `EnclaveKeyPair`, as an object of the token that nobody
can use, change, copy or read. Which envelopes it has opened is an attribute of the same object. So
the ledger is as durable as the key, neither can be rolled back without the other, and both end with
the token's generation: with its initialisation, and where it comes out of a backup, whose ledger
may know less than there was.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Final

from secgear.base.tee import Guest
from secgear.errors import EnvelopeError
from secgear.middleware.envelopes import EnclaveKeyPair, Opener
from secgear.middleware.envelopes.format import ENVELOPE_ID_SIZE, FIXED_SIZE, read_header
from secgear.services.crypto.algorithms import keys
from secgear.services.crypto.parcel import MAX_ENVELOPE, Destination, Parcel
from secgear.services.crypto.pkcs11.constants import UNAVAILABLE, Attr, KeyType, ObjectClass
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import MAX_BYTES, Template, Value, check_kind
from secgear.services.crypto.token.objects import Object, completed, create, finished
from secgear.services.crypto.token.schema import How
from secgear.services.crypto.token.table import Table

LIFETIME: Final = datetime.timedelta(days=30)
LEAST: Final = datetime.timedelta(days=7)
"""What is left at least of the life of an import key that is given out."""
CAPACITY: Final = MAX_BYTES // ENVELOPE_ID_SIZE  # envelopes that one import key opens
_LABEL = b"secgear import key"


def new_key(destination: Destination, guest: Guest, *, at: datetime.datetime) -> Object:
    """A new import key. Raises GuestError."""
    pair = EnclaveKeyPair.create(
        purposes=[destination.purpose], lifetime=LIFETIME, guest=guest, at=at
    )
    given: dict[int, Value] = {
        Attr.TOKEN: True,
        Attr.LABEL: _LABEL,
        Attr.ID: pair.key.id,
        Attr.MODIFIABLE: False,
        Attr.COPYABLE: False,
        Attr.DESTROYABLE: False,
        Attr.END_DATE: pair.key.expires.strftime("%Y%m%d").encode(),
        Attr.CHECK_VALUE: b"",
    }
    attributes = completed(ObjectClass.SECRET_KEY, given, How.MAKE, so=False)
    attributes[Attr.KEY_TYPE] = KeyType.GENERIC_SECRET
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    attributes[Attr.ENVELOPES_TAKEN] = b""
    return finished(attributes, pair.to_secret())


def import_keys(table: Table, id: bytes | None = None) -> Iterator[tuple[Object, EnclaveKeyPair]]:
    """A token's import keys. id: of the one that is wanted."""
    template: Template = {Attr.LABEL: _LABEL} if id is None else {Attr.ID: id}
    for item in table.find(template):
        if Attr.ENVELOPES_TAKEN in item.attributes:  # nobody but `new_key` gives it
            yield item, pair_of(item)


def pair_of(item: Object) -> EnclaveKeyPair:
    """The key pair that an import key is."""
    return EnclaveKeyPair.from_secret(item.material)


def usable(
    item: Object, pair: EnclaveKeyPair, destination: Destination, at: datetime.datetime
) -> bool:
    """Whether an import key can be given out: it lives long enough, and is not full."""
    return (
        opens(pair, destination, at)
        and pair.key.expires - at >= LEAST
        and len(_taken(item)) < CAPACITY * ENVELOPE_ID_SIZE
    )


def opens(pair: EnclaveKeyPair, destination: Destination, at: datetime.datetime) -> bool:
    """Whether an import key opens anything any more, at this destination."""
    return pair.key.purposes == (destination.purpose,) and pair.key.expires > at


def opened(
    table: Table, envelope: bytes, destination: Destination, *, at: datetime.datetime
) -> tuple[Object, bytes, Parcel]:
    """The import key that an envelope is for, the envelope's id, and what is inside.

    Raises CryptokiError: KEY_HANDLE_INVALID for a key that this token has not, WRAPPED_KEY_INVALID
    for an envelope that was changed, is for another token, or whose key has expired.
    """
    if len(envelope) > MAX_ENVELOPE or len(envelope) < FIXED_SIZE:
        raise CryptokiError(Rv.WRAPPED_KEY_LEN_RANGE)
    try:
        wanted = read_header(envelope[:FIXED_SIZE]).key_id
        found = next(import_keys(table, wanted), None)
        if found is None:
            raise CryptokiError(Rv.KEY_HANDLE_INVALID)
        item, pair = found
        opener = Opener(pair, purpose=destination.purpose, at=at)
        parcel = Parcel.from_cbor(opener.whole(envelope))
        return item, opener.envelope_id, parcel
    except EnvelopeError as error:
        raise CryptokiError(Rv.WRAPPED_KEY_INVALID) from error


def taking(item: Object, envelope_id: bytes) -> Object:
    """The import key once it has taken this envelope. item: its newest state.

    Raises CryptokiError: FUNCTION_REJECTED if it has taken it before, KEY_EXHAUSTED if it can't
    remember any more.
    """
    taken = _taken(item)
    if envelope_id in (
        taken[at : at + ENVELOPE_ID_SIZE] for at in range(0, len(taken), ENVELOPE_ID_SIZE)
    ):
        raise CryptokiError(Rv.FUNCTION_REJECTED)
    if len(taken) >= CAPACITY * ENVELOPE_ID_SIZE:
        raise CryptokiError(Rv.KEY_EXHAUSTED)
    attributes = {**item.attributes, int(Attr.ENVELOPES_TAKEN): taken + envelope_id}
    return Object(item.id, attributes, item.material)


def unpacked(parcel: Parcel, envelope_id: bytes) -> list[Object]:
    """The objects that a parcel becomes: the private or secret key, and a public key if wanted.

    They are the token's, and sensitive. Extractable is only what says so and that it leaves under
    trusted keys alone. Raises CryptokiError.
    """
    given: dict[int, Value] = {Attr.TOKEN: True, **parcel.template}
    for attr, value in given.items():
        check_kind(attr, value)
    key = _private(parcel.pkcs8, given) if parcel.pkcs8 else create(given, so=False)
    if key.object_class not in (ObjectClass.PRIVATE_KEY, ObjectClass.SECRET_KEY):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    if not key.token or not key.flag(Attr.SENSITIVE):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    if key.flag(Attr.EXTRACTABLE) and not key.flag(Attr.WRAP_WITH_TRUSTED):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    made = [Object(0, {**key.attributes, int(Attr.ENVELOPE): envelope_id}, key.material)]
    if parcel.public is not None:
        if key.object_class != ObjectClass.PRIVATE_KEY:
            raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
        made.append(_public(key, {Attr.TOKEN: True, **parcel.public}))
    return made


def _private(pkcs8: bytes, given: dict[int, Value]) -> Object:
    if given.get(Attr.CLASS, ObjectClass.PRIVATE_KEY) != ObjectClass.PRIVATE_KEY:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    attributes = completed(ObjectClass.PRIVATE_KEY, given, How.MAKE, so=False)
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    material = keys.from_pkcs8(pkcs8)
    if given.get(Attr.KEY_TYPE, keys.type_of(material)) != keys.type_of(material):
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    return finished(attributes, material)


def _public(private: Object, given: dict[int, Value]) -> Object:
    for attr, value in given.items():
        check_kind(attr, value)
    if given.get(Attr.CLASS, ObjectClass.PUBLIC_KEY) != ObjectClass.PUBLIC_KEY:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    if given[Attr.TOKEN] is not True:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    attributes = completed(ObjectClass.PUBLIC_KEY, given, How.MAKE, so=False)
    attributes[Attr.KEY_GEN_MECHANISM] = UNAVAILABLE
    return finished(attributes, keys.public_of(private.material))


def _taken(item: Object) -> bytes:
    taken = item.attributes[Attr.ENVELOPES_TAKEN]
    return taken if isinstance(taken, bytes) else b""
