"""Huawei iTrustee reports: what is accepted, and by which check each forgery falls."""

from __future__ import annotations

import base64
import json
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation.anchors import Anchors, builtin_anchors
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.formats import itrustee
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.huawei import (
    APPLICATION,
    IMAGE,
    MEMORY,
    NONCE,
    Kunpeng,
    rsa_key,
)
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key

Vector = Callable[[str], bytes]
HEADER, ENTRY = 100, 12  # bytes


@pytest.fixture(scope="module")
def kunpeng() -> Kunpeng:
    return Kunpeng()


@pytest.fixture(scope="module")
def report(kunpeng: Kunpeng) -> bytes:
    return kunpeng.report()


def judge(
    kunpeng: Kunpeng,
    data: bytes,
    *,
    anchors: Anchors | None = None,
    attachments: Mapping[str, bytes] | None = None,
    crls: tuple[bytes, ...] | None = None,
    years: float = 0,
) -> Claims:
    return verify(
        Evidence("huawei.itrustee", data, attachments or {}),
        at=NOW + years * YEAR,
        anchors=kunpeng.anchors if anchors is None else anchors,
        collateral=Collateral(crls=(kunpeng.authority.revoke(),) if crls is None else crls),
    )


def refused(
    check: str,
    kunpeng: Kunpeng,
    data: bytes,
    kind: type[EvidenceRefused] = EvidenceRefused,
    **arguments: Any,
) -> EvidenceRefused:
    with pytest.raises(kind) as caught:
        judge(kunpeng, data, **arguments)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


def malformed(kunpeng: Kunpeng, data: bytes) -> str:
    return str(refused("format", kunpeng, data, EvidenceMalformed))


def unsupported(kunpeng: Kunpeng, data: bytes) -> str:
    return str(refused("format", kunpeng, data, EvidenceUnsupported))


def patched(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def test_a_genuine_report_passes_every_check(kunpeng: Kunpeng, report: bytes) -> None:
    claims = judge(kunpeng, report)
    assert [check.name for check in claims.checks] == [
        "format",
        "certificate-chain",
        "root",
        "validity",
        "revocation",
        "binding.attestation-key",
        "signature",
    ]
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}
    assert claims.tee == "itrustee"
    assert claims.product == str(APPLICATION)
    assert claims.report_data == NONCE
    assert claims.measurements == {
        "launch": IMAGE,
        "image": IMAGE,
        "memory": MEMORY,
        "qta-image": b"\x33" * 32,
        "qta-memory": b"\x44" * 32,
    }
    assert claims.platform == {"device": "026FAKE"}
    assert (claims.root.name, claims.root.builtin) == ("fake-huawei", False)
    json.dumps(claims.to_dict())


def test_the_timestamp_counts_from_the_start_and_is_no_evidence_time(
    kunpeng: Kunpeng, report: bytes
) -> None:
    claims = judge(kunpeng, report)
    assert claims.evidence_time is None
    assert claims.details["uptime"] == "11603.147878510"
    assert claims.details["ak_uptime"] == "11570.000000005"


def test_without_a_revocation_list_revocation_is_not_performed(
    kunpeng: Kunpeng, report: bytes
) -> None:
    claims = judge(kunpeng, report, crls=())
    assert [check.name for check in claims.not_checked] == ["revocation"]


def test_a_revoked_device_is_refused(kunpeng: Kunpeng, report: bytes) -> None:
    crl = kunpeng.authority.revoke(kunpeng.certificate)
    refused("revocation", kunpeng, report, crls=(crl,))


def test_another_root_is_refused(kunpeng: Kunpeng, report: bytes) -> None:
    refused("certificate-chain", kunpeng, report, anchors=Kunpeng().anchors)
    refused("certificate-chain", kunpeng, report, anchors=builtin_anchors())
    refused("certificate-chain", kunpeng, report, anchors=Anchors())


def test_a_root_pinned_for_another_vendor_is_refused(kunpeng: Kunpeng, report: bytes) -> None:
    anchors = Anchors((kunpeng.authority.anchor("x", "amd"),))
    refused("certificate-chain", kunpeng, report, anchors=anchors)


def test_an_expired_device_is_refused(kunpeng: Kunpeng, report: bytes) -> None:
    refused("validity", kunpeng, report, years=0.75)
    refused("validity", kunpeng, report, years=-0.75)


