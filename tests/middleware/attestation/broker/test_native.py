"""Release over real HTTP: the secret for who may have it, one and the same no for all others."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.errors import AttestationError, ServiceError, ServiceRefused
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.base64url import pack
from secgear.middleware.attestation.broker import decision as deciding
from secgear.middleware.attestation.broker.client import BrokerClient
from secgear.middleware.attestation.broker.names import SecretInvalid
from secgear.middleware.attestation.broker.release import CLASSIC, HYBRID, SUITES, ReleaseKey
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.binding import report_data
from tests.middleware.attestation.broker.conftest import NAME, SECRET, policy, refused

KEY = ReleaseKey(CLASSIC)


@pytest.mark.parametrize("suite", SUITES)
def test_an_enclave_that_satisfies_the_policy_gets_the_secret(broker: Any, suite: str) -> None:
    with BrokerClient(broker.url) as client:
        assert client.release(NAME, broker.evidence, suite=suite) == SECRET
    (record,) = broker.audited("secret.release")
    assert record["subject"] == NAME
    assert record["detail"]["outcome"] == "released"
    with broker.store.reading() as connection:
        audit.check(connection)


def test_the_answer_is_for_the_key_that_was_attested_and_not_kept_by_caches(broker: Any) -> None:
    nonce = broker.nonce()
    answer = broker.release(KEY, nonce)
    assert answer.headers["cache-control"] == "no-store"
    assert broker.open(answer, KEY, nonce) == SECRET
    assert SECRET not in answer.content


def reasons(broker: Any) -> list[str]:
    return list(broker.audited("secret.release")[-1]["detail"]["reasons"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"claims": {"measurement": b"x" * 48}}, "policy.measurement"),
        ({"secret": "default/key/nothing"}, "secret.missing"),
    ],
)
def test_who_is_not_trusted_can_not_tell_what_is_there(
    broker: Any, changes: dict[str, Any], reason: str
) -> None:
    answer = broker.release(**changes)
    refused(answer)
    assert answer.json() == broker.release(claims={"measurement": b"y" * 48}).json()
    assert broker.audited("secret.release")[0]["detail"]["reasons"] == [reason]


def test_vouching_for_what_others_say_does_not_ask_for_secrets(broker: Any) -> None:
    """An enclave that attests to any user data, here a key of the host's, for any nonce."""
    nonce = broker.nonce()
    chosen = KEY.suite.encode() + b"\0" + KEY.public
    evidence = broker.evidence(report_data(nonce, chosen))
    body = broker.request(KEY, nonce)
    body["evidence"] = json.loads(envelope.to_json(evidence))
    refused(broker.client.post("/v1/release", json=body))
    assert reasons(broker) == ["freshness"]


def test_evidence_with_a_changed_bit_is_refused(broker: Any) -> None:
    body = broker.request(KEY, broker.nonce())
    data = bytearray(base64.b64decode(body["evidence"]["data"]))
    data[-1] ^= 1
    body["evidence"]["data"] = base64.b64encode(data).decode()
    refused(broker.client.post("/v1/release", json=body))
    assert reasons(broker) == ["signature"]


def test_a_key_that_the_evidence_does_not_vouch_for_gets_nothing(broker: Any) -> None:
    body = broker.request(KEY, broker.nonce())
    body["public_key"] = pack(ReleaseKey(CLASSIC).public)
    refused(broker.client.post("/v1/release", json=body))
    assert reasons(broker) == ["freshness"]


def test_evidence_that_vouches_for_no_key_gets_nothing(broker: Any) -> None:
    nonce = broker.nonce()
    bare = broker.request(KEY, nonce)
    for bound in (report_data(nonce), report_data(nonce, KEY.public)):
        evidence = broker.evidence(bound)
        bare["evidence"]["data"] = base64.b64encode(evidence.data).decode()
        bare["nonce"] = pack(nonce)
        refused(broker.client.post("/v1/release", json=bare))
        assert reasons(broker) == ["freshness"]
        nonce = broker.nonce()
        bound = report_data(nonce, KEY.public)


