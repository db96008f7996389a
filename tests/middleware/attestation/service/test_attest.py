"""Challenge and attest over real HTTP: what is trusted, and everything that is not."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from secgear.errors import ResultInvalid
from secgear.middleware.attestation.base64url import unpack
from secgear.middleware.attestation.results import Result, Tier, public_keys, verify_cwt, verify_jwt
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.settings import Rate

Start = Callable[..., Any]


def verified(service: Any, answer: Any, nonce: bytes | None, **changes: Any) -> Result:
    """What a relying party makes of the answer."""
    body = answer.json()
    keys = public_keys(service.client.get("/v1/keys").content)
    token: Any = body["result"]
    verify: Callable[..., Result] = verify_jwt
    if body["form"] == "cwt":
        token, verify = unpack(token), verify_cwt
    return verify(
        token,
        keys,
        **{
            "audience": "relying-party",
            "issuer": "https://verifier.example",
            "nonce": nonce,
            "now": datetime.datetime.now(datetime.UTC),
            "allow_warning": True,
        }
        | changes,
    )


def failing(answer: Any) -> list[str]:
    """Names of the checks in the way, from an answer that must not carry a result."""
    body = answer.json()
    assert answer.status_code == 403, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["code"] == "attestation.untrusted"
    assert body["verdict"]["trusted"] is False
    assert "result" not in body
    return [check["name"] for check in body["verdict"]["checks"] if check["outcome"] == "fail"]


@pytest.mark.parametrize("form", ["jwt", "cwt"])
def test_good_evidence_gets_a_result_that_its_audience_can_verify(service: Any, form: str) -> None:
    nonce = service.nonce()
    answer = service.attest(nonce, result=form)
    assert answer.status_code == 200, answer.text
    assert answer.json()["verdict"]["trusted"] is True
    result = verified(service, answer, nonce)
    assert result.submods["process"].claims["measurements"]["launch"] == (b"m" * 48).hex()
    assert result.status is Tier.WARNING  # simulated, whatever the policy allows
    assert result.user_data is None


def test_a_result_is_worth_nothing_for_another_audience(service: Any) -> None:
    answer = service.attest(audience="somebody else")
    with pytest.raises(ResultInvalid, match="meant for"):
        verified(service, answer, None)


def test_user_data_is_bound_and_its_digest_is_in_the_result(service: Any) -> None:
    nonce = service.nonce()
    answer = service.attest(nonce, bound=b"public key")
    assert answer.status_code == 200, answer.text
    assert verified(service, answer, nonce).user_data == hashlib.sha256(b"public key").digest()


def test_user_data_that_the_evidence_does_not_vouch_for_is_refused(service: Any) -> None:
    nonce = service.nonce()
    body = service.request(nonce, bound=b"public key")
    for changed in ({"user_data": "b3RoZXI"}, {"user_data": None}):
        answer = service.client.post("/v1/attest", json=body | changed)
        assert failing(answer) == ["freshness"]
        nonce = service.nonce()
        body = service.request(nonce, bound=b"public key")


def test_a_nonce_is_good_once(service: Any) -> None:
    nonce = service.nonce()
    assert service.attest(nonce).status_code == 200
    again = service.attest(nonce)
    assert (again.status_code, again.json()["code"]) == (409, "nonce.refused")
    assert "verdict" not in again.json()


def test_a_nonce_is_used_up_by_bad_evidence_too(service: Any) -> None:
    nonce = service.nonce()
    assert failing(service.attest(nonce, claims={"measurement": b"x" * 48})) == [
        "policy.measurement"
    ]
    assert service.attest(nonce).status_code == 409


def test_a_nonce_that_nobody_gave_out_is_refused(service: Any) -> None:
    assert service.attest(b"x" * 32).status_code == 409


def test_a_nonce_expires(service: Any) -> None:
    nonce = service.nonce()
    service.clock.ahead = service.settings.nonce_lifetime
    assert service.attest(nonce).status_code == 409


def test_evidence_for_another_nonce_is_refused(service: Any) -> None:
    first, second = service.nonce(), service.nonce()
    assert failing(service.attest(first, report_data=second)) == ["freshness"]


@pytest.mark.parametrize(
    ("claims", "check"),
    [
        ({263: 0}, "policy.debug"),
        ({"measurement": b"x" * 48}, "policy.measurement"),
        ({"simulated": False}, "format"),
    ],
)
def test_evidence_is_refused_for_its_own_reason(
    service: Any, claims: dict[Any, Any], check: str
) -> None:
    made = service.vendor.claims() | claims
    nonce = service.nonce()
    body = service.request(nonce)
    evidence = service.vendor.evidence(made, report_data=nonce.ljust(64, b"\0"))
    body["evidence"]["data"] = base64.b64encode(evidence.data).decode()
    assert failing(service.client.post("/v1/attest", json=body)) == [check]


def test_simulated_evidence_is_refused_unless_the_policy_names_it(service: Any) -> None:
    strict = f'[accept]\ntees = ["process"]\nmeasurements = ["{(b"m" * 48).hex()}"]\n'
    service.put("policies/strict", strict).raise_for_status()
    assert failing(service.attest(policy="strict")) == ["policy.simulated", "policy.root"]


def test_a_changed_bit_is_refused(service: Any) -> None:
    nonce = service.nonce()
    body = service.request(nonce)
    data = bytearray(base64.b64decode(body["evidence"]["data"]))
    data[-1] ^= 1
    body["evidence"]["data"] = base64.b64encode(data).decode()
    assert failing(service.client.post("/v1/attest", json=body)) == ["signature"]


def test_a_format_that_nobody_knows_is_refused_with_a_verdict(service: Any) -> None:
    body = service.request(service.nonce())
    body["evidence"]["format"] = "acme.chip"
    assert failing(service.client.post("/v1/attest", json=body)) == ["format"]


def test_a_policy_that_is_not_there_uses_up_no_nonce(service: Any) -> None:
    nonce = service.nonce()
    answer = service.attest(nonce, policy="nowhere")
    assert (answer.status_code, answer.json()["code"]) == (404, "policy.unknown")
    assert service.attest(nonce).status_code == 200


def test_every_appraisal_is_in_the_audit_trail_without_secrets(service: Any) -> None:
    nonce = service.nonce()
    good = service.attest(nonce)
    service.attest(claims={"measurement": b"x" * 48})
    records = [
        item for item in service.get("audit").json()["records"] if item["action"] == "appraisal"
    ]
    assert [record["detail"]["trusted"] for record in records] == [True, False]
    assert records[1]["detail"]["reasons"] == ["policy.measurement"]
    token = good.json()["result"].encode()
    assert records[0]["detail"]["result"] == hashlib.sha256(token).hexdigest()
    assert records[0]["detail"]["policy_version"] == 1
    text = json.dumps(records)
    assert nonce.hex() not in text
    assert token.decode() not in text
    with service.store.reading() as connection:
        audit.check(connection)


def test_metrics_count(service: Any) -> None:
    service.attest()
    service.attest(claims={"measurement": b"x" * 48})
    service.attest(b"x" * 32)
    assert service.metric("secgear_challenges_total") == 2
    assert service.metric('secgear_appraisals_total{outcome="trusted",tee="process"}') == 1
    assert service.metric('secgear_appraisals_total{outcome="untrusted",tee="process"}') == 1
    assert service.metric("secgear_nonces_refused_total") == 1
    assert service.metric("secgear_appraisal_seconds_count") == 2
    assert service.metric('secgear_requests_refused_total{code="nonce.refused"}') == 1


BAD: list[tuple[str, Any]] = [
    ("nothing", b""),
    ("no JSON", b"{"),
    ("a list", b"[]"),
    ("deep", b"[" * 1_000_000),
    ("deep inside", b'{"evidence":' + b"[" * 1_000_000),
    ("not UTF-8", b'{"nonce":"\xff"}'),
    ("nonce", {"nonce": "AAAA"}),
    ("nonce of another kind", {"nonce": 7}),
    ("padded nonce", {"nonce": "A" * 43 + "="}),
    ("nonce in the other alphabet", {"nonce": "+" * 43}),
    ("nonce spelt differently", {"nonce": "A" * 42 + "B"}),
    ("policy", {"policy": "../x"}),
    ("audience", {"audience": ""}),
    ("long audience", {"audience": "a" * 257}),
    ("result", {"result": "xml"}),
    ("user data", {"user_data": "!"}),
    ("empty user data", {"user_data": ""}),
    ("more", {"more": 1}),
    ("evidence", {"evidence": None}),
    ("evidence of nothing", {"evidence": {}}),
    ("evidence in text", {"evidence": "text"}),
    (
        "evidence of another version",
        {"evidence": {"secgear-evidence": 2, "format": "f", "data": ""}},
    ),
    (
        "evidence with more",
        {"evidence": {"secgear-evidence": 1, "format": "f", "data": "", "x": 1}},
    ),
    ("evidence not base64", {"evidence": {"secgear-evidence": 1, "format": "f", "data": "!"}}),
]


@pytest.mark.parametrize("name", [name for name, _ in BAD])
def test_a_malformed_request_is_a_problem_of_the_client_and_uses_up_nothing(
    service: Any, name: str
) -> None:
    nonce = service.nonce()
    bad = dict(BAD)[name]
    content = bad if isinstance(bad, bytes) else json.dumps(service.request(nonce) | bad).encode()
    answer = service.client.post("/v1/attest", content=content)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] in {"request.invalid", "attestation.malformed"}
    assert service.attest(nonce).status_code == 200


def test_a_body_beyond_the_limit_is_refused(start: Start) -> None:
    service = start(max_body=100_000)
    for kind in (b"x" * 100_001, iter([b"x" * 60_000, b"x" * 60_000])):
        answer = service.client.post("/v1/attest", content=kind)
        assert (answer.status_code, answer.json()["code"]) == (413, "request.too-large")


def _begun(service: Any, size: int, announced: int) -> socket.socket:
    """A connection on which so many bytes of an attestation have been sent."""
    where = ("127.0.0.1", service.client.base_url.port)
    connection = socket.create_connection(where, timeout=10)
    head = f"POST /v1/attest HTTP/1.1\r\nHost: x\r\nContent-Length: {announced}\r\n\r\n"
    connection.sendall(head.encode() + b"x" * size)
    return connection


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bodies_that_arrive_slowly_take_no_more_than_their_addresss_room(start: Start) -> None:
    service = start(max_body=100_000, body_timeout=60)
    held = service.app.state.service.bodies._held
    with contextlib.ExitStack() as stalled:
        for _ in range(4):
            stalled.enter_context(_begun(service, 99_000, 100_000))
        _until(lambda: held["127.0.0.1"] == 396_000)
        refused = service.client.post("/v1/attest", content=b"x" * 5_000)
        assert (refused.status_code, refused.json()["code"]) == (429, "rate.limited")
        assert service.client.post("/v1/challenge").status_code == 200
        assert service.attest().status_code == 200  # a small one finds room
    _until(lambda: not held["127.0.0.1"])
    assert service.client.post("/v1/attest", content=b"x" * 5_000).status_code == 400  # no JSON


def test_a_body_that_is_cut_off_is_the_clients_fault(
    service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = service.metric('secgear_requests_refused_total{code="request.invalid"}')
    _begun(service, 10, 100).close()
    _until(
        lambda: service.metric('secgear_requests_refused_total{code="request.invalid"}') > before
    )
    assert not caplog.records  # or anybody could fill the log


def test_a_slow_body_is_refused(start: Start) -> None:
    service = start(body_timeout=0.2)

    def slowly() -> Any:
        yield b"{"
        time.sleep(1)
        yield b"}"

    answer = service.client.post("/v1/attest", content=slowly())
    assert (answer.status_code, answer.json()["code"]) == (408, "request.too-slow")


def test_outstanding_challenges_are_bounded_and_expire(start: Start) -> None:
    service = start(max_nonces=3)
    for _ in range(3):
        service.nonce()
    full = service.client.post("/v1/challenge")
    assert (full.status_code, full.json()["code"]) == (503, "nonce.exhausted")
    assert "Retry-After" in full.headers
    service.clock.ahead = service.settings.nonce_lifetime + datetime.timedelta(seconds=1)
    service.nonce()


def test_one_address_can_ask_for_so_much_only(start: Start) -> None:
    service = start(challenge_rate=Rate(0.001, 3), attest_rate=Rate(0.001, 2))
    codes = [service.client.post("/v1/challenge").status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    codes = [service.client.post("/v1/attest", content=b"").status_code for _ in range(3)]
    assert codes == [400, 400, 429]
    limited = service.client.post("/v1/attest", content=b"")
    assert limited.json()["code"] == "rate.limited"
    assert int(limited.headers["Retry-After"]) > 100


def test_a_rotated_key_signs_at_once_and_the_old_one_still_verifies(service: Any) -> None:
    from secgear.middleware.attestation.service.keyfile import rotate

    nonce = service.nonce()
    old = service.attest(nonce)
    new = rotate(service.settings.keys_path)
    fresh = service.nonce()
    answer = service.attest(fresh)
    header = answer.json()["result"].split(".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + "=="))["kid"] == new.kid
    verified(service, answer, fresh)
    verified(service, old, nonce)


def test_health_and_unknown_places(service: Any) -> None:
    assert service.client.get("/healthz").json() == {"status": "ok"}
    missing = service.client.get("/v1/nowhere")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
    wrong = service.client.get("/v1/attest")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method.unknown")
