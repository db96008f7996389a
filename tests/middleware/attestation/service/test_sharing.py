"""Several instances over one database: they are one service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.schema import ATTESTATION
from secgear.middleware.attestation.service.store import Store, open_store
from secgear.middleware.attestation.service.tokens import Role, create_token, revoke_token
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.attestation.service.instances import POLICY, Group, Instance
from tests.postgres import Cluster, cluster

RACING = 64


class Pair:
    """Two instances in two processes, an HTTP client, and the database under them."""

    def __init__(self, group: Group, instances: list[Instance], database: str) -> None:
        self.group = group
        self.urls = [instance.url for instance in instances]
        self.database = database
        limits = httpx.Limits(max_connections=RACING, max_keepalive_connections=RACING)
        self.client = httpx.Client(timeout=60, limits=limits, headers=group.headers)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    vendor: SimulatedVendor,
) -> Iterator[Pair]:
    """The same two for all tests; starting them takes longer than anything they do here."""
    folder = tmp_path_factory.mktemp("pair")
    with contextlib.ExitStack() as stack:
        database = f"sqlite:///{folder / 'shared.db'}"
        if request.param == "postgresql":
            database = request.getfixturevalue("postgres").database()
        group = Group(folder, database, vendor)
        instances = []
        for _ in range(2):
            instances.append(group.start())
            stack.callback(instances[-1].stop)
        made = Pair(group, instances, database)
        stack.enter_context(made.client)
        put = made.client.put(f"{made.urls[0]}/v1/policies/laboratory", content=POLICY)
        assert put.status_code == 200, put.text
        yield made


@pytest.fixture
def store(pair: Pair) -> Iterator[Store]:
    """The database under both."""
    made = open_store(pair.database, ATTESTATION)
    yield made
    made.close()


def test_of_racing_requests_with_one_nonce_one_is_answered(pair: Pair) -> None:
    nonce = pair.client.post(f"{pair.urls[0]}/v1/challenge").json()["nonce"]
    body = pair.group.request(nonce)

    def attest(turn: int) -> int:
        return pair.client.post(f"{pair.urls[turn % 2]}/v1/attest", content=body).status_code

    with ThreadPoolExecutor(RACING) as racers:
        codes = sorted(racers.map(attest, range(RACING)))
    assert codes == [200] + [409] * (RACING - 1)


def test_every_nonce_of_many_is_accepted_once(pair: Pair, store: Store) -> None:
    with store.reading() as connection:
        before = audit.head(connection).seq
    nonces = [
        pair.client.post(f"{pair.urls[turn % 2]}/v1/challenge").json()["nonce"]
        for turn in range(24)
    ]
    bodies = [pair.group.request(nonce) for nonce in nonces] * 3

    def attest(item: tuple[int, bytes]) -> tuple[bytes, int]:
        turn, body = item
        answer = pair.client.post(f"{pair.urls[turn % 2]}/v1/attest", content=body)
        return body, answer.status_code

    with ThreadPoolExecutor(16) as racers:
        answers = list(racers.map(attest, enumerate(bodies)))
    accepted = [body for body, code in answers if code == 200]
    assert sorted(accepted) == sorted(set(bodies))
    assert {code for _, code in answers} == {200, 409}
    with store.reading() as connection:
        records = audit.read(connection, after=before, limit=1000)
        audit.check(connection)
    assert [record.action for record in records].count("appraisal") == len(nonces)


def test_what_one_administrator_changes_counts_in_the_other_instance(pair: Pair) -> None:
    one, other = pair.urls
    assert pair.client.put(f"{one}/v1/policies/strict", content='name = "strict"\n').is_success
    assert pair.client.get(f"{other}/v1/policies/strict").content == b'name = "strict"\n'
    nonce = pair.client.post(f"{other}/v1/challenge").json()["nonce"]
    body = pair.group.request(nonce, policy="strict")
    assert pair.client.post(f"{other}/v1/attest", content=body).status_code == 403


def test_versions_of_racing_changes_have_no_gaps(pair: Pair) -> None:
    def put(turn: int) -> int:
        place = f"{pair.urls[turn % 2]}/v1/policies/contended"
        answer = pair.client.put(place, content=f'name = "turn {turn}"\n')
        assert answer.status_code == 200, answer.text
        version: int = answer.json()["version"]
        return version

    with ThreadPoolExecutor(16) as racers:
        assert sorted(racers.map(put, range(32))) == list(range(1, 33))


def test_results_of_both_verify_with_the_same_keys(pair: Pair) -> None:
    keys = [pair.client.get(f"{url}/v1/keys").json() for url in pair.urls]
    assert keys[0] == keys[1]


def test_a_token_that_is_revoked_is_worth_nothing_in_both(pair: Pair, store: Store) -> None:
    token = create_token(store, Role.AUDITOR, "bob")
    headers = {"Authorization": f"Bearer {token}"}
    for expected in (200, 401):
        codes = [
            pair.client.get(f"{url}/v1/policies", headers=headers).status_code for url in pair.urls
        ]
        assert codes == [expected] * 2
        if expected == 200:
            revoke_token(store, "bob")


def test_a_challenge_of_one_is_answered_by_the_other(pair: Pair) -> None:
    nonce = pair.client.post(f"{pair.urls[0]}/v1/challenge").json()["nonce"]
    body = pair.group.request(nonce)
    codes = [pair.client.post(f"{url}/v1/attest", content=body).status_code for url in pair.urls]
    assert sorted(codes) == [200, 409]
