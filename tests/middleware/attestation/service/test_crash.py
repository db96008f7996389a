"""kill -9 at any moment: what was acknowledged is there afterwards, and the trail is whole."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
import time
from pathlib import Path

import httpx

from secgear.middleware.attestation.service import audit, documents
from secgear.middleware.attestation.service.documents import Kind
from secgear.middleware.attestation.service.schema import ATTESTATION
from secgear.middleware.attestation.service.store import open_store
from tests.adversary.vendors.simulated import SimulatedVendor
from tests.middleware.attestation.service.instances import POLICY, Group

ROUNDS = 4


class Worker(threading.Thread):
    """Changes documents or attests until the service is gone; remembers what was acknowledged."""

    def __init__(self, group: Group, url: str, name: str) -> None:
        super().__init__()
        self._group = group
        self._url = url
        self._name = name
        self.stored: dict[tuple[Kind, str, int], bytes] = {}
        self.appraised = 0
        self.failure = ""

    def run(self) -> None:
        with httpx.Client(timeout=20, headers=self._group.headers) as client:
            turn = 0
            while True:
                turn += 1
                try:
                    self._work(client, turn)
                except (httpx.TransportError, AssertionError) as error:
                    if isinstance(error, AssertionError):
                        self.failure = str(error)
                    return

    def _work(self, client: httpx.Client, turn: int) -> None:
        content = f'name = "{self._name} {turn}"\n'.encode()
        put = client.put(f"{self._url}/v1/policies/{self._name}", content=content)
        assert put.status_code == 200, put.text
        self.stored[Kind.POLICY, self._name, put.json()["version"]] = content
        values = (
            b'{"secgear-reference-values":1,"values":'
            b'[{"name":"%s %d","tee":"snp","signer":"00"}]}' % (self._name.encode(), turn)
        )
        put = client.put(f"{self._url}/v1/reference-values/{self._name}", content=values)
        assert put.status_code == 200, put.text
        self.stored[Kind.REFERENCE_VALUES, self._name, put.json()["version"]] = values
        nonce = client.post(f"{self._url}/v1/challenge").json()["nonce"]
        attested = client.post(f"{self._url}/v1/attest", content=self._group.request(nonce))
        assert attested.status_code == 200, attested.text
        self.appraised += 1


def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path, vendor: SimulatedVendor) -> None:
    path = tmp_path / "service.db"
    group = Group(tmp_path, f"sqlite:///{path}", vendor)
    first = group.start()
    put = httpx.put(f"{first.url}/v1/policies/laboratory", content=POLICY, headers=group.headers)
    assert put.status_code == 200
    first.stop()
    stored: dict[tuple[Kind, str, int], bytes] = {}
    appraised = 0
    for turn in range(ROUNDS):
        instance = group.start()
        workers = [Worker(group, instance.url, f"worker{number}") for number in range(3)]
        for worker in workers:
            worker.start()
        time.sleep(random.Random(turn).uniform(0.3, 1.2))
        instance.kill()
        for worker in workers:
            worker.join()
            assert not worker.failure
            stored |= worker.stored
            appraised += worker.appraised
    assert len(stored) > ROUNDS
    assert appraised

    store = open_store(f"sqlite:///{path}", ATTESTATION)
    for (kind, name, version), content in stored.items():
        found = documents.get(store, kind, name, version)
        assert found is not None
        assert found[1] == content
    records: list[audit.Record] = []
    with store.reading() as connection:
        head = audit.check(connection)
        while batch := audit.read(connection, after=len(records), limit=1000):
            records += batch
    store.close()
    assert head.seq == len(records)
    digests = {record.detail.get("sha256") for record in records}
    assert {hashlib.sha256(content).hexdigest() for content in stored.values()} <= digests
    assert [record.action for record in records].count("appraisal") >= appraised
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
