"""``secgear keygen`` and ``secgear sign``: who vouches for an image.

A passphrase comes from the terminal or from a file, never from the command line or the
environment, which others can see.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from secgear.cli.images import ImageFile, report, save
from secgear.cli.output import AsJson, UsageError, check_target, emit, read, write_file
from secgear.errors import KeyFileError

if TYPE_CHECKING:
    from secgear.base.signing import PrivateKey

# How an earlier output begins, which may be replaced: docs/adr/0002-image-format.md.
_TO_BE_SIGNED_BEGINNING: Final = b"secgear image v1\n"
_MAX_SMALL_FILE: Final = 64 << 10
_SHORT: Final = {"ecdsa-p384": "ecdsa-p384-sha384"}

PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the key file's passphrase.", readable=False),
]


def keygen(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the key (PEM).", readable=False)
    ],
    algorithm: Annotated[str, typer.Option(help="ed25519 or ecdsa-p384.")] = "ed25519",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase to encrypt the file with.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a signing key that only you can read. An existing file is never overwritten."""
    from secgear.base import signing

    secret = new_passphrase(passphrase, passphrase_file)
    algorithm = _SHORT.get(algorithm, algorithm)
    key = signing.generate_key(algorithm)
    signing.save_private_key(key, output, secret)
    signer = signing.signer_of(key).hex()
    if as_json:
        emit({"key": str(output), "algorithm": algorithm, "signer": signer})
    else:
        typer.echo(f"key     {output}\nsigner  {signer}")


def sign(
    image: ImageFile,
    key: Annotated[
        Path | None, typer.Option(help="Sign with this private key.", readable=False)
    ] = None,
    passphrase_file: PassphraseFile = None,
    pkcs11: Annotated[
        str | None,
        typer.Option(
            help="Sign with a key in a PKCS#11 module: a URI (RFC 7512) with module-path, a "
            "library or the socket of a module of ours.",
        ),
    ] = None,
    digest: Annotated[
        bool, typer.Option("--digest", help="Write what an external signer has to sign.")
    ] = False,
    attach: Annotated[
        Path | None, typer.Option(help="Attach this signature, made elsewhere.", readable=False)
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(help="The external signer's public key, with --attach.", readable=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write; in place by default.", readable=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign an image with --key or --pkcs11, or in two steps: --digest, a signer, --attach.

    Ed25519: openssl pkeyutl -sign -rawin -inkey KEY -in FILE.tbs -out FILE.sig
    ECDSA P-384: openssl dgst -sha384 -sign KEY -out FILE.sig FILE.tbs
    """
    from secgear.base import signing
    from secgear.base.image import Image

    if [key is not None, pkcs11 is not None, digest, attach is not None].count(True) != 1:
        raise UsageError("sign takes one of --key, --pkcs11, --digest, --attach")
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
        signed = signing.sign(loaded, load_key(key, passphrase_file))
    elif pkcs11 is not None:
        from secgear.cli.pkcs11_keys import parse_uri, sign_with

        signed = signing.attach(loaded, *sign_with(parse_uri(pkcs11), signing.to_be_signed(loaded)))
    elif attach is not None and public_key is not None:
        signed = signing.attach(
            loaded, read(attach, _MAX_SMALL_FILE), signing.load_public_key(public_key)
        )
    path = output or image
    save(signed, path)
    report(signed, path, as_json=as_json)


def load_key(path: Path, passphrase_file: Path | None) -> PrivateKey:
    """A private key from its file, and its passphrase from another or the terminal."""
    from secgear.base import signing

    secret = passphrase_of(passphrase_file)
    try:
        return signing.load_private_key(path, secret)
    except KeyFileError as error:
        if secret is not None or "encrypted" not in str(error) or not sys.stdin.isatty():
            raise
    return signing.load_private_key(path, _ask())


def _ask(*, confirm: bool = False) -> bytes:
    """A passphrase from the terminal, never empty."""
    secret: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return secret.encode()


def new_passphrase(asked: bool, path: Path | None) -> bytes | None:
    """The passphrase of a new key file: from the terminal if `asked`, or of a file, or none."""
    if asked and path is not None:
        raise UsageError("give one of --passphrase and --passphrase-file")
    return _ask(confirm=True) if asked else passphrase_of(path)


def passphrase_of(path: Path | None) -> bytes | None:
    """A file's first line; None without a file. Raises UsageError."""
    if path is None:
        return None
    secret = read(path, _MAX_SMALL_FILE).split(b"\n", 1)[0].rstrip(b"\r")
    if not secret:
        raise UsageError(f"{path}: its first line is empty; a passphrase belongs there")
    return secret
