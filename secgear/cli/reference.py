"""``secgear reference``: reference values made from what vendors and owners publish."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli import inputs
from secgear.cli.inputs import At, Roots
from secgear.cli.output import AsJson, UsageError, check_target, emit, note, read, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

_MAX_FILE = 16 << 20
_MAX_FIRMWARE = 64 << 20
_BEGINNING = b'{"secgear-reference-values"'

app = typer.Typer(
    name="reference",
    help="Reference values: what is known to be good.",
    no_args_is_help=True,
)


@app.command("import")
def import_(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="CoRIM files, reference values, or what `secgear measure --json` printed.",
            readable=False,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the values.", readable=False)
    ],
    key: Annotated[
        Path | None,
        typer.Option(help="The key (PEM) that must have signed every CoRIM.", readable=False),
    ] = None,
    root: Roots = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Take CoRIM files that nobody signed.")
    ] = False,
    tee: Annotated[
        str | None, typer.Option(help="The TEE of values whose CoRIM does not say which.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="A folder for platform keys that the CoRIM files bring, for --root.",
            readable=False,
        ),
    ] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Put reference values from several files into one.

    What a CoRIM says besides, and nothing compares, is listed: it does not count.
    """
    from secgear.middleware.attestation import bundle as bundles
    from secgear.middleware.attestation.reference import ReferenceValues, load_reference_values
    from secgear.middleware.attestation.reference.corim import read_corim

    check_target(output, _BEGINNING)
    # Only those that are named here: vendors' roots are for evidence, and sign no CoRIM of yours.
    anchors = bundles.anchors_with(inputs.read_roots(root))
    roots = tuple(anchor for anchor in anchors.roots if not anchor.builtin)
    signer = _key(key)
    time = inputs.parse_time(at)
    values = ReferenceValues()
    written: list[str] = []
    left_out: list[str] = []
    for file in files:
        data = read(file, _MAX_FILE)
        if data.lstrip()[:1] == b"{":
            values = values.merged(load_reference_values(data))
            continue
        imported = read_corim(
            data,
            at=time,
            key=signer,
            roots=roots,
            allow_unsigned=unsigned,
            tee=tee,
        )
        values = values.merged(imported.values)
        left_out += [f"{file}: {line}" for line in imported.not_imported]
        written += _write_keys(imported.keys, keys)
    write_file(output, values.to_json())
    if as_json:
        emit(
            {
                "reference_values": str(output),
                "count": len(values.values),
                "keys": written,
                "not_imported": left_out,
            }
        )
        return
    typer.echo(f"reference values  {output} ({len(values.values)})")
    for path in written:
        typer.echo(f"platform key      {path}")
    for line in left_out:
        note(f"not imported: {line}")


@app.command("snp-launch")
def snp_launch(
    firmware: Annotated[Path, typer.Argument(help="The OVMF image for SEV-SNP.", readable=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the value.", readable=False)
    ],
    vcpus: Annotated[int, typer.Option(help="Virtual processors at launch.")],
    name: Annotated[str, typer.Option(help="What the value is called.")] = "snp-launch",
    processor: Annotated[
        str, typer.Option(help="QEMU's processor model: EPYC, EPYC-Milan, EPYC-Genoa-v2, …")
    ] = "EPYC",
    hypervisor: Annotated[str, typer.Option(help="qemu, ec2 or gce.")] = "qemu",
    kernel: Annotated[
        Path | None,
        typer.Option(help="The kernel, with QEMU's kernel-hashes=on.", readable=False),
    ] = None,
    initrd: Annotated[
        Path | None, typer.Option(help="Its initial RAM disk.", readable=False)
    ] = None,
    append: Annotated[str, typer.Option(help="Its command line.")] = "",
    features: Annotated[str, typer.Option(help="The guest's SEV_FEATURES, hexadecimal.")] = "1",
    as_json: AsJson = False,
) -> None:
    """Compute the measurement of a SEV-SNP guest from what it will be launched with."""
    from secgear.middleware.attestation.formats.snp import launch
    from secgear.middleware.attestation.formats.snp.vmsa import Hypervisor
    from secgear.middleware.attestation.reference import ReferenceValue, ReferenceValues
    from secgear.middleware.attestation.values import Hex

    check_target(output, _BEGINNING)
    if kernel is None and (initrd is not None or append):
        raise UsageError("--initrd and --append go with --kernel")
    if (model := re.sub(r"-v[0-9]+$", "", processor)) not in launch.PROCESSORS:
        raise UsageError(f"--processor {processor}: one of {', '.join(launch.PROCESSORS)}")
    if hypervisor not in (names := [one.name.lower() for one in Hypervisor]):
        raise UsageError(f"--hypervisor {hypervisor}: one of {', '.join(names)}")
    try:
        bits = int(features, 16)
    except ValueError:
        raise UsageError("--features takes hexadecimal digits") from None
    boot = None
    if kernel is not None:
        disk = b"" if initrd is None else read(initrd)
        boot = launch.DirectBoot.of(read(kernel), disk, append)
    digest = launch.launch_digest(
        read(firmware, _MAX_FIRMWARE),
        vcpus=vcpus,
        processor=launch.PROCESSORS[model],
        boot=boot,
        features=bits,
        hypervisor=Hypervisor[hypervisor.upper()],
    )
    value = ReferenceValue(name=name, tee="snp", measurements={"launch": Hex(digest)})
    write_file(output, ReferenceValues((value,)).to_json())
    if as_json:
        emit({"reference_values": str(output), "launch": digest.hex()})
    else:
        typer.echo(f"launch            {digest.hex()}\nreference values  {output}")


def _key(path: Path | None) -> ec.EllipticCurvePublicKey | None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if path is None:
        return None
    try:
        key = serialization.load_pem_public_key(read(path, _MAX_FILE))
    except ValueError:
        raise UsageError(f"{path}: no public key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError(f"{path}: CoRIM files are signed with EC keys")
    return key


def _write_keys(found: tuple[Any, ...], folder: Path | None) -> list[str]:
    """The keys as PEM files; what to give to --root for each."""
    from cryptography.hazmat.primitives import serialization

    if found and folder is None:
        note(f"{len(found)} platform keys are not kept; --keys FOLDER keeps them")
    if folder is None:
        return []
    options = []
    for anchor in found:
        path = folder / f"{anchor.fingerprint.hex()[:16]}.pem"
        pem = anchor.key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        write_file(path, pem)
        subject = f":{anchor.subject}" if anchor.subject else ""
        options.append(f"{anchor.family}{subject}={path}")
    return options
