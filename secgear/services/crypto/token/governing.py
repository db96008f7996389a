"""What a quorum has decided is carried out: with its record, in one change, once."""

from __future__ import annotations

from typing import Final

import msgspec

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles.operations import (
    ChangeAdministrators,
    ChangePinPolicy,
    ChangeRoles,
    ExpelMember,
    ResetOfficer,
    Zeroise,
)
from secgear.services.crypto.roles.persons import Person
from secgear.services.crypto.roles.requests import parse_new_pin, parse_request, pin_message
from secgear.services.crypto.token import authority, members, pins
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.authority import Authorised, Badge
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.roles import Phase, Role
from secgear.services.crypto.token.vault import Vault
from secgear.services.crypto.token.zeroising import zeroise

_LONGEST_PIN: Final = pins.MAX_LENGTH


def execute(app: Application, request: bytes, approvals: bytes, secret: bytes) -> bytes:
    """Carry out what a request says. secret: what it takes besides and nobody else may see.

    Returns what the operation gives: of a backup its manifest. Raises CryptoRefused.
    """
    from secgear.services.crypto.roles.operations import MakeBackup

    if isinstance(parse_request(request).operation, MakeBackup):
        from secgear.services.crypto.token.backup import begin

        return begin(app, request, approvals)

    def carry_out(draft: Draft) -> None:
        done = decided(app, draft, request, approvals)
        match done.operation:
            case ChangeAdministrators(threshold=threshold, administrators=people):
                _alter(draft, administrators=people, threshold=threshold)
            case ChangeRoles(auditors=auditors, operators=operators):
                _alter(draft, auditors=auditors, operators=operators)
            case ChangePinPolicy(policy=policy):
                _alter(draft, pins=policy)
            case ResetOfficer(slot=slot):
                who = app.badge.require(draft.head.roles, Role.ADMINISTRATOR)
                _reset_officer(draft, slot, who, request, secret)
            case ExpelMember(member=member):
                members.remove(draft, bytes.fromhex(member), app.module.vault.member)
            case Zeroise():
                detail = {"destroyed": zeroise(draft)}
                draft.record(Event("module zeroised", app.actor, None, detail))
                _alter(draft, phase=Phase.ZEROISED, requests=())
            case _:
                raise CryptoRefused(f"{done.operation.kind} has a call of its own")

    app.module.vault.transact(carry_out)
    return b""


def authorised(
    draft: Draft, request: bytes, approvals: bytes, *, vault: Vault, badge: Badge, actor: str
) -> Authorised:
    """Authorise a request in a change: its request is used up with it, and it is recorded.

    Raises CryptoRefused.
    """
    done = authority.authorise(draft.head.roles, badge, request, approvals, now=vault.now())
    draft.alter(roles=done.roles)
    detail = {"approved by": ", ".join(done.approvers), "executed by": badge.name}
    draft.record(Event(f"executed: {done.operation.kind}", actor, None, detail))
    return done


def decided(app: Application, draft: Draft, request: bytes, approvals: bytes) -> Authorised:
    """The same for what an application hands in."""
    return authorised(
        draft, request, approvals, vault=app.module.vault, badge=app.badge, actor=app.actor
    )


def _alter(draft: Draft, **fields: object) -> None:
    draft.alter(roles=msgspec.structs.replace(draft.head.roles, **fields))


def _reset_officer(draft: Draft, slot: int, who: Person, request: bytes, secret: bytes) -> None:
    given = parse_new_pin(secret)
    pin = given.pin
    if not who.signed(pin_message(request, pin), given.raw):
        raise CryptoRefused(f"the new PIN is not {who.name}'s")
    if slot >= len(draft.head.tokens):
        raise CryptoRefused(f"there is no slot {slot}")
    state = draft.token(slot)
    if state.so is None:
        raise CryptoRefused(f"the token in slot {slot} is not initialised")
    shortest = draft.head.roles.pins.shortest
    if not shortest <= len(pin) <= _LONGEST_PIN:
        raise CryptoRefused(f"a PIN has {shortest} to {_LONGEST_PIN} bytes")
    draft.set_token(slot, msgspec.structs.replace(state, so=pins.made(pin, draft.head.roles.pins)))