def test_an_attestation_key_that_the_device_did_not_certify_is_refused(kunpeng: Kunpeng) -> None:
    forged = kunpeng.report(ak_certificate=kunpeng.ak_certificate(key=kunpeng.ak))
    refused("binding.attestation-key", kunpeng, forged)


def test_the_device_certificate_of_another_machine_is_refused(kunpeng: Kunpeng) -> None:
    other = kunpeng.authority.issue("other", rsa_key("ak").public_key())
    forged = kunpeng.report(ak_certificate=kunpeng.ak_certificate(drk=other))
    refused("binding.attestation-key", kunpeng, forged)


def test_a_device_certificate_with_an_ec_key_is_refused(kunpeng: Kunpeng) -> None:
    other = kunpeng.authority.issue("ec", ec_key().public_key())
    forged = kunpeng.report(ak_certificate=kunpeng.ak_certificate(drk=other))
    refused("binding.attestation-key", kunpeng, forged)


def test_the_attestation_key_must_sign_the_report(kunpeng: Kunpeng) -> None:
    refused("signature", kunpeng, kunpeng.report(key=kunpeng.drk))


def test_a_signature_of_another_report_is_refused(kunpeng: Kunpeng, report: bytes) -> None:
    other = kunpeng.report(nonce=bytes(64))
    assert len(other) == len(report)
    refused("signature", kunpeng, other[:280] + report[280:])


@pytest.mark.parametrize("how", [{"pkcs1": True}, {"digest": hashes.SHA512()}])
def test_other_signature_schemes_are_refused(kunpeng: Kunpeng, how: Mapping[str, object]) -> None:
    refused("signature", kunpeng, kunpeng.report(how=how))
    forged = kunpeng.report(ak_certificate=kunpeng.ak_certificate(how=how))
    refused("binding.attestation-key", kunpeng, forged)


def test_an_impostor_of_the_authoritys_name_is_refused(kunpeng: Kunpeng) -> None:
    impostor = Kunpeng(Authority(kunpeng.authority.name))
    refused("certificate-chain", kunpeng, impostor.report())


def test_an_attached_ak_certificate_must_be_the_reports(kunpeng: Kunpeng, report: bytes) -> None:
    own = kunpeng.ak_certificate()
    attached = kunpeng.report(ak_certificate=own)
    judge(kunpeng, attached, attachments={"ak-certificate": own})
    refused("binding.ak-certificate", kunpeng, report, attachments={"ak-certificate": b"other"})


@pytest.mark.parametrize(("scenario", "words"), [(1, "no DAA"), (2, "DAA"), (3, "scenario 3")])
def test_other_scenarios_are_not_supported(kunpeng: Kunpeng, scenario: int, words: str) -> None:
    assert words in unsupported(kunpeng, kunpeng.report(scenario=scenario))


@pytest.mark.parametrize("version", [0, 2, 1 << 31])
def test_other_versions_are_not_supported(kunpeng: Kunpeng, version: int) -> None:
    unsupported(kunpeng, kunpeng.report(version=version))
    certificate = kunpeng.ak_certificate(version=version)
    unsupported(kunpeng, kunpeng.report(ak_certificate=certificate))


@pytest.mark.parametrize(
    "algorithms", [(0x20000, 0x20002), (0x20001, 0x20003), (0x20007, 0x20008), (0, 0)]
)
def test_other_algorithms_are_not_supported(kunpeng: Kunpeng, algorithms: tuple[int, int]) -> None:
    unsupported(kunpeng, kunpeng.report(algorithms=algorithms))
    certificate = kunpeng.ak_certificate(algorithms=algorithms)
    unsupported(kunpeng, kunpeng.report(ak_certificate=certificate))


def test_a_key_certified_for_another_purpose_is_not_supported(kunpeng: Kunpeng) -> None:
    for purpose in (b"provision as no daa", b"provision no as.", b"", b"\0provision no as"):
        certificate = kunpeng.ak_certificate(purpose=purpose)
        unsupported(kunpeng, kunpeng.report(ak_certificate=certificate))


def test_json_reports_are_not_supported(kunpeng: Kunpeng) -> None:
    assert "JSON" in unsupported(kunpeng, b'{"report_sign": {}}')


