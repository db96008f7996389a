"""What an appraisal makes of claims: each rule, each default, and the parts."""

from __future__ import annotations

import datetime
import hashlib
import tomllib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secgear.base.tee import Evidence
from secgear.errors import CollateralError
from secgear.middleware.attestation import appraisal, envelope
from secgear.middleware.attestation.appraisal import appraise, examine
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.claims import Claims, Tcb, TcbStatus
from secgear.middleware.attestation.policy import Policy, load_policy
from secgear.middleware.attestation.reference import ReferenceValue, ReferenceValues
from secgear.middleware.attestation.values import Hex, decode_hook
from secgear.middleware.attestation.verdict import Verdict
from tests.adversary.claims import (
    ADDED,
    LAUNCH,
    NOW,
    PASSED,
    REPORT_DATA,
    claims_for_tests,
    gpu_for_tests,
)
from tests.adversary.vendors.simulated import SimulatedVendor

BASE = f"""
[accept]
tees = ["snp", "cca", "nitro", "tdx"]
measurements = ["{LAUNCH.hex()}"]
"""


def judged(
    claims: Claims,
    toml: str = BASE,
    *,
    report_data: bytes | None = REPORT_DATA,
    values: ReferenceValues | None = None,
) -> Verdict:
    return appraise(
        claims,
        load_policy(toml.encode()),
        at=NOW,
        report_data=report_data,
        reference_values=values,
    )


def reasons(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.reasons]


def test_good_claims_under_a_fitting_policy_are_trusted() -> None:
    verdict = judged(claims_for_tests())
    assert verdict.trusted
    names = [check.name for check in verdict.checks]
    assert names[:3] == ["format", "root", "signature"]
    assert {"policy.tee", "policy.measurement", "policy.tcb", "policy.debug", "freshness"} <= set(
        names
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tee": "sgx"}, "policy.tee"),
        ({"measurements": {"launch": b"\x12" * 48}}, "policy.measurement"),
        ({"measurements": {}}, "policy.measurement"),
        ({"debug": True}, "policy.debug"),
        ({"simulated": True}, "policy.simulated"),
        ({"migratable": True}, "policy.migratable"),
        ({"root": ADDED}, "policy.root"),
        ({"report_data": bytes(64)}, "freshness"),
        ({"report_data": b""}, "freshness"),
        ({"not_performed": ("revocation",)}, "revocation"),
        ({"tcb": Tcb(TcbStatus.OUT_OF_DATE)}, "policy.tcb"),
        ({"tcb": Tcb(TcbStatus.REVOKED)}, "policy.tcb"),
        ({"tcb": Tcb()}, "policy.tcb"),
        (
            {"tcb": Tcb(TcbStatus.UP_TO_DATE, advisories=("INTEL-SA-1",))},
            "policy.advisories",
        ),
        ({"parts": {"gpu0": gpu_for_tests()}}, "gpu0.policy.part"),
    ],
)
def test_each_shortfall_is_refused_by_its_own_check(changes: dict[str, Any], reason: str) -> None:
    assert reasons(judged(claims_for_tests(**changes))) == [reason]


@pytest.mark.parametrize(
    ("changes", "allowance"),
    [
        ({"debug": True}, "[allow]\ndebug = true"),
        ({"simulated": True}, "[allow]\nsimulated = true"),
        ({"migratable": True}, "[allow]\nmigratable = true"),
        ({"root": ADDED}, "[allow]\ntest_roots = true"),
        ({"root": ADDED}, '[allow]\nroots = ["laboratory"]'),
        ({"root": ADDED}, f'[allow]\nroots = ["{"55" * 32}"]'),
        ({"not_performed": ("revocation",)}, '[unchecked]\nallow = ["revocation"]'),
        ({"tcb": Tcb(TcbStatus.OUT_OF_DATE)}, '[tcb]\nstatuses = ["OutOfDate"]'),
        (
            {"tcb": Tcb(TcbStatus.UP_TO_DATE, advisories=("INTEL-SA-1",))},
            '[tcb]\nadvisories = ["INTEL-SA-1"]',
        ),
        ({"tcb": Tcb(components={"microcode": 9})}, "[tcb.minimum.snp]\nmicrocode = 9"),
        ({"tcb": Tcb(components={"microcode": 9})}, '[tcb.minimum."snp/milan"]\nmicrocode = 9'),
    ],
)
def test_each_allowance_lets_its_own_shortfall_pass_and_stays_visible(
    changes: dict[str, Any], allowance: str
) -> None:
    claims = claims_for_tests(**changes)
    assert not judged(claims).trusted
    assert judged(claims, BASE + allowance).trusted


