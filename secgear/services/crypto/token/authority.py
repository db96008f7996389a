"""Whether something may be done that takes a role or a quorum: decided here and nowhere else.

Functions of the durable roles and of documents: `authorise` says what the roles are once an
operation is carried out, and its caller makes that durable together with the operation, in one
change. So a request is executed once, whatever crashes.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, final

import msgspec

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles import requests
from secgear.services.crypto.roles.operations import (
    AdmitEnclave,
    ChangeAdministrators,
    ChangePinPolicy,
    ChangeRoles,
    ExpelMember,
    MakeBackup,
    Operation,
    ResetOfficer,
    RestoreBackup,
    Zeroise,
)
from secgear.services.crypto.roles.persons import Person
from secgear.services.crypto.roles.requests import MAX_VALID, Request
from secgear.services.crypto.token.roles import OpenRequest, Phase, Role, Roles

if TYPE_CHECKING:
    from secgear.services.crypto.token.backup import Backup
    from secgear.services.crypto.token.restoring import Restoration

MAX_OPEN: Final = 8  # requests of one person at a time: nobody takes the others' room
CHALLENGE_SIZE: Final = 32

EXECUTED_BY: Final[Mapping[type[Operation], Role | None]] = {
    ChangeAdministrators: Role.ADMINISTRATOR,
    ChangeRoles: Role.ADMINISTRATOR,
    ChangePinPolicy: Role.ADMINISTRATOR,
    ResetOfficer: Role.ADMINISTRATOR,
    MakeBackup: Role.OPERATOR,
    RestoreBackup: Role.ADMINISTRATOR,
    ExpelMember: Role.ADMINISTRATOR,
    Zeroise: Role.ADMINISTRATOR,
    AdmitEnclave: None,
}
"""Who hands in what the administrators have approved; None: whoever it is, the host as well."""


@final
class Badge:
    """Which role one connection has shown to have, if any. The proof is `admit`'s.

    backup, restoration: that are under way on this connection.
    """

    def __init__(self) -> None:
        self.challenge = b""
        self._worn: tuple[Role, Person] | None = None
        self.backup: Backup | None = None
        self.restoration: Restoration | None = None

    def challenged(self) -> bytes:
        """Something to sign, for one try."""
        self.challenge = os.urandom(CHALLENGE_SIZE)
        return self.challenge

    def put_on(self, role: Role, person: Person) -> None:
        """The connection is this person's from now on."""
        self._worn = (role, person)

    @property
    def name(self) -> str:
        """Whose connection it is, or nobody's."""
        return self._worn[1].name if self._worn is not None else "nobody"

    @property
    def role(self) -> str:
        """Which role they have logged in with, "" for none."""
        return self._worn[0].value if self._worn is not None else ""

    def require(self, roles: Roles, *allowed: Role) -> Person:
        """Who it is, if they still have one of these roles. Raises CryptoRefused."""
        if self._worn is not None:
            role, person = self._worn
            if role in allowed and person in roles.people(role):
                return person
        raise CryptoRefused(f"this takes a login as {' or '.join(allowed)}")


class Authorised(msgspec.Struct, frozen=True):
    """An operation that may be carried out now, once.

    approvers: names. roles: what they are afterwards, the request gone; to be made durable with it.
    """

    operation: Operation
    approvers: tuple[str, ...]
    roles: Roles


def admit(roles: Roles, badge: Badge, proof: bytes) -> tuple[Role, Person]:
    """Who has signed the badge's challenge, which is used up; to be put on once it is recorded.

    Raises CryptoRefused.
    """
    challenge, badge.challenge = badge.challenge, b""
    said = requests.parse_proof(proof)
    if not challenge:
        raise CryptoRefused("there is no challenge; ask for one first")
    try:
        role = Role(said.role)
    except ValueError:
        raise CryptoRefused(f"there is no such role; there are {', '.join(Role)}") from None
    found = _named(roles.people(role), said.name)
    message = requests.login_message(roles.module, challenge, said.role, said.name)
    if found is None or not found.signed(message, said.raw):
        raise CryptoRefused(f"{said.name} is no {role} here, or has signed something else")
    return role, found


