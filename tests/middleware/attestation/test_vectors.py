"""Real evidence from real hardware gives the verdict that its source says it must.

One table: evidence, the time it is judged for, and what comes out. It is the acceptance list of all
verifiers together; each format's own tests go deeper. Where the vectors come from, and under which
licence, stands in tests/vectors/SOURCES.md; more of them are found where SECGEAR_VECTORS points.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation import Anchors, Collateral, builtin_anchors, verify
from secgear.middleware.attestation.anchors import Anchor
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import TcbStatus
from secgear.middleware.attestation.collateral import Document
from secgear.middleware.attestation.importing import import_collateral

Read = Callable[[str], bytes]


class Vector(NamedTuple):
    """One vector. refused: the check it must fall by, or empty; claims: what must come out."""

    evidence: Callable[[Read], Evidence]
    at: str
    refused: str = ""
    claims: Mapping[str, Any] = {}
    collateral: Callable[[Read], Collateral] = lambda _: Collateral()
    anchors: Callable[[Read], Anchors] = lambda _: builtin_anchors()


def file(format_name: str, name: str, **attachments: str) -> Callable[[Read], Evidence]:
    return lambda read: Evidence(
        format_name, read(name), {key: read(path) for key, path in attachments.items()}
    )


def collateral(*names: str) -> Callable[[Read], Collateral]:
    return lambda read: Collateral().merged(
        *(import_collateral(read(name), name) for name in names)
    )


def lunal(fmspc: str) -> Callable[[Read], Collateral]:
    """Intel's answers as they were fetched: documents and their chains in files of their own."""

    def load(read: Read) -> Collateral:
        def chain(name: str) -> tuple[bytes, ...]:
            return tuple(one.der for one in load_pem(read(f"tdx/lunal-collateral-{name}.pem")))

        return Collateral(
            crls=(
                read("tdx/lunal-collateral-root_ca_crl.der"),
                read("tdx/lunal-collateral-pck_crl_platform.der"),
            ),
            documents=(
                Document(
                    "intel.tcb-info",
                    read(f"tdx/lunal-collateral-tcb_info_{fmspc}.json"),
                    f"{fmspc}/tdx",
                    chain("tcb_signing_chain"),
                ),
                Document(
                    "intel.qe-identity",
                    read("tdx/lunal-collateral-td_qe_identity.json"),
                    "tdx",
                    chain("qe_identity_signing_chain"),
                ),
            ),
        )

    return load


def cpak(name: str) -> Callable[[Read], Anchors]:
    def load(read: Read) -> Anchors:
        from secgear.middleware.attestation.formats.arm_keys import key_from_jwk

        return Anchors(keys=(key_from_jwk("cpak", read(name)),))

    return load


def huawei_report(read: Read) -> Evidence:
    return Evidence("huawei.itrustee", _c_array(read, "report_noas"))


def _c_array(read: Read, name: str) -> bytes:
    text = read("itrustee/kunpengsecl-testdata.h").decode()
    body = re.search(rf"{name}\[\]\s*=\s*\{{(.*?)\}}", text, re.DOTALL)
    assert body
    return bytes(int(number, 16) for number in re.findall(r"0x[0-9a-fA-F]{1,2}", body[1]))


def nitro_base64(read: Read) -> Evidence:
    text = read("nitro/evervault-valid-attestation-doc.b64")
    return Evidence("aws.nitro", base64.b64decode(text))


def azure(name: str) -> Callable[[Read], Evidence]:
    def load(read: Read) -> Evidence:
        from secgear.middleware.attestation.formats.tpm.azure_coco import from_coco

        return from_coco(read(name))

    return load


def nvidia(name: str, index: int = 0) -> Callable[[Read], Evidence]:
    def load(read: Read) -> Evidence:
        from secgear.middleware.attestation.formats.nvidia.exchange import evidence_from_nvat

        return evidence_from_nvat(read(name))[index]

    return load


TDX, SGX, SNP = "intel.tdx.quote", "intel.sgx.quote", "amd.sev-snp"
UP_TO_DATE, OUT_OF_DATE = TcbStatus.UP_TO_DATE, TcbStatus.OUT_OF_DATE
DCAP_QVL = "tdx/dcapqvl-tdx_quote"