def test_waived_check_is_marked_and_still_there() -> None:
    verdict = judged(
        claims_for_tests(not_performed=("revocation",)), BASE + '[unchecked]\nallow=["revocation"]'
    )
    shown = [check for check in verdict.to_dict()["checks"] if check["name"] == "revocation"]
    assert [(check["outcome"], check["waived"]) for check in shown] == [("not-performed", True)]
    assert "(the policy does without)" in verdict.explain()


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ('signers = ["aa"]', "policy.signer"),
        ('products = ["other"]', "policy.product"),
        ("min_svn = 6", "policy.svn"),
        ('registers.pcr7 = ["aa"]', "policy.register"),
        ('registers.pcr8 = ["aa"]', "policy.register"),
        ("vendor_measurements = true", "policy.vendor-measurements"),
        ("signers = []", "policy.signer"),
    ],
)
def test_every_rule_about_what_runs_must_hold(rule: str, reason: str) -> None:
    assert reasons(judged(claims_for_tests(), BASE + rule)) == [reason]


@pytest.mark.parametrize("missing", ["signer", "product", "svn"])
def test_rule_about_something_that_the_claims_lack_does_not_hold(missing: str) -> None:
    rules = f'signers = ["{"22" * 32}"]\nproducts = ["wordcount"]\nmin_svn = 5'
    assert judged(claims_for_tests(), BASE + rules).trusted
    verdict = judged(claims_for_tests(**{missing: None}), BASE + rules)
    assert reasons(verdict) == [f"policy.{missing}"]


def test_policy_that_does_not_say_what_may_run_trusts_nothing() -> None:
    for toml in ('[accept]\ntees=["snp"]', '[accept]\ntees=["snp"]\nproducts=["wordcount"]'):
        assert reasons(judged(claims_for_tests(), toml)) == ["policy.identity"]


def test_platforms_by_identity_whatever_the_case_of_letters() -> None:
    assert judged(claims_for_tests(), BASE + f'[platforms]\nchip_id=["{"AB" * 32}"]').trusted
    for rule in ('chip_id = ["aa"]', 'ueid = ["aa"]', "chip_id = []"):
        assert reasons(judged(claims_for_tests(), f"{BASE}[platforms]\n{rule}")) == [
            "policy.platform"
        ]


def test_details_by_exact_value_and_kind() -> None:
    assert judged(claims_for_tests(), BASE + '[details]\n"policy.smt" = false').trusted
    for rule in ('"policy.smt" = true', '"policy.smt" = 0', '"policy.other" = false', "x = []"):
        verdict = judged(claims_for_tests(), f"{BASE}[details]\n{rule}")
        assert reasons(verdict) == ["policy.details"]


def test_minimum_for_a_product_counts_instead_of_that_for_its_tee() -> None:
    rules = '[tcb.minimum.snp]\nmicrocode = 1\n[tcb.minimum."snp/milan"]\nmicrocode = 201'
    assert reasons(judged(claims_for_tests(), BASE + rules)) == ["policy.tcb-minimum"]
    other = claims_for_tests(details={"product": "Genoa"})
    assert judged(other, BASE + rules).trusted


def test_minimum_of_a_component_that_the_evidence_lacks_is_not_reached() -> None:
    verdict = judged(claims_for_tests(), BASE + "[tcb.minimum.snp]\nfmc = 0")
    assert reasons(verdict) == ["policy.tcb-minimum"]


def test_minimum_stands_in_for_an_assessment_that_nobody_made() -> None:
    claims = claims_for_tests(tcb=Tcb(components={"microcode": 9}), not_performed=("tcb",))
    assert reasons(judged(claims)) == ["tcb", "policy.tcb"]
    assert judged(claims, BASE + "[tcb.minimum.snp]\nmicrocode = 9").trusted
    assert reasons(judged(claims, BASE + "[tcb.minimum.snp]\nmicrocode = 10")) == ["policy.tcb"]
    assert reasons(judged(claims, BASE + "[tcb.minimum.tdx]\nmicrocode = 9")) == [
        "tcb",
        "policy.tcb",
    ]


