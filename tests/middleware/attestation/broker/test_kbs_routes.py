"""The KBS protocol against a running broker, spoken as stock clients speak it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import itertools
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secgear.middleware.attestation.broker import decision as deciding
from secgear.middleware.attestation.broker import sessions
from tests.middleware.attestation.broker.conftest import NAME, SECRET, Running, policy
from tests.middleware.attestation.broker.test_kbs import (
    EC_KEYS,
    RSA_KEY,
    _decrypt,
    _open_ec,
    ec_jwk,
    rsa_jwk,
    unb64,
)

EC_KEY = ec_jwk("P-256")
ERRORS = "https://github.com/confidential-containers/kbs/errors/"


class Client:
    """A client of the protocol with a cookie jar, in one enclave. Knobs spoil what it sends."""

    def __init__(self, broker: Running, key: dict[str, str] | None = None) -> None:
        self.broker = broker
        self.key = key or EC_KEY
        self.http = httpx.Client(base_url=broker.url, timeout=30)
        self.nonce = ""
        self.algorithm = "sha384"

    def auth(self, **changes: Any) -> httpx.Response:
        request = {
            "version": "0.4.0",
            "tee": "secgear-process",
            "extra-params": {"supported-hash-algorithms": ["sha256", "sha384", "sha512"]},
        }
        answer = self.http.post("/kbs/v0/auth", json=request | changes)
        if answer.status_code == 200:
            self.nonce = answer.json()["nonce"]
            self.algorithm = answer.json()["extra-params"]["selected-hash-algorithm"]
        return answer

    def attestation(self, **knobs: Any) -> dict[str, Any]:
        """nonce, key: what is sent. bound: the key that the evidence is made for."""
        sent = {"nonce": knobs.pop("nonce", self.nonce), "tee-pubkey": knobs.pop("key", self.key)}
        vouched = sent | {"tee-pubkey": knobs.pop("bound", sent["tee-pubkey"])}
        text = json.dumps(
            vouched | {"additional-evidence": ""}, sort_keys=True, separators=(",", ":")
        )
        digest = hashlib.new(self.algorithm, text.encode()).digest()
        evidence = self.broker.evidence(digest, **knobs)
        token = base64.b64encode(evidence.data).decode()
        return {
            "runtime-data": sent,
            "tee-evidence": {"primary_evidence": {"token": token}, "additional_evidence": ""},
        }

    def attest(self, **knobs: Any) -> httpx.Response:
        return self.http.post("/kbs/v0/attest", json=self.attestation(**knobs))

    def get(self, name: str = NAME) -> httpx.Response:
        return self.http.get(f"/kbs/v0/resource/{name}")


@pytest.fixture
def client(broker: Running) -> Client:
    return Client(broker)


def refused(answer: httpx.Response, status: int, kind: str) -> None:
    """Assert that the answer is this error, in the protocol's form."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"type", "detail"}
    assert answer.json()["type"] == ERRORS + kind


def test_a_stock_conversation_ends_with_the_resource(broker: Running, client: Client) -> None:
    cookie = client.auth().headers["set-cookie"].lower()
    assert cookie.startswith("kbs-session-id=")
    assert "httponly" in cookie
    assert "path=/kbs" in cookie
    token = client.attest().json()["token"].split(".")
    claims = json.loads(unb64(token[1]))
    assert claims["exp"] - claims["nbf"] <= sessions.LIFETIME
    assert json.loads(unb64(token[0])) == {"alg": "none"}
    for _ in range(2):
        answer = client.get()
        assert answer.status_code == 200, answer.text
        assert _open_ec(answer.json(), EC_KEYS["P-256"]) == SECRET
    assert [item["detail"]["interface"] for item in broker.audited("secret.release")] == ["kbs"] * 2
    assert broker.audited("kbs.attest")[0]["detail"]["outcome"] == "attested"


def test_a_conversation_with_an_rsa_key(broker: Running) -> None:
    client = Client(broker, rsa_jwk())
    client.auth()
    assert client.attest().status_code == 200
    response = client.get().json()
    oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), None)
    assert _decrypt(response, RSA_KEY.decrypt(unb64(response["encrypted_key"]), oaep)) == SECRET


@pytest.mark.parametrize("params", ["", {"supported-hash-algorithms": ["sha512"]}])
def test_other_digests_and_none_named(client: Client, params: Any) -> None:
    client.auth(**{"extra-params": params})
    assert client.attest().status_code == 200
    assert client.get().status_code == 200


def test_a_name_of_two_parts_is_in_the_default_repository(client: Client) -> None:
    client.auth()
    client.attest()
    assert client.get("key/disk").status_code == 200


def test_other_versions_and_platforms_are_refused(client: Client) -> None:
    refused(client.auth(version="0.1.1"), 400, "AttestationUnsupported")
    refused(client.auth(tee="\0"), 400, "RequestInvalid")
    assert client.auth(tee="sample").status_code == 200
    refused(client.attest(), 400, "AttestationUnsupported")


