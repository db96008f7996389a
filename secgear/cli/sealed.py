"""``secgear sealed`` and ``secgear counter``: what sealed data says, and counters of a TPM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli.output import AsJson, UsageError, emit, open_data, read

if TYPE_CHECKING:
    from secgear.middleware.sealing import Standing, TpmCounter

app = typer.Typer(name="counter", help="Counters in a TPM, against rollback.", no_args_is_help=True)

_MAX_PASSWORD = 64  # bytes
_BEGINNING = 256  # bytes, which hold any header

Index = Annotated[str, typer.Argument(help="NV index, for example 0x1800007; the next one, too.")]
Device = Annotated[
    str | None, typer.Option(help="A TPM's device file, or the socket of a software TPM.")
]
Password = Annotated[
    Path | None,
    typer.Option("--password-file", help="Password of the index: a file or pipe.", readable=False),
]


def sealed(
    file: Annotated[Path, typer.Argument(help="Sealed data.", readable=False)],
    as_json: AsJson = False,
) -> None:
    """Show for whom data was sealed. Nothing of it is verified; only the enclave can do that."""
    from secgear.middleware.sealing import parse

    with open_data(file) as source:
        header, _ = parse(source.read(_BEGINNING))
    content = {
        "policy": header.policy.value,
        "svn": header.svn,
        "counter": header.counter.hex() or None,
        "version": header.value or None,
    }
    if as_json:
        emit(content)
        return
    counted = f"{content['counter']}, version {header.value}" if header.counter else "none"
    typer.echo(f"policy   {header.policy.value}\nsvn      {header.svn}\ncounter  {counted}")


@app.command("define")
def define(
    index: Index, device: Device = None, password_file: Password = None, as_json: AsJson = False
) -> None:
    """Make a counter. Its first value is one that no earlier counter of this TPM had."""
    counter = _counter(index, device, password_file)
    _show(counter, counter.define(), as_json)


@app.command("read")
def read_counter(
    index: Index, device: Device = None, password_file: Password = None, as_json: AsJson = False
) -> None:
    """Show where a counter is."""
    counter = _counter(index, device, password_file)
    _show(counter, counter.read(), as_json)


@app.command("undefine")
def undefine(
    index: Index,
    device: Device = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="What was sealed with it can never be unsealed again.")
    ] = False,
) -> None:
    """Remove a counter for good."""
    if not yes:
        raise UsageError("what was sealed with the counter is lost with it; say --yes")
    _counter(index, device, None).undefine()


def _counter(index: str, device: str | None, password_file: Path | None) -> TpmCounter:
    from secgear.middleware.sealing import TpmCounter

    try:
        number = int(index, 0)
    except ValueError:
        raise UsageError(f"{index}: no number, for example 0x1800007") from None
    password = b"" if password_file is None else read(password_file, _MAX_PASSWORD).rstrip(b"\n")
    return TpmCounter(number, password=password, device=device)


def _show(counter: TpmCounter, standing: Standing, as_json: bool) -> None:
    identity, mark = counter.identity.hex(), standing.mark.hex()
    if as_json:
        emit({"counter": identity, "value": standing.value, "mark": mark})
    else:
        typer.echo(f"counter  {identity}\nvalue    {standing.value}\nmark     {mark}")
