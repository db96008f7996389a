"""Collateral in the forms that people have it: PEM, DER, and the JSON and XML of vendors."""

from __future__ import annotations

import base64
import binascii
import re

import msgspec
from cryptography import x509
from cryptography.x509 import ocsp

from secgear.errors import CollateralError
from secgear.middleware.attestation import collateral as collaterals
from secgear.middleware.attestation.certificates import load_certificate
from secgear.middleware.attestation.collateral import Collateral, Document
from secgear.middleware.attestation.reader import UNREADABLE

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,32})-----([^-]*)-----END \1-----")
_TAG_ID = re.compile(rb' tagId="([^"]{1,200})"')
_ROOT_TAG = 4096  # bytes that the root element's start tag may have


def import_collateral(data: bytes, name: str) -> Collateral:
    """What a file holds, whichever of these it is.

    This package's own form; PEM certificates and CRLs; one DER certificate, CRL or OCSP response;
    Intel's TCB information or QE identity as the PCS serves it; the collateral file of dcap-qvl; an
    NVIDIA reference manifest (XML). name: for messages.
    Raises CollateralError. Signatures are checked when the collateral is used, not here.
    """
    if len(data) > collaterals.MAX_SIZE:
        raise CollateralError(f"{name}: {len(data)} bytes; at most {collaterals.MAX_SIZE} are read")
    text = data.lstrip()
    if text.startswith(b"{"):
        return _from_json(data, name)
    if text.startswith(b"<"):
        return _from_xml(data, name)
    if b"-----BEGIN " in data:
        return _from_pem(data, name)
    found = _from_der(data)
    if found is None:
        raise CollateralError(
            f"{name}: neither certificates, revocation lists, OCSP responses, TCB information nor "
            "a reference manifest"
        )
    return found


def _from_json(data: bytes, name: str) -> Collateral:
    try:
        keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except UNREADABLE as error:
        raise CollateralError(f"{name}: {error}") from None
    if "secgear-collateral" in keys:
        return collaterals.from_json(data)
    if "tcb_info_issuer_chain" in keys:
        from secgear.middleware.attestation.formats.dcap.exchange import collateral_from_dcap_qvl

        return collateral_from_dcap_qvl(data)
    if "tcbInfo" in keys:
        return Collateral(documents=(Document("intel.tcb-info", data),))
    if "enclaveIdentity" in keys:
        return Collateral(documents=(Document("intel.qe-identity", data),))
    raise CollateralError(f"{name}: JSON of no known kind (members: {', '.join(list(keys)[:8])})")


def _from_xml(data: bytes, name: str) -> Collateral:
    start = data[:65536].find(b"SoftwareIdentity")
    tag = data[start : start + _ROOT_TAG].partition(b">")[0]
    found = _TAG_ID.search(tag) if start >= 0 else None
    if found is None:
        raise CollateralError(f"{name}: XML, but no reference manifest (SoftwareIdentity)")
    identifier = found[1].decode("utf-8", "replace")
    return Collateral(documents=(Document("nvidia.rim", data, identifier),))


def _from_pem(data: bytes, name: str) -> Collateral:
    certificates: list[bytes] = []
    crls: list[bytes] = []
    for label, body in _PEM.findall(data):
        try:
            der = base64.b64decode(b"".join(body.split()), validate=True)
        except binascii.Error:
            raise CollateralError(f"{name}: a PEM block that is not base64") from None
        if label in (b"CERTIFICATE", b"TRUSTED CERTIFICATE"):
            certificates.append(der)
        elif label == b"X509 CRL":
            crls.append(der)
        else:
            raise CollateralError(f"{name}: a PEM block of kind {label.decode()} is no collateral")
    if not certificates and not crls:
        raise CollateralError(f"{name}: PEM without certificates or revocation lists")
    return Collateral(certificates=tuple(certificates), crls=tuple(crls))


def _from_der(data: bytes) -> Collateral | None:
    for load, found in (
        (load_certificate, Collateral(certificates=(data,))),
        (x509.load_der_x509_crl, Collateral(crls=(data,))),
        (ocsp.load_der_ocsp_response, Collateral(ocsp=(data,))),
    ):
        try:
            load(data)
        except Exception:  # noqa: BLE001, S112  (a parser's own errors; another may know it)
            continue
        return found
    return None
