"""``secgear audit``: whether a service's audit trail is whole."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from secgear.cli.output import AsJson, CommandError, UsageError, emit
from secgear.cli.tokens import Database, Directory, open_database


def audit(
    directory: Directory = None,
    database: Database = "",
    head: Annotated[
        str | None,
        typer.Option(help="An earlier end of the trail, NUMBER:HASH, that must still be in it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every record of a service's audit trail, and print its end: keep that elsewhere.

    Who can write to the database could replace the whole trail, but not so that an end which you
    kept is still in it.
    """
    from secgear.middleware.attestation.service import audit as trail

    kept = None if head is None else _head(head)
    store = open_database(_existing(directory), database)
    try:
        with store.reading() as connection:
            end = trail.check(connection)
            if kept is not None:
                number, digest = kept
                found = trail.read(connection, after=number - 1, limit=1)
                if not found or (found[0].seq, found[0].hash) != (number, digest):
                    raise CommandError(f"audit: record {number} is not the one of --head")
    finally:
        store.close()
    if as_json:
        emit({"whole": True, "head": {"seq": end.seq, "hash": end.hash}})
    else:
        typer.echo(f"whole, {end.seq} records\nhead  {end.seq}:{end.hash}")


def _existing(directory: Path | None) -> Path | None:
    if directory is not None and not directory.is_dir():
        raise UsageError(f"{directory}: no such directory")
    return directory


def _head(text: str) -> tuple[int, str]:
    if not re.fullmatch(r"[1-9][0-9]{0,17}:[0-9a-f]{64}", text, re.ASCII):
        raise UsageError("--head takes NUMBER:HASH, as this command prints it")
    number, _, digest = text.partition(":")
    return int(number), digest
