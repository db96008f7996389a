"""``secgear crypto keys``: keys of a token: made, shown, sealed to it, imported, attested."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli import inputs
from secgear.cli.crypto_place import (
    Id,
    Label,
    PinFile,
    UserName,
    Uses,
    described,
    keys_named,
    on_any_token,
    on_token,
    parse_hex,
    parse_nonce,
    pin_of,
)
from secgear.cli.inputs import At, CollateralFiles, ReferenceFiles, Roots
from secgear.cli.output import (
    AsJson,
    UsageError,
    check_target,
    emit,
    read,
    say,
    write_file,
)

if TYPE_CHECKING:
    from secgear.services.crypto.client import PrivateKey, PublicKey, SecretKey, Session

app = typer.Typer(name="keys", help="Keys of a token.", no_args_is_help=True)

_MAX_FILE: Final = 1 << 20
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_PUBLIC: Final = b"-----BEGIN PUBLIC KEY-----"

Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write.", readable=False)]
Nonce = Annotated[
    str | None, typer.Option(help="A verifier's nonce (hexadecimal), for new evidence.")
]


@app.command("list")
@on_token
def list_keys(
    session: Session,
    as_json: AsJson = False,
) -> None:
    """All keys of a token."""
    found = [described(key) for key in session.find()]
    if as_json:
        emit({"keys": found})
        return
    for one in found:
        say(f"{one['class']:<8} {one['kind']:<14} {one['id'] or '-':<8} {one['label']}")


@app.command("generate")
@on_token
def generate(
    session: Session,
    kind: Annotated[
        str,
        typer.Argument(
            help="AES, CHACHA20, SM4, HMAC; EC, RSA, ED25519, X25519, SM2, ML-DSA, ML-KEM."
        ),
    ],
    label: Annotated[str, typer.Option(help="The key's label.")],
    variant: Annotated[
        str | None, typer.Option(help="Bits, curve or parameter set: 3072, P-384, 65.")
    ] = None,
    id: Id = None,
    uses: Uses = None,
    extractable: Annotated[
        bool, typer.Option("--extractable", help="It may leave, wrapped under trusted keys.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key or key pair, which never leaves the module unless it is --extractable."""
    from secgear.services.crypto.client.algorithms import SECRETS

    more: dict[str, Any] = {"extractable": extractable, "wrap_with_trusted": extractable}
    number = parse_hex(id, "--id")
    key: SecretKey | PrivateKey
    try:
        if kind in SECRETS:
            if variant is not None and not variant.isdecimal():
                raise UsageError("--variant of a secret key is its size in bits")
            bits = None if variant is None else int(variant)
            key = session.generate_key(kind, bits, label=label, id=number, uses=uses, **more)
        else:
            key = session.generate_pair(kind, variant, label=label, id=number, uses=uses, **more)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    _show([key], as_json=as_json)


@app.command("show")
@on_token
def show(
    session: Session,
    label: Label,
    id: Id = None,
    as_json: AsJson = False,
) -> None:
    """What there is to know about a key that is no secret."""
    _show(keys_named(session, label, id), as_json=as_json)


@app.command("export-public")
@on_token
def export_public(
    session: Session,
    label: Label,
    output: Output,
    id: Id = None,
    as_json: AsJson = False,
) -> None:
    """The public key of a pair, in PEM."""
    check_target(output, _PUBLIC)
    key = session.private_key(label, None if id is None else parse_hex(id, "--id"))
    write_file(output, _pem(key.public_key_info))
    if as_json:
        emit({"public_key": str(output)})
    else:
        typer.echo(f"public key  {output}")