def test_only_vendors_without_tcb_levels_need_no_assessment() -> None:
    assert judged(claims_for_tests(tee="nitro", tcb=Tcb())).trusted
    assert reasons(judged(claims_for_tests(tee="cca", tcb=Tcb()))) == ["policy.tcb"]
    assert reasons(judged(claims_for_tests(tee="nitro", tcb=Tcb(components={"a": 1})))) == [
        "policy.tcb"
    ]


def test_old_tcb_information_is_refused_where_intel_counts() -> None:
    rule = BASE + "[tcb]\nmin_evaluation = 17"
    for evaluation, expected in ((17, []), (16, ["policy.tcb-evaluation"])):
        tcb = Tcb(TcbStatus.UP_TO_DATE, evaluation=evaluation)
        assert reasons(judged(claims_for_tests(tee="tdx", tcb=tcb), rule)) == expected
    tcb = Tcb(TcbStatus.UP_TO_DATE)
    assert reasons(judged(claims_for_tests(tee="tdx", tcb=tcb), rule)) == ["policy.tcb-evaluation"]
    assert judged(claims_for_tests(), rule).trusted


# --- freshness -----------------------------------------------------------------------------------


def test_expected_report_data_may_be_shorter_than_the_field() -> None:
    claims = claims_for_tests(report_data=b"nonce".ljust(64, b"\0"))
    assert judged(claims, report_data=b"nonce").trusted
    assert reasons(judged(claims, report_data=b"nonc")) == ["freshness"]
    assert reasons(judged(claims, report_data=b"nonce".ljust(65, b"\0"))) == ["freshness"]


def test_empty_expectation_is_none_and_binds_nothing() -> None:
    assert reasons(judged(claims_for_tests(report_data=bytes(64)), report_data=b"")) == [
        "freshness"
    ]


def test_without_expectation_freshness_is_not_performed_and_not_trusted() -> None:
    verdict = judged(claims_for_tests(), report_data=None)
    assert verdict.checks[-1].outcome is Outcome.NOT_PERFORMED
    assert reasons(verdict) == ["freshness"]


def test_optional_report_data_counts_if_it_is_given() -> None:
    rule = BASE + '[freshness]\nreport_data = "optional"'
    assert judged(claims_for_tests(), rule, report_data=None).trusted
    assert reasons(judged(claims_for_tests(), rule, report_data=b"other")) == ["freshness"]


@pytest.mark.parametrize(
    ("seconds", "trusted"), [(300, True), (301, False), (-60, True), (-61, False)]
)
def test_age_is_limited_in_both_directions(seconds: int, trusted: bool) -> None:
    claims = claims_for_tests(evidence_time=NOW - datetime.timedelta(seconds=seconds))
    verdict = judged(claims, BASE + '[freshness]\nmax_age = "5m"')
    assert reasons(verdict) == ([] if trusted else ["policy.age"])


def test_evidence_that_does_not_tell_its_time_has_no_age() -> None:
    rule = BASE + '[freshness]\nmax_age = "5m"'
    assert reasons(judged(claims_for_tests(evidence_time=None), rule)) == ["policy.age"]


def test_time_without_zone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="time zone"):
        appraise(claims_for_tests(), Policy(), at=datetime.datetime(2026, 1, 1), report_data=None)


# --- reference values ----------------------------------------------------------------------------


def values(**fields: Any) -> ReferenceValues:
    return ReferenceValues((ReferenceValue(**({"name": "release 7", "tee": "snp"} | fields)),))


STORE = '[accept]\ntees = ["snp", "cca"]\nreference_values = true\n'


def test_reference_value_identifies_what_runs_and_is_named() -> None:
    verdict = judged(claims_for_tests(), STORE, values=values(measurements={"launch": Hex(LAUNCH)}))
    assert verdict.trusted
    assert "reference value 'release 7'" in verdict.explain()


def test_reference_values_do_not_count_unless_the_policy_says_so() -> None:
    other = BASE.replace(LAUNCH.hex(), "aa")
    known = values(measurements={"launch": Hex(LAUNCH)})
    assert reasons(judged(claims_for_tests(), other, values=known)) == ["policy.measurement"]
    assert judged(claims_for_tests(), f"{other}reference_values = true", values=known).trusted


def test_no_reference_values_are_none_that_fit() -> None:
    assert reasons(judged(claims_for_tests(), STORE)) == ["policy.measurement"]


def test_value_about_a_platform_never_identifies_a_program() -> None:
    platform = values(about="platform", measurements={"launch": Hex(LAUNCH)})
    assert reasons(judged(claims_for_tests(), STORE, values=platform)) == ["policy.measurement"]


