"""``secgear crypto backup``: backups under a quorum: custodians, making, looking, restoring."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from secgear.cli import crypto_reach as reach
from secgear.cli import inputs
from secgear.cli.crypto_place import Address, Policy, Socket
from secgear.cli.crypto_reach import Key, Name, Place
from secgear.cli.crypto_roles import Approvals
from secgear.cli.inputs import ReferenceFiles, Roots
from secgear.cli.output import (
    AsJson,
    UsageError,
    check_target,
    emit,
    note,
    open_data,
    read,
    say,
    watching,
    write_file,
)
from secgear.cli.signing import PassphraseFile

if TYPE_CHECKING:
    from secgear.services.crypto.administration import Administration

backup = typer.Typer(name="backup", help="Backups under a quorum.", no_args_is_help=True)

BackupFile = Annotated[Path, typer.Argument(help="The backup.", readable=False)]
Request = Annotated[Path, typer.Option("--request", help="The request.", readable=False)]
_LOOK: Final = 0.2  # seconds between looks at whether a share has come
_MAX_SHARE: Final = 8 << 10


@backup.command("custodian")
def custodian(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Where to write the private key; .pub is the public one's.",
            readable=False,
        ),
    ],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase to encrypt the file with.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a custodian's key, to which shares of backups are sealed. Nothing is overwritten."""
    from secgear.cli.signing import new_passphrase
    from secgear.services.crypto.roles.custody import generate, load_public
    from secgear.services.crypto.roles.persons import fingerprint_of

    public_file = output.with_name(output.name + ".pub")
    for path in (output, public_file):
        check_target(path)
    private, public = generate(new_passphrase(passphrase, passphrase_file))
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(f"{output}: can't be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(private)
    write_file(public_file, public)
    fingerprint = fingerprint_of(load_public(public))
    if as_json:
        emit({"key": str(output), "public": str(public_file), "fingerprint": fingerprint})
    else:
        say(f"key          {output}")
        say(f"public       {public_file}")
        say(f"fingerprint  {fingerprint}")


@backup.command("create")
def create(
    request: Request,
    approval: Approvals,
    name: Name,
    key: Key,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the backup.", readable=False)
    ],
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the backup that was approved, and fetch it; you are a backup operator."""
    from secgear.services.crypto.roles.requests import MAX_APPROVALS, MAX_REQUEST

    check_target(output)
    data = read(request, MAX_REQUEST)
    given = [read(path, MAX_APPROVALS) for path in approval]
    place = Place(socket, address, policy, root, reference_values)
    with reach.logged_in(place, "backup-operator", name, key, passphrase_file) as one:
        pieces = one.backup(data, given)
        with watching(f"fetching {output}", None) as more:
            write_file(output, _counted(pieces, more))
    _inspect(output, as_json=as_json)


@backup.command("inspect")
def inspect(file: BackupFile, as_json: AsJson = False) -> None:
    """What a backup says to anybody; that it is whole, and signed by the key it names."""
    _inspect(file, as_json=as_json)


def _inspect(path: Path, *, as_json: bool) -> None:
    from secgear.services.crypto.administration import inspected

    with open_data(path) as file:
        manifest, digest, records = inspected(file)
    made = datetime.datetime.fromtimestamp(manifest.made_at, datetime.UTC).isoformat()
    custodians = [one.custodian for one in manifest.shares]
    if as_json:
        emit(
            {
                "backup": digest,
                "module": manifest.module,
                "made_at": made,
                "audit_key": manifest.audit_key,
                "trail": {"seq": manifest.audit_seq, "hash": manifest.audit_hash},
                "threshold": manifest.threshold,
                "custodians": custodians,
                "records": records,
            }
        )
        return
    say(f"backup      {digest}")
    say(f"of module   {manifest.module}")
    say(f"made        {made}, by the clock of its host")
    say(f"signed by   {manifest.audit_key}")
    say(f"its trail   {manifest.audit_seq}:{manifest.audit_hash}")
    say(f"takes       {manifest.threshold} of {', '.join(custodians)}")


@backup.command("share")
def share(
    file: BackupFile,
    to: Annotated[
        Path, typer.Option(help="What the restoring module has given out.", readable=False)
    ],
    key: Annotated[Path, typer.Option(help="Your custodian's key.", readable=False)],
    policy: Annotated[
        Path, typer.Option(help="The policy (TOML) that the enclave has to meet.", readable=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the share.", readable=False)
    ],
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="You know that the backup is to be restored there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Let your share of a backup go to the enclave that restores it. Works without the module.

    Exit code 6 if your policy does not trust that enclave; nothing is written then.
    """
    from secgear.cli.signing import passphrase_of
    from secgear.middleware.attestation import load_policy
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.services.crypto.administration import manifest_of
    from secgear.services.crypto.custodian import release
    from secgear.services.crypto.roles.custody import MAX_TARGET, load_private

    check_target(output)
    done = release(
        manifest_of(file),
        read(to, MAX_TARGET),
        reach.parsed(
            key,
            lambda data: load_private(data, passphrase_of(passphrase_file)),
            "the custodian's private file is wanted",
        ),
        load_policy(inputs.read_text(policy).encode()),
        at=datetime.datetime.now(datetime.UTC),
        anchors=anchors_with(inputs.read_roots(root)),
        reference_values=inputs.read_reference_values(reference_values),
    )
    if not as_json:
        typer.echo(done.verdict.explain())
        say(f"module  {done.target.module}")
        say(f"backup  {done.target.backup}")
    if not yes:
        typer.confirm("Is this backup to be restored in this module?", abort=True, err=True)
    write_file(output, done.envelope)
    if as_json:
        emit({"share": str(output), "module": done.target.module, "backup": done.target.backup})
    else:
        say(f"share   {output}")


@backup.command("restore")
def restore(
    file: BackupFile,
    request: Request,
    approval: Approvals,
    name: Name,
    key: Key,
    target: Annotated[
        Path,
        typer.Option(help="Where to write what the custodians need.", readable=False),
    ],
    shares: Annotated[
        Path,
        typer.Option(
            help="The folder into which their shares are put, as *.share.", readable=False
        ),
    ],
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup to a new module; you are one of its administrators.

    Writes the target, waits until enough custodians have put shares into the folder, and ends when
    everything is taken over. Until then nothing is.
    """
    from secgear.services.crypto.administration import manifest_of
    from secgear.services.crypto.roles.archive import read as read_backup
    from secgear.services.crypto.roles.requests import MAX_APPROVALS, MAX_REQUEST

    if not shares.is_dir():
        raise UsageError(f"{shares}: no folder")
    check_target(target, b'{"secgear-crypto-restoration"')
    manifest = manifest_of(file)
    data = read(request, MAX_REQUEST)
    given = [read(path, MAX_APPROVALS) for path in approval]
    place = Place(socket, address, policy, root, reference_values)
    with reach.logged_in(place, "administrator", name, key, passphrase_file) as one:
        write_file(target, one.begin_restoring(data, given, manifest))
        note(f"target  {target}\nwaiting for shares in {shares}")
        _gather(one, shares)
        with open_data(file) as source, watching(f"restoring {file}", None) as more:
            done = one.restore(_counted(read_backup(source)[1], more))
    if as_json:
        emit(done)
    else:
        say(f"restored  {done['objects']} objects, {done['slots']} slots")


def _gather(one: Administration, folder: Path) -> None:
    """Send shares as they come, until there are enough."""
    from secgear.errors import CryptoRefused

    seen: set[Path] = set()
    missing = 1
    while missing:
        for path in sorted(set(folder.glob("*.share")) - seen):
            seen.add(path)
            try:
                missing = one.send_share(read(path, _MAX_SHARE))
            except CryptoRefused as error:
                note(f"{path}: {error}")
                continue
            note(f"{path}: taken, {missing} more")
            if not missing:
                return
        time.sleep(_LOOK)


def _counted(pieces: Iterator[bytes], more: Callable[[int], object]) -> Iterator[bytes]:
    for piece in pieces:
        more(len(piece))
        yield piece