@app.command("destroy")
@on_token
def destroy(
    session: Session,
    label: Label,
    id: Id = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Destroy a key for good, of a pair both halves."""
    found = keys_named(session, label, id)
    shown = [described(key) for key in found]
    if not yes:
        names = ", ".join(f"{one['class']} {one['kind']}" for one in shown)
        typer.confirm(f"Destroy {label!r} ({names}) for ever?", abort=True, err=True)
    for key in found:
        key.destroy()
    if as_json:
        emit({"destroyed": shown})
    else:
        typer.echo(f"destroyed  {len(shown)}")


@app.command("attest")
@on_token
def attest(
    session: Session,
    label: Label,
    output: Output,
    id: Id = None,
    nonce: Nonce = None,
    as_json: AsJson = False,
) -> None:
    """Proof that a key was made or imported there: for `secgear crypto attest verify`.

    Of a key pair two certificates in PEM, of a secret key a COSE_Sign1.
    """
    from secgear.services.crypto.client import PublicKey

    found = [key for key in keys_named(session, label, id) if not isinstance(key, PublicKey)]
    if len(found) != 1:
        raise UsageError(f"{len(found)} private and secret keys {label!r}; say which by --id")
    check_target(output, None if output.suffix == ".cose" else _CERTIFICATE)
    data = found[0].attest(parse_nonce(nonce, shortest=8, longest=64))
    write_file(output, data)
    if as_json:
        emit({"attestation": str(output), "size": len(data)})
    else:
        typer.echo(f"attestation  {output}, {len(data)} bytes")


@app.command("import-key")
@on_any_token
def import_key(
    session: Session,
    output: Output,
    nonce: Annotated[
        str | None, typer.Option(help="The data owner's nonce, 32 bytes (hexadecimal).")
    ] = None,
    user: UserName = None,
    pin_file: PinFile = None,
    as_json: AsJson = False,
) -> None:
    """What a data owner needs to seal keys to a token: its import key, with evidence.

    The PIN is asked for only where the token has none, and its user has to make one.
    """
    from secgear.services.crypto.client import TokenRefused
    from secgear.services.crypto.pkcs11.rv import Rv

    check_target(output)
    wanted = parse_nonce(nonce, shortest=32, longest=32)
    try:
        document = session.import_document(wanted)
    except TokenRefused as refused:
        if refused.rv is not Rv.USER_NOT_LOGGED_IN:
            raise
        session.login(lambda: pin_of(pin_file), user=user)
        document = session.import_document(wanted)
    write_file(output, document)
    if as_json:
        emit({"import_key": str(output), "size": len(document)})
    else:
        typer.echo(f"import key  {output}")


@app.command("seal")
def seal(
    file: Annotated[
        Path,
        typer.Argument(
            help="A private key (PEM or DER), or with --kind the bytes of a secret key.",
            readable=False,
        ),
    ],
    to: Annotated[Path, typer.Option(help="The token's import key.", readable=False)],
    policy: Annotated[Path, typer.Option(help="The policy (TOML) that decides.", readable=False)],
    label: Annotated[str, typer.Option(help="The key's label.")],
    output: Output,
    kind: Annotated[
        str | None, typer.Option(help="Of a secret key: AES, CHACHA20, SM4, HMAC.")
    ] = None,
    id: Id = None,
    uses: Uses = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the key's passphrase.", readable=False),
    ] = None,
    nonce: Annotated[
        str | None, typer.Option(help="The nonce that you gave to who fetched the import key.")
    ] = None,
    module: Annotated[
        str | None, typer.Option(help="The module that is meant, by its audit key.")
    ] = None,
    serial: Annotated[str | None, typer.Option(help="The token's serial number.")] = None,
    collateral: CollateralFiles = None,
    reference_values: ReferenceFiles = None,
    root: Roots = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Seal a key to one token, once the policy trusts its module. Works offline.

    Exit code 6 if the policy does not; nothing is written then.
    """
    from secgear.middleware.attestation import load_policy
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.middleware.envelopes.document import MAX_SIZE
    from secgear.middleware.envelopes.format import MAGIC
    from secgear.services.crypto.client.algorithms import SECRETS
    from secgear.services.crypto.client.sealing import ImportKey, private_parcel, secret_parcel

    check_target(output, MAGIC)
    if kind is not None and kind not in SECRETS:
        raise UsageError(f"--kind is one of {', '.join(SECRETS)}")
    key = ImportKey.verify(
        read(to, MAX_SIZE),
        load_policy(inputs.read_text(policy).encode()),
        at=inputs.parse_time(at),
        nonce=None if nonce is None else parse_hex(nonce, "--nonce"),
        module=None if module is None else parse_hex(module, "--module"),
        serial=serial,
        collateral=inputs.read_collateral(collateral),
        anchors=anchors_with(inputs.read_roots(root)),
        reference_values=inputs.read_reference_values(reference_values),
    )
    data, number = read(file, _MAX_FILE), parse_hex(id, "--id")
    given: dict[str, Any] = {} if uses is None else {"uses": tuple(uses)}
    try:
        if kind is not None:
            parcel = secret_parcel(data, kind, label=label, id=number, **given)
        else:
            secret = None
            if passphrase_file is not None:
                secret = read(passphrase_file, 4096).split(b"\n", 1)[0].rstrip(b"\r")
            parcel = private_parcel(data, passphrase=secret, label=label, id=number, **given)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    write_file(output, key.seal(parcel, at=inputs.parse_time(at)))
    told = {"module": key.destination.module.hex(), "serial": key.destination.serial}
    if as_json:
        emit({"envelope": str(output), "trusted_until": key.trusted.expires.isoformat()} | told)
    else:
        typer.echo(
            f"envelope  {output}\nmodule    {told['module']}\ntoken     {told['serial']}\n"
            f"until     {key.trusted.expires.isoformat()}"
        )


@app.command("import")
@on_token
def import_envelope(
    session: Session,
    envelope: Annotated[Path, typer.Argument(help="What `seal` has written.", readable=False)],
    as_json: AsJson = False,
) -> None:
    """Import a key that a data owner has sealed to the token. An envelope is taken once."""
    from secgear.services.crypto.parcel import MAX_ENVELOPE

    data = read(envelope, MAX_ENVELOPE)
    _show([session.import_key(data)], as_json=as_json)


def _show(keys: list[Any], *, as_json: bool) -> None:
    found = [described(key) | _details(key) for key in keys]
    if as_json:
        emit({"keys": found})
        return
    for one in found:
        say(f"{one['class']} key {one['label']!r}")
        for name in ("kind", "id", "size", "origin", "public_key_sha256"):
            if one.get(name):
                say(f"  {name.replace('_', ' '):<18} {one[name]}")
        say(f"  {'flags':<18} {', '.join(one['flags'])}")


def _details(key: SecretKey | PublicKey | PrivateKey) -> dict[str, Any]:
    import hashlib

    from secgear.services.crypto.client import SecretKey
    from secgear.services.crypto.pkcs11.constants import Attr

    found = key.attributes(Attr.LOCAL, Attr.ENVELOPE, Attr.VALUE_LEN)
    origin = "generated" if found.get(Attr.LOCAL) else "other"
    envelope = found.get(Attr.ENVELOPE)
    if isinstance(envelope, bytes) and envelope:
        origin = f"envelope {envelope.hex()}"
    if isinstance(key, SecretKey):
        return {"origin": origin, "size": found.get(Attr.VALUE_LEN)}
    spki = key.public_key_info
    return {"origin": origin, "public_key_sha256": hashlib.sha256(spki).hexdigest()}


def _pem(spki: bytes) -> bytes:
    import base64

    text = base64.b64encode(spki)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join((_PUBLIC, *lines, b"-----END PUBLIC KEY-----", b""))