def test_without_a_session_nothing_is_had(client: Client) -> None:
    refused(client.attest(), 401, "SessionMissing")
    refused(client.get(), 401, "SessionMissing")
    client.auth()
    refused(client.get(), 401, "SessionMissing")
    client.http.cookies.set("kbs-session-id", "A" * 43, path="/kbs")
    refused(client.get(), 401, "SessionMissing")


@pytest.mark.parametrize(
    ("knobs", "reason"),
    [
        ({"bound": ec_jwk("P-384")}, "freshness"),
        ({"nonce": "b3RoZXI="}, "nonce"),
        ({"simulated": False}, "format"),
    ],
)
def test_evidence_that_is_not_for_this_session_ends_it(
    broker: Running, client: Client, knobs: dict[str, Any], reason: str
) -> None:
    client.auth()
    refused(client.attest(**knobs), 401, "AttestationRefused")
    assert broker.audited("kbs.attest")[-1]["detail"]["reasons"] == [reason]
    refused(client.attest(), 401, "SessionMissing")
    refused(client.get(), 401, "SessionMissing")


def test_evidence_of_another_session_is_refused(broker: Running, client: Client) -> None:
    client.auth()
    good = client.attestation()
    other = Client(broker)
    other.auth()
    refused(other.http.post("/kbs/v0/attest", json=good), 401, "AttestationRefused")
    assert client.http.post("/kbs/v0/attest", json=good).status_code == 200


def test_a_session_keeps_its_key(client: Client) -> None:
    client.auth()
    assert client.attest().status_code == 200
    refused(client.attest(key=ec_jwk("P-384")), 401, "SessionMissing")
    assert _open_ec(client.get().json(), EC_KEYS["P-256"]) == SECRET


def test_a_session_ends(broker: Running, client: Client) -> None:
    client.auth()
    client.attest()
    broker.clock.ahead = datetime.timedelta(seconds=sessions.LIFETIME)
    client.http.cookies.set("kbs-session-id", client.http.cookies["kbs-session-id"], path="/kbs")
    refused(client.get(), 401, "SessionMissing")


def test_a_session_that_ends_while_evidence_is_judged_gets_nothing(
    broker: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.auth()
    client.attest()
    examine = deciding.examine

    def slowly(*args: Any, **more: Any) -> Any:
        broker.clock.ahead = datetime.timedelta(seconds=sessions.LIFETIME)
        return examine(*args, **more)

    monkeypatch.setattr(deciding, "examine", slowly)
    refused(client.get(), 401, "SessionMissing")
    assert broker.audited("secret.release") == []


def test_each_resource_has_its_own_policy_and_it_counts_now(
    broker: Running, client: Client
) -> None:
    client.auth()
    client.attest(measurement=b"o" * 48)  # authentic, and not what the policy wants
    refused(client.get(), 403, "ReleaseRefused")
    assert broker.audited("secret.release")[-1]["detail"]["reasons"] == ["policy.measurement"]
    broker.put("policies/laboratory", policy(b"o" * 48)).raise_for_status()
    assert client.get().status_code == 200
    broker.delete("policies/laboratory").raise_for_status()
    refused(client.get(), 403, "ReleaseRefused")


def test_attested_clients_hear_that_there_is_no_such_resource(
    broker: Running, client: Client
) -> None:
    client.auth()
    client.attest()
    for name in ("default/key/nothing", "default/key/a b", "default/key/..%2F"):
        refused(client.get(name), 404, "NotFound")
    broker.delete(f"secrets/{NAME}").raise_for_status()
    refused(client.get(), 404, "NotFound")


def test_instances_share_sessions(broker: Running, start: Callable[..., Running]) -> None:
    other, client = start(), Client(broker)
    client.auth()
    client.http.base_url = httpx.URL(other.url)
    assert client.attest().status_code == 200
    client.http.base_url = httpx.URL(broker.url)
    assert client.get().status_code == 200


def test_open_sessions_are_bounded(
    broker: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    assert [client.auth().status_code for _ in range(3)] == [200, 200, 503]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["nonce", "tee-pubkey", "kty", "alg", "primary_evidence", "token"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    place=st.sampled_from(["auth", "attest"]),
    changes=st.dictionaries(
        st.sampled_from(
            ["version", "tee", "extra-params", "runtime-data", "tee-evidence", "init-data"]
        ),
        JSON,
        min_size=1,
        max_size=3,
    ),
)
def test_no_message_whatever_breaks_the_broker(
    client: Client, place: str, changes: dict[str, Any]
) -> None:
    client.auth()
    body: dict[str, Any] = {"version": "0.4.0", "tee": "secgear-process"}
    if place == "attest":
        body = client.attestation()
    answer = client.http.post(f"/kbs/v0/{place}", json=body | changes)
    assert answer.status_code in (200, 400, 401), answer.text


def test_what_is_no_json_is_the_clients_problem(client: Client) -> None:
    client.auth()
    bodies = (b"", b"{", b"[" * 1_000_000, b"\xff", b"null")
    for place, body in itertools.product(("auth", "attest"), bodies):
        refused(client.http.post(f"/kbs/v0/{place}", content=body), 400, "AttestationMalformed")
