"""SEV-SNP reports: genuine ones of a fake AMD pass, and each forgery falls by its own check."""

from __future__ import annotations

import struct
import uuid
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors
from secgear.middleware.attestation.certificates import signature_fault
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims, TcbStatus
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.formats.snp import certificates, report
from secgear.middleware.attestation.formats.snp.tcb import Product
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key
from tests.adversary.vendors.snp import GENOA, MILAN, TURIN, Amd, expired

# Order of P-384: SEC 2, section 2.5.1.
N = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
AMD = Amd()
LIST = AMD.ark.revoke()


def judge(
    evidence: Evidence, amd: Amd = AMD, *, anchors: Anchors | None = None, **collateral: Any
) -> Claims:
    collateral.setdefault("crls", (amd.ark.revoke() if amd is not AMD else LIST,))
    return verify(
        evidence, at=NOW, anchors=anchors or amd.anchors, collateral=Collateral(**collateral)
    )


def refused(check: str, evidence: Evidence, *args: Any, **kwargs: Any) -> EvidenceRefused:
    with pytest.raises(EvidenceRefused) as caught:
        judge(evidence, *args, **kwargs)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


@pytest.mark.parametrize("version", report.VERSIONS)
@pytest.mark.parametrize(
    ("product", "processor"), [("Milan", MILAN), ("Genoa", GENOA), ("Turin", TURIN)]
)
def test_a_genuine_report_passes_every_check(
    product: str, processor: tuple[int, int], version: int
) -> None:
    if version == 2 and product == "Turin":
        pytest.skip("Turin's firmware never made version 2 reports")
    amd = Amd(product, processor)
    claims = judge(amd.evidence(version=version), amd)
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}
    assert claims.measurements == {"launch": b"m" * 48}
    assert claims.report_data == b"r" * 64
    assert claims.details["product"] == product
    assert claims.platform["chip_id"] == amd.chip[: 8 if product == "Turin" else 64].hex()
    assert dict(claims.tcb.components) == amd.tcb
    assert claims.tcb.status is TcbStatus.NOT_ASSESSED
    assert (claims.svn, claims.debug, claims.migratable, claims.signer) == (5, False, False, None)


def test_debug_and_migration_are_visible() -> None:
    assert judge(AMD.evidence(policy=0x30000 | 1 << 19)).debug
    assert judge(AMD.evidence(policy=0x30000 | 1 << 18)).migratable


def test_signer_and_product_come_from_the_id_block() -> None:
    claims = judge(AMD.evidence(id_key_digest=b"k" * 48, family_id=b"f" * 16, host_data=b"h" * 32))
    assert claims.signer == b"k" * 48
    assert claims.product == f"{(b'f' * 16).hex()}/{bytes(16).hex()}"
    assert claims.measurements["host_data"] == b"h" * 32
    assert claims.measurements["id_key"] == b"k" * 48


def test_a_vlek_names_no_chip() -> None:
    vlek = AMD.endorsement(csp="cloud")
    evidence = Evidence(
        "amd.sev-snp", AMD.report(key_info=1 << 2), {"vlek": vlek.der, "chain": AMD.chain}
    )
    claims = judge(evidence)
    assert claims.platform["csp_id"] == "cloud"
    assert "binding.chip" not in {check.name for check in claims.checks}


def test_a_certificate_may_come_from_the_table_or_the_collateral() -> None:
    data, vcek = AMD.report(), AMD.endorsement()
    table = _table({"63da758d-e664-4564-adc5-f4b93be8accd": vcek.der})
    judge(Evidence("amd.sev-snp", data, {"certs": table, "chain": AMD.chain}))
    other = AMD.endorsement(key=ec_key())
    judge(
        Evidence("amd.sev-snp", data),
        certificates=(b"rubbish", other.der, vcek.der, AMD.ask.certificate.der),
    )
    error = refused("certificate-chain", Evidence("amd.sev-snp", data))
    assert "no VCEK" in str(error)


def test_a_lower_committed_tcb_is_said() -> None:
    claims = judge(AMD.evidence(committed=AMD.tcb | {"snp": 3}))
    assert claims.tcb.shortfalls == ("snp: committed TCB has 3, less than the reported 22",)


def test_a_report_of_another_chip_is_refused() -> None:
    refused("binding.chip", AMD.evidence(chip_id=b"x" * 64))
    refused("binding.chip", AMD.evidence(certificate=AMD.endorsement(chip=b"x" * 64)))
    refused("binding.chip", AMD.evidence(chip_id=bytes(64)))  # masked without saying so
    turin = Amd("Turin", TURIN)
    refused("binding.chip", turin.evidence(chip_id=turin.chip[:8] + b"x" * 56), turin)


