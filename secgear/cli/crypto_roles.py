"""``secgear crypto roles, approve, execute, audit …``: what people with roles do about a module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli import crypto_reach as reach
from secgear.cli.crypto_place import Address, Policy, Socket
from secgear.cli.crypto_reach import Key, Name, Place, say_lines, told
from secgear.cli.inputs import ReferenceFiles, Roots
from secgear.cli.output import AsJson, UsageError, check_target, emit, read, write_file
from secgear.cli.signing import PassphraseFile, load_key

if TYPE_CHECKING:
    from secgear.services.crypto.roles.persons import Person
    from secgear.services.crypto.roles.standing import Standing

People = Annotated[
    list[str] | None, typer.Option(help="NAME=FILE, with their public key (PEM); may be repeated.")
]
RequestFile = Annotated[Path, typer.Argument(help="The request.", readable=False)]
Approvals = Annotated[
    list[Path], typer.Option("--approval", help="An approval; may be repeated.", readable=False)
]
REQUEST = b'{"secgear-crypto-request"'
_APPROVAL = b'{"secgear-crypto-approval"'


def add_to(app: typer.Typer, audit: typer.Typer) -> None:
    """Register the commands here."""
    app.command("roles")(roles)
    app.command("approve")(approve)
    app.command("execute")(execute)
    audit.command("show")(show)
    audit.command("key")(audit_key)


def founders(
    administrator: list[str] | None,
    threshold: int | None,
    auditor: list[str] | None,
    operator: list[str] | None,
) -> bytes:
    """The document that founds a module with these people. Raises UsageError, CryptoRefused."""
    from secgear.services.crypto.roles.operations import Founders, parse_founders
    from secgear.services.crypto.roles.requests import encode

    administrators = reach.people(administrator)
    if not administrators and (threshold or auditor or operator):
        raise UsageError("roles take --administrator: without any, nobody could change them")
    if len(administrators) > 1 and threshold is None:
        raise UsageError("--threshold says how many of the administrators decide together")
    made = encode(
        Founders(
            administrators,
            threshold if threshold is not None else len(administrators),
            reach.people(auditor),
            reach.people(operator),
        )
    )
    parse_founders(made)
    return made


def approve(
    file: RequestFile,
    name: Name,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the approval.", readable=False)
    ],
    key: Annotated[
        Path | None, typer.Option(help="Your private key (PEM).", readable=False)
    ] = None,
    passphrase_file: PassphraseFile = None,
    to_be_signed: Annotated[
        bool, typer.Option("--to-be-signed", help="Write what is to be signed elsewhere.")
    ] = False,
    signature: Annotated[
        Path | None,
        typer.Option(help="A signature that was made elsewhere (Ed25519, or DER).", readable=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="You have read the request already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Approve a request, after reading what it says. Works without the module.

    A key in another token signs in two steps: --to-be-signed, the token's own tool, --signature.
    """
    from secgear.services.crypto.roles import requests

    if [key is not None, to_be_signed, signature is not None].count(True) != 1:
        raise UsageError("approve takes one of --key, --to-be-signed, --signature")
    data = read(file, requests.MAX_REQUEST)
    asked = requests.parse_request(data)
    if to_be_signed:
        check_target(output, requests.to_be_signed(b""))
        write_file(output, requests.to_be_signed(data))
        told({"to_be_signed": str(output)}, f"to be signed  {output}", as_json=as_json)
        return
    check_target(output, _APPROVAL)
    if not as_json:
        say_lines(asked.words() + "\n")
    if not yes:
        typer.confirm("Do you approve this?", abort=True, err=True)
    if key is not None:
        made = requests.approve(data, name, load_key(key, passphrase_file))
    else:
        assert signature is not None  # noqa: S101  (one of them is given)
        made = requests.attach(data, name, read(signature, 4096))
        requests.parse_approval(made)
    write_file(output, made)
    told({"approval": str(output), "approver": name}, f"approval  {output}", as_json=as_json)


