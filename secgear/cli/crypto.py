"""``secgear crypto``: cryptographic modules: found one, prepare its tokens, verify its trail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli import (
    crypto_attest,
    crypto_domain,
    crypto_http,
    crypto_keys,
    crypto_roles,
    crypto_rotate,
    inputs,
)
from secgear.cli.connect import checked_address
from secgear.cli.crypto_backup import backup
from secgear.cli.crypto_library import library
from secgear.cli.crypto_place import Address, Policy, Socket
from secgear.cli.crypto_reach import Place, reached
from secgear.cli.crypto_requests import request
from secgear.cli.crypto_sdf import app as sdf
from secgear.cli.crypto_users import token_policy, user
from secgear.cli.output import AsJson, CommandError, UsageError, emit, progress, read
from secgear.cli.signing import PassphraseFile, load_key

if TYPE_CHECKING:
    from secgear.services.crypto.trail import End

app = typer.Typer(name="crypto", help="The cryptographic module.", no_args_is_help=True)
audit = typer.Typer(name="audit", help="Its audit trail.", no_args_is_help=True)
_MAX_PIN_FILE: Final = 4096

Directory = Annotated[
    Path, typer.Argument(help="The module's directory.", file_okay=False, readable=False)
]


@app.command("init")
def init(
    directory: Directory,
    slots: Annotated[int, typer.Option(min=1, max=64, help="How many tokens there are.")] = 1,
    tee: Annotated[str, typer.Option(help="Which TEE; auto takes the strongest.")] = "auto",
    database: Annotated[
        str, typer.Option(help="Another database than the one in the directory, as a URL.")
    ] = "",
    witness: Annotated[
        str,
        typer.Option(
            help="Who keeps the counter, as secgear serve witness prints it: ADDRESS,KEY. "
            "A module on several machines needs one.",
        ),
    ] = "",
    root: inputs.Roots = None,
    key: Annotated[
        Path | None,
        typer.Option(
            help="Sign the image with this key (PEM): the module is sealed to its signer then, "
            "and later versions can take it over.",
            readable=False,
        ),
    ] = None,
    passphrase_file: PassphraseFile = None,
    administrator: crypto_roles.People = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, help="How many administrators decide together.")
    ] = None,
    auditor: crypto_roles.People = None,
    backup_operator: crypto_roles.People = None,
    as_json: AsJson = False,
) -> None:
    """Found a module: make its image and its store. Keep the audit key that is printed."""
    from secgear.cli.serve import checked_url
    from secgear.services.crypto.host import Witness, found

    address, _, public = witness.partition(",")
    if witness and not re.fullmatch(r"[0-9a-f]{64}", public, re.ASCII):
        raise UsageError("--witness takes ADDRESS,KEY: the key has 64 hexadecimal digits")
    signer = None if key is None else load_key(key, passphrase_file)
    status = found(
        directory,
        slots=slots,
        tee=tee,
        database=checked_url(database),
        key=signer,
        founders=crypto_roles.founders(administrator, threshold, auditor, backup_operator),
        witness=Witness(address, bytes.fromhex(public)) if witness else None,
        roots=inputs.read_roots(root),
    )
    if as_json:
        emit({"slots": status.slots, "audit_key": status.audit_key.hex()})
    else:
        typer.echo(f"module     {directory}, {status.slots} slots")
        typer.echo(f"audit key  {status.audit_key.hex()}")


@app.command("token")
def token(
    label: Annotated[str, typer.Argument(help="The token's new name, at most 32 bytes.")],
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: inputs.Roots = None,
    reference_values: inputs.ReferenceFiles = None,
    slot: Annotated[int, typer.Option(min=0, max=63, help="Its slot.")] = 0,
    pin_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the security officer's PIN and the user's, a line each.",
            readable=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Initialise a token and set both PINs. Everything on the token is destroyed.

    Through the socket the host hears the PINs; with --address and --policy only the enclave does.
    """
    from secgear.services.crypto.client import TokenRefused
    from secgear.services.crypto.pkcs11.rv import Rv

    name = label.encode()
    if not 0 < len(name) <= 32:
        raise UsageError("a token's name has 1 to 32 bytes")
    officer, own = _pins(pin_file)
    try:
        with reached(Place(socket, address, policy, root, reference_values)) as caller:
            caller.call("C_InitToken", slot, officer, name.ljust(32))
            session = caller.one("C_OpenSession", slot, 6)
            caller.call("C_Login", session, 0, officer)
            caller.call("C_InitPIN", session, own)
    except TokenRefused as refused:
        if refused.rv is not Rv.PIN_INCORRECT:
            raise
        raise CommandError(
            f"{refused}; a token that was initialised before takes the officer's old PIN"
        ) from None
    if as_json:
        emit({"slot": slot, "label": label})
    else:
        typer.echo(f"token  {label}, in slot {slot}")


