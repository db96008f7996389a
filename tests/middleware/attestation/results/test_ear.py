"""What a result says: the claims of an EAR, in both profiles and both forms."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Callable
from typing import Any

import cbor2
import msgspec
import pytest

from secgear.errors import ResultInvalid, Untrusted
from secgear.middleware.attestation.results import (
    Profile,
    ResultKey,
    Tier,
    ear,
    issue_cwt,
    issue_jwt,
    verify_cwt,
    verify_jwt,
)
from secgear.middleware.attestation.verdict import Verdict
from tests.adversary.claims import LAUNCH, NOW, claims_for_tests, gpu_for_tests

Judge = Callable[..., Verdict]
Arguments = dict[str, Any]

# The examples of draft-ietf-rats-ear-04 (figures 3 and 5), with the claims that we require besides.
REQUIRED = {"iss": "v", "aud": "a", "jti": "1", "exp": 1666530000, "ear_status": "contraindicated"}
DRAFT_JSON = {
    "eat_profile": "tag:ietf.org,2026:rats/ear#04",
    "iat": 1666529184,
    "ear_verifier_id": {"developer": "https://veraison-project.org", "build": "vts 0.0.1"},
    "ear_raw_evidence": "NzQ3MjY5NzM2NTYzNzQK",
    "submods": {
        "PSA": {
            "ear_status": "contraindicated",
            "ear_trustworthiness_vector": {
                "instance-identity": 2,
                "executables": 96,
                "hardware": 2,
            },
            "ear_appraisal_policy_ids": ["https://veraison.example/policy/1/60a0068d"],
        }
    },
}
DRAFT_CBOR = {
    265: "tag:ietf.org,2026:rats/ear#04",
    6: 1666529184,
    1004: {0: "https://veraison-project.org", 1: "vts 0.0.1"},
    1002: b"lifebaotman",
    266: {
        "PSA": {
            1000: 96,
            1001: {0: 2, 2: 96, 4: 2},
            1003: ["https://veraison.example/policy/1/60a0068d"],
        }
    },
}


def payload(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    read: dict[str, Any] = msgspec.json.decode(base64.urlsafe_b64decode(part + "=="))
    return read


@pytest.mark.parametrize("profile", Profile)
def test_a_jwt_and_a_cwt_say_the_same(
    judge: Judge, key: ResultKey, issuing: Arguments, reading: Arguments, profile: Profile
) -> None:
    keys = {key.kid: key.public}
    token = issue_jwt(judge(), key, profile=profile, user_data=b"a key", **issuing)
    first = verify_jwt(token, keys, **reading)
    other = issue_cwt(judge(), key, profile=profile, user_data=b"a key", **issuing)
    second = verify_cwt(other, keys, **reading)
    assert first.id != second.id
    assert msgspec.structs.replace(first, id="") == msgspec.structs.replace(second, id="")
    assert first.status is Tier.AFFIRMING
    assert first.submods["snp"].claims["measurements"]["launch"] == LAUNCH.hex()
    assert first.user_data == hashlib.sha256(b"a key").digest()
    assert first.nonce == reading["nonce"]


def test_veraisons_names_are_those_that_its_readers_look_for(
    judge: Judge, key: ResultKey, issuing: Arguments
) -> None:
    verdict = judge()
    claims = payload(issue_jwt(verdict, key, **issuing))
    assert claims["eat_profile"] == "tag:github.com,2023:veraison/ear"
    assert set(claims["ear.verifier-id"]) == {"developer", "build"}
    assert claims["exp"] - claims["iat"] == 300
    appraisal = claims["submods"]["snp"]
    assert appraisal["ear.status"] == claims["ear.status"] == "affirming"
    assert appraisal["ear.trustworthiness-vector"]["hardware"] == 2
    policy = f"production@sha256:{verdict.policy_digest.hex()}"
    assert appraisal["ear.appraisal-policy-id"] == policy


def test_the_drafts_own_examples_are_read() -> None:
    written = ear.from_json_claims(DRAFT_JSON | REQUIRED)
    packed = ear.from_cbor_claims(DRAFT_CBOR | {1: "v", 3: "a", 7: b"1", 4: 1666530000, 1000: 96})
    assert written == packed
    assert written.submods["PSA"].vector["executables"] == 96
    assert written.status is Tier.CONTRAINDICATED


def test_cbor_has_the_registered_labels(judge: Judge, key: ResultKey, issuing: Arguments) -> None:
    token = cbor2.loads(issue_cwt(judge(), key, profile=Profile.DRAFT, **issuing))
    claims = cbor2.loads(token.value[2])
    assert claims[1000] == 2
    assert claims[10] == issuing["nonce"]
    assert claims[266]["snp"][1001] == {0: 2, 1: 0, 2: 3, 3: 0, 4: 2, 5: 2, 6: 0, 7: 0}
    assert len(claims[266]["snp"][1003]) == 1


def test_each_device_has_its_own_appraisal(
    judge: Judge, key: ResultKey, issuing: Arguments, reading: Arguments
) -> None:
    verdict = judge(
        claims_for_tests(parts={"gpu0": gpu_for_tests(simulated=True)}),
        "[parts.policy.gpu.accept]\n"
        f'measurements = ["{gpu_for_tests().measurements["launch"].hex()}"]\n'
        "[parts.policy.gpu.allow]\nsimulated = true",
    )
    assert verdict.trusted, verdict.explain()
    token = issue_jwt(verdict, key, **issuing)
    result = verify_jwt(token, {key.kid: key.public}, allow_warning=True, **reading)
    assert {name: item.status for name, item in result.submods.items()} == {
        "snp": Tier.AFFIRMING,
        "snp.gpu0": Tier.WARNING,
    }
    assert result.status is Tier.WARNING


@pytest.mark.parametrize("issue", [issue_jwt, issue_cwt])
def test_a_failed_appraisal_has_no_result(
    judge: Judge, key: ResultKey, issuing: Arguments, issue: Callable[..., Any]
) -> None:
    verdict = judge(claims_for_tests(debug=True))
    with pytest.raises(Untrusted, match=r"policy\.debug") as caught:
        issue(verdict, key, **issuing)
    assert caught.value.verdict is verdict


@pytest.mark.parametrize(("issue", "verify"), [(issue_jwt, verify_jwt), (issue_cwt, verify_cwt)])
def test_a_negative_result_says_so_and_is_refused_unless_asked_for(
    judge: Judge,
    key: ResultKey,
    issuing: Arguments,
    reading: Arguments,
    issue: Callable[..., Any],
    verify: Callable[..., Any],
) -> None:
    token = issue(judge(claims_for_tests(debug=True)), key, negative=True, **issuing)
    keys = {key.kid: key.public}
    for options in ({}, {"allow_warning": True}):
        with pytest.raises(ResultInvalid, match="contraindicated"):
            verify(token, keys, **options, **reading)
    read = verify(token, keys, allow_negative=True, **reading)
    assert read.status is read.submods["snp"].status is Tier.CONTRAINDICATED


def test_a_negative_result_of_evidence_that_is_not_authentic_has_no_claims(
    key: ResultKey, issuing: Arguments, reading: Arguments
) -> None:
    verdict = Verdict(checks=(), claims=None, policy="p", policy_digest=bytes(32), at=NOW)
    token = issue_jwt(verdict, key, negative=True, **issuing)
    read = verify_jwt(token, {key.kid: key.public}, allow_negative=True, **reading)
    assert read.submods["evidence"].claims == {}
    assert read.submods["evidence"].vector["instance-identity"] == 99


def test_a_tolerated_shortcoming_must_be_asked_for_as_well(
    judge: Judge, key: ResultKey, issuing: Arguments, reading: Arguments
) -> None:
    verdict = judge(claims_for_tests(simulated=True), "[allow]\nsimulated = true")
    token = issue_jwt(verdict, key, **issuing)
    with pytest.raises(ResultInvalid, match="allow_warning"):
        verify_jwt(token, {key.kid: key.public}, **reading)
    verify_jwt(token, {key.kid: key.public}, allow_warning=True, **reading)


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b"short"},
        {"nonce": b"n" * 65},
        {"lifetime": datetime.timedelta(0)},
        {"lifetime": datetime.timedelta(days=8)},
        {"now": datetime.datetime(2026, 1, 1)},
        {"audience": ""},
        {"issuer": "i" * 2000},
    ],
)
def test_mistakes_of_the_issuer_are_errors(
    judge: Judge, key: ResultKey, issuing: Arguments, change: Arguments
) -> None:
    with pytest.raises(ValueError, match=r"nonce|lives|zone|characters"):
        issue_jwt(judge(), key, **(issuing | change))


GOOD = DRAFT_JSON | REQUIRED
SUBMOD = GOOD["submods"]["PSA"]  # type: ignore[index]


@pytest.mark.parametrize(
    "claims",
    [
        None,
        [],
        {},
        GOOD | {"eat_profile": "tag:ietf.org,2026:rats/ear#99"},
        GOOD | {"eat_profile": ["x"]},
        GOOD | {"iat": 1.5},
        GOOD | {"iat": True},
        GOOD | {"exp": "1666530000"},
        GOOD | {"exp": -1},
        GOOD | {"exp": 1 << 60},
        GOOD | {"nbf": "soon"},
        GOOD | {"aud": ["a", "b"]},
        GOOD | {"iss": None},
        GOOD | {"jti": 7},
        GOOD | {"eat_nonce": "!"},
        GOOD | {"eat_nonce": "AAAA"},
        GOOD | {"eat_nonce": "\u00e9" * 16},
        GOOD | {"secgear.user-data": "AAAA"},
        GOOD | {"ear_status": "affirming"},
        GOOD | {"ear_status": "splendid"},
        GOOD | {"ear_status": 2},
        GOOD | {"ear_verifier_id": {}},
        GOOD | {"submods": {}},
        GOOD | {"submods": []},
        GOOD | {"submods": {"PSA": SUBMOD | {"ear_status": "affirming"}}},
        GOOD | {"submods": {"PSA": SUBMOD | {"ear_trustworthiness_vector": {"hardware": 300}}}},
        GOOD | {"submods": {"PSA": SUBMOD | {"ear_trustworthiness_vector": {"luck": 2}}}},
        GOOD | {"submods": {"PSA": SUBMOD | {"ear_trustworthiness_vector": {"hardware": "2"}}}},
        GOOD | {"submods": {"PSA": SUBMOD | {"ear_appraisal_policy_ids": []}}},
        GOOD | {"submods": {"PSA": SUBMOD | {"secgear.claims": 7}}},
    ],
)
def test_claims_that_are_no_ear_are_refused(claims: object) -> None:
    with pytest.raises(ResultInvalid):
        ear.from_json_claims(claims)


def test_claims_that_are_not_known_are_passed_over() -> None:
    assert ear.from_json_claims(GOOD | {"example.more": 1}) == ear.from_json_claims(GOOD)
