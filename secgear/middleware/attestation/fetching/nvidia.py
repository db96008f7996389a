"""NVIDIA's services: reference manifests by identifier, and OCSP for the chains.

The manifest service answers ``GET /v1/rim/<identifier>`` with JSON that has the manifest in base64
(https://docs.attestation.nvidia.com/RIM/rim_introduction.html); OCSP is RFC 6960 over POST.
"""

from __future__ import annotations

import base64
import datetime
import itertools
import re
from collections.abc import Sequence

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from secgear.base.tee import Evidence
from secgear.errors import CollateralError
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import Certificate, load_pem
from secgear.middleware.attestation.chains import check_path
from secgear.middleware.attestation.checks import Checks
from secgear.middleware.attestation.collateral import Collateral, Document
from secgear.middleware.attestation.fetching.cache import FOREVER
from secgear.middleware.attestation.fetching.source import Source
from secgear.middleware.attestation.fetching.transport import Request, Response
from secgear.middleware.attestation.formats.nvidia import rim, spdm
from secgear.middleware.attestation.formats.nvidia.device import identify
from secgear.middleware.attestation.formats.nvidia.verifier import manifests_wanted

_IDENTIFIER = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_KINDS = {"nvidia.gpu": "gpu", "nvidia.nvswitch": "nvswitch"}


class _Rim(msgspec.Struct):
    rim: str


def collateral(
    evidence: Evidence, rim_base: str, ocsp_url: str, source: Source, anchors: Anchors
) -> Collateral:
    """The device's manifests, and an answer about each certificate of all chains.

    The chain is checked first: what is asked for is only what an authentic device names.
    Raises CollateralError, EvidenceRefused.
    """
    chain = load_pem(evidence.attachments.get("chain", b""))
    checks = Checks()
    path = check_path(
        chain[0],
        chain[1:],
        anchors.of("nvidia"),
        at=source.at,
        crls=(),
        checks=checks,
        revocable="nothing",
    )
    device = identify(path, _KINDS[evidence.format], checks)
    wanted = manifests_wanted(spdm.parse(evidence.data), device)
    documents = tuple(_manifest(name, rim_base, source) for name in wanted)
    chains = [path.certificates[1:]]
    for document in documents:
        signer, *others = rim.read(document.data).certificates
        of_manifest = check_path(
            signer,
            others,
            anchors.of("nvidia-rim"),
            at=source.at,
            crls=(),
            checks=checks,
            revocable="nothing",
        )
        chains.append(of_manifest.certificates)
    answers = [answer for one in chains for answer in _ocsp(one, ocsp_url, source)]
    return Collateral(documents=documents, ocsp=tuple(dict.fromkeys(answers)))


def _manifest(name: str, base: str, source: Source) -> Document:
    if not _IDENTIFIER.fullmatch(name):
        raise CollateralError(f"NVIDIA: {name[:80]!r} is no identifier of a manifest")

    def read(response: Response) -> tuple[Document, datetime.datetime]:
        xml = base64.b64decode(msgspec.json.decode(response.body, type=_Rim).rim, validate=True)
        try:
            rim.read(xml)
        except rim.RimRefused as refused:
            raise CollateralError(str(refused)) from None
        # A manifest is for one version of the firmware and never changes.
        return Document("nvidia.rim", xml, name), FOREVER

    return source.get("a reference manifest", Request(f"{base}/v1/rim/{name}"), read)


def _ocsp(certificates: Sequence[Certificate], url: str, source: Source) -> list[bytes]:
    return [
        source.get("an OCSP response", _request(child, issuer, url), _read_response)
        for child, issuer in itertools.pairwise(certificates)
    ]


def _request(child: Certificate, issuer: Certificate, url: str) -> Request:
    if child.parsed.serial_number != child.serial:  # see `certificates`: zero can't be asked for
        raise CollateralError(f"NVIDIA: {child.subject} has the serial number zero")
    built = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(child.parsed, issuer.parsed, hashes.SHA384())
        .build()
    )
    body = built.public_bytes(serialization.Encoding.DER)
    return Request(url, body, "application/ocsp-request")


def _read_response(response: Response) -> tuple[bytes, datetime.datetime]:
    parsed = ocsp.load_der_ocsp_response(response.body)
    if parsed.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise CollateralError(f"the responder says {parsed.response_status.name}")
    ends = [single.next_update_utc or single.this_update_utc for single in parsed.responses]
    return response.body, min(ends)