@app.command("connect")
def connect(
    address: Annotated[str, typer.Argument(help="The module's address, tcp://host:port.")],
    policy: Annotated[
        Path, typer.Option(help="The policy (TOML) under which it is trusted.", readable=False)
    ],
    root: inputs.Roots = None,
    reference_values: inputs.ReferenceFiles = None,
) -> None:
    """Carry PKCS#11 to a module on another machine, over a channel that ends in its enclave.

    For p11-kit, as a module file's remote: |secgear crypto connect ADDRESS --policy FILE
    """
    import sys

    from secgear.middleware.attestation import bundle as bundles
    from secgear.middleware.attestation import load_policy
    from secgear.middleware.channel import connect as open_channel
    from secgear.services.crypto.client import SERVICE, carry
    from secgear.services.crypto.rpc.buffer import MalformedMessage

    checked_address(address)
    with open_channel(
        address,
        load_policy(inputs.read_text(policy).encode()),
        service=SERVICE,
        anchors=bundles.anchors_with(inputs.read_roots(root)),
        reference_values=inputs.read_reference_values(reference_values),
    ) as session:
        try:
            carry(session, sys.stdin.buffer, sys.stdout.buffer)
        except MalformedMessage:
            raise CommandError("what came on standard input is no p11-kit") from None


# In the order of --help: what comes first is done first.
app.command("library")(library)
app.command("http")(crypto_http.http)
app.command("rotate")(crypto_rotate.rotate)
crypto_roles.add_to(app, audit)
app.command("token-policy")(token_policy)
for group in (
    crypto_keys.app, crypto_attest.app, user, audit, request, backup, crypto_domain.app, sdf
):  # fmt: skip
    app.add_typer(group)


@audit.command("verify")
def verify(
    directory: Directory,
    key: Annotated[str, typer.Option(help="The module's audit key, as init has printed it.")],
    head: Annotated[
        str | None,
        typer.Option(help="An earlier end of the trail, NUMBER:HASH, that must still be in it."),
    ] = None,
    records: Annotated[
        bool, typer.Option("--records", help="Print each record before, a line of JSON.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Verify every record, and print the end: keep it elsewhere, for --head."""
    from secgear.services.crypto.auditing import verify as verify_trail
    from secgear.services.crypto.host import Home

    if not re.fullmatch(r"[0-9a-f]{64}", key, re.ASCII):
        raise UsageError("--key takes 64 hexadecimal digits, as secgear crypto init prints them")
    kept = None if head is None else _end(head)
    storage = Home(directory).storage()
    shown: list[bytes] = []
    try:
        with progress(f"verifying {directory}"):
            told: Callable[[bytes], object] | None = None
            if records:
                told = shown.append if as_json else (lambda body: typer.echo(body.decode()))
            end = verify_trail(storage, bytes.fromhex(key), kept, told)
    finally:
        storage.close()
    if as_json:
        result: dict[str, Any] = {"whole": True, "head": {"seq": end.seq, "hash": end.hash}}
        emit(result | ({"records": [json.loads(body) for body in shown]} if records else {}))
    else:
        typer.echo(f"whole, {end.seq} records\nhead  {end.seq}:{end.hash}")


def _end(text: str) -> End:
    from secgear.services.crypto.trail import End

    if not re.fullmatch(r"[1-9][0-9]{0,17}:[0-9a-f]{64}", text, re.ASCII):
        raise UsageError("--head takes NUMBER:HASH, as this command prints it")
    number, _, digest = text.partition(":")
    return End(int(number), digest)


def _pins(file: Path | None) -> tuple[bytes, bytes]:
    """The security officer's PIN and the user's: never from the command line, which others see."""
    if file is None:
        officer = typer.prompt("PIN of the security officer", hide_input=True, err=True)
        user = typer.prompt("PIN of the user", hide_input=True, confirmation_prompt=True, err=True)
        return officer.encode(), user.encode()
    lines = read(file, _MAX_PIN_FILE).splitlines()
    if len(lines) != 2 or not all(lines):
        raise UsageError(f"{file}: two lines: the security officer's PIN, and the user's")
    return lines[0], lines[1]
