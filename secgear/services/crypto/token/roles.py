"""The module's roles as they are durable: a part of its sealed head."""

from __future__ import annotations

import enum

import msgspec

from secgear.services.crypto.roles.operations import PinPolicy
from secgear.services.crypto.roles.persons import Person


class Role(enum.StrEnum):
    """What somebody can be besides a token's security officer or user."""

    ADMINISTRATOR = "administrator"
    AUDITOR = "auditor"
    OPERATOR = "backup-operator"


class Phase(enum.StrEnum):
    """What the module as a whole is good for.

    RESTORING: objects of a backup are being put in, and nothing else works. ZEROISED: nothing does.
    """

    OPEN = "open"
    RESTORING = "restoring"
    ZEROISED = "zeroised"


class OpenRequest(msgspec.Struct, frozen=True):
    """A request that was made here and neither executed nor has expired.

    digest: 32 bytes. expires: seconds since 1970. opened_by: whose it is.
    """

    digest: bytes
    expires: int
    opened_by: str


class Roles(msgspec.Struct, frozen=True):
    """Who has which role, and what the module remembers of what they do.

    module: the module's id, 16 bytes. threshold: how many administrators decide together.
    restoration: which one puts objects in, 16 random bytes, while that is the phase.
    """

    module: bytes
    administrators: tuple[Person, ...] = ()
    threshold: int = 0
    auditors: tuple[Person, ...] = ()
    operators: tuple[Person, ...] = ()
    pins: PinPolicy = PinPolicy()
    requests: tuple[OpenRequest, ...] = ()
    phase: Phase = Phase.OPEN
    restoration: bytes = b""

    def people(self, role: Role) -> tuple[Person, ...]:
        """Those who have a role."""
        match role:
            case Role.ADMINISTRATOR:
                return self.administrators
            case Role.AUDITOR:
                return self.auditors
            case Role.OPERATOR:
                return self.operators


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
DESCRIBED = [msgspec.msgpack.Decoder(kind) for kind in (Person, PinPolicy, OpenRequest, Roles)]
