"""``secgear crypto domain``: on which machines a module lives, and under which key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli import inputs
from secgear.cli.output import AsJson, UsageError, emit, note, read, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="domain", help="On which machines it lives, and its key.", no_args_is_help=True
)

Directory = Annotated[
    Path, typer.Argument(help="The module's directory.", file_okay=False, readable=False)
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")]


@app.command("apply")
def apply(
    directory: Directory,
    image: Annotated[
        Path,
        typer.Option(help="The module's image, module.sgear of its directory.", readable=False),
    ],
    database: Annotated[str, typer.Option(help="The module's database, as a URL.")],
    witness: Annotated[str, typer.Option(help="Address of the witness that keeps its counter.")],
    output: Output,
    tee: Annotated[str, typer.Option(help="Which TEE; auto takes the strongest.")] = "auto",
    root: inputs.Roots = None,
) -> None:
    """On a new machine: make a directory, and an application to join the module.

    Carry the application to a machine where the module lives, for `secgear crypto domain admit`.
    """
    from secgear.base.image import Image
    from secgear.cli.serve import checked_url
    from secgear.services.crypto import joining

    application = joining.apply(
        directory,
        Image.load(image),
        database=checked_url(database),
        witness=witness,
        tee=tee,
        roots=inputs.read_roots(root),
    )
    write_file(output, application)
    note(f"application for {directory} in {output}")


@app.command("admit")
def admit(
    directory: Directory,
    application: Annotated[Path, typer.Argument(help="The application.", readable=False)],
    output: Output,
    collateral: inputs.CollateralFiles = None,
    request: Annotated[
        Path | None,
        typer.Option(
            help="What the administrators have approved, if there are any.", readable=False
        ),
    ] = None,
    approval: Annotated[
        list[Path] | None, typer.Option(help="An approval; may be repeated.", readable=False)
    ] = None,
) -> None:
    """Where the module lives: have it verify an application, and admit who made it.

    A module with administrators takes their decision: `secgear crypto request admit`. The module
    may be running. Carry what is written to the new machine, for
    `secgear crypto domain accept`.
    """
    from secgear.services.crypto import joining

    welcome = joining.admit(
        directory,
        read(application, joining.MAX_SIZE),
        _collateral(collateral),
        read(request, joining.MAX_SIZE) if request is not None else b"",
        [read(path, joining.MAX_SIZE) for path in approval or ()],
    )
    write_file(output, welcome)
    note(f"admitted; the welcome is in {output}")


@app.command("accept")
def accept(
    directory: Directory,
    welcome: Annotated[Path, typer.Argument(help="The welcome.", readable=False)],
    collateral: inputs.CollateralFiles = None,
    as_json: AsJson = False,
) -> None:
    """On the new machine: verify who has admitted it, and join. Compare the audit key."""
    from secgear.services.crypto import joining

    status = joining.accept(directory, read(welcome, joining.MAX_SIZE), _collateral(collateral))
    if as_json:
        emit({"slots": status.slots, "audit_key": status.audit_key.hex()})
    else:
        typer.echo(f"module     {directory}, {status.slots} slots")
        typer.echo(f"audit key  {status.audit_key.hex()}")


@app.command("members")
def members(directory: Directory, as_json: AsJson = False) -> None:
    """Which platforms' enclaves may open the module."""
    from secgear.services.crypto import joining

    with joining.member(directory) as enclave:
        found = enclave.members()
    if as_json:
        emit([
            {"id": one.id.hex(), "tee": one.tee, "measurement": one.measurement.hex(),
             "own": one.own}
            for one in found
        ])  # fmt: skip
        return
    for one in found:
        typer.echo(f"{one.id.hex()}  {one.tee}{'  this machine' if one.own else ''}")


@app.command("expel")
def expel(
    directory: Directory,
    member: Annotated[str, typer.Argument(help="Its id, as `members` prints it.")],
) -> None:
    """Take the module from a platform: its enclaves end, and another domain key is brought in."""
    from secgear.services.crypto import joining
    from secgear.services.crypto.host import told

    try:
        id = bytes.fromhex(member)
    except ValueError:
        raise UsageError("a member's id is hexadecimal") from None
    with joining.member(directory) as enclave, told():
        enclave.expel(id)
        note(f"expelled; the domain key is of generation {enclave.rotate()}")


@app.command("rotate")
def rotate(directory: Directory) -> None:
    """Bring in another domain key, and encrypt everything under it. The module may be running.

    When it was interrupted, run it again: it goes on where it was.
    """
    from secgear.services.crypto import joining
    from secgear.services.crypto.host import told

    with joining.member(directory) as enclave, told():
        note(f"the domain key is of generation {enclave.rotate()}")


def _collateral(paths: Sequence[Path] | None) -> bytes:
    return inputs.read_collateral(paths).to_json() if paths else b""
