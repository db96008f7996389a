"""The command line as a whole: its groups, its version, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import secgear
from secgear.cli import codegen, doctor, images, new, run
from secgear.cli.demo import demo
from secgear.cli.output import UsageError, fail
from secgear.errors import SecGearError

app = typer.Typer(
    name="secgear",
    help="Write a trusted program once, run it in any trusted execution environment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(doctor.doctor)
app.command()(new.new)
app.command()(images.build)
app.command()(images.keygen)
app.command()(images.sign)
app.command()(images.measure)
app.command()(images.inspect)
app.command()(run.run)
app.command()(codegen.codegen)
app.command()(demo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secgear {secgear.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main() -> None:
    """Entry point. An error is one line; ``SECGEAR_DEBUG=1`` shows its traceback as well."""
    try:
        app()
    except SecGearError as error:
        if os.environ.get("SECGEAR_DEBUG"):
            import traceback

            traceback.print_exc()
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except RecursionError as error:
        fail(UsageError(f"too deeply nested: {error}"))
