"""What a hostile reviewer found, each as an attack that must not work again."""

from __future__ import annotations

import time
from typing import Any

import cbor2
import pytest

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceRefused, PolicyError
from secgear.middleware.attestation import cbor, examine, load_policy, verify
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.formats.dcap.quote import parse
from secgear.middleware.attestation.importing import import_collateral
from secgear.middleware.attestation.reference.corim import read_corim
from tests.adversary.vendors.aws import sign1
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.intel_documents import level, tcb_info
from tests.adversary.vendors.pki import NOW, ec_key
from tests.adversary.vendors.snp import Amd


@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_leaving_out_tcb_information_hides_nothing(tee: str) -> None:
    """A policy's minimum does not make up for it: a revoked platform would pass."""
    intel = Intel()
    quote = intel.td_quote() if tee == "tdx" else intel.sgx_quote()
    body = parse(quote).body
    measurement = (body.mrtd if tee == "tdx" else body.mrenclave).hex()
    full = intel.pieces(tee, tcb_info(tee, level("Revoked"))).collateral()
    cut = Collateral(full.certificates, full.crls, (), full.documents[1:])
    policy = load_policy(
        f'[accept]\ntees = ["{tee}"]\nmeasurements = ["{measurement}"]\n'
        f"[allow]\ntest_roots = true\n[tcb.minimum.{tee}]\npcesvn = 0\n".encode()
    )
    for collateral in (full, cut):
        verdict = examine(
            Evidence(f"intel.{tee}.quote", quote),
            policy,
            at=NOW,
            report_data=body.report_data,
            collateral=collateral,
            anchors=intel.anchors,
        )
        assert not verdict.trusted
    names = {check.name for check in verdict.reasons}
    assert {"tcb", "policy.tcb"} <= names
    assert ("tdx-module" in names) is (tee == "tdx")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('[tcb.minimum."snp/Milan"]\nmicrocode = 214', "snp/milan"),
        ('[tcb.minimum."snp/rome"]\nmicrocode = 214', "products"),
        ("[tcb.minimum.snpp]\nmicrocode = 214", "components are known of"),
        ("[tcb.minimum.snp]", "demands nothing"),
        ("[tcb.minimum.snp]\nmicrocode = -1", "no security version"),
    ],
)
def test_a_misspelt_minimum_is_an_error_and_not_no_minimum(table: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        load_policy(table.encode())


def test_a_report_from_above_what_was_measured_is_refused_unless_it_is_named() -> None:
    """An SVSM at VMPL 0 is what the measurement is of; any system that it starts can ask, too."""
    amd = Amd()

    def reasons(vmpl: int, more: str = "") -> list[str]:
        policy = load_policy(
            f'[accept]\ntees = ["snp"]\nmeasurements = ["{(b"m" * 48).hex()}"]\n'
            f"[allow]\ntest_roots = true\n[tcb.minimum.snp]\nsnp = 1\n"
            f'[unchecked]\nallow = ["revocation"]\n{more}'.encode()
        )
        evidence = Evidence(
            "amd.sev-snp",
            amd.report(vmpl=vmpl),
            {"vcek": amd.endorsement().der, "chain": amd.chain},
        )
        verdict = examine(evidence, policy, at=NOW, report_data=b"r" * 64, anchors=amd.anchors)
        return [check.name for check in verdict.reasons]

    assert reasons(0) == []
    for vmpl in (1, 2, 3):
        assert reasons(vmpl) == ["policy.vmpl"]
    assert reasons(2, "[details]\nvmpl = 2") == []
    assert reasons(1, "[details]\nvmpl = 2") == ["policy.details"]
    assert reasons(0, "[details]\nvmpl = 2") == ["policy.details"]


@pytest.mark.parametrize(
    "table",
    [
        "[parts.require]\ngpu = 0",
        "[parts.require]\ngpu = -1",
        "[accept]\nmin_svn = -1",
        "[tcb]\nmin_evaluation = -1",
    ],
)
def test_a_rule_that_demands_nothing_is_an_error(table: str) -> None:
    with pytest.raises(PolicyError, match="Expected `int` >="):
        load_policy(table.encode())


@pytest.mark.parametrize(
    "text",
    [
        "details." + ".".join("a" * 16_000) + " = 1",
        "min_svn = 0x" + "f" * 5000,
        "[accept]\nmin_svn = 99999999999999999999",
        "[details]\nx = 0x" + "f" * 5000,
        "details.x = " + "[" * 2000 + "]" * 2000,
        "details.a = " + "{a = " * 1500 + "1" + "}" * 1500,
        '[freshness]\nmax_age = "1000000d"',
        '[rego]\nmodule = ""\ntimeout = "1h"',
    ],
)
def test_policies_that_nothing_could_hold_are_refused_at_once(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(PolicyError):
        load_policy(text.encode())
    assert time.perf_counter() - started < 5  # it took minutes


def test_searching_a_manifest_takes_no_time() -> None:
    hostile = (b"<" * 16 + b"SoftwareIdentity") * 2048
    started = time.perf_counter()
    with pytest.raises(CollateralError):
        import_collateral(hostile, "file")
    assert time.perf_counter() - started < 5  # it took a quarter of an hour


@pytest.mark.parametrize(
    "value",
    [
        1 << 20_000,
        -(1 << 64) - 1,
        cbor2.CBORTag(4, [1 << 20_000, 5]),
        cbor2.CBORTag(30, [1, 1 << 20_000]),
    ],
    ids=["large", "negative", "decimal", "rational"],
)
def test_numbers_beyond_64_bits_are_refused_in_every_token(value: Any) -> None:
    data = cbor2.dumps(value)
    with pytest.raises(EvidenceRefused):
        cbor.decode(data, "test")
    protected = cbor2.dumps({1: value})
    token = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, cbor2.dumps({265: value}), b""]))
    for name in ("arm.psa", "secgear.process.cwt", "aws.nitro"):
        with pytest.raises(EvidenceRefused):
            verify(Evidence(name, token), at=NOW)


