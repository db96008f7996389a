"""Real files that are no whole evidence by themselves: what is in them is what their makers say.

Event logs against the lists that another implementation made of them; a bare TPM quote under its
own key; paravisor reports; roots; and files in other projects' forms, to be refused in order.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation import Anchors, builtin_anchors, verify
from secgear.middleware.attestation.anchors import read_anchors
from secgear.middleware.attestation.certificates import load_certificate, load_pem
from secgear.middleware.attestation.eventlog import tcg
from secgear.middleware.attestation.formats.snp.certificates import intermediates
from secgear.middleware.attestation.formats.tpm import azure
from secgear.middleware.attestation.formats.tpm.pcrs import write_values
from secgear.middleware.attestation.recognition import recognise
from tests.adversary.vendors.pki import ec_key

Read = Callable[[str], bytes]
AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "name",
    [
        "trustee-CCEL_AAEL_alibabacloud",
        "trustee-CCEL_data_csv",
        "trustee-CCEL_data_grub",
        "trustee-CCEL_data_grub_gke",
        "trustee-CCEL_data_ovmf",
    ],
)
def test_a_log_has_the_events_that_another_reader_finds(vector: Read, name: str) -> None:
    log = tcg.parse(vector(f"eventlog/{name}"))
    expected = json.loads(vector(f"eventlog/{name}_out.json"))["uefi_event_logs"]
    (algorithm,) = log.algorithms
    # The first event only says how the log is written; their reader leaves it out.
    found = [event for event in log.events if algorithm in event.digests][-len(expected) :]
    assert len(found) == len(expected)
    for event, other in zip(found, expected, strict=True):
        assert event.digests[algorithm].hex() == other["digests"][0]["digest"].lower()
        assert event.data == base64.b64decode(other["event"])
        assert event.register == other["index"]


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("dstack-ccel.bin", 19),
        ("dstack-tpm_eventlog.bin", 46),
        ("gotpm-confidential-gke-debug-251000_eventlog.bin", 55),
        ("gotpm-cos-101-amd-sev.bin", 49),
        ("gotpm-eventlogwithsp800155.bin", 54),
        ("gotpm-ubuntu-2104-no-secure-boot.bin", 106),
        ("trustee-CCEL_data_gcp", 22),
    ],
)
def test_logs_of_many_machines_are_read_and_replayed(vector: Read, name: str, events: int) -> None:
    log = tcg.parse(vector(f"eventlog/{name}"))
    assert len(log.events) == events
    for algorithm in log.algorithms:
        if algorithm != "sm3":
            assert log.replay(algorithm)


def _quote(vector: Read, **changes: bytes) -> tuple[Evidence, bytes]:
    """A bare quote as evidence, and its attestation key in PEM."""
    content = json.loads(vector("vtpm/trustee-tpm_evidence.json"))
    quote = content["tpm_quote"]
    key = serialization.load_der_public_key(base64.b64decode(content["ak_public"]))
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pcrs = {index: bytes.fromhex(value) for index, value in enumerate(quote["pcrs"])}
    attachments = {
        "signature": base64.b64decode(quote["signature"]),
        "pcrs": write_values({"sha256": pcrs}),
        "ak": pem,
    }
    data = base64.b64decode(quote["message"])
    return Evidence("tpm.quote", data, attachments | changes), pem


def test_a_real_quote_is_good_under_its_own_key_and_no_other(vector: Read) -> None:
    evidence, pem = _quote(vector)
    claims = verify(evidence, at=AT, anchors=read_anchors("tpm", "ak", pem))
    assert claims.tee == "tpm"
    assert not claims.root.builtin
    assert {name for name in claims.measurements if name.startswith("pcr")}
    with pytest.raises(EvidenceRefused, match="root"):
        verify(evidence, at=AT, anchors=Anchors())
    other = ec_key().public_key()
    stranger = other.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(EvidenceRefused):
        verify(evidence, at=AT, anchors=read_anchors("tpm", "ak", stranger))


@pytest.mark.parametrize(("name", "kind"), [("snp", 2), ("tdx", 4)])
def test_paravisors_reports_name_their_hardware_and_key(vector: Read, name: str, kind: int) -> None:
    report = azure.parse(vector(f"vtpm/azcvm-hcl-report-{name}.bin"))
    assert report.kind == kind
    assert azure.attestation_key(report.runtime).key_size == 2048


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("amd", "snp/msft-milan_ark.pem"),
        ("amd", "snp/msft-genoa_ark.pem"),
        ("amd", "snp/msft-turin_ark.pem"),
        ("intel", "sgx/intel-TrustedRootCA.der"),
        ("aws", "nitro/aws-nitro-root-g1.pem"),
        ("nvidia", "nvidia/nvtrust-verifier_device_root.pem"),
        ("nvidia-rim", "nvidia/nvtrust-verifier_RIM_root.pem"),
        ("huawei", "itrustee/huawei-it-product-ca.pem"),
    ],
)
def test_the_roots_that_vendors_publish_are_those_built_in(
    vector: Read, family: str, name: str
) -> None:
    data = vector(name)
    root = load_pem(data)[-1] if b"-----BEGIN" in data else load_certificate(data)
    found = [anchor.certificate for anchor in builtin_anchors().roots if anchor.family == family]
    assert root.der in [certificate.der for certificate in found]


@pytest.mark.parametrize("product", ["milan", "genoa", "turin"])
def test_amds_intermediates_are_those_built_in(vector: Read, product: str) -> None:
    published = load_pem(vector(f"snp/trustee-{product}_ask_ark_asvk.pem"))
    mine = {certificate.der for certificate in intermediates()}
    roots = {anchor.certificate.der for anchor in builtin_anchors().roots}
    assert {certificate.der for certificate in published} <= mine | roots


@pytest.mark.parametrize(
    "name",
    [
        "nvidia/dstack-gpu_attestation_h100.json",
        "sgx/openenclave-evidence",
        "snp/dstack-sev_snp_attestation.bin",
        "vtpm/gotpm-gce-cos-85-nonce9009.pb",
        "vtpm/veraison-parsec-tpm-evidence.cbor",
        "itrustee/kunpengsecl-daa-pubkey",
        "tdx/gotdx-ccel_table.dat",
    ],
)
def test_other_projects_containers_are_refused_in_order(vector: Read, name: str) -> None:
    with pytest.raises(EvidenceRefused):
        verify(recognise(vector(name)), at=AT)
