"""What a quorum decides on: each operation with its parameters, and how it is said in words.

A new operation is a class here, in `Operation`; who carries it out asks `token.authority`.
"""

from __future__ import annotations

import base64
from typing import Annotated, Final

import msgspec

from secgear.errors import CryptoRefused
from secgear.services.crypto.roles.persons import Name, Person, check_distinct, fingerprint_of

MAX_CUSTODIANS: Final = 16
MIN_PIN, MAX_PIN = 4, 255  # bytes: bounds of a policy's shortest PIN
MAX_TRIES: Final = 100
_HEX_32: Final = msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")
_HEX_16: Final = msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")


class PinPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of all PINs of a module. shortest: bytes of a new PIN. tries: until one is locked."""

    shortest: Annotated[int, msgspec.Meta(ge=MIN_PIN, le=MAX_PIN)] = MIN_PIN
    tries: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRIES)] = 10


class Custodian(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is to keep a share of a backup's key. key: `custody.PublicKey`'s bytes in base64."""

    name: Name
    key: Annotated[str, msgspec.Meta(max_length=2048)]

    def __post_init__(self) -> None:
        if base64.b64encode(self.raw).decode() != self.key:
            raise ValueError("a key in another encoding than its one")

    @property
    def raw(self) -> bytes:
        """The key's bytes. Raises ValueError."""
        return base64.b64decode(self.key, validate=True)


class _Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One of them."""

    @property
    def kind(self) -> str:
        """Its name."""
        return str(self.__struct_config__.tag)

    def check(self) -> None:
        """What the types do not say. Raises CryptoRefused."""

    def words(self) -> str:
        """For those who are to approve it."""
        raise NotImplementedError


class ChangeAdministrators(_Operation, frozen=True, tag="administrators"):
    """Others decide from now on. threshold: how many of them it takes."""

    threshold: int
    administrators: tuple[Person, ...]

    def check(self) -> None:
        """See `_Operation`."""
        check_administrators(self.administrators, self.threshold)
        if not self.administrators:
            raise CryptoRefused("administrators: none would be left, and nobody could decide")

    def words(self) -> str:
        """See `_Operation`."""
        return (
            f"{self.threshold} of these administrators decide from now on, and nobody else:\n"
            + _people(self.administrators)
        )


class ChangeRoles(_Operation, frozen=True, tag="roles"):
    """Others are auditors and backup operators from now on."""

    auditors: tuple[Person, ...] = ()
    operators: tuple[Person, ...] = ()

    def check(self) -> None:
        """See `_Operation`."""
        check_distinct(self.auditors, "auditors")
        check_distinct(self.operators, "backup operators")

    def words(self) -> str:
        """See `_Operation`."""
        return (
            "auditors, who may read the audit trail, are from now on:\n"
            f"{_people(self.auditors)}\n"
            "backup operators, who may fetch backups, are from now on:\n"
            f"{_people(self.operators)}"
        )


class ChangePinPolicy(_Operation, frozen=True, tag="pin-policy"):
    """Another policy for PINs."""

    policy: PinPolicy

    def words(self) -> str:
        """See `_Operation`."""
        return (
            f"new PINs have at least {self.policy.shortest} bytes; {self.policy.tries} wrong tries "
            "lock a PIN"
        )


class ResetOfficer(_Operation, frozen=True, tag="reset-officer"):
    """A token's security officer gets a new PIN, which the executing administrator gives."""

    slot: Annotated[int, msgspec.Meta(ge=0, le=63)]

    def words(self) -> str:
        """See `_Operation`."""
        return (
            f"the security officer of the token in slot {self.slot} gets a new PIN, from the "
            "administrator who has this carried out; keys and users stay"
        )


