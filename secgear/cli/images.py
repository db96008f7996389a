"""``secgear build``, ``keygen``, ``sign``, ``measure`` and ``inspect``: the life of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli.output import (
    AsJson,
    UsageError,
    check_target,
    emit,
    note,
    progress,
    read,
    write_file,
)
from secgear.errors import ImageRefused

if TYPE_CHECKING:
    from secgear.base.image import Image, LaunchPolicy

# Whatever else a target holds is not replaced: docs/adr/0002-image-format.md fixes both.
IMAGE_BEGINNING: Final = b"PK\x03\x04\x14" + bytes(7) + b"\x21\x00"
_TO_BE_SIGNED_BEGINNING: Final = b"secgear image v1\n"
_MAX_SMALL_FILE: Final = 64 << 10

Source = Annotated[Path, typer.Argument(help="A .py file or a folder: the app's source.")]
ImageFile = Annotated[Path, typer.Argument(help="An image file (.sgear).")]
ImageOrSource = Annotated[Path, typer.Argument(help="An image file, or an app's source.")]
PassphraseFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the key file's passphrase.")
]
Signer = Annotated[
    list[str] | None, typer.Option(help="Accept only this signer (96 hex digits); repeatable.")
]
MinSvn = Annotated[int, typer.Option(min=0, help="Refuse images with a lower svn.")]


def build(
    source: Source,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; NAME.sgear by default.")
    ] = None,
    debug: Annotated[
        bool, typer.Option(help="Tracebacks may leave; no verifier accepts it by default.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build an image: the same bytes for the same source, anywhere."""
    from secgear.base.build import build as build_image

    with progress(f"building {source}"):
        image = build_image(source, debug=debug)
    path = output or Path(f"{image.manifest.name}.sgear")
    _save(image, path)
    _report(image, path, as_json=as_json)


def keygen(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the key (PEM).")],
    algorithm: Annotated[str, typer.Option(help="ed25519 or ecdsa-p384-sha384.")] = "ed25519",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase to encrypt the file with.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a signing key that only you can read. An existing file is never overwritten."""
    from secgear.base import signing

    secret = _passphrase(passphrase_file)
    if passphrase and secret is None:
        secret = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True).encode()
    key = signing.generate_key(algorithm)
    signing.save_private_key(key, output, secret)
    signer = signing.signer_of(key).hex()
    if as_json:
        emit({"key": str(output), "algorithm": algorithm, "signer": signer})
    else:
        typer.echo(f"key     {output}\nsigner  {signer}")


def sign(
    image: ImageFile,
    key: Annotated[Path | None, typer.Option(help="Sign with this private key.")] = None,
    passphrase_file: PassphraseFile = None,
    digest: Annotated[
        bool, typer.Option("--digest", help="Write what an external signer has to sign.")
    ] = False,
    attach: Annotated[
        Path | None, typer.Option(help="Attach this signature, made elsewhere.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(help="The external signer's public key, with --attach.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write; in place by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign an image with --key, or in two steps: --digest, an external signer, --attach.

    Ed25519: openssl pkeyutl -sign -rawin -inkey KEY -in FILE.tbs -out FILE.sig
    ECDSA P-384: openssl dgst -sha384 -sign KEY -out FILE.sig FILE.tbs
    """
    from secgear.base import signing
    from secgear.base.image import Image

    if [key is not None, digest, attach is not None].count(True) != 1:
        raise UsageError("sign takes one of --key, --digest, --attach")
    if (attach is None) != (public_key is None):
        raise UsageError("--attach and --public-key go together")
    loaded = Image.load(image)
    if digest:
        path = output or image.with_suffix(".tbs")
        check_target(path, _TO_BE_SIGNED_BEGINNING)
        write_file(path, signing.to_be_signed(loaded))
        if as_json:
            emit({"to_be_signed": str(path), "measurement": loaded.measurement.hex()})
        else:
            typer.echo(f"to be signed  {path}")
        return
    if key is not None:
        signed = signing.sign(loaded, _load_key(key, passphrase_file))
    elif attach is not None and public_key is not None:
        signed = signing.attach(
            loaded, read(attach, _MAX_SMALL_FILE), signing.load_public_key(public_key)
        )
    path = output or image
    _save(signed, path)
    _report(signed, path, as_json=as_json)


def measure(image: ImageOrSource, as_json: AsJson = False) -> None:
    """What each TEE would report for an image: the reference values of verifiers."""
    from secgear.base.tee import discover

    loaded = open_image(image)
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
        typer.echo(f"process  {name:12} {'none' if value is None else value}")
    for name in others:
        typer.echo(f"{name:8} not computable: {reason}")


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
        "debug": manifest.debug,
        "measurement": loaded.measurement.hex(),
        "signer": loaded.signer.hex() if loaded.signer else None,
        "log": manifest.log,
        "threads": manifest.threads,
        "memory": manifest.memory,
        "ecalls": [signature(function) for function in interface.ecalls.values()],
        "ocalls": [signature(function) for function in interface.ocalls.values()],
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


def _load_key(path: Path, passphrase_file: Path | None) -> Any:
    from secgear.base import signing
    from secgear.errors import KeyFileError

    secret = _passphrase(passphrase_file)
    try:
        return signing.load_private_key(path, secret)
    except KeyFileError as error:
        import sys

        if secret is not None or "encrypted" not in str(error) or not sys.stdin.isatty():
            raise
    return signing.load_private_key(path, typer.prompt("Passphrase", hide_input=True).encode())


def _passphrase(path: Path | None) -> bytes | None:
    if path is None:
        return None
    return read(path).split(b"\n", 1)[0].rstrip(b"\r")


def _save(image: Image, path: Path) -> None:
    check_target(path, IMAGE_BEGINNING)
    image.save(path)


def _report(image: Image, path: Path, *, as_json: bool) -> None:
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
            typer.echo(f"{name:12} {'none' if value is None else value}")
