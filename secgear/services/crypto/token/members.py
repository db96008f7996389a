"""The members that a module's state names."""

from __future__ import annotations

from typing import Final

from secgear.errors import CryptoRefused
from secgear.services.crypto.token.draft import Draft
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.state import Head, Member

MAX_MEMBERS: Final = 64


def check_room(head: Head, member: Member) -> None:
    """Whether there may be this one, too. Raises CryptoRefused."""
    if member.id in head.expelled:
        raise CryptoRefused("this member was expelled; it has to apply anew")
    if member not in head.members and len(head.members) >= MAX_MEMBERS:
        raise CryptoRefused(f"a module has at most {MAX_MEMBERS} members")


def remove(draft: Draft, id: bytes, own: bytes) -> None:
    """Take a member out. own: this enclave's platform. Raises CryptoRefused."""
    gone = [member for member in draft.head.members if member.id == id]
    if not gone:
        raise CryptoRefused("the module has no such member")
    if id == own:
        raise CryptoRefused("a member does not expel itself")
    rest = tuple(member for member in draft.head.members if member.id != id)
    draft.alter(members=rest, expelled=(*draft.head.expelled, id))
    draft.expelled.append(id)
    draft.record(Event("member expelled", "host", None, told(gone[0])))


def told(member: Member) -> dict[str, str | int | bool]:
    """What the audit trail says of it."""
    return {
        "member": member.id.hex(),
        "tee": member.tee,
        "measurement": member.measurement.hex(),
    }