def test_firmware_that_a_reference_value_covers_stands_for_the_tcb() -> None:
    firmware = {"platform": {"software": [{"name": "BL", "measurement": "aa"}]}}
    claims = claims_for_tests(tee="cca", tcb=Tcb(), details=firmware)
    program = values(tee="cca", measurements={"launch": Hex(LAUNCH)})
    platform = values(tee="cca", about="platform", measurements={"BL": Hex(b"\xaa")})
    assert reasons(judged(claims, STORE, values=program)) == ["policy.tcb"]
    assert judged(claims, STORE, values=program.merged(platform)).trusted


# --- parts ---------------------------------------------------------------------------------------

GPU = BASE + "[parts]\nrequire.gpu = 1\n[parts.policy.gpu.accept]\nvendor_measurements = true\n"


def test_part_that_its_rules_accept_is_trusted_with_the_whole() -> None:
    verdict = judged(claims_for_tests(parts={"gpu0": gpu_for_tests()}), GPU)
    assert verdict.trusted
    assert "gpu0.policy.vendor-measurements" in [check.name for check in verdict.checks]


def test_missing_part_is_refused() -> None:
    assert reasons(judged(claims_for_tests(), GPU)) == ["policy.parts"]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (gpu_for_tests(debug=True), "gpu1.policy.debug"),
        (gpu_for_tests(root=ADDED), "gpu1.policy.root"),
        (gpu_for_tests(checks=PASSED), "gpu1.policy.vendor-measurements"),
        (gpu_for_tests(tee="nvswitch"), "gpu1.policy.part"),
        (gpu_for_tests(parts={"sub": gpu_for_tests()}), "gpu1.sub.policy.part"),
        (
            gpu_for_tests(
                checks=(*gpu_for_tests().checks, Check("revocation", Outcome.NOT_PERFORMED))
            ),
            "gpu1.revocation",
        ),
    ],
)
def test_every_part_is_judged_by_its_rules(part: Claims, reason: str) -> None:
    claims = claims_for_tests(parts={"gpu0": gpu_for_tests(), "gpu1": part})
    assert reasons(judged(claims, GPU)) == [reason]


def test_waiver_for_parts_is_no_waiver_for_the_whole() -> None:
    rule = GPU + '[parts.policy.gpu.unchecked]\nallow = ["revocation"]'
    part = gpu_for_tests(
        checks=(*gpu_for_tests().checks, Check("revocation", Outcome.NOT_PERFORMED))
    )
    assert judged(claims_for_tests(parts={"gpu0": part}), rule).trusted
    whole = claims_for_tests(parts={"gpu0": part}, not_performed=("revocation",))
    assert reasons(judged(whole, rule)) == ["revocation"]


def test_name_of_a_part_can_not_borrow_a_waiver() -> None:
    rule = GPU + '[parts.policy.gpu.unchecked]\nallow = ["revocation"]'
    part = gpu_for_tests(
        checks=(*gpu_for_tests().checks, Check("revocation", Outcome.NOT_PERFORMED))
    )
    claims = claims_for_tests(parts={"tcb-info": part}, not_performed=("tcb-info.revocation",))
    assert reasons(judged(claims, rule)) == ["tcb-info.revocation"]


# --- whole evidence ------------------------------------------------------------------------------


def test_genuine_evidence_is_examined_to_trust() -> None:
    vendor = SimulatedVendor()
    evidence = vendor.evidence(report_data=REPORT_DATA)
    toml = f"""
    [accept]
    tees = ["process"]
    measurements = ["{(b"m" * 48).hex()}"]
    [allow]
    simulated = true
    test_roots = true
    """
    verdict = examine(
        evidence,
        load_policy(toml.encode()),
        at=datetime.datetime.now(datetime.UTC),
        report_data=REPORT_DATA,
        anchors=vendor.anchors,
    )
    assert verdict.trusted
    assert verdict.evidence_digest == hashlib.sha256(envelope.to_cbor(evidence)).digest()


def test_evidence_under_an_unknown_root_has_no_claims() -> None:
    verdict = examine(
        SimulatedVendor().evidence(), Policy(), at=datetime.datetime.now(datetime.UTC)
    )
    assert verdict.claims is None
    assert [check.name for check in verdict.reasons] == ["certificate-chain"]


