"""Composite evidence: a machine and its devices, and every way to fake the bond between them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.appraisal import examine
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.composite import MAX_PARTS, device_nonce
from secgear.middleware.attestation.formats.nvidia import rim
from secgear.middleware.attestation.policy import load_policy
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.aws import PCRS, SecurityModule
from tests.adversary.vendors.nvidia import Chip, Nvidia
from tests.adversary.vendors.pki import NOW, Authority
from tests.adversary.vendors.simulated import SimulatedVendor

MODULE = SecurityModule()
MACHINE = Evidence("aws.nitro", MODULE.document())
GPU = Chip()
SECOND = Chip(root=GPU.root)
SWITCH = Chip(model="LS_10 A01 FSP BROM", format="nvidia.nvswitch", root=GPU.root)
ANCHORS = MODULE.anchors.adding(*GPU.anchors.roots)


def composed(parts: Mapping[str, Evidence], machine: Evidence = MACHINE) -> Evidence:
    return msgspec.structs.replace(machine, parts=dict(parts))


def answered(chip: Chip = GPU, machine: Evidence = MACHINE) -> Evidence:
    """The chip's evidence for the question that belongs to `machine`."""
    return chip.evidence(nonce=device_nonce(machine))


def judge(evidence: Evidence, anchors: Anchors = ANCHORS) -> Claims:
    return verify(evidence, at=NOW, anchors=anchors)


def refused(
    check: str, evidence: Evidence, kind: type[EvidenceRefused] = EvidenceRefused
) -> EvidenceRefused:
    with pytest.raises(kind) as caught:
        judge(evidence)
    last = caught.value.checks[-1]
    assert isinstance(last, Check)
    assert (last.name, last.outcome) == (check, Outcome.FAIL), caught.value
    return caught.value


def test_the_nonce_is_a_labelled_hash_of_the_machines_evidence() -> None:
    expected = hashlib.sha256(b"secgear device nonce v1\0" + MACHINE.data).digest()
    assert device_nonce(MACHINE) == expected
    assert device_nonce(composed({"gpu0": answered()})) == expected


def test_bound_devices_are_parts_of_the_claims() -> None:
    evidence = composed(
        {"gpu0": answered(), "gpu1": answered(SECOND), "nvswitch0": answered(SWITCH)}
    )
    claims = judge(evidence)
    assert {name: part.tee for name, part in claims.parts.items()} == {
        "gpu0": "gpu",
        "gpu1": "gpu",
        "nvswitch0": "nvswitch",
    }
    assert claims.tee == "nitro"
    passed = {check.name for check in claims.checks if check.outcome is Outcome.PASS}
    for name in claims.parts:
        assert {f"{name}.signature", f"{name}.root", f"{name}.binding.cpu"} <= passed
    open_checks = {check.name for check in claims.not_checked}
    assert {"gpu0.revocation", "gpu0.measurements"} <= open_checks


def test_the_machines_own_checks_stay_as_they_are() -> None:
    alone, together = judge(MACHINE), judge(composed({"gpu0": answered()}))
    assert together.checks[: len(alone.checks)] == alone.checks
    assert together.measurements == alone.measurements
    assert not alone.parts


def test_a_gpu_that_answered_another_machine_is_refused() -> None:
    """Relay: genuine GPU, genuine machine, but not each other's."""
    other = Evidence("aws.nitro", MODULE.document(nonce=b"another"))
    refusal = refused("gpu0.binding.cpu", composed({"gpu0": answered(machine=other)}))
    last = refusal.checks[-1]
    assert isinstance(last, Check)
    assert last.expected == device_nonce(MACHINE).hex()
    assert last.found == device_nonce(other).hex()


def test_a_gpu_with_the_verifiers_nonce_is_not_bound() -> None:
    """Who sends the same nonce to both, as most do, can't tell whose GPU answered."""
    nonce = hashlib.sha256(b"challenge").digest()
    machine = Evidence("aws.nitro", MODULE.document(nonce=nonce))
    refused("gpu0.binding.cpu", composed({"gpu0": GPU.evidence(nonce=nonce)}, machine))
    direct = hashlib.sha256(machine.data).digest()
    refused("gpu0.binding.cpu", composed({"gpu0": GPU.evidence(nonce=direct)}, machine))


def test_one_unbound_device_among_bound_ones_is_refused() -> None:
    stale = SECOND.evidence(nonce=bytes(32))
    refused("gpu1.binding.cpu", composed({"gpu0": answered(), "gpu1": stale}))


def test_a_device_does_not_count_twice() -> None:
    part = answered()
    refused("gpu1.binding.cpu", composed({"gpu0": part, "gpu1": part}))
    again = answered()
    assert again.data != part.data
    refused("gpu1.binding.cpu", composed({"gpu0": part, "gpu1": again}))


def test_a_device_that_is_not_authentic_is_refused_under_its_name() -> None:
    part = answered()
    broken = Evidence(part.format, part.data[:-1] + b"\0", part.attachments)
    refusal = refused("gpu0.signature", composed({"gpu0": broken}))
    assert str(refusal).startswith("gpu0.signature: ")
    names = [check.name for check in refusal.checks if isinstance(check, Check)]
    assert "signature" in names
    assert "gpu0.root" in names