VECTORS: dict[str, Vector] = {
    # --- SEV-SNP ---------------------------------------------------------------------------------
    "snp v2 milan, debug": Vector(
        file(SNP, "snp/gosev-milan-attestation.bin", vcek="snp/gosev-milan-vcek.der"),
        "2026-01-01",
        claims={"tee": "snp", "debug": True, "simulated": False},
    ),
    "snp v3 milan": Vector(
        file(SNP, "snp/msft-milan_attestation_report.bin", vcek="snp/msft-milan_vcek.pem"),
        "2026-03-01",
        claims={"tee": "snp", "debug": False},
    ),
    "snp v3 genoa": Vector(
        file(SNP, "snp/msft-genoa_attestation_report.bin", vcek="snp/msft-genoa_vcek.pem"),
        "2026-03-01",
        claims={"tee": "snp", "debug": False},
    ),
    "snp v3 genoa before its certificate": Vector(
        file(SNP, "snp/msft-genoa_attestation_report.bin", vcek="snp/msft-genoa_vcek.pem"),
        "2026-01-01",
        refused="validity",
    ),
    "snp v2 milan, trustee": Vector(
        file(SNP, "snp/trustee-test-report.bin", vcek="snp/trustee-test-vcek.der"),
        "2026-01-01",
        claims={"tee": "snp"},
    ),
    "snp report under another VCEK, legacy": Vector(
        file(SNP, "snp/trustee-test-report.bin", vcek="snp/trustee-test-vcek-invalid-legacy.der"),
        "2026-01-01",
        refused="*",
    ),
    "snp report under another VCEK, new": Vector(
        file(SNP, "snp/trustee-test-report.bin", vcek="snp/trustee-test-vcek-invalid-new.der"),
        "2026-01-01",
        refused="*",
    ),
    "snp v3 VLEK while it lived": Vector(
        file(SNP, "snp/trustee-test-vlek-report.bin", vlek="snp/trustee-test-vlek.der"),
        "2025-06-01",
        claims={"tee": "snp"},
    ),
    "snp v3 VLEK after its end": Vector(
        file(SNP, "snp/trustee-test-vlek-report.bin", vlek="snp/trustee-test-vlek.der"),
        "2026-01-01",
        refused="validity",
    ),
    # --- TDX and SGX -----------------------------------------------------------------------------
    "tdx v4": Vector(
        file(TDX, DCAP_QVL),
        "2025-06-19T11:32",
        claims={"tee": "tdx", "tcb.status": UP_TO_DATE, "debug": False},
        collateral=collateral(f"{DCAP_QVL}_collateral.json"),
    ),
    "tdx v4, stale collateral": Vector(
        file(TDX, DCAP_QVL),
        "2026-01-01",
        refused="*",
        collateral=collateral(f"{DCAP_QVL}_collateral.json"),
    ),
    "tdx v4, no TCB level fits": Vector(
        file(TDX, f"{DCAP_QVL}_outdated"),
        "2026-02-20",
        refused="tcb",
        collateral=collateral(f"{DCAP_QVL}_outdated_collateral.json"),
    ),
    "tdx v5": Vector(
        file(TDX, "tdx/gotdx-quote_v5_sample.dat"),
        "2026-03-17T22:00",
        claims={"tee": "tdx", "tcb.status": UP_TO_DATE},
        collateral=lunal("90c06f000000"),
    ),
    "tdx v4 SPR E4, no TCB level fits": Vector(
        file(TDX, "tdx/gotdx-tdx_prod_quote_SPR_E4.dat"),
        "2026-03-17T22:00",
        refused="*",
        collateral=lunal("50806f000000"),
    ),
    "tdx v5 trustee, no TCB level fits": Vector(
        file(TDX, "tdx/trustee-tdx_quote_5.dat"),
        "2026-03-17T22:00",
        refused="*",
        collateral=lunal("50806f000000"),
    ),
    "tdx with the log of another boot": Vector(
        file(TDX, "tdx/lunal-tdx_quote_live.dat", ccel="tdx/lunal-tdx_ccel_live.bin"),
        "2026-04-10",
        refused="event-log",
    ),
    "tdx with an unrelated log": Vector(
        file(TDX, "tdx/trustee-tdx_quote_5.dat", ccel="tdx/trustee-CCEL_data"),
        "2026-03-17T22:00",
        refused="event-log",
    ),
    "tdreport, guest-components": Vector(
        file(TDX, "tdx/guestcomp-tdx_report_1.bin"), "2026-01-01", refused="format"
    ),
    "tdreport, go-tdx-guest": Vector(
        file(TDX, "tdx/gotdx-report.dat"), "2026-01-01", refused="format"
    ),
    "tdreport, live": Vector(
        file(TDX, "tdx/lunal-tdx_tdreport_live.bin"), "2026-01-01", refused="format"
    ),
    "sgx v3": Vector(
        file(SGX, "sgx/dcapqvl-sgx_quote"),
        "2025-06-19T11:32",
        claims={
            "tee": "sgx",
            "tcb.status": TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED,
            "tcb.advisories": ("INTEL-SA-00289", "INTEL-SA-00615"),
        },
        collateral=collateral("sgx/dcapqvl-sgx_quote_collateral.json"),
    ),
    # --- Nitro -----------------------------------------------------------------------------------
    "nitro, debug": Vector(
        nitro_base64, "2023-09-18T15:05", claims={"tee": "nitro", "debug": True}
    ),
    "nitro, three hours later": Vector(nitro_base64, "2023-09-18T19:00", refused="validity"),
    "nitro, debug mode": Vector(
        file("aws.nitro", "nitro/evervault-debug-mode-attestation-doc.bin"),
        "2022-10-12T13:51",
        claims={"tee": "nitro", "debug": True},
    ),
    # --- Arm -------------------------------------------------------------------------------------
    "cca, trustee": Vector(
        file("arm.cca", "cca/trustee-cca-example-token.cbor"),
        "2026-01-01",
        claims={"tee": "cca"},
        anchors=cpak("cca/trustee-cpak-pub.json"),
    ),
    "cca under another platform key": Vector(
        file("arm.cca", "cca/veraison-cca-good.cbor"),
        "2026-01-01",
        refused="*",
        anchors=cpak("cca/secgear-cpak.json"),
    ),
    "cca without any platform key": Vector(
        file("arm.cca", "cca/trustee-cca-example-token.cbor"), "2026-01-01", refused="*"
    ),
    # --- iTrustee --------------------------------------------------------------------------------
    "itrustee": Vector(
        huawei_report,
        "2026-01-01",
        claims={"tee": "itrustee", "product": "f68fd704-6eb1-4d14-b218-722850eb3ef0"},
    ),
    # --- Azure -----------------------------------------------------------------------------------
    "azure snp v1": Vector(
        azure("vtpm/trustee-azsnp-evidence-v1.json"), "2026-01-01", claims={"tee": "snp"}
    ),
    "azure snp genoa": Vector(
        azure("vtpm/trustee-azsnp-evidence-genoa.json"), "2026-01-01", claims={"tee": "snp"}
    ),
    "azure tdx v0": Vector(
        azure("vtpm/trustee-aztdx-evidence-v0.json"), "2024-06-01", claims={"tee": "tdx"}
    ),
    # --- NVIDIA ----------------------------------------------------------------------------------
    "hopper": Vector(
        nvidia("nvidia/nvat-hopper_evidence.json"), "2026-01-01", claims={"tee": "gpu"}
    ),
    "hopper, several": Vector(
        nvidia("nvidia/nvat-multi_gpu_hopper.json", 3), "2026-01-01", claims={"tee": "gpu"}
    ),
    "hopper, certificate on hold": Vector(
        nvidia("nvidia/nvat-hopper_evidence_cert_hold.json"), "2026-01-01", claims={"tee": "gpu"}
    ),
}

