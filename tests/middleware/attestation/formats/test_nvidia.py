"""NVIDIA evidence: what is accepted, and by which check each forgery falls."""

from __future__ import annotations

import contextlib
import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.certificates import to_pem
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral, Document
from secgear.middleware.attestation.formats.nvidia import rim
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.nvidia import (
    DRIVER,
    DRIVER_RIM,
    FWID,
    MEASURED,
    NONCE,
    OPAQUE,
    SWITCH_OPAQUE,
    SWITCH_RIM,
    VBIOS,
    VBIOS_RIM,
    Chip,
    Nvidia,
    block,
    composite_device_id,
    manifest,
    messages,
    tcb_info,
    tlv,
)
from tests.adversary.vendors.pki import NOW, YEAR, Authority, ec_key

NVIDIA = Nvidia()
CHIP = NVIDIA.chip
EVIDENCE = CHIP.evidence()
NO_COLLATERAL = Collateral()

needs_gpu_extra = pytest.mark.skipif(not rim.available(), reason="needs the extra gpu")


def judge(
    evidence: Evidence = EVIDENCE,
    *,
    collateral: Collateral = NO_COLLATERAL,
    anchors: Anchors = NVIDIA.anchors,
    at: datetime.datetime = NOW,
) -> Claims:
    return verify(evidence, at=at, anchors=anchors, collateral=collateral)


def refused(
    check: str,
    evidence: Evidence = EVIDENCE,
    *,
    collateral: Collateral = NO_COLLATERAL,
    anchors: Anchors = NVIDIA.anchors,
    at: datetime.datetime = NOW,
) -> Check:
    with pytest.raises(EvidenceRefused) as caught:
        judge(evidence, collateral=collateral, anchors=anchors, at=at)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return last


def check_of(claims: Claims, name: str) -> Check:
    return next(check for check in claims.checks if check.name == name)


@needs_gpu_extra
def test_genuine_evidence_with_all_collateral_passes_every_check() -> None:
    claims = judge(collateral=NVIDIA.collateral())
    chain = ["certificate-chain", "root", "validity", "revocation"]
    manifests = [
        f"rim.{which}.{name}" for which in ("driver", "vbios") for name in ("signature", *chain)
    ]
    assert [check.name for check in claims.checks] == [
        "format",
        *chain,
        "signature",
        "binding",
        "binding.firmware",
        *manifests,
        "measurements",
        "debug",
    ]
    assert {check.outcome for check in claims.checks} == {Outcome.PASS}
    assert claims.details["matches_manifests"] is True


def test_claims_say_what_the_device_signed() -> None:
    claims = judge()
    assert (claims.tee, claims.format) == ("gpu", "nvidia.gpu")
    assert claims.report_data == NONCE
    assert claims.root.name == "fake-nvidia"
    assert claims.product == "GH100 A01 GSP BROM"
    assert claims.measurements["block07"] == MEASURED[7]
    everything = b"".join(MEASURED.values())
    assert claims.measurements["launch"] == hashlib.sha384(everything).digest()
    assert len(claims.measurements) == 65
    assert claims.platform["ueid"] == str(CHIP.leaf.serial)
    assert claims.platform["serial"] == f"{CHIP.brom.certificate.serial:x}"
    assert claims.details["driver_version"] == DRIVER
    assert claims.details["vbios_version"] == VBIOS
    assert claims.details["manifests"] == (DRIVER_RIM, VBIOS_RIM)
    assert claims.details["mode"] == "single-gpu"
    assert claims.details["protected_pcie"] is False
    assert not claims.simulated


def test_without_collateral_the_rest_is_not_performed_and_the_fix_names_the_manifests() -> None:
    claims = judge()
    assert [check.name for check in claims.not_checked] == ["revocation", "measurements", "debug"]
    missing = check_of(claims, "measurements")
    assert DRIVER_RIM in missing.detail
    assert VBIOS_RIM in missing.detail
    assert claims.details["matches_manifests"] is False