@given(st.binary(max_size=200), st.sampled_from(["secgear.process.cwt", "aws.nitro", "unheard.of"]))
def test_bytes_of_any_kind_end_in_distrust_and_never_in_an_error(data: bytes, name: str) -> None:
    verdict = examine(Evidence(name, data), Policy(), at=NOW)
    assert not verdict.trusted
    assert verdict.claims is None
    assert "format" in reasons(verdict)


def test_unusable_collateral_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def unusable(*_: object, **__: object) -> Claims:
        raise CollateralError("no such thing")

    monkeypatch.setattr(appraisal, "verify", unusable)
    assert reasons(examine(Evidence("f", b""), Policy(), at=NOW)) == ["collateral"]


# --- properties ----------------------------------------------------------------------------------

_ANY = st.fixed_dictionaries(
    {},
    optional={
        "tee": st.sampled_from(["snp", "tdx", "nitro", "process", "", "gpu"]),
        "measurements": st.dictionaries(st.text(max_size=5), st.binary(max_size=48), max_size=3),
        "debug": st.booleans(),
        "simulated": st.booleans(),
        "migratable": st.booleans(),
        "report_data": st.sampled_from([REPORT_DATA, b"", bytes(64)]),
        "root": st.sampled_from([ADDED, claims_for_tests().root]),
        "signer": st.none() | st.binary(max_size=32),
        "product": st.none() | st.text(max_size=5),
        "svn": st.none() | st.integers(0, 9),
        "tcb": st.builds(
            Tcb,
            st.sampled_from(TcbStatus),
            st.dictionaries(st.sampled_from(["microcode", "x"]), st.integers(0, 255)),
            st.lists(st.sampled_from(["A", "B"]), max_size=2).map(tuple),
        ),
        "not_performed": st.lists(st.sampled_from(["revocation", "tcb"])).map(tuple),
        "evidence_time": st.none() | st.just(NOW),
        "parts": st.sampled_from([{}, {"gpu0": gpu_for_tests()}]),
    },
)


@given(_ANY, st.none() | st.just(REPORT_DATA))
def test_empty_policy_trusts_nothing(fields: dict[str, Any], report_data: bytes | None) -> None:
    verdict = appraise(claims_for_tests(**fields), Policy(), at=NOW, report_data=report_data)
    assert not verdict.trusted
    assert {"policy.tee", "policy.identity"} <= set(reasons(verdict))


_GENEROUS = f"""
[accept]
tees = ["snp", "tdx", "nitro", "process", "gpu"]
reference_values = true
[tcb]
statuses = ["UpToDate", "OutOfDate", "SWHardeningNeeded"]
advisories = ["A", "B"]
minimum.snp = {{microcode = 0}}
minimum.tdx = {{microcode = 3}}
[freshness]
report_data = "optional"
[allow]
debug = true
simulated = true
migratable = true
test_roots = true
[unchecked]
allow = ["revocation", "tcb"]
[parts.policy.gpu.accept]
vendor_measurements = true
measurements = ["{LAUNCH.hex()}", "aa"]
"""


def _poorer(table: dict[str, Any], draw: st.DrawFn) -> dict[str, Any]:
    """The policy without some of its allowances: list items, switches, rules for parts."""
    kept: dict[str, Any] = {}
    for key, value in table.items():
        match value:
            case dict() if key == "minimum":  # restricts as well: no mere allowance
                kept[key] = value
            case dict() if key == "policy":
                kept[key] = {
                    name: _poorer(item, draw) for name, item in value.items() if draw(st.booleans())
                }
            case dict():
                kept[key] = _poorer(value, draw)
            case list():
                kept[key] = [item for item in value if draw(st.booleans())]
            case bool():
                kept[key] = draw(st.booleans())
            case "optional":
                kept[key] = draw(st.sampled_from(["optional", "required"]))
            case _:
                kept[key] = value
    return kept


@settings(max_examples=200)
@given(st.data(), _ANY)
def test_taking_an_allowance_away_never_makes_trust(
    data: st.DataObject, fields: dict[str, Any]
) -> None:
    table = tomllib.loads(_GENEROUS)
    poorer = _poorer(table, data.draw)
    claims = claims_for_tests(**fields)
    store = values(measurements={"launch": Hex(LAUNCH)})

    def verdict(policy: dict[str, Any]) -> Verdict:
        made = msgspec.convert(policy, Policy, dec_hook=decode_hook)
        return appraise(claims, made, at=NOW, report_data=None, reference_values=store)

    if verdict(poorer).trusted:
        assert verdict(table).trusted
