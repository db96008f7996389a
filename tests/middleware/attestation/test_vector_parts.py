"""Real files that go with other real files: what one says of the other holds, and only of that one.

Keys and reference values of a machine, halves of a paravisor's evidence, certificates that came in
files of their own, documents of services, and files in forms that are no evidence.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused, KeyFileError, PolicyError, ResultInvalid
from secgear.middleware.attestation import (
    Anchors,
    ReferenceValues,
    builtin_anchors,
    examine,
    import_collateral,
    load_policy,
    load_reference_values,
    verify,
)
from secgear.middleware.attestation.certificates import load_pem
from secgear.middleware.attestation.eventlog import tcg
from secgear.middleware.attestation.formats.arm_keys import key_from_jwk
from secgear.middleware.attestation.formats.dcap import qeidentity, quote, tcbinfo
from secgear.middleware.attestation.formats.snp.certificates import (
    intermediates,
    read_endorsement,
)
from secgear.middleware.attestation.formats.tpm import azure, structures
from secgear.middleware.attestation.recognition import recognise
from secgear.middleware.attestation.reference import comid
from secgear.middleware.attestation.reference.corim import read_corim
from secgear.middleware.attestation.results import new_key, public_keys, verify_jwt

E4_SIZE = 4935  # bytes of the quote; what follows in the file is the rest of a larger buffer
Read = Callable[[str], bytes]
AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


# --- Arm CCA: the owner's stores -----------------------------------------------------------------


def _owner(vector: Read) -> tuple[Anchors, ReferenceValues]:
    """Trust anchors and reference values as Confidential Containers' verifier keeps them."""
    anchors = Anchors(
        keys=tuple(
            key_from_jwk(
                "owner", json.dumps(entry["pkey"]).encode(), bytes.fromhex(entry["instance-id"])
            )
            for entry in json.loads(vector("cca/trustee-tastore.json"))
        )
    )
    store = json.loads(vector("cca/trustee-rvstore.json"))
    values = [
        {
            "name": "platform",
            "tee": "cca",
            "about": "platform",
            "platform": {"implementation_id": entry["implementation-id"]},
            "measurements": {
                part["component-type"]: part["measurement-value"] for part in entry["sw-components"]
            },
        }
        for entry in store["platform"]
    ] + [
        {"name": "realm", "tee": "cca", "measurements": {"launch": entry["initial-measurement"]}}
        for entry in store["realm"]
    ]
    text = json.dumps({"secgear-reference-values": 1, "values": values})
    return anchors, load_reference_values(text.encode())


POLICY = load_policy(b"""
name = "owner"
[accept]
tees = ["cca"]
reference_values = true
[allow]
test_roots = true
[freshness]
report_data = "optional"
""")


def test_a_token_is_trusted_by_what_its_owner_keeps(vector: Read) -> None:
    anchors, values = _owner(vector)
    evidence = Evidence("arm.cca", vector("cca/trustee-cca-example-token.cbor"))
    verdict = examine(evidence, POLICY, at=AT, anchors=anchors, reference_values=values)
    assert verdict.trusted, verdict.explain()
    for left_out in values.values:
        rest = ReferenceValues(tuple(value for value in values.values if value != left_out))
        assert not examine(evidence, POLICY, at=AT, anchors=anchors, reference_values=rest).trusted


@pytest.mark.parametrize("name", ["veraison-cca-good.cbor", "veraison-e2e-cca-evidence.cbor"])
def test_tokens_of_other_machines_are_not(vector: Read, name: str) -> None:
    anchors, values = _owner(vector)
    evidence = Evidence("arm.cca", vector(f"cca/{name}"))
    verdict = examine(evidence, POLICY, at=AT, anchors=anchors, reference_values=values)
    assert [check.name for check in verdict.reasons] == ["root"]


# --- Azure: halves of evidence -------------------------------------------------------------------


def test_a_paravisors_report_and_its_td_quote_belong_together(vector: Read) -> None:
    report = azure.parse(vector("vtpm/trustee-aztdx-hcl-report.bin"))
    body = quote.parse(vector("vtpm/trustee-aztdx-td-quote.bin")).body
    bound = hashlib.new(report.digest, report.runtime).digest().ljust(64, b"\0")
    assert body.report_data == bound
    other = azure.parse(vector("vtpm/azcvm-hcl-report-tdx.bin"))
    assert hashlib.new(other.digest, other.runtime).digest().ljust(64, b"\0") != bound