def test_a_flipped_measurement_is_refused() -> None:
    data = EVIDENCE.data.replace(MEASURED[7], MEASURED[7][:-1] + b"!", 1)
    refused("signature", Evidence(EVIDENCE.format, data, EVIDENCE.attachments))


def test_another_nonce_in_the_request_is_refused() -> None:
    data = EVIDENCE.data.replace(NONCE, bytes(32), 1)
    refused("signature", Evidence(EVIDENCE.format, data, EVIDENCE.attachments))


@pytest.mark.parametrize("which", ["brom", "provisioner", "another chip"])
def test_another_key_than_the_leafs_is_refused(which: str) -> None:
    keys = {"brom": CHIP.brom.key, "provisioner": CHIP.provisioner.key, "another chip": ec_key()}
    key = keys[which]
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    refused("signature", CHIP.evidence(signed=CHIP.sign(messages(), key)))


def test_the_chips_own_certificate_signs_no_reports() -> None:
    """An authority's key may sign certificates only, even if it really signed this."""
    key = CHIP.brom.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    chain = b"".join(to_pem(issuer.certificate) for issuer in CHIP.issuers)
    signed = CHIP.sign(messages(), key)
    refused("binding", Evidence("nvidia.gpu", signed, {"chain": chain}))


@pytest.mark.parametrize(
    "extensions",
    [
        (),
        ((x509.KeyUsage(*[False] * 5, True, *[False] * 3), True),),
        ((x509.BasicConstraints(True, None), True),),
    ],
)
def test_a_leaf_that_may_not_sign_is_refused(
    extensions: tuple[tuple[x509.ExtensionType, bool], ...],
) -> None:
    chip = Chip(root=CHIP.root, extensions=extensions)
    refused("binding", chip.evidence())


def test_a_key_on_another_curve_is_refused() -> None:
    chip = Chip(root=CHIP.root, key=ec_key(ec.SECP256R1()))
    signed = messages() + bytes(96)
    refused("signature", chip.evidence(signed=signed))


def test_a_chain_to_another_root_of_the_same_name_is_refused() -> None:
    refused("certificate-chain", Chip().evidence())
    refused("certificate-chain", anchors=Anchors())


def test_a_root_of_another_family_is_refused() -> None:
    root = CHIP.root.anchor("x", "nvidia-rim")
    refused("certificate-chain", anchors=Anchors((root,)))


def test_a_chain_with_a_gap_is_refused_and_collateral_can_fill_it() -> None:
    links = [CHIP.leaf, CHIP.brom.certificate, CHIP.identity.certificate]
    gap = Evidence("nvidia.gpu", EVIDENCE.data, {"chain": b"".join(to_pem(item) for item in links)})
    refused("certificate-chain", gap)
    judge(gap, collateral=Collateral(certificates=(CHIP.provisioner.certificate.der,)))


def test_a_chain_that_does_not_begin_with_the_leaf_is_refused() -> None:
    chain = b"".join(to_pem(issuer.certificate) for issuer in CHIP.issuers)
    refused("signature", Evidence("nvidia.gpu", EVIDENCE.data, {"chain": chain}))


def test_expired_certificates_are_refused() -> None:
    refused("validity", at=NOW + YEAR)
    refused("validity", at=NOW - YEAR)


