"""``secgear build``, ``measure`` and ``inspect``: make an image and see what it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli.output import AsJson, UsageError, check_target, emit, note, progress
from secgear.errors import ImageRefused

if TYPE_CHECKING:
    from secgear.base.image import Image, LaunchPolicy

# How an earlier output begins, which may be replaced: docs/adr/0002-image-format.md.
_IMAGE_BEGINNING: Final = b"PK\x03\x04\x14" + bytes(7) + b"\x21\x00"

Source = Annotated[
    Path, typer.Argument(help="A .py file or a folder: the app's source.", readable=False)
]
ImageFile = Annotated[Path, typer.Argument(help="An image file (.sgear).", readable=False)]
ImageOrSource = Annotated[
    Path, typer.Argument(help="An image file, or an app's source.", readable=False)
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="A debug image: tracebacks may leave; verifiers refuse it."),
]
Signer = Annotated[
    list[str] | None, typer.Option(help="Accept only this signer (96 hex digits); repeatable.")
]
MinSvn = Annotated[int, typer.Option(min=0, help="Refuse images with a lower svn.")]


def build(
    source: Source,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write; NAME.sgear by default.", readable=False
        ),
    ] = None,
    debug: Debug = False,
    as_json: AsJson = False,
) -> None:
    """Build an image: the same bytes for the same source, anywhere."""
    from secgear.base.build import build as build_image

    with progress(f"building {source}"):
        image = build_image(source, debug=debug)
    name = image.manifest.name
    if output is None and Path(name).name != name:
        raise UsageError(f"the app's name {name!r} is no name for a file; give one with -o")
    path = output or Path(f"{name}.sgear")
    save(image, path)
    report(image, path, as_json=as_json)


def measure(image: ImageOrSource, debug: Debug = False, as_json: AsJson = False) -> None:
    """What each TEE would report for an image: the reference values of verifiers.

    From source: for the image that secgear build would make of it.
    """
    from secgear.base.tee import discover

    if debug and not is_source(image):
        raise UsageError(f"{image}: an image is what it is; --debug is for source")
    loaded = open_image(image, debug=debug)
    manifest = loaded.manifest
    process: dict[str, Any] = {
        "measurement": loaded.measurement.hex(),
        "signer": loaded.signer.hex() if loaded.signer else None,
        "product": manifest.product,
        "svn": manifest.svn,
        "debug": manifest.debug,
    }
    reason = (
        "this release has no launcher for it, and its measurement covers what the launcher "
        "loads around the image"
    )
    others = {
        name: {"measurement": None, "reason": reason}
        for name in discover().tees
        if name != "process"
    }
    if as_json:
        emit({"schema": "secgear.measure/1", "tees": {"process": process, **others}})
        return
    for name, value in process.items():
        typer.echo(f"process  {name:12} {_shown(value)}")
    typer.echo(f"not computable for {', '.join(others)}: {reason}")


def inspect(
    image: ImageFile,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also hold it against a launch policy.")
    ] = False,
    signer: Signer = None,
    min_svn: MinSvn = 0,
    as_json: AsJson = False,
) -> None:
    """Show what an image declares. Its code is not run; its digests and signature are checked."""
    from secgear.base.image import Image
    from secgear.base.interface import signature

    loaded = Image.load(image)
    manifest = loaded.manifest
    refusal = ""
    if verify or signer or min_svn:
        try:
            policy(signer, min_svn).check(loaded)
        except ImageRefused as error:
            refusal = str(error)
    interface = loaded.interface
    document = {
        "schema": "secgear.inspect/1",
        "name": manifest.name,
        "version": manifest.version,
        "product": manifest.product,
        "svn": manifest.svn,
        "entry": manifest.entry,
        "debug": manifest.debug,
        "measurement": loaded.measurement.hex(),
        "signer": loaded.signer.hex() if loaded.signer else None,
        "log": manifest.log,
        "threads": manifest.threads,
        "memory": manifest.memory,
        "ecalls": [signature(function) for function in interface.ecalls.values()],
        "ocalls": [signature(function) for function in interface.ocalls.values()],
        "python": manifest.python or None,
        "platform": manifest.platform or None,
        "requires": {item.name: item.version for item in manifest.requires},
        "files": {path: digest.hex() for path, digest in manifest.files.items()},
        "refused": refusal,
    }
    if as_json:
        emit(document)
    else:
        _show(document)
    if refusal:
        note(f"refused: {refusal}")
        raise typer.Exit(3)


def is_source(path: Path) -> bool:
    """Whether `path` is taken for an app's source, not for an image."""
    return path.suffix == ".py" or path.is_dir()


def open_image(path: Path, *, debug: bool = True) -> Image:
    """The image in a file, or built in memory from source."""
    from secgear.base.build import build as build_image
    from secgear.base.image import Image

    if is_source(path):
        with progress(f"building {path}"):
            return build_image(path, debug=debug)
    return Image.load(path)


def policy(
    signers: list[str] | None, min_svn: int, *, unsigned: bool = False, debug: bool = False
) -> LaunchPolicy:
    """A launch policy from the command line's options."""
    from secgear.base.image import LaunchPolicy

    accepted = None
    if signers:
        try:
            accepted = frozenset(bytes.fromhex(signer) for signer in signers)
        except ValueError:
            raise UsageError(
                "--signer takes 96 hex digits, as secgear keygen prints them"
            ) from None
        if any(len(signer) != 48 for signer in accepted):
            raise UsageError("--signer takes 96 hex digits, as secgear keygen prints them")
    return LaunchPolicy(signers=accepted, minimum_svn=min_svn, unsigned=unsigned, debug=debug)


def save(image: Image, path: Path) -> None:
    """Write an image, in place of an older one or of nothing."""
    check_target(path, _IMAGE_BEGINNING)
    image.save(path)


def report(image: Image, path: Path, *, as_json: bool) -> None:
    """Say what has been written."""
    signer = image.signer.hex() if image.signer else None
    document = {
        "image": str(path),
        "measurement": image.measurement.hex(),
        "signer": signer,
        "debug": image.manifest.debug,
    }
    if as_json:
        emit(document)
        return
    typer.echo(f"image        {path}{' (debug)' if image.manifest.debug else ''}")
    typer.echo(f"measurement  {document['measurement']}")
    typer.echo(f"signer       {signer or 'none; secgear sign'}")


def _show(document: dict[str, Any]) -> None:
    for name, value in document.items():
        if name in {"schema", "refused"}:
            continue
        if isinstance(value, list | dict):
            typer.echo(f"{name}{'' if value else ': none'}")
            lines = (
                [f"{key}  {item}" for key, item in value.items()]
                if isinstance(value, dict)
                else value
            )
            for line in lines:
                typer.echo(f"  {line}")
        else:
            typer.echo(f"{name:12} {_shown(value)}")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