def test_another_suite_than_the_attested_one_is_refused(broker: Any) -> None:
    body = broker.request(KEY, broker.nonce(), suite=HYBRID)
    refused(broker.client.post("/v1/release", json=body), 400, "request.invalid")


def test_a_nonce_is_good_once_and_used_up_by_refusals_too(broker: Any) -> None:
    for claims, status in ((None, 200), ({"measurement": b"x" * 48}, 403)):
        nonce = broker.nonce()
        assert broker.release(nonce=nonce, claims=claims).status_code == status
        refused(broker.release(nonce=nonce), 409, "nonce.refused")


def test_nonces_that_nobody_gave_out_or_that_expired_are_refused(broker: Any) -> None:
    refused(broker.release(nonce=b"n" * 32), 409, "nonce.refused")
    nonce = broker.nonce()
    broker.clock.ahead = broker.settings.nonce_lifetime
    refused(broker.release(nonce=nonce), 409, "nonce.refused")


def test_evidence_for_another_nonce_is_refused(broker: Any) -> None:
    body = broker.request(KEY, broker.nonce()) | {"nonce": pack(broker.nonce())}
    refused(broker.client.post("/v1/release", json=body))
    assert reasons(broker) == ["freshness"]


def test_each_secret_has_its_own_policy(broker: Any) -> None:
    broker.put("policies/other", policy(b"o" * 48)).raise_for_status()
    broker.put("secrets/default/key/other", b"other", policy="other").raise_for_status()
    assert broker.release().status_code == 200
    refused(broker.release(secret="default/key/other"))
    assert reasons(broker) == ["policy.measurement"]
    nonce, claims = broker.nonce(), {"measurement": b"o" * 48}
    answer = broker.release(KEY, nonce, secret="default/key/other", claims=claims)
    assert broker.open(answer, KEY, nonce) == b"other"
    refused(broker.release(claims=claims))


def test_a_secret_whose_policy_was_deleted_is_for_nobody(broker: Any) -> None:
    assert broker.delete("policies/laboratory").status_code == 200
    refused(broker.release())
    assert reasons(broker) == ["policy.missing"]
    broker.put("policies/laboratory", policy()).raise_for_status()
    assert broker.release().status_code == 200


def test_a_deleted_secret_is_for_nobody(broker: Any) -> None:
    assert broker.delete(f"secrets/{NAME}").json()["version"] == 2
    refused(broker.release())
    assert broker.delete(f"secrets/{NAME}").status_code == 404


def test_a_new_version_takes_the_place_of_the_old_one(broker: Any) -> None:
    broker.put(f"secrets/{NAME}", b"second", policy="laboratory").raise_for_status()
    nonce = broker.nonce()
    assert broker.open(broker.release(KEY, nonce), KEY, nonce) == b"second"