@pytest.mark.parametrize("chain", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA"])
def test_a_broken_chain_is_malformed(chain: bytes) -> None:
    refused("format", Evidence("nvidia.gpu", EVIDENCE.data, {"chain": chain}))


def test_evidence_without_its_chain_is_malformed() -> None:
    last = refused("format", Evidence("nvidia.gpu", EVIDENCE.data))
    assert "'chain'" in last.detail


def test_a_switch_is_no_gpu_and_a_gpu_is_no_switch() -> None:
    switch = Chip(model="LS_10 A01 FSP BROM", format="nvidia.nvswitch", root=CHIP.root)
    assert judge(switch.evidence()).tee == "nvswitch"
    as_gpu = Evidence("nvidia.gpu", switch.sign(messages()), {"chain": switch.chain})
    assert refused("binding", as_gpu).expected == "gpu"
    as_switch = CHIP.evidence(entries=tlv(SWITCH_OPAQUE))
    as_switch = Evidence("nvidia.nvswitch", as_switch.data, as_switch.attachments)
    refused("binding", as_switch)


@pytest.mark.parametrize("model", ["CX7 A01 BROM", "gh100 A01", "XGH100", "GH1000 A01", ""])
def test_other_devices_of_nvidia_are_refused(model: str) -> None:
    chip = Chip(model=model or "-", root=CHIP.root)
    refused("binding", chip.evidence())


def test_firmware_that_the_key_was_not_certified_for_is_refused() -> None:
    chip = Chip(root=CHIP.root, extension=("2.23.133.5.4.1", composite_device_id(b"\xee" * 48)))
    last = refused("binding.firmware", chip.evidence())
    assert (last.expected, last.found) == ("ee" * 48, FWID.hex())


def test_a_certificate_that_names_no_firmware_is_refused() -> None:
    refused("binding.firmware", Chip(root=CHIP.root, extension=None).evidence())


def test_blackwells_form_of_the_firmware_digest_is_understood() -> None:
    chip = Chip(
        model="GB100 A01 GSP BROM", root=CHIP.root, extension=("2.23.133.5.4.1.1", tcb_info())
    )
    claims = judge(chip.evidence(entries=tlv({**OPAQUE, 35: b"GB110\0"})))
    assert check_of(claims, "binding.firmware").outcome is Outcome.PASS
    assert claims.details["manifests"][0] == f"NV_GPU_CC_DRIVER_GB110_{DRIVER}"
    assert judge(chip.evidence()).details["manifests"][0] == f"NV_GPU_CC_DRIVER_GB100_{DRIVER}"


@pytest.mark.parametrize("value", [b"", b"\x30", b"\x30\x03\x01", b"\x30\x84\0\0\0\1\0", b"\4\0"])
def test_a_broken_extension_of_the_leaf_is_malformed(value: bytes) -> None:
    chip = Chip(root=CHIP.root, extension=("2.23.133.5.4.1.1", value))
    refused("format", chip.evidence())
    chip = Chip(root=CHIP.root, extension=("2.23.133.5.4.1", value))
    refused("format", chip.evidence())


@pytest.mark.parametrize("value", [b"\x30\0", b"\x30\2\x30\0", b"\x30\3\2\1\1"])
def test_an_extension_without_a_digest_names_no_firmware(value: bytes) -> None:
    for oid in ("2.23.133.5.4.1", "2.23.133.5.4.1.1"):
        refused("binding.firmware", Chip(root=CHIP.root, extension=(oid, value)).evidence())


@pytest.mark.parametrize(
    ("oid", "value", "pdi"),
    [
        ("1.3.6.1.4.1.412.274.1", b"\x0c\x1dNVIDIA:GH100:48B02D51037534EE", "48b02d51037534ee"),
        ("1.3.6.1.4.1.412.274.1", b"\x0c\3a:b", None),
        ("1.2.3", b"\4\0", None),
    ],
)
def test_the_identifier_on_nvlink_is_in_the_leaf(oid: str, value: bytes, pdi: str | None) -> None:
    name = x509.OtherName(x509.ObjectIdentifier(oid), value)
    extensions = (*CHIP.extensions, (x509.SubjectAlternativeName([name]), False))
    claims = judge(Chip(root=CHIP.root, extensions=extensions).evidence())
    assert claims.platform.get("pdi") == pdi


def test_old_drivers_that_name_no_firmware_are_visible() -> None:
    entries = {kind: value for kind, value in OPAQUE.items() if kind != 20}
    claims = judge(CHIP.evidence(entries=tlv(entries)))
    assert check_of(claims, "binding.firmware").outcome is Outcome.NOT_PERFORMED


@pytest.mark.parametrize(
    "change", [{3: b""}, {3: b"1.2/../x"}, {17: b"\xff"}, {6: b"1234"}, {6: b""}, {15: b" "}]
)
def test_identifiers_that_are_none_are_malformed(change: dict[int, bytes]) -> None:
    refused("format", CHIP.evidence(entries=tlv({**OPAQUE, **change})))


# --- manifests


@needs_gpu_extra
def test_one_manifest_of_two_is_not_enough() -> None:
    one = NVIDIA.collateral(NVIDIA.signer.document(DRIVER_RIM, manifest()))
    missing = check_of(judge(collateral=one), "measurements")
    assert missing.outcome is Outcome.NOT_PERFORMED
    assert VBIOS_RIM in missing.detail
    assert DRIVER_RIM not in missing.detail


@needs_gpu_extra
def test_a_measurement_that_is_not_golden_is_refused_and_named() -> None:
    wrong = {7: MEASURED[7], 8: b"x" * 48, 9: b"y" * 48}
    collateral = NVIDIA.collateral(NVIDIA.signer.document(DRIVER_RIM, manifest(DRIVER, wrong)))
    last = refused("measurements", collateral=collateral)
    assert last.detail.endswith("08, 09")
    assert (last.expected, last.found) == ((b"x" * 48).hex(), MEASURED[8].hex())


@needs_gpu_extra
def test_a_golden_measurement_that_the_device_lacks_is_refused() -> None:
    evidence = CHIP.evidence(blocks=[block(0, MEASURED[0])])
    refused("measurements", evidence, collateral=NVIDIA.collateral())


@needs_gpu_extra
def test_one_of_several_golden_values_is_enough() -> None:
    golden = {7: [b"x" * 48, MEASURED[7], b"y" * 48]}
    collateral = NVIDIA.collateral(
        NVIDIA.signer.document(DRIVER_RIM, manifest(DRIVER, golden)),
        NVIDIA.signer.document(VBIOS_RIM, manifest(VBIOS, {0: MEASURED[0]})),
    )
    assert check_of(judge(collateral=collateral), "measurements").outcome is Outcome.PASS


@needs_gpu_extra
@pytest.mark.parametrize(
    ("status", "outcome"), [(b"\xaa", "compared"), (b"\x55", "skipped"), (b"\0", "unclear")]
)
def test_the_video_decoder_counts_only_where_it_is_enabled(status: bytes, outcome: str) -> None:
    evidence = CHIP.evidence(entries=tlv({**OPAQUE, 11: status}))
    golden = {7: MEASURED[7], 35: b"other firmware".ljust(48)}
    collateral = NVIDIA.collateral(
        NVIDIA.signer.document(DRIVER_RIM, manifest(DRIVER, golden)),
        NVIDIA.signer.document(VBIOS_RIM, manifest(VBIOS, {0: MEASURED[0]})),
    )
    if outcome == "skipped":
        detail = check_of(judge(evidence, collateral=collateral), "measurements").detail
        assert "35 left out" in detail
    else:
        last = refused("measurements", evidence, collateral=collateral)
        assert ("35" in last.detail) is (outcome == "compared")


@needs_gpu_extra
def test_two_manifests_for_the_same_measurement_are_refused() -> None:
    collateral = NVIDIA.collateral(
        NVIDIA.signer.document(DRIVER_RIM, manifest()),
        NVIDIA.signer.document(VBIOS_RIM, manifest(VBIOS, {7: MEASURED[7]})),
    )
    assert "two manifests" in refused("measurements", collateral=collateral).detail


@needs_gpu_extra
@pytest.mark.parametrize(
    "unsigned",
    [manifest("550.144.04"), manifest(product="GB100"), manifest(VBIOS), manifest(product="LS10")],
)
def test_a_manifest_of_another_version_or_chip_is_refused_whatever_it_is_called(
    unsigned: bytes,
) -> None:
    collateral = NVIDIA.collateral(NVIDIA.signer.document(DRIVER_RIM, unsigned))
    refused("measurements", collateral=collateral)


@needs_gpu_extra
def test_manifests_of_other_devices_are_passed_over() -> None:
    other = Document(kind="nvidia.rim", name="NV_GPU_DRIVER_GH100_999", data=b"not even XML")
    claims = judge(collateral=NVIDIA.collateral(other))
    assert check_of(claims, "measurements").outcome is Outcome.NOT_PERFORMED


@needs_gpu_extra
def test_a_manifest_under_another_root_is_refused() -> None:
    stranger = Nvidia().signer.document(DRIVER_RIM, manifest())
    refused("rim.driver.certificate-chain", collateral=NVIDIA.collateral(stranger))


@needs_gpu_extra
def test_a_manifest_under_the_devices_root_is_refused() -> None:
    anchors = Anchors(tuple(CHIP.anchors.roots))
    refused("rim.driver.certificate-chain", collateral=NVIDIA.collateral(), anchors=anchors)


@needs_gpu_extra
def test_an_expired_signer_of_manifests_is_refused() -> None:
    signer = NVIDIA.signer
    key = ec_key()
    old = signer.series.issue("old", key.public_key(), start=NOW - YEAR, end=NOW - YEAR / 2)
    certificates = (old, *signer.certificates[1:])
    document = signer.document(DRIVER_RIM, manifest(), key=key, certificates=certificates)
    refused("rim.driver.validity", collateral=NVIDIA.collateral(document))


@needs_gpu_extra
def test_a_switch_is_compared_with_its_bios_manifest() -> None:
    switch = Chip(model="LS_10 A01 FSP BROM", format="nvidia.nvswitch", root=CHIP.root)
    unsigned = manifest("96.10.55.00.01", {0: MEASURED[0]}, product="LS10")
    collateral = NVIDIA.collateral(NVIDIA.signer.document(SWITCH_RIM, unsigned))
    claims = judge(switch.evidence(), collateral=collateral)
    assert check_of(claims, "measurements").outcome is Outcome.PASS
    assert claims.details["manifests"] == (SWITCH_RIM,)


def test_without_the_extra_the_verdict_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rim, "available", lambda: False)
    document = Document(kind="nvidia.rim", name=DRIVER_RIM, data=b"")
    missing = check_of(judge(collateral=Collateral(documents=(document,))), "measurements")
    assert missing.outcome is Outcome.NOT_PERFORMED
    assert missing.fix == 'pip install "secgear[gpu]"'