def open_request(
    roles: Roles, badge: Badge, operation: Operation, *, seconds: int, now: datetime.datetime
) -> tuple[bytes, Roles]:
    """A new request, and the roles with it among the open ones. Raises CryptoRefused.

    seconds: how long it is valid. now: by the host's clock.
    """
    own = (Role.OPERATOR,) if EXECUTED_BY[type(operation)] is Role.OPERATOR else ()
    who = badge.require(roles, Role.ADMINISTRATOR, *own)
    if not 1 <= seconds <= MAX_VALID:
        raise CryptoRefused(f"a request is valid between a second and {MAX_VALID // 86400} days")
    operation.check()
    current = tuple(one for one in roles.requests if one.expires > now.timestamp())
    if sum(one.opened_by == who.name for one in current) >= MAX_OPEN:
        raise CryptoRefused(
            f"{MAX_OPEN} requests of {who.name} are open; have them executed, or let them expire"
        )
    expires = int(now.timestamp()) + seconds
    request = requests.encode(
        Request(
            module=roles.module.hex(),
            nonce=os.urandom(16).hex(),
            opened_by=who.name,
            expires=expires,
            operation=operation,
        )
    )
    requests.parse_request(request)  # what can't be read again is not opened
    opened = OpenRequest(bytes.fromhex(requests.digest(request)), expires, who.name)
    return request, msgspec.structs.replace(roles, requests=(*current, opened))


def authorise(
    roles: Roles, badge: Badge, request: bytes, approvals: bytes, *, now: datetime.datetime
) -> Authorised:
    """Whether the request's operation may be carried out. Raises CryptoRefused, which says why.

    approvals: an array of them. now: by the host's clock.
    """
    asked = requests.parse_request(request)
    if asked.module != roles.module.hex():
        raise CryptoRefused("the request is for another module")
    check_phase(roles, asked.operation)
    executor = EXECUTED_BY[type(asked.operation)]
    if executor is not None:
        badge.require(roles, executor)
    digest = bytes.fromhex(requests.digest(request))
    if digest not in {one.digest for one in roles.requests}:
        raise CryptoRefused("the request is not open here: it was executed, or never made here")
    if now.timestamp() >= asked.expires:
        raise CryptoRefused("the request has expired")
    approvers = _approvers(roles, request, approvals)
    if not roles.threshold or len(approvers) < roles.threshold:
        raise CryptoRefused(
            f"{len(approvers)} of {roles.threshold} approvals: {', '.join(approvers) or 'nobody'}"
        )
    left = tuple(one for one in roles.requests if one.digest != digest)
    return Authorised(asked.operation, approvers, msgspec.structs.replace(roles, requests=left))


def check_phase(roles: Roles, operation: Operation | None = None) -> None:
    """Whether the module as a whole is good for an operation, or for work with keys, None.

    A restoration that was interrupted is repeated, or given up for good. Raises CryptoRefused.
    """
    repeats = roles.phase is Phase.RESTORING and isinstance(operation, RestoreBackup | Zeroise)
    if roles.phase is not Phase.OPEN and not repeats:
        raise CryptoRefused(f"the module is {roles.phase}")


def _approvers(roles: Roles, request: bytes, approvals: bytes) -> tuple[str, ...]:
    """Names of the administrators who have approved this request, each once."""
    message, digest = requests.to_be_signed(request), requests.digest(request)
    names: list[str] = []
    for one in requests.parse_approvals(approvals):
        if one.request != digest:
            raise CryptoRefused(f"{one.approver}'s approval is for another request")
        person = _named(roles.administrators, one.approver)
        if person is None:
            raise CryptoRefused(f"{one.approver} is no administrator")
        if one.approver in names:
            raise CryptoRefused(f"{one.approver}'s approval is there twice")
        if not person.signed(message, one.raw):
            raise CryptoRefused(f"{one.approver}'s signature does not verify")
        names.append(one.approver)
    return tuple(names)


def _named(people: tuple[Person, ...], name: str) -> Person | None:
    return next((one for one in people if one.name == name), None)