@pytest.mark.parametrize("change", ["policy", "delete", "put"])
def test_nothing_is_released_by_rules_that_no_longer_hold(
    broker: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """An administrator's change that is acknowledged while evidence is judged counts."""
    examine, done = deciding.examine, []

    def meanwhile(*args: Any, **more: Any) -> Any:
        verdict = examine(*args, **more)
        if not done:
            if change == "policy":
                done.append(broker.put("policies/laboratory", policy(b"z" * 48)))
            elif change == "delete":
                done.append(broker.delete(f"secrets/{NAME}"))
            else:
                done.append(broker.put(f"secrets/{NAME}", b"second", policy="laboratory"))
        return verdict

    monkeypatch.setattr(deciding, "examine", meanwhile)
    nonce = broker.nonce()
    body = broker.request(KEY, nonce)
    refused(broker.client.post("/v1/release", json=body), 409, "release.changed")
    again = broker.client.post("/v1/release", json=body)
    if change == "put":
        assert broker.open(again, KEY, nonce) == b"second"
    else:
        refused(again)


def test_the_client_asks_again_when_something_was_changed(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine, done = deciding.examine, []

    def meanwhile(*args: Any, **more: Any) -> Any:
        verdict = examine(*args, **more)
        if not done:
            done.append(broker.put(f"secrets/{NAME}", b"second", policy="laboratory"))
        return verdict

    monkeypatch.setattr(deciding, "examine", meanwhile)
    with BrokerClient(broker.url) as client:
        assert client.release(NAME, broker.evidence) == b"second"


def test_a_broker_that_answers_with_another_secret_is_found_out(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As good for the enclave, by the policies, and still not what it asked for."""
    broker.put("secrets/default/key/other", b"other", policy="laboratory").raise_for_status()
    with BrokerClient(broker.url) as client:
        door = client._door.ask

        def swapped(method: Any, path: str, *, content: bytes | None = None) -> bytes:
            return door(
                method, path, content=content and content.replace(b"key/disk", b"key/other")
            )

        monkeypatch.setattr(client._door, "ask", swapped)
        with pytest.raises(ServiceError, match="another secret"):
            client.release(NAME, broker.evidence)

        def renamed(method: Any, path: str, *, content: bytes | None = None) -> bytes:
            return swapped(method, path, content=content).replace(b"key/other", b"key/disk")

        monkeypatch.setattr(client._door, "ask", renamed)
        with pytest.raises(AttestationError, match="not wrapped to this key for this request"):
            client.release(NAME, broker.evidence)


def test_the_client_says_what_went_wrong(broker: Any) -> None:
    with BrokerClient(broker.url) as client:
        with pytest.raises(ServiceRefused) as caught:
            client.release("a/b/c", broker.evidence)
        assert caught.value.problem == "release.refused"
        for name in ("", "a/b", "a/b/c/d", "a/../c", "a/b/ü", "a/b/" + "c" * 65):
            with pytest.raises(SecretInvalid):
                client.release(name, broker.evidence)


BAD: list[tuple[str, Any]] = [
    ("nothing", b""),
    ("no JSON", b"{"),
    ("deep", b"[" * 1_000_000),
    ("nonce", {"nonce": "AAAA"}),
    ("padded nonce", {"nonce": "A" * 43 + "="}),
    ("name", {"secret": "a/b"}),
    ("name that goes up", {"secret": "a/../c"}),
    ("suite", {"suite": "none"}),
    ("short key", {"public_key": "AAAA"}),
    ("key that is no point", {"public_key": pack(bytes(32))}),
    ("more", {"more": 1}),
    ("evidence", {"evidence": None}),
    ("evidence with more", {"evidence": {"secgear-evidence": 1, "format": "f", "x": 1}}),
]


def test_a_malformed_request_is_the_clients_problem_and_uses_up_nothing(broker: Any) -> None:
    nonce = broker.nonce()
    for name, bad in BAD:
        good = broker.request(KEY, nonce)
        content = bad if isinstance(bad, bytes) else json.dumps(good | bad).encode()
        answer = broker.client.post("/v1/release", content=content)
        assert answer.status_code == 400, f"{name}: {answer.text}"
    assert broker.release(nonce=nonce).status_code == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ("evidence", "nonce", "secret", "suite", "public_key", "more")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
def test_no_request_whatever_breaks_the_broker(broker: Any, changes: dict[str, Any]) -> None:
    body = broker.request(KEY, b"n" * 32) | changes
    assert 400 <= broker.client.post("/v1/release", json=body).status_code < 500


def test_outstanding_challenges_are_bounded(start: Callable[..., Any]) -> None:
    broker = start(max_nonces=2)
    broker.nonce()
    broker.nonce()
    refused(broker.client.post("/v1/challenge"), 503, "nonce.exhausted")
    broker.clock.ahead = broker.settings.nonce_lifetime + datetime.timedelta(seconds=1)
    broker.nonce()