# --- hostile bytes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(EVIDENCE.data) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_never_accepted(at: int, flip: int) -> None:
    data = bytearray(EVIDENCE.data)
    data[at] ^= flip
    with pytest.raises(EvidenceRefused):
        judge(Evidence("nvidia.gpu", bytes(data), EVIDENCE.attachments))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_signed_rubbish_never_crashes(entries: bytes) -> None:
    """What a genuine chip with rogue firmware can do."""
    with contextlib.suppress(EvidenceRefused):
        judge(CHIP.evidence(entries=entries))
    with contextlib.suppress(EvidenceRefused):
        judge(CHIP.evidence(entries=tlv({**OPAQUE, 20: entries})))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 255))
def test_a_flipped_chain_never_crashes(at: int, flip: int) -> None:
    chain = bytearray(CHIP.chain)
    chain[at % len(chain)] ^= flip
    with contextlib.suppress(EvidenceRefused):
        judge(Evidence("nvidia.gpu", EVIDENCE.data, {"chain": bytes(chain)}))


def test_authority_of_the_same_name_as_a_chip_proves_nothing() -> None:
    """Anybody can call a certificate so; under NVIDIA's root nobody else can."""
    impostor = Chip(root=Authority("fake NVIDIA Device Identity CA"))
    with pytest.raises(EvidenceRefused):
        judge(impostor.evidence())
    with pytest.raises(EvidenceMalformed):
        judge(Evidence("nvidia.gpu", b"", {"chain": impostor.chain}))
