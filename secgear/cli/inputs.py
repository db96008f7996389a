"""What attestation commands read: evidence, policies, collateral, reference values, roots."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secgear.cli.output import UsageError, read

if TYPE_CHECKING:
    from secgear.base.tee import Evidence
    from secgear.middleware.attestation.bundle import AddedRoot
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.reference import ReferenceValues

_MAX_FILE = 32 << 20
_MAX_TEXT = 4 << 20

PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="The policy (TOML) that decides.", readable=False),
]
CollateralFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--collateral",
        help="Certificates, CRLs, OCSP responses, TCB information, manifests; may be repeated.",
        readable=False,
    ),
]
ReferenceFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--reference-values",
        help="Reference values, or what `secgear measure --json` printed; may be repeated.",
        readable=False,
    ),
]
Roots = Annotated[
    list[str] | None,
    typer.Option(
        "--root",
        help="Trust another root: FAMILY=FILE.pem, or FAMILY:SUBJECT=FILE.pem for a key. "
        "'simulated' alone is this user's own simulated platform.",
    ),
]
At = Annotated[
    str | None, typer.Option(help="Judge for this time (ISO 8601, UTC if it names no zone).")
]
ReportData = Annotated[
    str | None,
    typer.Option(help="What the evidence must carry (hexadecimal, up to 64 bytes)."),
]
FormatName = Annotated[
    str | None, typer.Option("--format", help="The evidence's format, if it can't be recognised.")
]


def read_evidence(path: Path, format_name: str | None) -> Evidence:
    """Evidence in any form that can be recognised, or raw bytes of a named format."""
    from secgear.base.tee import Evidence
    from secgear.middleware.attestation.recognition import recognise

    data = read(path, _MAX_FILE)
    return Evidence(format_name, data) if format_name else recognise(data)


def read_text(path: Path) -> str:
    """A text file."""
    try:
        return read(path, _MAX_TEXT).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file") from None


def read_collateral(paths: Sequence[Path] | None) -> Collateral:
    """Everything in these files."""
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.importing import import_collateral

    found = [import_collateral(read(path, _MAX_FILE), str(path)) for path in paths or ()]
    return Collateral().merged(*found)


def read_reference_values(paths: Sequence[Path] | None) -> ReferenceValues | None:
    """The values of all these files; None without any."""
    from secgear.middleware.attestation.reference import load_reference_values

    merged: ReferenceValues | None = None
    for path in paths or ():
        values = load_reference_values(read(path, _MAX_TEXT))
        merged = values if merged is None else merged.merged(values)
    return merged


def text_of(paths: Sequence[Path] | None) -> str:
    """The values of all these files as one text; empty without any."""
    values = read_reference_values(paths)
    return "" if values is None else values.to_json().decode()


def read_roots(roots: Sequence[str] | None) -> tuple[AddedRoot, ...]:
    """``FAMILY[:SUBJECT]=FILE`` to roots; ``simulated`` to this user's own."""
    from secgear.middleware.attestation.bundle import AddedRoot
    from secgear.middleware.attestation.own import own_simulated_root

    found = []
    for root in roots or ():
        if root == "simulated":
            found.append(own_simulated_root())
            continue
        selector, equals, file = root.partition("=")
        family, _, subject = selector.partition(":")
        if not equals or not family or not file:
            raise UsageError(f"--root {root}: write FAMILY=FILE.pem")
        pem = read_text(Path(file))
        found.append(AddedRoot(family, Path(file).stem, pem, subject.lower()))
    return tuple(found)


def parse_time(at: str | None) -> datetime.datetime:
    """A time with a zone; now without one."""
    if at is None or at == "now":
        return datetime.datetime.now(datetime.UTC)
    try:
        time = datetime.datetime.fromisoformat(at)
    except ValueError:
        raise UsageError(f"--at {at}: no ISO 8601 time, for example 2026-01-31T12:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def parse_report_data(text: str | None) -> bytes | None:
    """Up to 64 bytes from hexadecimal digits."""
    if text is None:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise UsageError("--report-data takes hexadecimal digits") from None
    if not 1 <= len(data) <= 64:
        raise UsageError(f"--report-data takes 1 to 64 bytes, not {len(data)}")
    return data