def test_a_malformed_device_stays_malformed_under_its_name() -> None:
    part = Evidence("nvidia.gpu", b"\x11\xe0", {"chain": GPU.chain})
    refused("gpu0.format", composed({"gpu0": part}), EvidenceMalformed)


def test_a_device_under_an_unknown_root_is_refused() -> None:
    refused("gpu0.certificate-chain", composed({"gpu0": answered(Chip())}))


def test_parts_of_a_machine_that_is_not_authentic_are_not_looked_at() -> None:
    machine = Evidence("aws.nitro", SecurityModule().document())
    refusal = refused("certificate-chain", composed({"gpu0": answered(machine=machine)}, machine))
    assert not any("gpu0" in check.name for check in refusal.checks if isinstance(check, Check))


@pytest.mark.parametrize(
    "part",
    [
        MACHINE,
        Evidence("secgear.process.cwt", b""),
        Evidence("amd.sev-snp", b""),
        Evidence("unheard.of", b""),
        Evidence("", b""),
    ],
)
def test_what_is_no_device_is_no_part(part: Evidence) -> None:
    refused("format", composed({"gpu0": part}), EvidenceMalformed)


NAMES = ["", "GPU0", "gpu", "gpu.0", "gpu0.signature", "0", "gpu 0", "gpu0\n", "gpu٣", "gpu100"]


@pytest.mark.parametrize("name", [*NAMES, "gpu00", "nvswitch0", "tpm0", "tcb-info", "rim"])
def test_names_that_could_pass_for_checks_are_refused(name: str) -> None:
    """The checks of a part called ``tcb-info`` would have the names of the machine's own."""
    refused("format", composed({name: answered()}), EvidenceMalformed)


def test_a_device_has_no_parts_of_its_own() -> None:
    inner = answered()
    nested = composed({"gpu1": SECOND.evidence(nonce=device_nonce(inner))}, inner)
    refused("gpu0.format", composed({"gpu0": nested}), EvidenceMalformed)
    refused("format", nested, EvidenceMalformed)


def test_the_number_of_parts_is_limited() -> None:
    part = Evidence("nvidia.gpu", b"")
    many = {f"gpu{number}": part for number in range(MAX_PARTS + 1)}
    refusal = refused("format", composed(many), EvidenceMalformed)
    assert str(MAX_PARTS) in str(refusal)


def test_a_simulated_machine_with_a_real_gpu_is_simulated() -> None:
    vendor = SimulatedVendor()
    authority = Authority("simulated", key=vendor.key)
    machine = vendor.evidence(certificate=authority.certificate)
    anchors = GPU.anchors.adding(authority.anchor("fake-simulated", "simulated"))
    claims = judge(composed({"gpu0": answered(machine=machine)}, machine), anchors)
    assert claims.simulated
    assert claims.root.name == "fake-simulated"
    assert not claims.parts["gpu0"].simulated


POLICY = f"""
[accept]
tees = ["nitro"]
measurements = ["{PCRS[0].hex()}"]
[allow]
test_roots = true
[parts]
require = {{ gpu = 1 }}
[parts.policy.gpu.accept]
vendor_measurements = true
[parts.policy.gpu.allow]
test_roots = true
"""


@pytest.mark.skipif(not rim.available(), reason="needs the extra gpu")
def test_a_policy_for_machine_and_gpu_trusts_both_and_nothing_less() -> None:
    nvidia = Nvidia(chip=GPU)
    anchors = MODULE.anchors.adding(*nvidia.anchors.roots)
    nonce = MODULE.fields()["nonce"]

    def trusted(evidence: Evidence, collateral: Collateral) -> bool:
        verdict = examine(
            evidence,
            load_policy(POLICY.encode()),
            at=NOW,
            report_data=nonce,
            collateral=collateral,
            anchors=anchors,
        )
        return verdict.trusted

    whole, everything = composed({"gpu0": answered()}), nvidia.collateral()
    assert trusted(whole, everything)
    assert not trusted(MACHINE, everything)
    assert not trusted(composed({"gpu0": GPU.evidence()}), everything)
    assert not trusted(whole, Collateral(ocsp=everything.ocsp))
    assert not trusted(whole, Collateral(documents=everything.documents))
    assert not trusted(composed({"gpu0": answered(), "nvswitch0": answered(SWITCH)}), everything)


@pytest.mark.parametrize("kind", ["azure.snp", "azure.tdx"])
def test_device_of_an_azure_machine_answers_its_quote_and_not_its_report(kind: str) -> None:
    """The report is the same since the machine started; one old answer would do for ever."""
    nonces = {
        device_nonce(Evidence(kind, data, {"quote": quote, "signature": b"s"}))
        for data in (b"report", b"other report")
        for quote in (b"first", b"second")
    }
    assert len(nonces) == 4
    first, second = Evidence(kind, b"ab", {"quote": b"c"}), Evidence(kind, b"a", {"quote": b"bc"})
    assert device_nonce(first) != device_nonce(second)
