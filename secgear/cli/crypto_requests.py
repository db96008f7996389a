"""``secgear crypto request``: ask a module for what administrators have to approve.

An administrator or backup operator asks, administrators sign the request wherever their keys are
(`crypto approve`), somebody hands the approvals in (`crypto execute`). Documents travel as files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli import crypto_reach as reach
from secgear.cli.crypto_place import Address, Policy, Socket
from secgear.cli.crypto_reach import Key, Name, Place, say_lines
from secgear.cli.crypto_roles import REQUEST, People, RequestFile
from secgear.cli.inputs import ReferenceFiles, Roots
from secgear.cli.output import AsJson, UsageError, check_target, emit, open_data, read, write_file
from secgear.cli.signing import PassphraseFile

if TYPE_CHECKING:
    from secgear.services.crypto.roles.operations import Operation

request = typer.Typer(
    name="request", help="Ask for what administrators have to approve.", no_args_is_help=True
)

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Where to write the request.", readable=False)
]
Hours = Annotated[int, typer.Option(min=1, max=168, help="How long it may wait for approvals.")]


@request.command("administrators")
def request_administrators(
    administrator: People,
    threshold: Annotated[int, typer.Option(min=1, help="How many of them decide together.")],
    name: Name,
    key: Key,
    output: Output,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Have others administrate the module from now on; name all of them."""
    from secgear.services.crypto.roles.operations import ChangeAdministrators

    operation = ChangeAdministrators(threshold, reach.people(administrator))
    place = Place(socket, address, policy, root, reference_values)
    _open(operation, place, name, key, passphrase_file, hours, output, as_json=as_json)


@request.command("roles")
def request_roles(
    name: Name,
    key: Key,
    output: Output,
    auditor: People = None,
    backup_operator: People = None,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Have others be auditors and backup operators from now on; name all of them."""
    from secgear.services.crypto.roles.operations import ChangeRoles

    operation = ChangeRoles(reach.people(auditor), reach.people(backup_operator))
    place = Place(socket, address, policy, root, reference_values)
    _open(operation, place, name, key, passphrase_file, hours, output, as_json=as_json)


@request.command("pin-policy")
def request_pin_policy(
    name: Name,
    key: Key,
    output: Output,
    shortest: Annotated[int, typer.Option(min=4, max=255, help="Bytes of a new PIN.")] = 4,
    tries: Annotated[int, typer.Option(min=1, max=100, help="Failures that lock a PIN.")] = 10,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Have another policy for the PINs of all tokens."""
    from secgear.services.crypto.roles.operations import ChangePinPolicy, PinPolicy

    place = Place(socket, address, policy, root, reference_values)
    operation = ChangePinPolicy(PinPolicy(shortest, tries))
    _open(operation, place, name, key, passphrase_file, hours, output, as_json=as_json)


@request.command("reset-officer")
def request_reset_officer(
    name: Name,
    key: Key,
    output: Output,
    slot: Annotated[int, typer.Option(min=0, max=63, help="The token's slot.")] = 0,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Give a token's security officer a new PIN, when the old one is locked or forgotten."""
    from secgear.services.crypto.roles.operations import ResetOfficer

    place = Place(socket, address, policy, root, reference_values)
    _open(ResetOfficer(slot), place, name, key, passphrase_file, hours, output, as_json=as_json)


@request.command("backup")
def request_backup(
    custodian: Annotated[
        list[str],
        typer.Option(help="NAME=FILE, with what `crypto backup custodian` wrote as public."),
    ],
    threshold: Annotated[int, typer.Option(min=2, max=16, help="How many it takes to restore.")],
    name: Name,
    key: Key,
    output: Output,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Make a backup; you are a backup operator."""
    import base64

    from secgear.services.crypto.roles.custody import load_public
    from secgear.services.crypto.roles.operations import Custodian, MakeBackup

    hint = "the file that ends in .pub is wanted"
    custodians = tuple(
        Custodian(one, base64.b64encode(reach.parsed(path, load_public, hint)).decode())
        for one, path in reach.pairs(custodian)
    )
    operation = MakeBackup(threshold, custodians)
    place = Place(socket, address, policy, root, reference_values)
    _open(
        operation, place, name, key, passphrase_file, hours, output,
        as_json=as_json, role="backup-operator",
    )  # fmt: skip


@request.command("restore")
def request_restore(
    backup: Annotated[Path, typer.Argument(help="The backup.", readable=False)],
    name: Name,
    key: Key,
    output: Output,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Have a new module take over a backup."""
    from secgear.services.crypto.administration import inspected
    from secgear.services.crypto.roles.operations import RestoreBackup

    with open_data(backup) as file:
        _, digest, _ = inspected(file)
    place = Place(socket, address, policy, root, reference_values)
    operation = RestoreBackup(digest)
    _open(operation, place, name, key, passphrase_file, hours, output, as_json=as_json)


@request.command("admit")
def request_admit(
    application: Annotated[Path, typer.Argument(help="The application.", readable=False)],
    name: Name,
    key: Key,
    output: Output,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Have the enclaves of another machine become members; for `crypto domain admit`."""
    import hashlib

    from secgear.services.crypto.roles.operations import AdmitEnclave

    digest = hashlib.sha256(read(application, reach.MAX_APPLICATION)).hexdigest()
    place = Place(socket, address, policy, root, reference_values)
    operation = AdmitEnclave(digest)
    _open(operation, place, name, key, passphrase_file, hours, output, as_json=as_json)


@request.command("expel")
def request_expel(
    member: Annotated[
        str, typer.Argument(help="Its id, as `secgear crypto domain members` has it.")
    ],
    name: Name,
    key: Key,
    output: Output,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Take the module from a machine. Rotate the domain key when it was carried out."""
    import re

    from secgear.services.crypto.roles.operations import ExpelMember

    if not re.fullmatch(r"[0-9a-f]{32}", member, re.ASCII):
        raise UsageError("a member's id has 32 hexadecimal digits")
    place = Place(socket, address, policy, root, reference_values)
    _open(ExpelMember(member), place, name, key, passphrase_file, hours, output, as_json=as_json)


@request.command("zeroise")
def request_zeroise(
    name: Name,
    key: Key,
    output: Output,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    hours: Hours = 24,
    as_json: AsJson = False,
) -> None:
    """Destroy all keys of the module, and the module."""
    from secgear.services.crypto.roles.operations import Zeroise

    place = Place(socket, address, policy, root, reference_values)
    _open(Zeroise(), place, name, key, passphrase_file, hours, output, as_json=as_json)


def _open(
    operation: Operation,
    place: Place,
    name: str,
    key: Path,
    passphrase: Path | None,
    hours: int,
    output: Path,
    *,
    as_json: bool,
    role: str = "administrator",
) -> None:
    from secgear.services.crypto.roles import requests

    check_target(output, REQUEST)
    operation.check()
    with reach.logged_in(place, role, name, key, passphrase) as one:
        made = one.request(operation, seconds=hours * 3600)
    write_file(output, made)
    if as_json:
        emit({"request": str(output), "digest": requests.digest(made)})
    else:
        say_lines(f"request  {output}\n\n{requests.parse_request(made).words()}")


@request.command("show")
def show_request(file: RequestFile, as_json: AsJson = False) -> None:
    """What a request says, in words. Only the module can tell whether it has made it."""
    from secgear.services.crypto.roles import requests

    data = read(file, requests.MAX_REQUEST)
    asked = requests.parse_request(data)
    if as_json:
        emit({"digest": requests.digest(data), "request": asked, "words": asked.words()})
    else:
        say_lines(asked.words())