def test_a_masked_chip_is_not_checked_and_said() -> None:
    claims = judge(AMD.evidence(chip_id=bytes(64), key_info=1 << 1))
    (check,) = claims.not_checked
    assert check.name == "binding.chip"
    assert "chip_id" not in claims.platform


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode"])
def test_a_certificate_for_another_tcb_is_refused(component: str) -> None:
    older = AMD.endorsement(tcb={component: 1})
    refused("binding.tcb", AMD.evidence(certificate=older))


def test_turins_certificate_must_state_its_fmc() -> None:
    turin = Amd("Turin", TURIN)
    refused("binding.tcb", turin.evidence(certificate=turin.endorsement(tcb={"fmc": 2})), turin)
    refused("binding.tcb", turin.evidence(certificate=turin.endorsement(without=("3.9",))), turin)


def test_products_are_not_mixed() -> None:
    refused("binding.product", AMD.evidence(processor=GENOA))
    refused("binding.product", AMD.evidence(certificate=AMD.endorsement(product="Rome-B0")))


def test_a_report_under_another_key_is_refused() -> None:
    refused("signature", AMD.evidence(key=ec_key()))
    refused("signature", AMD.evidence(certificate=AMD.endorsement(key=ec_key())))


@pytest.mark.parametrize(("r", "s"), [(0, None), (None, 0), (N, None), (None, N), (0, 0), (1, 1)])
def test_degenerate_signatures_are_refused(r: int | None, s: int | None) -> None:
    refused("signature", AMD.evidence(r=r, s=s))


def test_amds_own_roots_do_not_accept_a_fake() -> None:
    refused("certificate-chain", AMD.evidence(), anchors=builtin_anchors())
    impostor = Authority("ARK-Milan", key=rsa.generate_private_key(65537, 2048), pss=True)
    anchors = Anchors((impostor.anchor("fake-amd", "amd"),))
    refused("certificate-chain", AMD.evidence(), anchors=anchors)
    refused("certificate-chain", AMD.evidence(), anchors=Anchors())


def test_expired_and_revoked_are_refused() -> None:
    refused("validity", AMD.evidence(certificate=AMD.endorsement(**expired())))
    refused("revocation", AMD.evidence(), crls=(AMD.ark.revoke(AMD.ask.certificate),))
    stale = AMD.ark.revoke(start=NOW - YEAR, end=NOW - YEAR / 2)
    refused("revocation", AMD.evidence(), crls=(stale,))


def test_a_missing_list_is_said() -> None:
    claims = judge(AMD.evidence(), crls=())
    assert [check.name for check in claims.not_checked] == ["revocation"]


def test_the_kinds_of_keys_are_not_confused() -> None:
    vcek, vlek = AMD.endorsement(), AMD.endorsement(csp="cloud")
    for key_info, name, certificate in ((0, "vcek", vlek), (1 << 2, "vlek", vcek)):
        evidence = Evidence(
            "amd.sev-snp",
            AMD.report(key_info=key_info),
            {name: certificate.der, "chain": AMD.chain},
        )
        refused("binding.key", evidence)
    for key in (2, 7):  # reserved, and "none": a report nobody signed
        with pytest.raises(EvidenceUnsupported):
            judge(AMD.evidence(key_info=key << 2))


def test_a_vcek_may_not_issue_another() -> None:
    middle = Authority("SEV-VCEK", key=AMD.ask.key, issuer=AMD.ask, ca=False, pss=True)
    forged = AMD.endorsement(issuer=middle, zero_serial=False)
    evidence = msgspec.structs.replace(
        AMD.evidence(certificate=forged), attachments={"vcek": forged.der, "chain": AMD.chain}
    )
    refused("certificate-chain", evidence, certificates=(middle.certificate.der,))


def test_serial_number_zero_is_signed_over() -> None:
    vcek = AMD.endorsement()
    assert vcek.serial == 0
    assert signature_fault(vcek, AMD.ask.certificate.public_key) is None


@pytest.mark.parametrize(
    "replaced",
    [
        {"3.1": b"\x02\x01\x80"},  # negative
        {"3.1": b"\x02\x02\x00\x04"},  # not shortest
        {"3.1": b"\x02\x02\x01\x04"},  # 260
        {"3.1": b"\x02\x00"},
        {"3.1": b"\x04\x01\x04"},
        {"3.1": b"\x02\x01\x04\x00"},
        {"3.1": b""},
        {"2": b"\x0c\x05Milan"},
        {"2": b"\x16\x02\xff\xff"},
        {"4": b"x" * 63},
        {"4": b"\x04\x3f" + b"x" * 63},
        {"5": b"\x16\x01x"},  # a chip and a cloud
    ],
)
def test_malformed_extensions_are_refused(replaced: dict[str, bytes]) -> None:
    certificate = AMD.endorsement(replaced=replaced)
    with pytest.raises(EvidenceMalformed):
        judge(AMD.evidence(certificate=certificate))


@pytest.mark.parametrize("oid", ["2", "3.1", "3.2", "3.3", "3.8", "4"])
def test_missing_extensions_are_refused(oid: str) -> None:
    with pytest.raises(EvidenceMalformed):
        judge(AMD.evidence(certificate=AMD.endorsement(without=(oid,))))


