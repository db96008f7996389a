"""``secgear collateral``: fetched from where you say, shown, kept in one file."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secgear.cli import inputs
from secgear.cli.inputs import At, FormatName, Roots
from secgear.cli.output import AsJson, check_target, emit, note, read, say, write_file

if TYPE_CHECKING:
    from secgear.middleware.attestation.collateral import Collateral

_MAX_FILE = 32 << 20
_BEGINNING = b'{"secgear-collateral"'

app = typer.Typer(
    name="collateral",
    help="What verifiers need besides the evidence.",
    no_args_is_help=True,
)


@app.command("fetch")
def fetch(
    file: Annotated[Path, typer.Argument(help="The evidence.", readable=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write it.", readable=False)
    ],
    amd_kds: Annotated[
        str | None, typer.Option(help="AMD's KDS, https://kdsintf.amd.com, or a mirror.")
    ] = None,
    intel_pcs: Annotated[
        str | None,
        typer.Option(
            help="Intel's PCS, https://api.trustedservices.intel.com, or a PCCS of yours."
        ),
    ] = None,
    intel_root_crl: Annotated[
        str | None,
        typer.Option(
            help="Revocation list of Intel's root, for Intel's own PCS: "
            "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
        ),
    ] = None,
    nvidia_rim: Annotated[
        str | None, typer.Option(help="NVIDIA's manifests, https://rim.attestation.nvidia.com.")
    ] = None,
    nvidia_ocsp: Annotated[
        str | None, typer.Option(help="NVIDIA's responder, https://ocsp.ndis.nvidia.com.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="A directory for answers: kept until they expire.", file_okay=False),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Only look into --cache.")] = False,
    trust: Annotated[
        Path | None,
        typer.Option(help="Certificate authority of the endpoints (PEM).", readable=False),
    ] = None,
    root: Roots = None,
    at: At = None,
    format_name: FormatName = None,
    as_json: AsJson = False,
) -> None:
    """Get the collateral for some evidence. Nothing is asked that you do not name.

    What is fetched is not trusted: secgear verify checks it.
    """
    from secgear.middleware.attestation import bundle as bundles
    from secgear.middleware.attestation.fetching import (
        DirectoryCache,
        Endpoints,
        HttpxTransport,
    )
    from secgear.middleware.attestation.fetching import fetch as get

    check_target(output, _BEGINNING)
    evidence = inputs.read_evidence(file, format_name)
    found = get(
        evidence,
        Endpoints(
            amd_kds=amd_kds,
            intel_pcs=intel_pcs,
            intel_root_crl=intel_root_crl,
            nvidia_rim=nvidia_rim,
            nvidia_ocsp=nvidia_ocsp,
        ),
        transport=None if offline else HttpxTransport(trust=trust),
        cache=None if cache is None else DirectoryCache(cache),
        at=inputs.parse_time(at),
        anchors=bundles.anchors_with(inputs.read_roots(root)),
        progress=lambda what: note(f"fetching {what}"),
    )
    write_file(output, found.to_json())
    count = sum(len(items) for items in (found.certificates, found.crls, found.ocsp))
    count += len(found.documents)
    if as_json:
        emit({"collateral": str(output), "format": evidence.format, "items": count})
    elif count:
        typer.echo(f"collateral  {output} ({count} items)")
    else:
        typer.echo(f"collateral  {output} (none: {evidence.format} needs nothing besides)")


@app.command("show")
def show(
    files: Annotated[list[Path], typer.Argument(help="Collateral in any form.", readable=False)],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """What is in collateral, by whom, and until when it counts. Nothing of it is verified."""
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.importing import import_collateral

    found = [import_collateral(read(path, _MAX_FILE), str(path)) for path in files]
    time = inputs.parse_time(at)
    items = list(_items(Collateral().merged(*found)))
    if as_json:
        emit([item | {"expired": _expired(item, time)} for item in items])
        return
    for item in items:
        until = item["until"]
        when = "" if until is None else f", until {until.isoformat()}"
        mark = " EXPIRED" if _expired(item, time) else ""
        say(f"{item['kind']:<20} {item['what']}{when}{mark}")


def _expired(item: dict[str, Any], time: datetime.datetime) -> bool:
    return item["until"] is not None and item["until"] < time


def _items(collateral: Collateral) -> Iterator[dict[str, Any]]:
    from cryptography import x509
    from cryptography.x509 import ocsp

    from secgear.errors import CollateralError, EvidenceMalformed
    from secgear.middleware.attestation.certificates import load_certificate
    from secgear.middleware.attestation.formats.dcap import qeidentity, tcbinfo

    try:
        for der in collateral.certificates:
            certificate = load_certificate(der)
            yield _item("certificate", certificate.subject, certificate.not_after)
        for der in collateral.crls:
            crl = x509.load_der_x509_crl(der)
            count = len(crl)
            what = f"{crl.issuer.rfc4514_string()}, {count} revoked"
            yield _item("revocation list", what, crl.next_update_utc)
        for der in collateral.ocsp:
            for single in ocsp.load_der_ocsp_response(der).responses:
                what = f"serial {single.serial_number:x}: {single.certificate_status.name.lower()}"
                yield _item("OCSP response", what, single.next_update_utc)
        for document in collateral.documents:
            until = None
            if document.kind == tcbinfo.KIND:
                until = tcbinfo.parse(document.data).next_update
            elif document.kind == qeidentity.KIND:
                until = qeidentity.parse(document.data).next_update
            yield _item(document.kind, document.name or "(no name)", until)
    except (EvidenceMalformed, ValueError, TypeError) as error:  # TypeError: of odd names
        raise CollateralError(f"collateral that can't be read: {error}") from None


def _item(kind: str, what: str, until: datetime.datetime | None) -> dict[str, Any]:
    return {"kind": kind, "what": what, "until": until}