class MakeBackup(_Operation, frozen=True, tag="backup"):
    """A backup of everything. threshold: how many custodians it takes to restore it."""

    threshold: int
    custodians: tuple[Custodian, ...]

    def check(self) -> None:
        """See `_Operation`."""
        _check_custodians(self.custodians, self.threshold)

    def words(self) -> str:
        """See `_Operation`."""
        return (
            "a backup of all keys, tokens, PINs and roles is made; whoever has the backup and "
            f"{self.threshold} of these custodians on their side has all keys:\n"
            + "\n".join(f"  {one.name}  {fingerprint_of(one.raw)}" for one in self.custodians)
        )


class RestoreBackup(_Operation, frozen=True, tag="restore"):
    """This module, which is empty, becomes what a backup holds. backup: its digest."""

    backup: Annotated[str, _HEX_32]

    def words(self) -> str:
        """See `_Operation`."""
        return (
            f"this module takes over all keys, tokens, PINs and roles of the backup {self.backup}; "
            "its administrators are then those of the backup"
        )


class AdmitEnclave(_Operation, frozen=True, tag="admit"):
    """Enclaves of another machine become members of the domain. application: its SHA-256."""

    application: Annotated[str, _HEX_32]

    def words(self) -> str:
        """See `_Operation`."""
        return (
            f"the machine that has made the application {self.application} becomes a member: "
            "its enclaves, if they are such as this, open all keys of this module"
        )


class ExpelMember(_Operation, frozen=True, tag="expel"):
    """A platform may open the module no more. member: its id."""

    member: Annotated[str, _HEX_16]

    def words(self) -> str:
        """See `_Operation`."""
        return f"the module's enclaves on the machine {self.member} end; rotate the domain key then"


class Zeroise(_Operation, frozen=True, tag="zeroise"):
    """All keys are destroyed, for good, and the module with them."""

    def words(self) -> str:
        """See `_Operation`."""
        return "ALL KEYS OF THIS MODULE ARE DESTROYED, for good; only backups bring them back"


Operation = (
    ChangeAdministrators
    | ChangeRoles
    | ChangePinPolicy
    | ResetOfficer
    | MakeBackup
    | RestoreBackup
    | AdmitEnclave
    | ExpelMember
    | Zeroise
)


class Founders(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who has which role in a new module. Without administrators nobody ever will."""

    administrators: tuple[Person, ...] = ()
    threshold: int = 0
    auditors: tuple[Person, ...] = ()
    operators: tuple[Person, ...] = ()
    pins: PinPolicy = PinPolicy()


def parse_founders(data: bytes) -> Founders:
    """Raises CryptoRefused."""
    try:
        founders = _FOUNDERS.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CryptoRefused(f"founders: {error}") from None
    check_administrators(founders.administrators, founders.threshold)
    check_distinct(founders.auditors, "auditors")
    check_distinct(founders.operators, "backup operators")
    return founders


def check_administrators(people: tuple[Person, ...], threshold: int) -> None:
    """Whether these people can decide. Without any, nobody can. Raises CryptoRefused."""
    check_distinct(people, "administrators")
    if people and not 1 <= threshold <= len(people):
        raise CryptoRefused(
            f"threshold: between 1 and {len(people)}, the number of administrators, not {threshold}"
        )
    if not people and threshold:
        raise CryptoRefused("threshold: without administrators there is none")


def _check_custodians(people: tuple[Custodian, ...], threshold: int) -> None:
    if not 2 <= len(people) <= MAX_CUSTODIANS:
        raise CryptoRefused(f"custodians: 2 to {MAX_CUSTODIANS}, not {len(people)}")
    if not 2 <= threshold <= len(people):
        raise CryptoRefused(
            f"threshold: between 2 and {len(people)}, the number of custodians, not {threshold}"
        )
    for what in ("name", "key"):
        values = [getattr(one, what) for one in people]
        if len(set(values)) != len(values):
            raise CryptoRefused(f"custodians: one {what} is there twice")


def _people(people: tuple[Person, ...]) -> str:
    return "\n".join(f"  {one.name}  {one.fingerprint}" for one in people) or "  nobody"


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_FOUNDERS = msgspec.json.Decoder(Founders)
