"""Which collateral some evidence needs, and getting it."""

from __future__ import annotations

import datetime
from collections.abc import Callable

import msgspec

from secgear.base.tee import Evidence
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.fetching import kds, nvidia, pcs
from secgear.middleware.attestation.fetching.cache import Cache, MemoryCache
from secgear.middleware.attestation.fetching.source import Source, endpoint
from secgear.middleware.attestation.fetching.transport import Transport
from secgear.middleware.attestation.formats.dcap import quote as dcap
from secgear.middleware.attestation.formats.snp import report as snp
from secgear.middleware.attestation.formats.snp.certificates import read_table
from secgear.middleware.attestation.formats.tpm import azure


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where to fetch from. No defaults: who asks whom about which machine is yours to say.

    amd_kds: as ``https://kdsintf.amd.com``. intel_pcs: Intel's service or a PCCS.
    intel_root_crl: the URL of the list of Intel's root, which a PCCS has itself.
    nvidia_rim, nvidia_ocsp: NVIDIA's manifests and responder.
    """

    amd_kds: str | None = None
    intel_pcs: str | None = None
    intel_root_crl: str | None = None
    nvidia_rim: str | None = None
    nvidia_ocsp: str | None = None


def fetch(
    evidence: Evidence,
    endpoints: Endpoints,
    *,
    transport: Transport | None,
    cache: Cache | None = None,
    at: datetime.datetime | None = None,
    anchors: Anchors | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Collateral:
    """What a verifier needs for `evidence` and its parts; nothing for formats that need nothing.

    transport: None for what the cache has. cache: in memory unless given. at: the time that the
    collateral shall be good for, now by default; services give only what is current. progress: is
    told what is being fetched.

    What comes back is not trusted, `verify` checks it. The evidence may be anybody's: only fields
    of the right form get into a URL. Raises CollateralError, EvidenceRefused.
    """
    source = Source(
        transport,
        cache if cache is not None else MemoryCache(),
        at or datetime.datetime.now(datetime.UTC),
        progress,
    )
    return _fetch(evidence, endpoints, source, anchors or builtin_anchors())


def _fetch(
    evidence: Evidence, endpoints: Endpoints, source: Source, anchors: Anchors
) -> Collateral:
    found = _one(evidence, endpoints, source, anchors)
    parts = (_fetch(part, endpoints, source, anchors) for part in evidence.parts.values())
    return found.merged(*parts)


def _one(evidence: Evidence, endpoints: Endpoints, source: Source, anchors: Anchors) -> Collateral:
    match evidence.format:
        case "amd.sev-snp":
            return _amd(evidence, evidence.data, endpoints, source)
        case "azure.snp":
            return _amd(evidence, azure.parse(evidence.data).hardware, endpoints, source)
        case "intel.sgx.quote" | "intel.tdx.quote":
            return _intel(evidence.data, endpoints, source)
        case "azure.tdx":
            return _intel(evidence.attachments.get("td-quote", b""), endpoints, source)
        case "nvidia.gpu" | "nvidia.nvswitch":
            manifests = endpoint(endpoints.nvidia_rim, "--nvidia-rim", "NVIDIA's manifests")
            responder = endpoint(endpoints.nvidia_ocsp, "--nvidia-ocsp", "NVIDIA's OCSP responses")
            return nvidia.collateral(evidence, manifests, responder, source, anchors)
        case _:
            return Collateral()


def _amd(evidence: Evidence, report: bytes, endpoints: Endpoints, source: Source) -> Collateral:
    base = endpoint(endpoints.amd_kds, "--amd-kds", "AMD's certificates and lists")
    table = evidence.attachments.get("certs")
    brought = {*evidence.attachments, *(read_table(table) if table else ())}
    return kds.collateral(
        snp.parse(report), base, source, endorsed=bool(brought & {"vcek", "vlek"})
    )


def _intel(quote: bytes, endpoints: Endpoints, source: Source) -> Collateral:
    base = endpoint(endpoints.intel_pcs, "--intel-pcs", "Intel's TCB information and lists")
    return pcs.collateral(dcap.parse(quote), base, endpoints.intel_root_crl, source)
