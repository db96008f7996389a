"""Policies are read strictly and mean one thing."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear.errors import PolicyError
from secgear.middleware.attestation.claims import TcbStatus
from secgear.middleware.attestation.policy import Policy, load_policy
from secgear.middleware.attestation.policy.reading import MAX_SIZE

WHOLE = """
name = "wordcount-production"
description = "what runs in production"

[accept]
tees = ["snp", "tdx", "sgx"]
measurements = ["AABB", "ccdd"]
reference_values = true
vendor_measurements = false
signers = ["0102"]
products = ["wordcount"]
min_svn = 3
[accept.registers]
pcr7 = ["00"]
rtmr1 = ["01", "02"]

[tcb]
statuses = ["UpToDate", "SWHardeningNeeded"]
advisories = ["INTEL-SA-00615"]
min_evaluation = 17
[tcb.minimum.snp]
bootloader = 3
[tcb.minimum."snp/milan"]
bootloader = 4

[freshness]
report_data = "required"
max_age = "5m"

[allow]
debug = false
roots = ["my-root"]

[unchecked]
allow = ["revocation"]

[platforms]
chip_id = ["ab"]

[details]
"policy.smt" = false

[parts]
require = { gpu = 1 }
[parts.policy.gpu.accept]
vendor_measurements = true
[parts.policy.gpu.unchecked]
allow = ["ocsp"]

[rego]
module = "package policy"
timeout = "2s"
"""


def test_whole_policy_is_read() -> None:
    policy = load_policy(WHOLE.encode())
    assert policy.name == "wordcount-production"
    assert policy.accept.measurements == (b"\xaa\xbb", b"\xcc\xdd")
    assert policy.accept.registers == {"pcr7": (b"\0",), "rtmr1": (b"\1", b"\2")}
    assert policy.tcb.statuses == (TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED)
    assert policy.freshness.max_age == datetime.timedelta(minutes=5)
    assert policy.parts.policy["gpu"].unchecked.allow == ("ocsp",)
    gpu = policy.parts.for_tee("gpu")
    assert gpu is not None
    assert gpu.accept.tees == ("gpu",)
    assert policy.parts.for_tee("tpm") is None
    assert policy.rego is not None
    assert policy.rego.query == "data.policy.allow"


def test_empty_policy_is_one() -> None:
    assert load_policy(b"") == Policy()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[acept]", "unknown key 'acept'; did you mean 'accept'?"),
        ("[accept]\nmeasurement = []", "'accept.measurement'; did you mean 'measurements'?"),
        ("[allow]\ndebugging = true", "'allow.debugging'; did you mean 'debug'?"),
        ("[freshness]\nzzz = 1", "known here: max_age, report_data"),
        ("[parts.policy.gpu.alow]\n", "'parts.policy.gpu.alow'; did you mean 'allow'?"),
        ("[parts.policy.gpu.freshness]\n", "unknown key 'parts.policy.gpu.freshness'"),
        ("[accept]\nmeasurements = ['xy']", "'xy' is not hexadecimal"),
        ("[accept]\nmeasurements = ['']", "is not hexadecimal"),
        ("[accept]\nmeasurements = ['abc']", "is not hexadecimal"),
        ("[accept]\nmeasurements = 'ab'", r"$.accept.measurements"),
        ("[accept]\nmeasurements = [1]", "1 is not hexadecimal"),
        ("[accept]\nmin_svn = '3'", r"$.accept.min_svn"),
        ("[allow]\ndebug = 1", r"$.allow.debug"),
        ("[tcb]\nstatuses = ['Revoked']", "Revoked can't be accepted"),
        ("[tcb]\nstatuses = ['NotAssessed']", "[tcb.minimum.<tee>]"),
        ("[tcb]\nstatuses = ['Fine']", r"$.tcb.statuses[0]"),
        ("[freshness]\nmax_age = '5 minutes'", "is no duration such as"),
        ("[freshness]\nmax_age = 5", "is no duration such as"),
        ("[freshness]\nreport_data = 'ignored'", r"$.freshness.report_data"),
        ("[rego]\nmodule = ''\nquery = 'true'", "query is a reference"),
        ("[rego]", "missing required field `module`"),
        ("accept = 1", r"$.accept"),
        ("a = ", "is no TOML"),
        ("a = 1\na = 2", "is no TOML"),
        ("x" * (MAX_SIZE + 1), "at most"),
        ("a = " + "[" * 5000, "is no TOML"),
        ("[[parts]]", r"$.parts"),
        ("[parts]\npolicy = 1", r"$.parts.policy"),
        (f"[{'parts.policy.gpu.' * 4}allow]\ndebug = true", "nested deeper than 3"),
    ],
)
def test_what_is_not_understood_is_refused(toml: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(toml.encode())
    assert message in str(caught.value)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_policy_or_refused(data: bytes) -> None:
    with contextlib.suppress(PolicyError):
        assert isinstance(load_policy(data), Policy)


_VALUES = st.sampled_from(
    ["1", "true", "''", "'ab'", "[]", "['ab']", "{}", "{a=1}", "1979-05-27", "nan", "-1", "9" * 30]
)
_KEYS = st.sampled_from(
    [
        "name",
        "accept",
        "accept.tees",
        "accept.registers",
        "accept.min_svn",
        "tcb",
        "tcb.minimum",
        "tcb.minimum.snp",
        "allow.roots",
        "parts",
        "parts.policy",
        "parts.policy.gpu",
        "parts.require",
        "details",
        "platforms",
        "rego",
        "freshness.max_age",
        "unchecked.allow",
        "x",
    ]
)


@given(st.lists(st.tuples(_KEYS, _VALUES), max_size=5))
def test_random_tables_are_a_policy_or_refused(lines: list[tuple[str, str]]) -> None:
    toml = "\n".join(f"{key} = {value}" for key, value in lines).encode()
    try:
        policy = load_policy(toml)
    except PolicyError:
        return
    assert len(policy.digest) == 32


@given(st.integers(0, len(WHOLE) - 1), st.characters(codec="ascii"))
def test_one_changed_character_is_another_policy_or_refused(at: int, sign: str) -> None:
    with contextlib.suppress(PolicyError):
        load_policy((WHOLE[:at] + sign + WHOLE[at + 1 :]).encode())


def test_digest_is_of_the_meaning() -> None:
    assert load_policy(WHOLE.encode()).digest == load_policy(f"# note\n{WHOLE}\n".encode()).digest
    changed = WHOLE.replace("min_svn = 3", "min_svn = 4")
    assert load_policy(WHOLE.encode()).digest != load_policy(changed.encode()).digest
    assert load_policy(b"").digest != load_policy(b"[accept]\nsigners = []").digest


def test_policy_can_not_be_changed() -> None:
    policy = load_policy(WHOLE.encode())
    with pytest.raises(AttributeError):
        policy.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        policy.accept.registers["pcr0"] = ()  # type: ignore[index]
