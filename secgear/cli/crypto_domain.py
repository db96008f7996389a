"""``secgear crypto domain``: on which machines a module lives, and under which key."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli import inputs
from secgear.cli.crypto_reach import told
from secgear.cli.output import AsJson, UsageError, check_target, emit, read, write_file
from secgear.errors import CryptoModuleError, CryptoRefused, EvidenceRefused

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
    as_json: AsJson = False,
) -> None:
    """On a new machine: make a directory, and an application to join the module.

    Carry the application to a machine where the module lives, for `secgear crypto domain admit`.
    """
    from secgear.base.image import Image
    from secgear.cli.serve import checked_url
    from secgear.services.crypto import joining

    check_target(output)
    application = joining.apply(
        directory,
        Image.load(image),
        database=checked_url(database),
        witness=witness,
        tee=tee,
        roots=inputs.read_roots(root),
    )
    write_file(output, application)
    told({"application": str(output)}, f"application  {output}", as_json=as_json)


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
    as_json: AsJson = False,
) -> None:
    """Where the module lives: have it verify an application, and admit who made it.

    A module with administrators takes their decision: `secgear crypto request admit`. The module
    may be running. Carry what is written to the new machine, for
    `secgear crypto domain accept`.
    """
    from secgear.services.crypto import joining

    check_target(output)
    with _evidence_told():
        welcome = joining.admit(
            directory,
            read(application, joining.MAX_SIZE),
            _collateral(collateral),
            read(request, joining.MAX_SIZE) if request is not None else b"",
            [read(path, joining.MAX_SIZE) for path in approval or ()],
        )
    write_file(output, welcome)
    told({"welcome": str(output)}, f"welcome  {output}", as_json=as_json)


@app.command("accept")
def accept(
    directory: Directory,
    welcome: Annotated[Path, typer.Argument(help="The welcome.", readable=False)],
    collateral: inputs.CollateralFiles = None,
    as_json: AsJson = False,
) -> None:
    """On the new machine: verify who has admitted it, and join. Compare the audit key."""
    from secgear.services.crypto import joining

    with _evidence_told():
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
    as_json: AsJson = False,
) -> None:
    """Take the module from a platform: its enclaves end, and another domain key is brought in."""
    from secgear.services.crypto import joining
    from secgear.services.crypto.host import told as refusals

    if not re.fullmatch(r"[0-9a-f]{32}", member, re.ASCII):
        raise UsageError("a member's id has 32 hexadecimal digits")
    id = bytes.fromhex(member)
    with joining.member(directory) as enclave, refusals():
        enclave.expel(id)
        generation = enclave.rotate()
    told(
        {"expelled": member, "generation": generation},
        f"expelled    {member}\ndomain key  generation {generation}",
        as_json=as_json,
    )


@app.command("rotate")
def rotate(directory: Directory, as_json: AsJson = False) -> None:
    """Bring in another domain key, and encrypt everything under it. The module may be running.

    When it was interrupted, run it again: it goes on where it was.
    """
    from secgear.services.crypto import joining
    from secgear.services.crypto.host import told as refusals

    with joining.member(directory) as enclave, refusals():
        generation = enclave.rotate()
    told({"generation": generation}, f"domain key  generation {generation}", as_json=as_json)


@contextlib.contextmanager
def _evidence_told() -> Iterator[None]:
    """Evidence that an enclave has refused is told as evidence that is refused here: exit code 6.

    Raises EvidenceRefused; CryptoRefused where a quorum has to be asked first.
    """
    try:
        yield
    except CryptoModuleError as error:
        if str(error).startswith("no request: "):
            raise CryptoRefused(
                f"{error}; administrators decide in this module: secgear crypto request admit, "
                "then --request and each --approval here"
            ) from None
        if not str(error).startswith("attestation."):
            raise
        hint = "; other roots than vendors' are settled at the founding: secgear crypto init --root"
        unknown = "certificate-chain" in str(error)
        raise EvidenceRefused(f"{error}{hint if unknown else ''}") from None


def _collateral(paths: Sequence[Path] | None) -> bytes:
    return inputs.read_collateral(paths).to_json() if paths else b""
