"""Real evidence of NVIDIA devices, in the form of NVIDIA's SDK and as bare reports."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral, Document
from secgear.middleware.attestation.formats.nvidia import rim, spdm
from secgear.middleware.attestation.formats.nvidia.exchange import evidence_from_nvat
from secgear.middleware.attestation.formats.nvidia.spdm import Field
from secgear.middleware.attestation.verification import verify

Read = Callable[[str], bytes]

# NVIDIA's device certificates never end; the signers of its manifests last two years.
AT = datetime.datetime(2025, 6, 1, tzinfo=datetime.UTC)

BUNDLES = {
    "nvat-hopper_evidence.json": 1,
    "nvat-hopper_evidence_cert_hold.json": 1,
    "nvat-multi_gpu_hopper.json": 4,
    "nvat-ut-evidence_hopper_590_12.json": 1,
    "nvtrust-ppcie-gpu_evidence.json": 8,
}
REPORTS = {
    "nvat-ut-hopperAttestationReport.txt": "nvat-ut-hopperCertChain.txt",
    "nvat-ut-hopperAttestationReportExpired.txt": "nvat-ut-hopperCertChainExpired.txt",
    "nvtrust-hopperAttestationReport.txt": "nvtrust-hopperCertChain.txt",
}

needs_gpu_extra = pytest.mark.skipif(not rim.available(), reason="needs the extra gpu")


def bare(vector: Read, report: str, chain: str) -> Evidence:
    data = bytes.fromhex(vector(f"nvidia/{report}").decode())
    return Evidence("nvidia.gpu", data, {"chain": vector(f"nvidia/{chain}")})


def refused(check: str, evidence: Evidence, collateral: Collateral | None = None) -> Check:
    with pytest.raises(EvidenceRefused) as caught:
        verify(evidence, at=AT, collateral=collateral)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return last


def outcome(claims: Claims, name: str) -> Outcome:
    return next(check.outcome for check in claims.checks if check.name == name)


@pytest.mark.parametrize("name", BUNDLES)
def test_evidence_of_nvidias_sdk_is_authentic(name: str, vector: Read) -> None:
    content = vector(f"nvidia/{name}")
    devices = evidence_from_nvat(content)
    assert len(devices) == BUNDLES[name]
    for device, item in zip(devices, json.loads(content), strict=True):
        claims = verify(device, at=AT)
        assert claims.report_data.hex() == item["nonce"]
        assert claims.root.name == "nvidia-device-identity"
        assert claims.root.builtin
        assert claims.product == "GH100 A01 GSP BROM"
        assert len(claims.measurements) == 65
        assert outcome(claims, "binding.firmware") is Outcome.PASS
        assert claims.details["driver_version"] == item.get(
            "driver_version", claims.details["driver_version"]
        )
        assert claims.details["vbios_version"] == item.get(
            "vbios_version", claims.details["vbios_version"]
        )


def test_the_devices_of_one_machine_are_different_ones(vector: Read) -> None:
    devices = evidence_from_nvat(vector("nvidia/nvtrust-ppcie-gpu_evidence.json"))
    claims = [verify(device, at=AT) for device in devices]
    assert len({item.platform["serial"] for item in claims}) == 8
    assert {item.details["protected_pcie"] for item in claims} == {True}
    assert {item.details["mode"] for item in claims} == {"protected-pcie"}


@pytest.mark.parametrize("report", REPORTS)
def test_bare_reports_are_authentic(report: str, vector: Read) -> None:
    claims = verify(bare(vector, report, REPORTS[report]), at=AT)
    assert claims.tee == "gpu"


def test_claims_are_those_of_nvidias_own_service(vector: Read) -> None:
    """nvtrust's report, which NVIDIA's service once appraised."""
    theirs = json.loads(vector("nvidia/nvat-ut-hopperClaimsv3_decoded.json"))["GPU-0"]
    evidence = bare(vector, "nvtrust-hopperAttestationReport.txt", "nvtrust-hopperCertChain.txt")
    claims = verify(evidence, at=AT)
    assert claims.platform["ueid"] == theirs["ueid"]
    assert claims.product == theirs["hwmodel"]
    assert claims.report_data.hex() == theirs["eat_nonce"]
    assert claims.details["driver_version"] == theirs["x-nvidia-gpu-driver-version"]
    assert claims.details["vbios_version"] == theirs["x-nvidia-gpu-vbios-version"]


def test_fields_are_those_of_trustees_parser(vector: Read) -> None:
    theirs = json.loads(vector("nvidia/trustee-hopperAttestationReport-claims.txt"))["config"]
    evidence = bare(vector, "nvtrust-hopperAttestationReport.txt", "nvtrust-hopperCertChain.txt")
    report = spdm.parse(evidence.data)
    for field in ("driver_version", "project", "project_sku", "chip_sku", "chip_sku_mod"):
        assert report.text(Field[field.upper()]) == theirs[field]
    for field in ("board_id", "cpr_info", "gpu_info", "fwid"):
        raw = report.raw(Field[field.upper().replace("CPR_INFO", "CPRINFO")])
        assert raw is not None
        assert raw.hex() == theirs[field]
    assert verify(evidence, at=AT).details["vbios_version"] == theirs["vbios_version"].upper()


def test_trustees_report_has_a_byte_too_many(vector: Read) -> None:
    chain = "trustee-hopper_coco_certs1.txt"
    evidence = bare(vector, "trustee-hopper_coco_report1.txt", chain)
    assert "after its end" in refused("format", evidence).detail
    exact = Evidence(evidence.format, evidence.data[:-1], evidence.attachments)
    assert verify(exact, at=AT).details["driver_version"] == "580.95.05"


def test_nvidias_invalid_signature_is_refused(vector: Read) -> None:
    report = "nvat-ut-hopperAttestationReportInvalidSignature.txt"
    refused("signature", bare(vector, report, "nvat-ut-hopperCertChain.txt"))


def test_a_report_under_another_gpus_certificate_is_refused(vector: Read) -> None:
    report = "nvat-ut-hopperAttestationReport.txt"
    refused("signature", bare(vector, report, "nvtrust-hopperCertChain.txt"))


@pytest.mark.parametrize(
    ("chain", "check"),
    [
        ("trustee-hopper_cert_chain_case2.txt", "signature"),  # the root alone
        ("trustee-hopper_cert_chain_case3.txt", "certificate-chain"),  # without the provisioner
        ("trustee-hopper_cert_chain_case4.txt", "signature"),  # without the leaf
    ],
)
def test_broken_chains_are_refused(chain: str, check: str, vector: Read) -> None:
    refused(check, bare(vector, "nvtrust-hopperAttestationReport.txt", chain))
    good = bare(
        vector, "nvtrust-hopperAttestationReport.txt", "trustee-hopper_cert_chain_case1.txt"
    )
    verify(good, at=AT)


def test_flipped_and_truncated_evidence_is_refused(vector: Read) -> None:
    (evidence,) = evidence_from_nvat(vector("nvidia/nvat-hopper_evidence.json"))
    for at in range(0, len(evidence.data), 29):
        data = bytearray(evidence.data)
        data[at] ^= 1 << at % 8
        with pytest.raises(EvidenceRefused):
            verify(Evidence(evidence.format, bytes(data), evidence.attachments), at=AT)
    for size in range(0, len(evidence.data), 101):
        with pytest.raises(EvidenceMalformed):
            verify(Evidence(evidence.format, evidence.data[:size], evidence.attachments), at=AT)


# --- manifests. Of driver 535.86.09 there is none here with a good signature.

REPORT, CHAIN = "nvat-ut-hopperAttestationReport.txt", "nvat-ut-hopperCertChain.txt"
DRIVER, VBIOS = "NV_GPU_DRIVER_GH100_535.86.09", "NV_GPU_VBIOS_1010_0200_882_96005E0001"


def collateral(vector: Read, name: str, file: str) -> Collateral:
    document = Document(kind="nvidia.rim", name=name, data=vector(f"nvidia/{file}"))
    return Collateral(documents=(document,))


@needs_gpu_extra
def test_a_real_gpu_has_the_golden_values_of_its_vbios(vector: Read) -> None:
    given = collateral(vector, VBIOS, "nvtrust-1010_0200_882_96005E0001_PROD.swidtag")
    claims = verify(bare(vector, REPORT, CHAIN), at=AT, collateral=given)
    for check in ("signature", "certificate-chain", "root", "validity"):
        assert outcome(claims, f"rim.vbios.{check}") is Outcome.PASS
    missing = next(check for check in claims.not_checked if check.name == "measurements")
    assert DRIVER in missing.detail
    assert VBIOS not in missing.detail


@needs_gpu_extra
@pytest.mark.parametrize(
    ("file", "indices"),
    [
        ("nvtrust-1010_0200_882_96005E0001_test_no_gpu.swidtag", "01, 02, 03, 09"),
        ("nvat-ut-NV_GPU_VBIOS_1010_0200_882_96005E0001_measurement_mismatch.xml", "09"),
    ],
)
def test_a_mismatch_is_refused_and_the_measurements_are_named(
    file: str, indices: str, vector: Read
) -> None:
    last = refused("measurements", bare(vector, REPORT, CHAIN), collateral(vector, VBIOS, file))
    assert last.detail.endswith(f"measurements {indices}")


@needs_gpu_extra
def test_a_manifest_is_refused_after_its_signers_end(vector: Read) -> None:
    given = collateral(vector, VBIOS, "nvtrust-1010_0200_882_96005E0001_PROD.swidtag")
    later = datetime.datetime(2025, 7, 1, tzinfo=datetime.UTC)
    with pytest.raises(EvidenceRefused, match=r"^rim\.vbios\.validity"):
        verify(bare(vector, REPORT, CHAIN), at=later, collateral=given)


@needs_gpu_extra
@pytest.mark.parametrize(
    ("file", "check"),
    [
        ("nvat-ut-NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch.xml", "rim.driver.signature"),
        ("nvat-ut-incorrect_signature_driver_rim.xml", "rim.driver.signature"),
        ("nvat-ut-incorrect_cert_chain_driver_rim.xml", "rim.driver.certificate-chain"),
        ("nvat-ut-NV_GPU_DRIVER_GH100_550.144.03.xml", "measurements"),  # another version
        ("nvtrust-Driver_RIM_test_no_gpu.swidtag", "measurements"),  # another version
    ],
)
def test_wrong_driver_manifests_are_refused(file: str, check: str, vector: Read) -> None:
    refused(check, bare(vector, REPORT, CHAIN), collateral(vector, DRIVER, file))


# --- the form of NVIDIA's SDK


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"[1]",
        b'[{"arch": "HOPPER"}]',
        b'[{"arch": "HOPPER", "evidence": "!", "certificate": ""}]',
        b'[{"arch": "HOPPER", "evidence": "\xc3\xa4", "certificate": ""}]',
        b'[{"arch": 1, "evidence": "", "certificate": ""}]',
        b"[" * 100_000,
        b"[" + b'{"arch":"HOPPER","evidence":"","certificate":""},' * 65 + b"1]",
    ],
)
def test_files_of_another_form_are_malformed(content: bytes) -> None:
    with pytest.raises(EvidenceMalformed, match=r"^format: "):
        evidence_from_nvat(content)


def test_too_many_devices_and_unknown_ones_are_refused() -> None:
    one = {"arch": "HOPPER", "evidence": "", "certificate": ""}
    with pytest.raises(EvidenceMalformed, match="65"):
        evidence_from_nvat(json.dumps([one] * 65).encode())
    with pytest.raises(EvidenceUnsupported, match="AMPERE"):
        evidence_from_nvat(json.dumps([one | {"arch": "AMPERE"}]).encode())
    (switch,) = evidence_from_nvat(json.dumps([one | {"arch": "LS10"}]).encode())
    assert switch.format == "nvidia.nvswitch"
