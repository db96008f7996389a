"""``secgear crypto user, token-policy``: what a token's security officer decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from secgear.cli import crypto_reach as reach
from secgear.cli.crypto_place import Address, Policy, Socket
from secgear.cli.crypto_reach import Place, told
from secgear.cli.inputs import ReferenceFiles, Roots
from secgear.cli.output import AsJson, CommandError, UsageError, emit, say

user = typer.Typer(name="user", help="Users of a token, with names.", no_args_is_help=True)

Slot = Annotated[int, typer.Option(min=0, max=63, help="The token's slot.")]
OfficerPin = Annotated[
    Path | None,
    typer.Option(help="File with the security officer's PIN in its first line.", readable=False),
]


@user.command("set")
def user_set(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    slot: Slot = 0,
    rights: Annotated[str, typer.Option(help="use, manage, or both with a comma.")] = "use",
    officer_pin_file: OfficerPin = None,
    pin_file: Annotated[
        Path | None,
        typer.Option(help="File with the user's PIN in its first line.", readable=False),
    ] = None,
    keep_pin: Annotated[
        bool, typer.Option("--keep-pin", help="Change the rights of a user, not the PIN.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a user of a token, or change one. C_LoginUser logs in with the name."""
    known = {"use": 1, "manage": 2}
    words = rights.split(",")
    if not set(words) <= set(known):
        raise UsageError("--rights takes use, manage or use,manage")
    pin = None if keep_pin else reach.secret_line(pin_file, f"PIN of {name}", new=True)
    place = Place(socket, address, policy, root, reference_values)
    number = sum(known[word] for word in set(words))
    _by_officer(place, slot, officer_pin_file, "S_SetUser", name.encode(), number, pin)
    told({"user": name, "rights": words}, f"user  {name}, {rights}", as_json=as_json)


@user.command("remove")
def user_remove(
    name: Annotated[str, typer.Argument(help="The user's name.")],
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    slot: Slot = 0,
    officer_pin_file: OfficerPin = None,
    as_json: AsJson = False,
) -> None:
    """Remove a user of a token; their logins end at once."""
    from secgear.services.crypto.client import TokenRefused
    from secgear.services.crypto.pkcs11.rv import Rv

    place = Place(socket, address, policy, root, reference_values)
    try:
        _by_officer(place, slot, officer_pin_file, "S_RemoveUser", name.encode())
    except TokenRefused as refused:
        if refused.rv is not Rv.ARGUMENTS_BAD:
            raise
        raise CommandError(f"the token in slot {slot} has no user {name!r}") from None
    told({"removed": name}, f"removed  {name}", as_json=as_json)


@user.command("list")
def user_list(
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    slot: Slot = 0,
    as_json: AsJson = False,
) -> None:
    """The users of a token, with rights and wrong PINs since the last login."""
    with reach.reached(Place(socket, address, policy, root, reference_values)) as caller:
        session = caller.one("C_OpenSession", slot, 4)
        users = msgspec.json.decode(caller.one("S_ListUsers", session))
    if as_json:
        emit(users)
        return
    for one in users:
        rights = ",".join(word for bit, word in ((1, "use"), (2, "manage")) if one["rights"] & bit)
        say(f"{one['name']}  {rights}, {one['failures']} failures")


def token_policy(
    record_uses: Annotated[
        bool, typer.Option("--record-uses/--no-record-uses", help="Have uses of keys recorded.")
    ],
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    slot: Slot = 0,
    officer_pin_file: OfficerPin = None,
    as_json: AsJson = False,
) -> None:
    """Whether each use of a token's secret and private keys is in the audit trail."""
    place = Place(socket, address, policy, root, reference_values)
    _by_officer(place, slot, officer_pin_file, "S_SetTokenPolicy", int(record_uses))
    said = "recorded" if record_uses else "not recorded"
    told({"slot": slot, "record_uses": record_uses}, f"uses are {said}", as_json=as_json)


def _by_officer(place: Place, slot: int, pin_file: Path | None, name: str, *arguments: Any) -> None:
    pin = reach.secret_line(pin_file, "PIN of the security officer", new=False)
    with reach.reached(place) as caller:
        session = caller.one("C_OpenSession", slot, 6)
        caller.call("C_Login", session, 0, pin)
        caller.call(name, session, *arguments)
