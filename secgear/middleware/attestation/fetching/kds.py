"""AMD's Key Distribution Service: the certificate of a chip at a TCB, and revocation lists.

AMD publication 57230 (Versioned Chip Endorsement Key Certificate and KDS Interface Specification).
"""

from __future__ import annotations

import datetime

from cryptography import x509

from secgear.errors import CollateralError
from secgear.middleware.attestation.certificates import load_certificate
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.fetching.cache import FOREVER
from secgear.middleware.attestation.fetching.source import Source
from secgear.middleware.attestation.fetching.transport import Request, Response
from secgear.middleware.attestation.formats.snp.certificates import read_endorsement
from secgear.middleware.attestation.formats.snp.report import Report
from secgear.middleware.attestation.formats.snp.tcb import Product

_VCEK, _VLEK = 0, 1
_PARAMETERS = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}


def collateral(report: Report, base: str, source: Source, *, endorsed: bool) -> Collateral:
    """The VCEK, unless the report came with its certificate, and the revocation list.

    A VLEK is given to clouds only: it comes with the report or not at all.
    Raises CollateralError.
    """
    product = report.product
    if product is Product.UNSTATED:
        raise CollateralError(
            "AMD: this report is of version 2 and does not name its processor; give its VCEK"
        )
    certificates: tuple[bytes, ...] = ()
    if not endorsed:
        if report.signing_key == _VLEK:
            raise CollateralError(
                "AMD: a VLEK comes with the report only; AMD gives it to the cloud"
            )
        certificates = (source.get("a VCEK", vcek_request(report, base), _read_vcek),)
    kind = "vlek" if report.signing_key == _VLEK else "vcek"
    crl = source.get(
        "AMD's revocation list", Request(f"{base}/{kind}/v1/{product.value}/crl"), read_crl
    )
    return Collateral(certificates=certificates, crls=(crl,))


def vcek_request(report: Report, base: str) -> Request:
    """Where the certificate of the report's chip at its reported TCB is (section 4.1)."""
    product = report.product
    chip = report.chip_id[: product.chip_id_size]
    if report.signing_key != _VCEK or not any(chip):
        raise CollateralError("AMD: the host hides the chip's identity; give its VCEK")
    versions = report.reported_tcb.components
    query = "&".join(
        f"{parameter}={versions[name]}"
        for name, parameter in _PARAMETERS.items()
        if name in versions
    )
    return Request(f"{base}/vcek/v1/{product.value}/{chip.hex()}?{query}")


def read_crl(response: Response) -> tuple[bytes, datetime.datetime]:
    """A revocation list, and its own next update."""
    crl = x509.load_der_x509_crl(response.body)
    return response.body, crl.next_update_utc or crl.last_update_utc


def _read_vcek(response: Response) -> tuple[bytes, datetime.datetime]:
    """A chip's certificate never changes for a TCB."""
    certificate = load_certificate(response.body)
    if read_endorsement(certificate).kind != "vcek":
        raise CollateralError("another certificate of AMD's")
    return response.body, FOREVER
