"""``secgear codegen``: a typed client, so that editors and mypy know the ECALLs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from secgear.cli.images import ImageOrSource, open_image
from secgear.cli.output import AsJson, check_target, emit, write_file


def codegen(
    image: ImageOrSource,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write; stdout by default.", readable=False),
    ] = None,
    stub: Annotated[
        bool, typer.Option("--stub", help="Only types (.pyi), for the handle as it is.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Overwrite the output file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a typed client module for an app, from its image or its source."""
    from secgear.base import codegen as generator

    loaded = open_image(image)
    measurement = None if loaded.manifest.debug else loaded.measurement
    text = (
        generator.stub(loaded.interface)
        if stub
        else generator.client_module(loaded.interface, measurement)
    )
    if output is not None:
        check_target(output, b"" if force else None)
        write_file(output, text.encode())
    if as_json:
        where = str(output) if output else None
        emit({"output": where, "source": None if output else text})
    elif output is None:
        typer.echo(text, nl=False)
    else:
        typer.echo(f"client  {output}")