@pytest.mark.parametrize(("name", "other"), [("azsnp", "aztdx"), ("aztdx", "azsnp")])
def test_a_quote_is_by_the_key_in_its_own_paravisors_report(
    vector: Read, name: str, other: str
) -> None:
    content = json.loads(vector(f"vtpm/trustee-{name}-tpm-quote-v1.json"))
    made = structures.parse_quote(bytes.fromhex(content["message"]))
    signature = structures.Signature("rsassa", "sha256", bytes.fromhex(content["signature"]))

    def fault(machine: str) -> str | None:
        report = azure.parse(vector(f"vtpm/trustee-{machine}-hcl-report.bin"))
        return structures.signature_fault(made, signature, azure.attestation_key(report.runtime))

    assert fault(name) is None
    assert fault(other) is not None
    values = {"sha256": dict(enumerate(map(bytes.fromhex, content["pcrs"])))}
    assert structures.pcr_digest(made, "sha256", values) == made.digest
    values["sha256"][4] = bytes(32)
    assert structures.pcr_digest(made, "sha256", values) != made.digest


def test_keys_in_files_of_their_own_are_those_of_no_other_machine(vector: Read) -> None:
    apart = load_pem_public_key(vector("vtpm/azcvm-akpub.pem"))
    runtime = vector("vtpm/azcvm-var-data.bin").rstrip(b"\0")
    assert azure.attestation_key(runtime).key_size == 2048
    for name in ("snp", "tdx"):
        report = azure.parse(vector(f"vtpm/azcvm-hcl-report-{name}.bin"))
        assert azure.attestation_key(report.runtime) != apart


# --- certificates --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "snp/gosev-milan-ask-ark.pem",
        "snp/gosev-milan-asvk-ark.pem",
        "snp/msft-milan_ask.pem",
        "snp/msft-genoa_ask.pem",
        "snp/msft-turin_ask.pem",
        "nvidia/nvat-ut-rim_root.crt",
    ],
)
def test_authorities_that_others_publish_are_those_built_in(vector: Read, name: str) -> None:
    mine = {certificate.der for certificate in intermediates()}
    mine |= {anchor.certificate.der for anchor in builtin_anchors().roots}
    assert {certificate.der for certificate in load_pem(vector(name))} <= mine


def test_an_endorsement_in_a_chain_is_read_like_one_alone(vector: Read) -> None:
    genoa = load_pem(vector("vtpm/trustee-azsnp-vcek-genoa.pem"))[0]
    assert read_endorsement(genoa).line.value == "Genoa"
    chain = load_pem(vector("vtpm/azcvm-certs.pem"))
    assert [certificate.common_name for certificate in chain] == [
        "SEV-VCEK",
        "SEV-Milan",
        "ARK-Milan",
    ]
    assert read_endorsement(chain[0]).line.value == "Milan"


def test_a_devices_certificate_alone_is_the_first_of_its_chain(vector: Read) -> None:
    (alone,) = load_pem(vector("nvidia/trustee-hopper_signing_cert.pem"))
    assert load_pem(vector("nvidia/trustee-hopper_cert_chain_case1.txt"))[0] == alone


@pytest.mark.parametrize("name", ["rootCaCrl", "intermediateCaCrl"])
def test_lists_in_pem_are_those_in_der(vector: Read, name: str) -> None:
    found = import_collateral(vector(f"sgx/intelqvl-{name}.pem"), name)
    assert found.crls == (vector(f"sgx/intelqvl-{name}.der"),)


# --- Intel's documents, as their service answers --------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subject", "issued"),
    [
        ("tdx/gotdx-sample_tcbInfo_response", ("tdx", "50806f000000"), "2023-06-18"),
        ("tdx/gotdx-sample_tcbinfo_response_v5", ("tdx", "90c06f000000"), "2026-02-01"),
        ("sgx/trustee-tcbInfo.json", ("tdx", "00a06d080000"), "2025-10-27"),
    ],
)
def test_tcb_information_of_other_platforms_is_read(
    vector: Read, name: str, subject: tuple[str, str], issued: str
) -> None:
    (document,) = import_collateral(vector(name), name).documents
    found = tcbinfo.parse(document.data)
    assert ((found.tee, found.fmspc.hex()), found.issued.date().isoformat()) == (subject, issued)