def test_a_hardware_id_in_an_octet_string_is_read() -> None:
    wrapped = AMD.endorsement(replaced={"4": b"\x04\x40" + AMD.chip})
    judge(AMD.evidence(certificate=wrapped))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"version": 4},
        {"version": 6},
        {"algorithm": 0},
        {"algorithm": 2},
        {"policy": 0},
        {"policy": 0x30000 | 1 << 26},
        {"policy": 0x30000 | 1 << 63},
        {"key_info": 1 << 5},
        {"processor": (0x17, 0x31)},
        {"tail": b"\x01"},  # a mitigation vector before version 5
        {"r": 1 << 384},
    ],
)
def test_reports_of_another_form_are_refused(changes: dict[str, Any]) -> None:
    refused("format", AMD.evidence(**changes))


@pytest.mark.parametrize("size", [0, 1, 1183, 1185, 1184 * 2])
def test_reports_of_another_size_are_refused(size: int) -> None:
    refused("format", Evidence("amd.sev-snp", bytes(size)))


@pytest.mark.parametrize(
    "table",
    [
        b"",
        bytes(23),
        struct.pack("<16sII", b"x" * 16, 24, 1),  # no end
        struct.pack("<16sII", b"x" * 16, 48, 1) + bytes(24),  # beyond the end
        struct.pack("<16sII", b"x" * 16, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24),
        struct.pack("<16sII", b"x" * 16, 0, 0) * 17 + bytes(24),
        struct.pack("<16sII", uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes_le, 0, 8) * 2
        + bytes(24),
        bytes(certificates.MAX_TABLE + 1),
    ],
)
def test_malformed_certificate_tables_are_refused(table: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        certificates.read_table(table)


@given(st.binary(max_size=200))
def test_rubbish_is_no_certificate_table(table: bytes) -> None:
    try:
        certificates.read_table(table)
    except EvidenceMalformed:
        return


def test_every_models_product_is_the_one_that_amd_names() -> None:
    named = {(0x19, 0x01): "Milan", (0x19, 0x11): "Genoa", (0x19, 0xA0): "Genoa"}
    named |= {(0x1A, 0x02): "Turin", (0x1A, 0x11): "Turin"}
    for (family, model), name in named.items():
        assert Product.of(family, model).value == name
    for family, model in ((0x17, 0x31), (0x19, 0x50), (0x1A, 0x50), (0, 0)):
        assert Product.of(family, model) is Product.UNSTATED


def test_the_intermediates_are_signed_by_the_roots() -> None:
    roots = {root.certificate.subject_name: root for root in builtin_anchors().of("amd")}
    assert len(certificates.intermediates()) == 6
    for certificate in certificates.intermediates():
        root = roots[certificate.issuer_name].certificate
        assert signature_fault(certificate, root.public_key) is None


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 1183), st.integers(1, 255))
def test_no_changed_report_is_accepted(position: int, change: int) -> None:
    data = bytearray(_EVIDENCE.data)
    data[position] ^= change
    with pytest.raises(EvidenceRefused):
        judge(msgspec.structs.replace(_EVIDENCE, data=bytes(data)))


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1184, max_size=1184) | st.binary(max_size=1300))
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        judge(Evidence("amd.sev-snp", data))


@pytest.mark.parametrize("name", ["gosev-milan", "trustee-test", "msft-genoa"])
def test_no_changed_vector_is_accepted(vector: Any, name: str) -> None:
    files = {
        "gosev-milan": ("gosev-milan-attestation.bin", "gosev-milan-vcek.der"),
        "trustee-test": ("trustee-test-report.bin", "trustee-test-vcek.der"),
        "msft-genoa": ("msft-genoa_attestation_report.bin", "msft-genoa_vcek.pem"),
    }
    data, vcek = (vector(f"snp/{file}") for file in files[name])
    at = NOW.replace(month=5)
    verify(Evidence("amd.sev-snp", data, {"vcek": vcek}), at=at)
    for position in range(0, len(data), 11):
        changed = bytearray(data)
        changed[position] ^= 0x40
        with pytest.raises(EvidenceRefused):
            verify(Evidence("amd.sev-snp", bytes(changed), {"vcek": vcek}), at=at)
    for size in range(0, len(data), 97):
        with pytest.raises(EvidenceMalformed):
            verify(Evidence("amd.sev-snp", data[:size], {"vcek": vcek}), at=at)


def _table(entries: dict[str, bytes]) -> bytes:
    offset = 24 * (len(entries) + 1)
    head, body = b"", b""
    for guid, data in entries.items():
        head += struct.pack("<16sII", uuid.UUID(guid).bytes_le, offset + len(body), len(data))
        body += data
    return head + bytes(24) + body


_EVIDENCE = AMD.evidence()