def test_a_few_bytes_do_not_become_many_objects() -> None:
    many = cbor.MAX_ITEMS + 1
    hostile = b"\x9a" + many.to_bytes(4) + b"\xa0" * many
    with pytest.raises(EvidenceRefused, match="items"):
        cbor.decode(hostile, "test", max_size=len(hostile))
    honest = cbor2.dumps({"data": bytes(1 << 20)})
    assert cbor.decode(honest, "test", max_size=2 << 20) == {"data": bytes(1 << 20)}


def test_a_content_type_that_is_none_is_refused() -> None:
    key = ec_key()
    for hostile in ([1], {1: 2}):
        data = cbor2.dumps(
            cbor2.CBORTag(18, sign1(cbor2.dumps({}), key, protected={1: -35, 3: hostile}))
        )
        with pytest.raises(PolicyError):
            read_corim(data, at=NOW, key=key.public_key())


def test_an_authority_speaks_for_its_own_product_and_kind_only() -> None:
    milan, genoa = Amd(), Amd("Genoa", (0x19, 0x11))
    crossed = genoa.endorsement(issuer=milan.ask)
    evidence = Evidence("amd.sev-snp", genoa.report(), {"vcek": crossed.der, "chain": milan.chain})
    with pytest.raises(EvidenceRefused, match=r"binding\.issuer"):
        verify(evidence, at=NOW, anchors=milan.anchors)
    for issuer in (milan.asvk, milan.ark):
        vcek = milan.endorsement(issuer=issuer)
        with pytest.raises(EvidenceRefused, match=r"binding\.issuer"):
            verify(milan.evidence(certificate=vcek), at=NOW, anchors=milan.anchors)


@pytest.mark.parametrize("vmpl", [4, 0xFFFFFFFF])
def test_a_report_that_the_host_asked_for_is_no_guests(vmpl: int) -> None:
    amd = Amd()
    with pytest.raises(EvidenceRefused, match="VMPL"):
        verify(amd.evidence(vmpl=vmpl), at=NOW, anchors=amd.anchors)


def test_collateral_can_not_change_under_a_cache() -> None:
    items = [b"one"]
    collateral = Collateral(crls=items)  # type: ignore[arg-type]
    items.append(b"two")
    assert collateral.crls == (b"one",)