@pytest.mark.parametrize("count", [0, 6, 8, 1 << 20, (1 << 32) - 1])
def test_a_parameter_count_that_lies_is_refused(
    kunpeng: Kunpeng, report: bytes, count: int
) -> None:
    assert "parameters" in malformed(kunpeng, patched(report, HEADER - 4, count))


@pytest.mark.parametrize("entry", range(2, 7))
@pytest.mark.parametrize("step", [-184, -1, 1, 32, 1 << 31])
def test_offsets_that_overlap_or_run_out_are_refused(
    kunpeng: Kunpeng, report: bytes, entry: int, step: int
) -> None:
    at = HEADER + ENTRY * entry + 8
    offset = struct.unpack_from("<I", report, at)[0]
    malformed(kunpeng, patched(report, at, (offset + step) % (1 << 32)))


@pytest.mark.parametrize("entry", range(2, 7))
@pytest.mark.parametrize("size", [0, 31, 33, 4096, (1 << 32) - 1])
def test_sizes_that_overlap_or_run_out_are_refused(
    kunpeng: Kunpeng, report: bytes, entry: int, size: int
) -> None:
    malformed(kunpeng, patched(report, HEADER + ENTRY * entry + 4, size))


def test_parameters_in_another_order_or_twice_are_refused(kunpeng: Kunpeng, report: bytes) -> None:
    first, second = HEADER + ENTRY * 2, HEADER + ENTRY * 3
    for at, tag in ((first, 0x20000003), (second, 0x20000001), (first, 0x20000000), (first, 0)):
        malformed(kunpeng, patched(report, at, tag))
    malformed(kunpeng, patched(report, HEADER + 8, 1))  # padding of an integer


def test_measurements_behind_the_signature_are_refused(kunpeng: Kunpeng) -> None:
    """What is not signed must have no place in the report."""
    moved = kunpeng.report(
        before=[(0x10000000, 0x20001), (0x10000001, 0x20002), (0x20000001, IMAGE)],
    )
    malformed(kunpeng, moved)


def test_bytes_after_the_end_are_refused(kunpeng: Kunpeng, report: bytes) -> None:
    malformed(kunpeng, report + b"\0")
    certificate = kunpeng.ak_certificate() + b"\0"
    malformed(kunpeng, kunpeng.report(ak_certificate=certificate))


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(48)])
def test_digests_of_another_size_are_refused(kunpeng: Kunpeng, digest: bytes) -> None:
    malformed(kunpeng, kunpeng.report(image=digest))
    malformed(kunpeng, kunpeng.report(memory=digest))


@pytest.mark.parametrize(
    "modulus", [bytes(512), b"\xff" * 511 + b"\xfe", b"\x7f" + b"\xff" * 511, b"\xff" * 256]
)
def test_a_modulus_that_is_none_is_refused(kunpeng: Kunpeng, modulus: bytes) -> None:
    certificate = kunpeng.ak_certificate(modulus=modulus)
    malformed(kunpeng, kunpeng.report(ak_certificate=certificate))


def test_a_device_certificate_in_another_encoding_is_refused(kunpeng: Kunpeng) -> None:
    der = kunpeng.certificate.der
    text = base64.b64encode(der)
    for encoded in (b"", der, text + b"\n", text + b"=", b"@" + text, text[:-4], b"AAAA"):
        certificate = kunpeng.ak_certificate(encoded=encoded)
        malformed(kunpeng, kunpeng.report(ak_certificate=certificate))


def test_a_device_certificate_with_stray_bits_in_its_encoding_is_refused(kunpeng: Kunpeng) -> None:
    """Base64 has bits that mean nothing; two reports of one meaning must not both pass."""
    issue, key = kunpeng.authority.issue, kunpeng.drk.public_key()
    texts = (base64.b64encode(issue("x" * length, key).der) for length in range(1, 60))
    padded = next(text for text in texts if text.endswith(b"=") and not text.endswith(b"=="))
    for text, accepted in ((padded, True), (padded[:-2] + bytes([padded[-2] + 1]) + b"=", False)):
        report = kunpeng.report(ak_certificate=kunpeng.ak_certificate(encoded=text))
        if accepted:
            judge(kunpeng, report)
        else:
            assert "canonical" in malformed(kunpeng, report)


