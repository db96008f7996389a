"""``secgear crypto library``: make the PKCS#11 library that applications load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from secgear.cli.output import AsJson, UsageError, emit


def library(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Where the library goes.", dir_okay=False, readable=False
        ),
    ] = Path("libsecgear-pkcs11.so"),
    module: Annotated[
        str,
        typer.Option(
            help="Build it for this module alone: unix:/path, or |command that carries its frames. "
            "Otherwise the library finds out where it is used."
        ),
    ] = "",
    headers: Annotated[
        Path | None,
        typer.Option(help="Put the C headers of its functions in this directory.", file_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the PKCS#11 library, with this machine's C compiler (CC, or cc)."""
    from secgear.services.crypto.library.build import build, install_headers

    if module and not re.fullmatch(r"(unix:/|\|)[ -~]+", module):
        raise UsageError("--module takes unix:/path or |command")
    build(output, address=module)
    installed = [] if headers is None else install_headers(headers)
    if as_json:
        emit({"library": str(output), "headers": [str(path) for path in installed]})
    else:
        for path in (output, *installed):
            typer.echo(path)