@pytest.mark.parametrize(
    ("name", "tee"),
    [
        ("tdx/gotdx-sample_qeIdentity_response", "tdx"),
        ("sgx/trustee-enclaveIdentity.json", "tdx"),
        ("sgx/intelqvl-qveIdentity.json", "qve"),
    ],
)
def test_identities_of_enclaves_are_read_and_not_mistaken(
    vector: Read, name: str, tee: str
) -> None:
    (document,) = import_collateral(vector(name), name).documents
    assert qeidentity.parse(document.data).tee == tee


def test_documents_of_2023_say_nothing_about_2026(vector: Read) -> None:
    """A genuine quote, genuine TCB information of its platform: too old by then."""
    names = (
        "tdx/gotdx-sample_tcbInfo_response",
        "tdx/lunal-collateral-tcb_signing_chain.pem",
        "tdx/lunal-collateral-td_qe_identity.json",
        "tdx/lunal-collateral-pck_crl_platform.der",
        "tdx/lunal-collateral-root_ca_crl.der",
    )
    collateral = import_collateral(vector("tdx/gotdx-rootcrl.der"), "crl")
    collateral = collateral.merged(*(import_collateral(vector(name), name) for name in names))
    evidence = Evidence("intel.tdx.quote", vector("tdx/gotdx-tdx_prod_quote_SPR_E4.dat")[:E4_SIZE])
    at = datetime.datetime(2026, 3, 17, 22, tzinfo=datetime.UTC)
    with pytest.raises(EvidenceRefused, match=r"^tcb-info\.current: "):
        verify(evidence, at=at, collateral=collateral)


# --- what is something else ----------------------------------------------------------------------


def test_a_log_whose_list_lies_elsewhere_has_the_same_events(vector: Read) -> None:
    log = tcg.parse(vector("tdx/trustee-CCEL_data"))
    expected = json.loads(vector("eventlog/trustee-CCEL_data_out.json"))["uefi_event_logs"]
    found = [event for event in log.events if "sha384" in event.digests]
    assert [event.digests["sha384"].hex() for event in found] == [
        other["digests"][0]["digest"] for other in expected
    ]


@pytest.mark.parametrize(
    ("name", "references", "unused"),
    [("comid-2", 0, ("1 triples of endorsed values",)), ("comid-2b", 3, None)],
)
def test_a_comid_outside_a_corim_is_read_as_one_inside(
    vector: Read, name: str, references: int, unused: tuple[str, ...] | None
) -> None:
    found = comid.parse(vector(f"corim/veraison-{name}.cbor"))
    assert len(found.references) == references
    assert unused is None or found.unused == unused


@pytest.mark.parametrize(
    "name",
    [
        "corim/veraison-comid-2.cbor",
        "corim/veraison-comid-2b.cbor",
        "corim/veraison-coev-tdx-ce-qe-evidence.cbor",
        "corim/veraison-coev-tdx-ce-seam-evidence.cbor",
        "corim/veraison-coserv-rv-class-simple-results.cbor",
    ],
)
def test_what_is_no_corim_gives_no_reference_values(vector: Read, name: str) -> None:
    with pytest.raises(PolicyError, match="no CoRIM"):
        read_corim(vector(name), at=AT, allow_unsigned=True)


@pytest.mark.parametrize(
    "name",
    [
        "vtpm/gotpm-gce-cos-85-no-nonce.pb",
        "sgx/openenclave-endorsements",
        "vtpm/azcvm-quote.bin",
        "vtpm/trustee-azsnp-quote.bin",
        "vtpm/trustee-aztdx-quote.bin",
        "nvidia/nvat-ut-spdm_parsed_output.json",
        "cca/trustee-cca-claims.json",
        "ratls/ccc-intel-sgxsdk-cert.pem",
        "ratls/ccc-gramine-cert.pem",
        "snp/virtee-measurement-test_auth_block.bin",
    ],
)
def test_other_projects_files_are_refused_in_order(vector: Read, name: str) -> None:
    with pytest.raises(EvidenceRefused):
        verify(recognise(vector(name)), at=AT)


def test_another_services_result_is_nobodys_here(vector: Read) -> None:
    """NVIDIA's own, ES384, and the keys that others publish."""
    (_, token), *_ = json.loads(vector("nvidia/nvat-ut-hopperClaimsv3_detached_eat.json"))
    key = new_key()
    with pytest.raises(ResultInvalid):
        verify_jwt(token, {key.kid: key.public}, audience="a", nonce=None, issuer="i", now=AT)
    with pytest.raises(KeyFileError):
        public_keys(b'{"keys": [%b]}' % vector("cca/trustee-rak-priv.json"))
