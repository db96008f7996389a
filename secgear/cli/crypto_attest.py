"""``secgear crypto attest``: proof of keys and modules, verified offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from secgear.cli import inputs
from secgear.cli.crypto_place import Address, Policy, Socket, module_at, parse_hex, parse_nonce
from secgear.cli.inputs import At, CollateralFiles, ReferenceFiles, Roots
from secgear.cli.output import AsJson, UsageError, check_target, emit, read, say, write_file

if TYPE_CHECKING:
    from secgear.services.crypto.attestation import KeyAttestation, ModuleAttestation

app = typer.Typer(name="attest", help="Proof of keys and modules.", no_args_is_help=True)

_ORIGINS: Final = ("generated", "envelope", "other")


@app.command("module")
def module(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write.", readable=False)],
    nonce: Annotated[
        str | None, typer.Option(help="A verifier's nonce (hexadecimal), for new evidence.")
    ] = None,
    socket: Socket = None,
    address: Address = None,
    policy: Policy = None,
    root: Roots = None,
    reference_values: ReferenceFiles = None,
    as_json: AsJson = False,
) -> None:
    """Proof of which module this is: its audit key, tokens and the end of its audit trail."""
    check_target(output)
    wanted = parse_nonce(nonce, shortest=8, longest=64)
    with module_at(socket, address, policy, root, reference_values) as opened:
        data = opened.attest(wanted)
    write_file(output, data)
    if as_json:
        emit({"attestation": str(output), "size": len(data)})
    else:
        typer.echo(f"attestation  {output}, {len(data)} bytes")


@app.command("verify")
def verify(
    file: Annotated[
        Path, typer.Argument(help="A key's or a module's attestation.", readable=False)
    ],
    policy: Annotated[Path, typer.Option(help="The policy (TOML) that decides.", readable=False)],
    nonce: Annotated[
        str | None, typer.Option(help="Your nonce (hexadecimal), which must be in it.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="A flag that the key must have: never_extractable; may be repeated."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="A flag that it must not have; may be repeated.")
    ] = None,
    origin: Annotated[
        str | None, typer.Option(help="Where the key must come from: generated, envelope, other.")
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
    """Judge an attestation, offline. Exit code 0 means that all of it holds, 6 that it does not.

    Without --nonce it may be an old one, which the policy has to accept.
    """
    from secgear.middleware.attestation import load_policy
    from secgear.middleware.attestation.bundle import anchors_with
    from secgear.services.crypto.attestation import MAX_SIZE, KeyAttestation
    from secgear.services.crypto.attestation import verify as judge
    from secgear.services.crypto.statement import FLAGS

    unknown = sorted({*(require or ()), *(without or ())} - FLAGS.keys())
    if unknown:
        raise UsageError(f"no flag {unknown[0]!r}; there are {', '.join(sorted(FLAGS))}")
    if origin is not None and origin not in _ORIGINS:
        raise UsageError(f"--origin is one of {', '.join(_ORIGINS)}")
    found = judge(
        read(file, MAX_SIZE),
        load_policy(inputs.read_text(policy).encode()),
        at=inputs.parse_time(at),
        nonce=None if nonce is None else parse_hex(nonce, "--nonce"),
        collateral=inputs.read_collateral(collateral),
        anchors=anchors_with(inputs.read_roots(root)),
        reference_values=inputs.read_reference_values(reference_values),
    )
    wanted = None if module is None else parse_hex(module, "--module")
    if isinstance(found, KeyAttestation):
        found.require(
            *(require or ()),
            without=tuple(without or ()),
            origin=origin,
            module=wanted,
            serial=serial,
        )
    else:
        if require or without or origin or serial:
            raise UsageError("--require, --without, --origin and --serial are about keys")
        found.require(wanted)
    _show(found, as_json=as_json)


def _show(found: KeyAttestation | ModuleAttestation, *, as_json: bool) -> None:
    said: dict[str, Any] = found.to_dict()
    if as_json:
        emit({"attestation": said, "verdict": found.verdict.to_dict()})
        return
    say(found.verdict.explain().splitlines()[0])
    for name, value in said.items():
        if name == "tokens":
            for token in value:
                say(f"  {'token':<16} {token['serial']}  {token['label']}")
        elif name == "audit":
            say(f"  {'audit':<16} {value['seq']}:{value['hash']}")
        elif value not in ("", [], None):
            text = ", ".join(value) if isinstance(value, list) else value
            say(f"  {name.replace('_', ' '):<16} {text}")