def test_an_oversized_report_is_refused_unread(kunpeng: Kunpeng) -> None:
    assert "at most" in malformed(kunpeng, bytes(itrustee.MAX_SIZE + 1))


def test_no_flipped_bit_is_accepted(kunpeng: Kunpeng, report: bytes) -> None:
    for at in range(0, len(report), 5):
        for forged in (
            report[:at],
            report[:at] + bytes([report[at] ^ (1 << at % 8)]) + report[at + 1 :],
        ):
            with pytest.raises(EvidenceRefused):
                judge(kunpeng, forged, crls=())


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    for parser in (itrustee.parse, itrustee.parse_ak_certificate):
        with pytest.raises(EvidenceRefused):
            parser(data)


@settings(max_examples=60)
@given(st.integers(96, 184), st.binary(min_size=1, max_size=12))
def test_any_table_is_read_or_refused(at: int, patch: bytes) -> None:
    machine = Kunpeng()
    report = machine.report()
    forged = report[:at] + patch + report[at + len(patch) :]
    if forged != report:
        with pytest.raises(EvidenceRefused):
            judge(machine, forged, crls=())


def test_base_values_are_read_line_by_line() -> None:
    first = f"{APPLICATION} {IMAGE.hex().upper()} {MEMORY.hex()}"
    second = f"{uuid.UUID(int=1)} {'0' * 64} {'1' * 64}"
    values = itrustee.read_basevalues(f"{first}\r\n\n{second}".encode())
    assert values[0] == itrustee.BaseValue(APPLICATION, IMAGE, MEMORY)
    assert len(values) == 2
    assert itrustee.read_basevalues(b"") == ()


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"\xff",
        b"a b c",
        f"{APPLICATION} 00 00".encode(),
        f"{APPLICATION} {'0' * 64}".encode(),
    ],
)
def test_other_lines_are_no_base_values(line: bytes) -> None:
    with pytest.raises(CollateralError, match="line 2"):
        itrustee.read_basevalues(b"\n" + line)


def blobs(vector: Vector) -> dict[str, bytes]:
    """The C arrays of kunpengsecl's test data by name."""
    text = vector("itrustee/kunpengsecl-testdata.h").decode()
    found = re.findall(r"unsigned char (\w+)\[\] = \{(.*?)\};", text, re.DOTALL)
    return {
        name: bytes(int(item, 16) for item in re.findall(r"0x[0-9a-f]{2}", body))
        for name, body in found
    }


def test_vector_verifies_end_to_end_and_has_its_base_value(vector: Vector) -> None:
    data = blobs(vector)["report_noas"]
    claims = verify(Evidence("huawei.itrustee", data), at=NOW)
    assert claims.root.name == "huawei-it-product"
    assert claims.root.builtin
    assert claims.platform == {"device": "026PPV10KA005139T"}
    assert claims.report_data.rstrip(b"\0") == b"challenge"
    assert claims.product == "f68fd704-6eb1-4d14-b218-722850eb3ef0"
    assert [check.name for check in claims.not_checked] == ["revocation"]
    last = itrustee.read_basevalues(vector("itrustee/kunpengsecl-basevalue.txt"))[-1]
    assert str(last.application) == claims.product
    assert claims.measurements["image"] == last.image
    assert claims.measurements["memory"] == last.memory


def test_vector_is_refused_outside_its_devices_validity_and_under_other_roots(
    vector: Vector, kunpeng: Kunpeng
) -> None:
    data = blobs(vector)["report_noas"]
    refused("validity", kunpeng, data, anchors=builtin_anchors(), crls=(), years=12)
    refused("certificate-chain", kunpeng, data)


@pytest.mark.parametrize("name", ["report_nodaa", "report_daa", "akcert_nodaa", "akcert_daa"])
def test_vectors_of_other_scenarios_are_not_supported(
    vector: Vector, kunpeng: Kunpeng, name: str
) -> None:
    unsupported(kunpeng, blobs(vector)[name])


def test_no_mutation_of_the_vector_is_accepted(vector: Vector) -> None:
    data = blobs(vector)["report_noas"]
    for at in range(0, len(data), 7):
        for forged in (data[:at], data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]):
            with pytest.raises(EvidenceRefused):
                verify(Evidence("huawei.itrustee", forged), at=NOW)
