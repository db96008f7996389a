"""Searching everything that the host has for pieces of the owners' data.

Who searches is neither the host nor an owner: it is told what to look for, and looks everywhere.
A search that finds nothing shows something only if it would have found it, so in each place there
is a decoy to be found; and where the owners' data must be, in their own processes, it has to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from secgear.cli._demo import needles, records
from secgear.cli._demo.host import LOG, RECORDING
from secgear.cli._demo.needles import Needle
from secgear.cli._demo.report import Carried, Place


def carried(folder: Path, counted: dict[str, int], decoy: str, tables: float) -> Carried:
    """What the wiretap in `folder` has recorded, taken apart.

    counted: by the relay. decoy: what was sent without a channel, and is left out. tables: how far
    the owners' tables can be compressed.
    """
    streams = [
        path
        for path in sorted((folder / RECORDING).iterdir())
        if path.stat().st_size != len(decoy) or path.read_text(errors="replace") != decoy
    ]
    found = records.account(streams)
    recorded = found.encrypted + found.hellos + found.headers + found.other
    return Carried(
        connections=counted["connections"],
        records=found.records,
        encrypted=found.encrypted,
        hellos=found.hellos,
        headers=found.headers,
        other=found.other,
        complete=recorded + len(decoy) == counted["received"] + counted["sent"],
        compressed=found.compressed,
        tables=tables,
    )


def at_the_host(folder: Path, pid: int, known: Sequence[Needle], decoy: str) -> list[Place]:
    """The host's places: its recording, files, log and memory. pid: of its process."""
    recording = sorted((folder / RECORDING).iterdir())
    log = [folder / LOG]
    rest = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in recording and path not in log
    ]
    return [
        _place("what its relay carried", needles.files(recording), known, decoy),
        _place("its log, at the finest level", needles.files(log), known, decoy),
        _place("its files", needles.files(rest), known, decoy),
        _memory("its memory", pid, known, decoy),
    ]


def at_an_owner(name: str, pid: int, known: Sequence[Needle]) -> Place:
    """The memory of the owner whose data it is."""
    return _memory(f"memory of the {name}", pid, known, None)


def _memory(what: str, pid: int, known: Sequence[Needle], decoy: str | None) -> Place:
    try:
        return _place(what, needles.memory(pid), known, decoy)
    except OSError as error:
        why = f"can't be looked at here: {error.strerror}"
        return Place(what, 0, len(known), 0, [], unseen=why)


def _place(what: str, chunks: Iterable[bytes], known: Sequence[Needle], decoy: str | None) -> Place:
    wanted = [*known] if decoy is None else [*known, Needle("", decoy.encode())]
    size, found = needles.search(wanted, chunks)
    theirs = [needle.what for needle in found if needle.what]
    return Place(
        what,
        size,
        len(known),
        len(theirs),
        sorted(set(theirs)),
        None if decoy is None else len(theirs) < len(found),
    )
