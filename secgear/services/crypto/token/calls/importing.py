"""Calls of our own by which keys come in that a data owner has sealed to this enclave."""

from __future__ import annotations

from secgear.errors import EnvelopeError, GuestError
from secgear.middleware.envelopes.document import CONTEXT_SIZE, NO_CONTEXT
from secgear.services.crypto.parcel import Destination
from secgear.services.crypto.pkcs11.constants import Attr
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.messages import Size
from secgear.services.crypto.token import importing
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.attesting import fitting
from secgear.services.crypto.token.calls.objects import event
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.session import Session
from secgear.services.crypto.token.slot import Alteration


@serves("S_GetImportKey")
def get_import_key(
    app: Application, handle: int, nonce: bytes | None, room: int
) -> tuple[bytes | Size]:
    """The public key to which data owners seal keys for this token, with evidence about it.

    nonce: 32 bytes of a data owner who wants new evidence. Where the token has no key that is good
    for some days, the user's session makes one; others get USER_NOT_LOGGED_IN.
    """
    session = app.session(handle)
    if nonce and len(nonce) != CONTEXT_SIZE:
        raise CryptokiError(Rv.ARGUMENTS_BAD)
    guest, at = app.module.vault.guest, app.module.vault.now()
    try:
        to = _destination(app, session)
        found = list(importing.import_keys(session.slot.table))
        pair = next((pair for item, pair in found if importing.usable(item, pair, to, at)), None)
        if pair is None:
            _check_user(app, session)
            new = importing.new_key(to, guest, at=at)
            app.check_access(session, new)
            pair = importing.pair_of(new)
            expired = [item.id for item, old in found if not importing.opens(old, to, at)]
            record = event(app, session, "import key made", new)
            table = session.slot.table

            def decide() -> Alteration:
                gone = [id for id in expired if table.get(id) is not None]
                return Alteration(record, new=[new], gone=gone)

            session.slot.alter(decide, session.generation)
        document = pair.attest(nonce or NO_CONTEXT, guest=guest).to_cbor()
    except (GuestError, EnvelopeError) as error:
        raise CryptokiError(Rv.DEVICE_ERROR) from error
    return (fitting(document, room),)


@serves("S_ImportKey")
def import_key(app: Application, handle: int, envelope: bytes | None) -> tuple[int, int]:
    """The key in an envelope: handles of the private or secret key, and of its public key or 0."""
    session = app.session(handle)
    _check_user(app, session)
    slot = session.slot
    item, envelope_id, parcel = importing.opened(
        slot.table,
        envelope or b"",
        _destination(app, session),
        at=app.module.vault.now(),
    )
    made = importing.unpacked(parcel, envelope_id)
    for one in made:
        app.check_access(session, one)
    told = event(app, session, "key imported", made[0])
    record = Event(
        told.action, told.actor, told.slot, {**told.detail, "envelope": envelope_id.hex()}
    )

    def decide() -> Alteration:
        newest = slot.table.get(item.id)
        if newest is None or Attr.ENVELOPES_TAKEN not in newest.attributes:
            raise CryptokiError(Rv.KEY_HANDLE_INVALID)
        return Alteration(record, new=made, changed=[importing.taking(newest, envelope_id)])

    kept = slot.alter(decide, session.generation)
    handles = [one.id << 1 for one in kept]
    return handles[0], handles[1] if len(handles) > 1 else 0


def _destination(app: Application, session: Session) -> Destination:
    state = session.slot.state
    return Destination(app.module.vault.audit_key, state.serial, session.generation)


def _check_user(app: Application, session: Session) -> None:
    if not session.write:
        raise CryptokiError(Rv.SESSION_READ_ONLY)
    if not app.is_user(session.slot):
        raise CryptokiError(Rv.USER_NOT_LOGGED_IN)
