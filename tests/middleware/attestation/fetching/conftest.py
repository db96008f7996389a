"""Vendors' services on this machine, with what they would serve."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from secgear.base.tee import Evidence
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.fetching import Endpoints, HttpxTransport, fetch
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.nvidia import Nvidia
from tests.adversary.vendors.pki import NOW
from tests.adversary.vendors.server import Answer, VendorServer
from tests.adversary.vendors.snp import Amd

FMSPC = "50806f000000"


@pytest.fixture
def server() -> Iterator[VendorServer]:
    with VendorServer() as running:
        yield running


class Fetching:
    """Fetches from one server that plays all vendors."""

    def __init__(self, server: VendorServer) -> None:
        self.server = server
        self.pauses: list[float] = []
        self.said: list[str] = []
        self.endpoints = Endpoints(
            amd_kds=server.url,
            intel_pcs=server.url,
            nvidia_rim=server.url,
            nvidia_ocsp=f"{server.url}/ocsp",
        )

    def __call__(self, evidence: Evidence, **changes: Any) -> Collateral:
        arguments: dict[str, Any] = {"at": NOW, "progress": self.said.append} | changes
        endpoints = arguments.pop("endpoints", self.endpoints)
        timeout = arguments.pop("timeout", 10)
        if "transport" in arguments:
            return fetch(evidence, endpoints, **arguments)
        with HttpxTransport(sleep=self.pauses.append, timeout=timeout) as transport:
            return fetch(evidence, endpoints, transport=transport, **arguments)


@pytest.fixture
def fetching(server: VendorServer) -> Fetching:
    return Fetching(server)


@pytest.fixture(scope="module")
def amd() -> Amd:
    return Amd()


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


@pytest.fixture(scope="module")
def nvidia() -> Nvidia:
    return Nvidia()


def bare(amd: Amd, **changes: Any) -> Evidence:
    """A report without the chip's certificate, as most hosts give it."""
    return Evidence("amd.sev-snp", amd.report(**changes), {"chain": amd.chain})


def serve_amd(server: VendorServer, amd: Amd) -> tuple[str, str]:
    """AMD's service for one chip; the paths of its certificate and of the list."""
    versions = amd.tcb
    query = "&".join(
        f"{parameter}={versions[name]}"
        for name, parameter in (
            ("fmc", "fmcSPL"),
            ("bootloader", "blSPL"),
            ("tee", "teeSPL"),
            ("snp", "snpSPL"),
            ("microcode", "ucodeSPL"),
        )
        if name in versions
    )
    chip = (amd.chip[:8] if amd.turin else amd.chip).hex()
    vcek = f"/vcek/v1/{amd.product}/{chip}?{query}"
    crl = f"/vcek/v1/{amd.product}/crl"
    server.answers[vcek] = Answer(amd.endorsement().der)
    server.answers[crl] = Answer(amd.ark.revoke())
    return vcek, crl


def serve_intel(server: VendorServer, intel: Intel, tee: str, *, pccs: bool = True) -> None:
    """Intel's service, or with `pccs` a cache of it, for the fake platform."""
    pieces = intel.pieces(tee)
    signer = quote(b"".join(map(to_pem, pieces.signer)))
    issuers = quote(b"".join(map(to_pem, pieces.ca_chain)))
    server.answers |= {
        f"/{tee}/certification/v4/tcb?fmspc={FMSPC}": Answer(
            pieces.tcb_document, {"TCB-Info-Issuer-Chain": signer}
        ),
        f"/{tee}/certification/v4/qe/identity": Answer(
            pieces.qe_document, {"SGX-Enclave-Identity-Issuer-Chain": signer}
        ),
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der": Answer(
            pieces.ca_crl, {"SGX-PCK-CRL-Issuer-Chain": issuers}
        ),
        "/IntelSGXRootCA.der": Answer(pieces.root_crl),
    }
    if pccs:
        server.answers["/sgx/certification/v4/rootcacrl"] = Answer(pieces.root_crl.hex().encode())


def serve_nvidia(server: VendorServer, nvidia: Nvidia) -> None:
    """NVIDIA's manifests; each OCSP request gets the next response in the chains' order."""
    collateral = nvidia.collateral()
    for document in collateral.documents:
        text = base64.b64encode(document.data).decode()
        server.answers[f"/v1/rim/{document.name}"] = Answer(f'{{"rim": "{text}"}}'.encode())
    chip, signer = nvidia.chip.responses(), nvidia.signer.responses()
    server.answers["/ocsp"] = [Answer(body) for body in (*chip, *signer)]