# Where a vendor's chain is not the matter, revocation lists are not there either.
MISSING = {"revocation", "tcb", "qe-identity", "measurements", "tdx-module"}


@pytest.mark.parametrize("name", VECTORS)
def test_the_vector_gives_the_verdict_of_its_source(name: str, vector: Read) -> None:
    case = VECTORS[name]
    evidence = case.evidence(vector)
    at = datetime.datetime.fromisoformat(case.at).replace(tzinfo=datetime.UTC)
    arguments: dict[str, Any] = {
        "at": at,
        "collateral": case.collateral(vector),
        "anchors": case.anchors(vector),
    }
    if case.refused:
        with pytest.raises(EvidenceRefused) as caught:
            verify(evidence, **arguments)
        last = caught.value.checks[-1]
        assert isinstance(last, Check)
        assert last.outcome is Outcome.FAIL
        assert case.refused in ("*", last.name), caught.value
        return
    claims = verify(evidence, **arguments)
    for path, expected in case.claims.items():
        found: Any = claims
        for step in path.split("."):
            found = getattr(found, step)
        assert found == expected, path
    assert claims.measurements["launch"]
    json.dumps(claims.to_dict())


def test_nothing_that_was_not_checked_is_forgotten(vector: Read) -> None:
    """Without collateral a genuine quote is authentic, and says what nobody has looked at."""
    claims = verify(
        file(TDX, DCAP_QVL)(vector), at=datetime.datetime(2025, 6, 19, 12, tzinfo=datetime.UTC)
    )
    assert {check.name for check in claims.not_checked} >= {"revocation", "tcb"}
    assert claims.tcb.status is TcbStatus.NOT_ASSESSED


def test_the_root_of_real_evidence_is_built_in(vector: Read) -> None:
    claims = verify(
        nitro_base64(vector), at=datetime.datetime(2023, 9, 18, 15, 5, tzinfo=datetime.UTC)
    )
    assert claims.root.builtin
    root = builtin_anchors().of("aws")[0]
    laboratory = Anchors((Anchor(root.name, "aws", root.certificate),))
    claims = verify(
        nitro_base64(vector),
        at=datetime.datetime(2023, 9, 18, 15, 5, tzinfo=datetime.UTC),
        anchors=laboratory,
    )
    assert not claims.root.builtin
