"""Calls about roles, approvals and backups: ours, beside those of PKCS#11.

Their arguments and answers are documents of `secgear.services.crypto.roles`. Nothing secret goes
through them in clear but a security officer's new PIN, which belongs on an attested channel.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles import requests
from secgear.services.crypto.roles import standing as standings
from secgear.services.crypto.token import authority, governing, reading
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.restoring import Restoration
from secgear.services.crypto.token.roles import Role

GOOD: Final = b"\0"
REFUSED: Final = b"\1"


def told(function: Callable[..., bytes]) -> Callable[..., tuple[bytes]]:
    """The function's answer, or the text of its refusal, with the byte that says which."""

    @functools.wraps(function)
    def answer(app: Application, *arguments: Any) -> tuple[bytes]:
        try:
            return (GOOD + function(app, *(b"" if one is None else one for one in arguments)),)
        except CryptoRefused as error:
            return (REFUSED + str(error).encode(),)

    return answer


@serves("S_Standing")
@told
def standing(app: Application, nonce: bytes) -> bytes:
    """Who decides here, and the audit key; with a nonce, under evidence of this enclave."""
    vault = app.module.vault
    roles = vault.head.roles
    said = standings.Standing(
        module=roles.module.hex(),
        audit_key=vault.audit_key.hex(),
        phase=roles.phase.value,
        threshold=roles.threshold,
        administrators=roles.administrators,
        auditors=roles.auditors,
        operators=roles.operators,
        pins=roles.pins,
        open_requests=len(roles.requests),
    )
    if not nonce:
        return _encode(said)
    if len(nonce) != standings.NONCE_SIZE:
        raise CryptoRefused(f"a nonce has {standings.NONCE_SIZE} bytes")
    return standings.vouched(said, nonce, vault.guest.evidence(standings.report_data(said, nonce)))


@serves("S_RoleChallenge")
@told
def role_challenge(app: Application) -> bytes:
    """Something to sign, for one login."""
    return app.badge.challenged()


@serves("S_RoleLogin")
@told
def role_login(app: Application, proof: bytes) -> bytes:
    """Log in with a role, for as long as the connection lasts."""
    roles = app.module.vault.head.roles
    try:
        role, person = authority.admit(roles, app.badge, proof)
    except CryptoRefused:
        app.module.vault.transact(lambda draft: draft.record(Event("role refused", app.actor)))
        raise
    event = Event("role login", app.actor, None, {"as": role.value, "name": person.name})
    app.module.vault.transact(lambda draft: draft.record(event))
    app.badge.put_on(role, person)
    return b""


@serves("S_OpenRequest")
@told
def open_request(app: Application, wish: bytes) -> bytes:
    """A request, for the administrators to approve."""
    wanted = requests.parse_wish(wish)

    def open_one(draft: Draft) -> bytes:
        request, roles = authority.open_request(
            draft.head.roles,
            app.badge,
            wanted.operation,
            seconds=wanted.seconds,
            now=app.module.vault.now(),
        )
        draft.alter(roles=roles)
        detail = {"by": app.badge.name, "request": requests.digest(request)}
        draft.record(Event(f"requested: {wanted.operation.kind}", app.actor, None, detail))
        return request

    return app.module.vault.transact(open_one)


@serves("S_Execute")
@told
def execute(app: Application, request: bytes, approvals: bytes, secret: bytes) -> bytes:
    """Carry out what was approved."""
    with _refusals_recorded(app):
        return governing.execute(app, request, approvals, secret)


@serves("S_BackupPiece")
@told
def backup_piece(app: Application, number: int) -> bytes:
    """A piece of the backup that this connection has begun; b"" behind the last one."""
    app.badge.require(app.module.vault.head.roles, Role.OPERATOR)
    if app.badge.backup is None:
        raise CryptoRefused("no backup was begun on this connection")
    piece = app.badge.backup.piece(number)
    if not piece:
        app.badge.backup = None
    return piece


@serves("S_RestoreBegin")
@told
def restore_begin(app: Application, request: bytes, approvals: bytes, manifest: bytes) -> bytes:
    """Begin a restoration: the key to which custodians send their shares, with evidence."""
    with _refusals_recorded(app):
        app.badge.restoration = Restoration(app, request, approvals, manifest)
    return app.badge.restoration.target


@serves("S_RestoreShare")
@told
def restore_share(app: Application, envelope: bytes) -> bytes:
    """Take a share. Answers with how many more it takes."""
    return _encode({"missing": _restoration(app).share(envelope)})


@serves("S_RestorePiece")
@told
def restore_piece(app: Application, record: bytes) -> bytes:
    """Take a record."""
    _restoration(app).piece(record)
    return b""


@serves("S_RestoreEnd")
@told
def restore_end(app: Application, signature: bytes) -> bytes:
    """Take over everything."""
    restoration = _restoration(app)
    app.badge.restoration = None
    return _encode(restoration.end(app, signature))


@serves("S_AuditRecords")
@told
def audit_records(app: Application, after: int) -> bytes:
    """Some records of the audit trail behind a number, as the host keeps them."""
    app.badge.require(app.module.vault.head.roles, Role.AUDITOR, Role.ADMINISTRATOR)
    return reading.records(app.module, after)


@serves("S_AuditCheckpoint")
@told
def audit_checkpoint(app: Application, nonce: bytes) -> bytes:
    """The end of the audit trail at this moment, signed for a nonce."""
    app.badge.require(app.module.vault.head.roles, Role.AUDITOR, Role.ADMINISTRATOR)
    return reading.checkpoint(app.module, nonce)


@contextlib.contextmanager
def _refusals_recorded(app: Application) -> Iterator[None]:
    """Who has a role and asks for what is not approved, leaves a record of that."""
    try:
        yield
    except CryptoRefused as error:
        if app.badge.role:
            detail = {"as": app.badge.role, "name": app.badge.name, "why": str(error)[:200]}
            event = Event("execution refused", app.actor, None, detail)
            app.module.vault.transact(lambda draft: draft.record(event))
        raise


def _restoration(app: Application) -> Restoration:
    if app.badge.restoration is None:
        raise CryptoRefused("no restoration was begun on this connection")
    return app.badge.restoration


_encode = msgspec.json.Encoder(order="deterministic").encode
