"""``secgear secret``: what a key broker keeps. It works on the broker's database and key file.

The content comes from a file or a pipe, never from the command line, and is never shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli import serve
from secgear.cli.output import AsJson, CommandError, emit, read

if TYPE_CHECKING:
    from secgear.middleware.attestation.broker.app import BrokerSettings
    from secgear.middleware.attestation.broker.secrets import Entry
    from secgear.middleware.attestation.broker.vault import Vault
    from secgear.middleware.attestation.service.store import Store

app = typer.Typer(name="secret", help="The secrets of a key broker.", no_args_is_help=True)

_AUTHOR = "command line"  # what the audit trail says

Name = Annotated[str, typer.Argument(help="repository/type/tag, for example default/key/disk.")]
Directory = Annotated[
    Path, typer.Option(help="The broker's directory.", file_okay=False, readable=False)
]
Database = Annotated[str, typer.Option(help="Its database, if that is not in the directory.")]
MasterKey = Annotated[
    Path | None,
    typer.Option(help="Its master key file, if that is not in the directory.", readable=False),
]


@app.command("put")
def put(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The content, up to 64 KiB.", readable=False)],
    policy: Annotated[str, typer.Option(help="The policy that evidence must satisfy to get it.")],
    directory: Directory,
    database: Database = "",
    master_key: MasterKey = None,
    as_json: AsJson = False,
) -> None:
    """Store a secret, or a new version of it. It counts at once, for all instances."""
    from secgear.middleware.attestation.broker import secrets
    from secgear.middleware.attestation.broker.names import SecretName
    from secgear.middleware.attestation.broker.vault import Secret
    from secgear.middleware.attestation.service.appraiser import utc_now

    secret = Secret(SecretName.parse(name), read(file, secrets.MAX_SIZE))
    with _broker(directory, database, master_key) as (store, vault):
        entry = secrets.put(store, vault, secret, policy=policy, author=_AUTHOR, at=utc_now())
    _show([entry], as_json, single=True)


@app.command("list")
def list_(
    directory: Directory,
    database: Database = "",
    master_key: MasterKey = None,
    as_json: AsJson = False,
) -> None:
    """Which secrets there are, under which policies; never what they are."""
    from secgear.middleware.attestation.broker import secrets

    with _broker(directory, database, master_key) as (store, _):
        entries = secrets.current(store)
    _show(entries, as_json)


@app.command("delete")
def delete(
    name: Name,
    directory: Directory,
    database: Database = "",
    master_key: MasterKey = None,
    as_json: AsJson = False,
) -> None:
    """Delete a secret: no release follows. Who has got it keeps it."""
    from secgear.middleware.attestation.broker import secrets
    from secgear.middleware.attestation.broker.names import SecretName
    from secgear.middleware.attestation.service.appraiser import utc_now

    wanted = SecretName.parse(name)
    with _broker(directory, database, master_key) as (store, _):
        entry = secrets.delete(store, wanted, author=_AUTHOR, at=utc_now())
    if entry is None:
        raise CommandError(f"secret: there is no {wanted}")
    if as_json:
        emit({"name": str(wanted), "deleted": True})
    else:
        typer.echo(f"deleted  {wanted}")


@app.command("rotate-key")
def rotate_key(
    directory: Directory,
    database: Database = "",
    master_key: MasterKey = None,
    drop: Annotated[
        bool, typer.Option("--drop-old", help="Only remove old keys that no secret is under.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new master key and put all secrets under it, while the broker runs."""
    from secgear.middleware.attestation.broker import operation

    settings = _settings(directory, database, master_key)
    if drop:
        dropped = operation.drop_old_master_keys(settings)
        result: dict[str, Any] = {"dropped": dropped}
        line = f"dropped  {dropped} old keys"
    else:
        key, count = operation.rotate_master_key(settings, author=_AUTHOR)
        result = {"master_key": key.id.hex(), "secrets": count}
        line = f"master key  {key.id.hex()}\nsecrets     {count}"
    if as_json:
        emit(result)
    else:
        typer.echo(line)


@contextlib.contextmanager
def _broker(
    directory: Path, database: str, master_key: Path | None
) -> Iterator[tuple[Store, Vault]]:
    from secgear.middleware.attestation.broker.operation import open_broker

    store, vault = open_broker(_settings(directory, database, master_key))
    try:
        yield store, vault
    finally:
        store.close()


def _settings(directory: Path, database: str, master_key: Path | None) -> BrokerSettings:
    from secgear.middleware.attestation.broker.app import BrokerSettings

    return BrokerSettings(
        issuer="-",  # nothing here is issued
        directory=directory,
        database=serve.checked_url(database),
        master_key=master_key,
    )


def _show(entries: list[Entry], as_json: bool, *, single: bool = False) -> None:
    if as_json:
        documents = [
            {name: getattr(entry, name) for name in entry.__struct_fields__} for entry in entries
        ]
        emit(documents[0] if single else documents)
        return
    width = max((len(entry.name) for entry in entries), default=0)
    for entry in entries:
        typer.echo(
            f"{entry.name:<{width}}  version {entry.version}, {entry.size} bytes, "
            f"policy {entry.policy}, {entry.at} by {entry.author}"
        )