def execute(
    file: RequestFile,
    approval: Approvals,
    name: Name,
    key: Key,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    pin_file: Annotated[
        Path | None,
        typer.Option(
            help="reset-officer: file with the new PIN in its first line.", readable=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have carried out what was approved; you are an administrator.

    Backups are made by `crypto backup create` and restored by `crypto backup restore`; members are
    admitted by `crypto domain admit`.
    """
    from secgear.services.crypto.roles import requests
    from secgear.services.crypto.roles.operations import (
        AdmitEnclave,
        MakeBackup,
        ResetOfficer,
        RestoreBackup,
    )

    data = read(file, requests.MAX_REQUEST)
    operation = requests.parse_request(data).operation
    if isinstance(operation, MakeBackup | RestoreBackup):
        raise UsageError(f"crypto backup does what a request for {operation.kind} asks for")
    if isinstance(operation, AdmitEnclave):
        raise UsageError("crypto domain admit does what a request for admit asks for")
    secret = b""
    if isinstance(operation, ResetOfficer):
        pin = reach.secret_line(pin_file, "New PIN of the security officer", new=True)
        secret = requests.new_pin(data, pin, load_key(key, passphrase_file))
    given = [read(path, requests.MAX_APPROVALS) for path in approval]
    place = Place(socket, address, policy, root, reference_values)
    with reach.logged_in(place, "administrator", name, key, passphrase_file) as one:
        one.execute(data, given, secret)
    told({"executed": operation.kind}, f"executed  {operation.kind}", as_json=as_json)


# --- looking -------------------------------------------------------------------------------------


def roles(
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    as_json: AsJson = False,
) -> None:
    """Who decides about a module, as it says itself; `crypto audit key` has it with evidence."""
    from secgear.services.crypto.administration import Administration

    with reach.reached(Place(socket, address, policy, root, reference_values)) as caller:
        said = Administration(caller).standing()
    if as_json:
        emit(_described(said))
    else:
        say_lines(_words(said))


def audit_key(
    policy: Annotated[Path, typer.Option(help="The policy (TOML) that decides.", readable=False)],
    socket: Annotated[
        Path, typer.Option(help="The running module's socket on this machine.", readable=False)
    ],
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    as_json: AsJson = False,
) -> None:
    """The audit key, and who decides, under fresh evidence of the enclave.

    Exit code 6 if the policy does not trust that. The socket may be the host's: nothing that it
    says is believed.
    """
    import datetime

    from secgear.cli import inputs
    from secgear.middleware.attestation import load_policy
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.services.crypto.administration import Administration
    from secgear.services.crypto.roles import standing

    rules = load_policy(inputs.read_text(policy).encode())
    nonce = os.urandom(standing.NONCE_SIZE)
    with reach.reached(Place(socket, None, None)) as caller:
        document = Administration(caller).evidence(nonce)
    said, verdict = standing.verify(
        document,
        rules,
        at=datetime.datetime.now(datetime.UTC),
        nonce=nonce,
        anchors=anchors_with(inputs.read_roots(root)),
        reference_values=inputs.read_reference_values(reference_values),
    )
    if as_json:
        emit(_described(said) | {"verdict": verdict.to_dict()})
    else:
        typer.echo(verdict.explain())
        say_lines(_words(said))


def show(
    key: Key,
    name: Name,
    audit_key: Annotated[
        str, typer.Option("--audit-key", help="The module's audit key, 64 hexadecimal digits.")
    ],
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    role: Annotated[str, typer.Option(help="auditor or administrator.")] = "auditor",
    as_json: AsJson = False,
) -> None:
    """The audit trail from the running module, a line of JSON for each record, each verified.

    The enclave signs where the trail ends, for this very command. Exit code 0: it was all there.
    With --json all records are in one document, which is printed when the end was verified.
    """
    import json
    import sys

    if len(audit_key) != 64 or not set(audit_key) <= set("0123456789abcdef"):
        raise UsageError("--audit-key takes 64 hexadecimal digits, as `crypto audit key` has them")
    place = Place(socket, address, policy, root, reference_values)
    with reach.logged_in(place, role, name, key, passphrase_file) as one:
        trail = one.trail(bytes.fromhex(audit_key))
        if as_json:
            emit({"whole": True, "records": [json.loads(body) for _, body in trail]})
            return
        for _, body in trail:
            sys.stdout.write(body.decode() + "\n")
    sys.stdout.flush()


def _described(said: Standing) -> dict[str, Any]:
    return {
        "module": said.module,
        "audit_key": said.audit_key,
        "phase": said.phase,
        "threshold": said.threshold,
        "administrators": {one.name: one.fingerprint for one in said.administrators},
        "auditors": {one.name: one.fingerprint for one in said.auditors},
        "backup_operators": {one.name: one.fingerprint for one in said.operators},
        "shortest_pin": said.pins.shortest,
        "pin_tries": said.pins.tries,
        "open_requests": said.open_requests,
    }


def _words(said: Standing) -> str:
    def listed(what: str, people: tuple[Person, ...]) -> list[str]:
        return [f"{what:17}{one.name}  {one.fingerprint}" for one in people]

    return "\n".join(
        [
            f"{'module':17}{said.module}, {said.phase}",
            f"{'audit key':17}{said.audit_key}",
            f"{'decide':17}{said.threshold} of {len(said.administrators)} administrators",
            *listed("administrator", said.administrators),
            *listed("auditor", said.auditors),
            *listed("backup operator", said.operators),
            f"{'PINs':17}from {said.pins.shortest} bytes, locked after {said.pins.tries} failures",
            f"{'open requests':17}{said.open_requests}",
        ]
    )
