"""TCB levels: which one matches, what QE and TDX module make of it, and what the platform lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation.checks import Check
from secgear.middleware.attestation.claims import Tcb, TcbStatus
from secgear.middleware.attestation.verification import verify
from tests.adversary.vendors.intel import Intel
from tests.adversary.vendors.intel_documents import (
    COMPONENTS,
    TEE_TCB_SVN,
    level,
    module_identity,
    qe_identity,
    svn_level,
    tcb_info,
)
from tests.adversary.vendors.pki import NOW

OLD = tuple(max(svn - 1, 0) for svn in COMPONENTS)
NEWER = tuple(svn + 1 for svn in COMPONENTS)
SVN_ONE = bytes([5, 1, 7]) + bytes(13)  # TDX module 1.5: its identity is TDX_01


@pytest.fixture(scope="module")
def intel() -> Intel:
    return Intel()


def sgx(
    intel: Intel, *levels: dict[str, Any], qe: Sequence[dict[str, Any]] = (), **info: object
) -> Tcb:
    pieces = intel.pieces("sgx", tcb_info("sgx", *levels, **info), qe_identity("sgx", *qe))
    evidence = Evidence("intel.sgx.quote", intel.sgx_quote())
    return verify(evidence, at=NOW, collateral=pieces.collateral(), anchors=intel.anchors).tcb


def tdx(
    intel: Intel,
    *levels: dict[str, Any],
    qe: Sequence[dict[str, Any]] = (),
    modules: Sequence[Mapping[str, Any]] = (),
    svns: bytes = SVN_ONE,
    current: bytes | None = None,
    **fields: Any,
) -> Tcb:
    """Verify a TDX quote with TEE_TCB_SVN `svns`; `current`: a v1.5 body with this TEE_TCB_SVN2."""
    info = tcb_info("tdx", *levels, tdxModuleIdentities=list(modules))
    pieces = intel.pieces("tdx", info, qe_identity("tdx", *qe))
    if current is None:
        quote = intel.td_quote(tee_tcb_svn=svns, **fields)
    else:
        quote = intel.td_quote(5, newer=True, tee_tcb_svn=svns, tee_tcb_svn2=current, **fields)
    evidence = Evidence("intel.tdx.quote", quote)
    return verify(evidence, at=NOW, collateral=pieces.collateral(), anchors=intel.anchors).tcb


def failing(refusal: EvidenceRefused) -> Check:
    last = refusal.checks[-1]
    assert isinstance(last, Check)
    return last


@pytest.mark.parametrize(
    "status",
    [
        "UpToDate",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
    ],
)
def test_status_is_that_of_the_matching_level(intel: Intel, status: str) -> None:
    tcb = sgx(intel, level("UpToDate", sgx=NEWER), level(status, advisories=["INTEL-SA-00001"]))
    assert tcb.status.value == status
    assert tcb.advisories == ("INTEL-SA-00001",)
    assert tcb.evaluation == 20
    assert tcb.as_of is not None
    assert bool(tcb.shortfalls) == (status != "UpToDate")


def test_first_level_that_is_reached_counts(intel: Intel) -> None:
    tcb = sgx(
        intel,
        level("UpToDate", pce_svn=14),
        level("SWHardeningNeeded", sgx=(*COMPONENTS[:15], 1)),
        level("ConfigurationNeeded", sgx=OLD, date="2025-01-01T00:00:00Z"),
        level("OutOfDate", sgx=OLD, pce_svn=1),
    )
    assert tcb.status is TcbStatus.CONFIGURATION_NEEDED
    assert tcb.as_of is not None
    assert tcb.as_of.year == 2025


def test_shortfalls_name_component_values_and_remedy(intel: Intel) -> None:
    needed = (9, 7, *COMPONENTS[2:7], 6, *COMPONENTS[8:])
    tcb = sgx(intel, level("UpToDate", sgx=needed, pce_svn=15), level("OutOfDate", sgx=OLD))
    assert tcb.shortfalls == (
        "SGX component 1 (Early Microcode Update, BIOS) is 7, the level of 2026-02-11 needs 9; "
        "cleared by a newer BIOS",
        "SGX component 8 is 5, the level of 2026-02-11 needs 6",
        "PCESVN is 13, the level of 2026-02-11 needs 15; "
        "cleared by a newer microcode, module or host system",
    )


def test_status_without_shortfall_says_what_it_means(intel: Intel) -> None:
    tcb = sgx(intel, level("SWHardeningNeeded"))
    assert len(tcb.shortfalls) == 1
    assert "program itself" in tcb.shortfalls[0]


def test_platform_below_all_levels_is_refused_and_told_why(intel: Intel) -> None:
    with pytest.raises(EvidenceRefused, match="No matching TCB level") as caught:
        sgx(intel, level(sgx=NEWER), level(sgx=(8, *COMPONENTS[1:])))
    check = failing(caught.value)
    assert check.name == "tcb"
    assert "SGX component 1" in check.detail
    assert "SGX component 2" not in check.detail


@pytest.mark.parametrize("short", range(18))
def test_each_component_counts(intel: Intel, short: int) -> None:
    needed = [svn + (index == short) for index, svn in enumerate(COMPONENTS)]
    pce_svn = 13 + (short == 16)
    tcb = sgx(intel, level("UpToDate", sgx=needed, pce_svn=pce_svn), level("OutOfDate", sgx=OLD))
    assert tcb.status is (TcbStatus.UP_TO_DATE if short == 17 else TcbStatus.OUT_OF_DATE)


@pytest.mark.parametrize("short", range(17))
def test_each_tdx_component_counts_with_module_zero(intel: Intel, short: int) -> None:
    needed = [svn + (index == short) for index, svn in enumerate(TEE_TCB_SVN)]
    levels = level("UpToDate", tdx=needed), level("OutOfDate", tdx=bytes(16))
    tcb = tdx(intel, *levels, svns=TEE_TCB_SVN)
    assert tcb.status is (TcbStatus.UP_TO_DATE if short == 16 else TcbStatus.OUT_OF_DATE)
    if short < 16:
        assert f"TDX component {short + 1}" in tcb.shortfalls[0]


@pytest.mark.parametrize("short", range(16))
def test_first_two_tdx_components_belong_to_the_module_identity(intel: Intel, short: int) -> None:
    needed = [svn + (index == short) for index, svn in enumerate(SVN_ONE)]
    levels = level("UpToDate", tdx=needed), level("OutOfDate", tdx=bytes(16))
    tcb = tdx(intel, *levels, modules=[module_identity("TDX_01", svn_level(5))])
    assert tcb.status is (TcbStatus.UP_TO_DATE if short < 2 else TcbStatus.OUT_OF_DATE)


def test_version_two_of_tcb_information_is_understood(intel: Intel) -> None:
    flat = {f"sgxtcbcomp{index:02}svn": svn for index, svn in enumerate(COMPONENTS, 1)}
    one = level("SWHardeningNeeded") | {"tcb": flat | {"pcesvn": 13, "tdxtcbcomponents": None}}
    tcb = sgx(intel, one, version=2, id=...)
    assert tcb.status is TcbStatus.SW_HARDENING_NEEDED
    with pytest.raises(EvidenceRefused):
        sgx(
            intel, one | {"tcb": flat | {"sgxtcbcomp03svn": 3, "tdxtcbcomponents": None}}, version=2
        )


# Rows: status of the platform; then what becomes of it if QE or module is out of date.
CONVERGED = {
    "UpToDate": "OutOfDate",
    "SWHardeningNeeded": "OutOfDate",
    "ConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded": "OutOfDateConfigurationNeeded",
    "OutOfDate": "OutOfDate",
    "OutOfDateConfigurationNeeded": "OutOfDateConfigurationNeeded",
    "Revoked": "Revoked",
}


@pytest.mark.parametrize(("platform", "converged"), CONVERGED.items())
def test_quoting_enclave_can_only_make_it_worse(
    intel: Intel, platform: str, converged: str
) -> None:
    def with_qe(status: str) -> str:
        levels = [svn_level(8), svn_level(6, status, ["INTEL-SA-00002"])]
        return sgx(intel, level(platform), qe=levels).status.value

    assert with_qe("UpToDate") == platform
    assert with_qe("OutOfDate") == converged
    assert with_qe("Revoked") == "Revoked"


@pytest.mark.parametrize(("platform", "converged"), CONVERGED.items())
def test_tdx_module_can_only_make_it_worse(intel: Intel, platform: str, converged: str) -> None:
    def with_module(status: str) -> str:
        module = module_identity("TDX_01", svn_level(6), svn_level(5, status))
        return tdx(intel, level(platform), modules=[module]).status.value

    assert with_module("UpToDate") == platform
    assert with_module("OutOfDate") == converged
    assert with_module("Revoked") == "Revoked"


def test_advisories_of_platform_module_and_qe_are_merged(intel: Intel) -> None:
    tcb = tdx(
        intel,
        level("OutOfDate", advisories=["A", "B"]),
        modules=[module_identity("TDX_01", svn_level(6), svn_level(5, "OutOfDate", ["B", "C"]))],
        qe=[svn_level(8), svn_level(6, "OutOfDate", ["C", "D"])],
    )
    assert tcb.advisories == ("A", "B", "C", "D")
    assert "TDX module TDX_01 is 5, the level of 2026-02-11 needs 6" in tcb.shortfalls
    assert any("quoting enclave is 6" in line for line in tcb.shortfalls)


def test_quoting_enclave_below_all_levels_is_refused(intel: Intel) -> None:
    with pytest.raises(EvidenceRefused) as caught:
        sgx(intel, qe=[svn_level(8), svn_level(7, "OutOfDate")])
    assert failing(caught.value).name == "qe-identity"


def test_module_below_all_levels_is_refused(intel: Intel) -> None:
    with pytest.raises(EvidenceRefused, match="TDX_01") as caught:
        tdx(intel, modules=[module_identity("TDX_01", svn_level(6))])
    assert failing(caught.value).name == "tcb"


def test_module_of_unknown_major_version_is_refused(intel: Intel) -> None:
    with pytest.raises(EvidenceRefused) as caught:
        tdx(intel, modules=[module_identity("TDX_03", svn_level(1))])
    check = failing(caught.value)
    assert (check.name, check.expected, check.found) == ("tdx-module", "TDX_03", "TDX_01")


def test_module_identities_are_found_by_hexadecimal_major_version(intel: Intel) -> None:
    modules = [module_identity("TDX_1a", svn_level(5))]
    tcb = tdx(intel, modules=modules, svns=bytes([5, 0x1A, 7]) + bytes(13))
    assert tcb.status is TcbStatus.UP_TO_DATE


@pytest.mark.parametrize(
    "fields", [{"mrsignerseam": b"X" * 48}, {"seam_attributes": b"\1" + bytes(7)}]
)
@pytest.mark.parametrize("svns", [TEE_TCB_SVN, SVN_ONE])
def test_module_of_another_signer_or_with_attributes_is_refused(
    intel: Intel, fields: Mapping[str, bytes], svns: bytes
) -> None:
    modules = [module_identity("TDX_01", svn_level(5))]
    with pytest.raises(EvidenceRefused) as caught:
        tdx(intel, modules=modules, svns=svns, **fields)
    assert failing(caught.value).name == "tdx-module"


def test_identity_of_the_modules_version_overrules_the_general_one(intel: Intel) -> None:
    modules = [module_identity("TDX_01", svn_level(5), mrsigner="aa" * 48)]
    assert tdx(intel, modules=modules, mrsignerseam=b"\xaa" * 48).status is TcbStatus.UP_TO_DATE
    with pytest.raises(EvidenceRefused):
        tdx(intel, modules=modules)


def test_attributes_of_the_module_must_be_zero_on_both_sides(intel: Intel) -> None:
    modules = [module_identity("TDX_01", svn_level(5), attributes="01" + "00" * 7)]
    for attributes in (bytes(8), b"\1" + bytes(7)):
        with pytest.raises(EvidenceRefused) as caught:
            tdx(intel, modules=modules, seam_attributes=attributes)
        assert failing(caught.value).name == "tdx-module"


def test_module_identity_without_levels_is_refused(intel: Intel) -> None:
    with pytest.raises(EvidenceRefused) as caught:
        tdx(intel, modules=[module_identity("TDX_01")])
    assert failing(caught.value).name == "tcb"


def relaunch(intel: Intel, current: bytes, **changes: Any) -> TcbStatus:
    """A TD launched under module 1.5 where 1.6 is needed, asked when `current` is loaded."""
    arguments: dict[str, Any] = {
        "status": "UpToDate",
        "qe": [svn_level(6)],
        "modules": [module_identity("TDX_01", svn_level(6), svn_level(5, "OutOfDate"))],
    } | changes
    return tdx(
        intel,
        level(arguments["status"]),
        qe=arguments["qe"],
        modules=arguments["modules"],
        current=current,
    ).status


def test_td_launched_before_its_module_was_updated_shall_be_launched_again(intel: Intel) -> None:
    current = bytes([6, 1, 7]) + bytes(13)
    assert relaunch(intel, current) is TcbStatus.TD_RELAUNCH_ADVISED
    assert (
        relaunch(intel, current, status="ConfigurationNeeded")
        is TcbStatus.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED
    )


@pytest.mark.parametrize("current", [bytes([5, 1, 7]) + bytes(13), bytes([6, 1, 6]) + bytes(13)])
def test_launching_again_is_not_advised_while_the_platform_is_old(
    intel: Intel, current: bytes
) -> None:
    assert relaunch(intel, current) is TcbStatus.OUT_OF_DATE


def test_launching_again_is_not_advised_while_the_quoting_enclave_is_old(intel: Intel) -> None:
    current = bytes([6, 1, 7]) + bytes(13)
    levels = [svn_level(7), svn_level(6, "OutOfDate")]
    assert relaunch(intel, current, qe=levels) is TcbStatus.OUT_OF_DATE


def test_launching_again_is_not_advised_while_the_processor_is_old(intel: Intel) -> None:
    current = bytes([6, 1, 7]) + bytes(13)
    assert relaunch(intel, current, status="OutOfDate") is TcbStatus.OUT_OF_DATE


def test_launching_again_does_not_mend_a_revoked_tcb(intel: Intel) -> None:
    needed = bytes([0, 0, 8]) + bytes(13)  # out of reach, so that only the SGX part matches
    modules = [module_identity("TDX_01", svn_level(6), svn_level(5, "OutOfDate"))]
    levels = level("UpToDate", tdx=needed), level("Revoked", tdx=bytes(16))
    current = bytes([6, 1, 8]) + bytes(13)
    assert tdx(intel, *levels, modules=modules, current=current).status is TcbStatus.REVOKED


def test_a_loaded_module_that_intel_does_not_know_is_refused(intel: Intel) -> None:
    with pytest.raises(EvidenceRefused) as caught:
        relaunch(intel, bytes([6, 9, 7]) + bytes(13))
    assert failing(caught.value).name == "tdx-module"


def test_a_loaded_module_of_version_zero_is_judged_by_the_newest_level(intel: Intel) -> None:
    assert relaunch(intel, bytes([5, 0, 7]) + bytes(13)) is TcbStatus.TD_RELAUNCH_ADVISED
    assert relaunch(intel, bytes([4, 0, 7]) + bytes(13)) is TcbStatus.OUT_OF_DATE


def test_levels_count_in_intels_order_whatever_the_documents(intel: Intel) -> None:
    """By SGX components, then PCESVN, then TDX components, as Intel's library sorts them."""
    low = (*COMPONENTS[:7], 0, *COMPONENTS[8:])
    levels = [
        level("OutOfDate", sgx=low),
        level("ConfigurationNeeded", pce_svn=12),
        level("UpToDate"),
    ]
    assert sgx(intel, *levels).status is TcbStatus.UP_TO_DATE
    assert sgx(intel, *levels[:2]).status is TcbStatus.CONFIGURATION_NEEDED
    by_tdx = [level("OutOfDate", tdx=bytes(16)), level("UpToDate")]
    assert tdx(intel, *by_tdx, svns=TEE_TCB_SVN).status is TcbStatus.UP_TO_DATE
    module = module_identity("TDX_01", svn_level(4, "OutOfDate"), svn_level(5))
    assert tdx(intel, modules=[module]).status is TcbStatus.UP_TO_DATE


@pytest.mark.parametrize(("info", "identity"), [(18, 20), (20, 18)])
def test_evaluation_number_is_that_of_the_older_document(
    intel: Intel, info: int, identity: int
) -> None:
    pieces = intel.pieces(
        "sgx",
        tcb_info("sgx", tcbEvaluationDataNumber=info),
        qe_identity("sgx", tcbEvaluationDataNumber=identity),
    )
    evidence = Evidence("intel.sgx.quote", intel.sgx_quote())
    claims = verify(evidence, at=NOW, collateral=pieces.collateral(), anchors=intel.anchors)
    assert claims.tcb.evaluation == 18
