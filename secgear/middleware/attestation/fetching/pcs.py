"""Intel's Provisioning Certification Service, or a cache of it (PCCS): TCB information and lists.

Interface version 4 (https://api.portal.trustedservices.intel.com/content/documentation.html).
"""

from __future__ import annotations

import contextlib
import datetime
from urllib.parse import unquote_to_bytes

from secgear.errors import CollateralError
from secgear.middleware.attestation.certificates import Certificate, load_pem
from secgear.middleware.attestation.collateral import Collateral, Document
from secgear.middleware.attestation.fetching.kds import read_crl
from secgear.middleware.attestation.fetching.source import Source
from secgear.middleware.attestation.fetching.transport import Request, Response
from secgear.middleware.attestation.formats.dcap import qeidentity, tcbinfo
from secgear.middleware.attestation.formats.dcap.pck import SGX_EXTENSION, read_pck
from secgear.middleware.attestation.formats.dcap.quote import Quote, TdReport

_PATH = "certification/v4"


def collateral(quote: Quote, base: str, root_crl: str | None, source: Source) -> Collateral:
    """TCB information and QE identity for the quote's platform, and both revocation lists.

    root_crl: where the root's list is; a PCCS has it itself, Intel elsewhere.
    Raises CollateralError.
    """
    pck = _pck(quote)
    fmspc = read_pck(pck).fmspc.hex()
    tee = "tdx" if isinstance(quote.body, TdReport) else "sgx"
    info = source.get(
        "TCB information",
        Request(f"{base}/{tee}/{_PATH}/tcb?fmspc={fmspc}"),
        lambda response: _tcb_info(response, fmspc, tee),
    )
    identity = source.get("QE identity", Request(f"{base}/{tee}/{_PATH}/qe/identity"), _qe_identity)
    ca = _authority(pck)
    issuers, pck_crl = source.get(
        "Intel's revocation list",
        Request(f"{base}/sgx/{_PATH}/pckcrl?ca={ca}&encoding=der"),
        _pck_crl,
    )
    own = root_crl or f"{base}/sgx/{_PATH}/rootcacrl"
    try:
        of_root = source.get("the revocation list of Intel's root", Request(own), _root_crl)
    except CollateralError as error:
        if root_crl:
            raise
        raise CollateralError(
            f"{error}; this is Intel's own service, whose root's list is elsewhere: "
            "--intel-root-crl"
        ) from None
    return Collateral(certificates=issuers, crls=(of_root, pck_crl), documents=(info, identity))


def _pck(quote: Quote) -> Certificate:
    for certificate in quote.certification.chain:
        if certificate.extension(SGX_EXTENSION) is not None:
            return certificate
    raise CollateralError("Intel: the quote has no PCK certificate; get the platform's and give it")


def _authority(pck: Certificate) -> str:
    """Which of Intel's two PCK authorities, as the service calls it."""
    issuer = pck.parsed.issuer.rfc4514_string()
    for name in ("Platform", "Processor"):
        if f"CN=Intel SGX PCK {name} CA" in issuer:
            return name.lower()
    raise CollateralError("Intel: the PCK certificate is issued by another authority")


def _tcb_info(response: Response, fmspc: str, tee: str) -> tuple[Document, datetime.datetime]:
    info = tcbinfo.parse(response.body)
    if (info.fmspc.hex(), info.tee) != (fmspc, tee):
        raise CollateralError(f"it is about {info.fmspc.hex()} and {info.tee}")
    chain = _chain(response, "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
    return Document(tcbinfo.KIND, response.body, f"{fmspc}/{tee}", chain), info.next_update


def _qe_identity(response: Response) -> tuple[Document, datetime.datetime]:
    identity = qeidentity.parse(response.body)
    chain = _chain(response, "sgx-enclave-identity-issuer-chain")
    return Document(qeidentity.KIND, response.body, identity.tee, chain), identity.next_update


def _pck_crl(response: Response) -> tuple[tuple[tuple[bytes, ...], bytes], datetime.datetime]:
    body, expires = read_crl(Response(_der(response.body)))
    return (_chain(response, "sgx-pck-crl-issuer-chain"), body), expires


def _root_crl(response: Response) -> tuple[bytes, datetime.datetime]:
    return read_crl(Response(_der(response.body)))


def _der(body: bytes) -> bytes:
    """A PCCS answers in hexadecimal where Intel answers in DER."""
    with contextlib.suppress(ValueError):
        return bytes.fromhex(body.strip().strip(b'"').decode("ascii"))
    return body


def _chain(response: Response, *names: str) -> tuple[bytes, ...]:
    """The issuers' certificates, which come as a header in URL encoding."""
    for name in names:
        if name in response.headers:
            pem = unquote_to_bytes(response.headers[name])
            return tuple(certificate.der for certificate in load_pem(pem))
    raise CollateralError(f"an answer without the header {names[0]}")
