"""``secgear token``: who may administer a service. It works on the service's database."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli.output import AsJson, UsageError, emit
from secgear.cli.serve import checked_url

if TYPE_CHECKING:
    from secgear.middleware.attestation.service.store import Store

app = typer.Typer(name="token", help="Tokens of a service's administrators.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Whose token; what the audit trail says.")]
Directory = Annotated[
    Path | None, typer.Option(help="The service's directory.", file_okay=False, readable=False)
]
Database = Annotated[str, typer.Option(help="Its database, if that is not in the directory.")]


@app.command("create")
def create(
    name: Name,
    role: Annotated[str, typer.Option(help="admin, or auditor: may read everything.")] = "admin",
    directory: Directory = None,
    database: Database = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A new file for the token, for you only.", readable=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and show it, once: the service keeps only its digest."""
    from secgear.middleware.attestation.service.tokens import Role, create_token

    if role not in (known := [role.value for role in Role]):
        raise UsageError(f"--role {role}: one of {', '.join(known)}")
    store = open_database(directory, database)
    if output is None:
        token = create_token(store, Role(role), name)
    else:
        with _private(output) as descriptor:
            token = create_token(store, Role(role), name)
            os.write(descriptor, token.encode() + b"\n")
    where = {"token": token} if output is None else {"file": str(output)}
    if as_json:
        emit({"name": name, "role": role} | where)
    else:
        typer.echo(token if output is None else f"token  {output}")


@app.command("revoke")
def revoke(
    name: Name, directory: Directory = None, database: Database = "", as_json: AsJson = False
) -> None:
    """Make somebody's token worthless, at once and for all instances."""
    from secgear.middleware.attestation.service.tokens import revoke_token

    revoke_token(open_database(directory, database), name)
    if as_json:
        emit({"name": name, "revoked": True})
    else:
        typer.echo(f"revoked  {name}")


def open_database(directory: Path | None, database: str) -> Store:
    """The service's database, which may not exist yet: a token can come first."""
    from secgear.middleware.attestation.service.schema import COMMON
    from secgear.middleware.attestation.service.settings import Settings
    from secgear.middleware.attestation.service.store import open_store

    if not database and directory is None:
        raise UsageError("name the service's --directory or its --database")
    if database:
        return open_store(checked_url(database), COMMON)
    assert directory is not None  # noqa: S101  (checked above)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory}: {error.strerror}") from None
    return open_store(Settings(issuer="-", directory=directory).database_url, COMMON)


@contextlib.contextmanager
def _private(path: Path) -> Iterator[int]:
    """A new file that only its owner can read; it goes away if the block fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"{path}: can't be created: {error.strerror}") from None
    try:
        yield descriptor
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
