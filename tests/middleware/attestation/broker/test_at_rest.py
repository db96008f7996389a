"""What the broker keeps, who may change it, and that it is still there after a crash."""

from __future__ import annotations

import base64
import concurrent.futures
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from secgear.errors import KeyFileError, ServiceError
from secgear.middleware.attestation.broker import masterkey, secrets
from secgear.middleware.attestation.broker.app import create_broker, open_vault
from secgear.middleware.attestation.broker.client import BrokerClient
from secgear.middleware.attestation.broker.layout import secrets as table
from secgear.middleware.attestation.broker.operation import (
    drop_old_master_keys,
    open_broker,
    rotate_master_key,
)
from secgear.middleware.attestation.broker.release import CLASSIC, ReleaseKey
from secgear.middleware.attestation.service.http import PUBLIC
from secgear.middleware.attestation.service.store import open_store
from secgear.middleware.attestation.service.tokens import Role
from tests.middleware.attestation.broker.conftest import NAME, SECRET, Running, policy, refused
from tests.middleware.attestation.broker.test_kbs import EC_KEYS, _open_ec
from tests.middleware.attestation.broker.test_kbs_routes import Client

KEY = ReleaseKey(CLASSIC)
CANARY = b"canary-7f3a9c51e2d84b06-canary"


def forms(secret: bytes) -> Iterator[bytes]:
    """What a secret may look like."""
    yield secret
    yield secret.hex().encode()
    yield base64.b64encode(secret)[:-4]
    yield base64.urlsafe_b64encode(secret)[:-4]
    yield repr(list(secret))[1:-1].encode()


def holds(text: bytes, secret: bytes = CANARY) -> bool:
    return any(form in text for form in forms(secret))


def test_a_secret_is_nowhere_but_with_its_client(
    broker: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    seen = [broker.put(f"secrets/{NAME}", CANARY, policy="laboratory")]
    nonce = broker.nonce()
    native = broker.release(KEY, nonce)
    kbs = Client(broker)
    seen += [kbs.auth(), kbs.attest(), kbs.get(), native]
    seen.append(broker.put(f"secrets/{NAME}", CANARY, policy="nowhere"))
    seen.append(broker.put("secrets/a/b/%20", CANARY, policy="laboratory"))
    seen.append(broker.put("secrets/a/b/c", CANARY * 5000, policy="laboratory"))
    seen.append(broker.put("secrets/a/b/c", CANARY))
    seen.append(broker.put("policies/laboratory2", CANARY))
    seen += [broker.release(nonce=nonce), broker.release(claims={"measurement": b"x" * 48})]
    with broker.store.writing() as connection:
        connection.execute(update(table).values(policy="other"))
    broker.put("policies/other", policy()).raise_for_status()
    seen.append(broker.release())
    seen += [broker.get("secrets"), broker.get(f"secrets/{NAME}"), broker.get("audit?limit=1000")]
    seen += [broker.client.get("/metrics"), broker.client.get("/openapi.json")]
    assert {answer.status_code for answer in seen} == {200, 400, 403, 409, 500}
    for answer in seen:
        assert not holds(answer.content + str(answer.headers).encode())
    for file in broker.settings.directory.iterdir():
        assert not holds(file.read_bytes()), file
    captured = capfd.readouterr()
    assert not holds((caplog.text + captured.out + captured.err).encode())
    # And it is what the clients have, so that the search could have found it.
    assert holds(broker.open(native, KEY, nonce))
    assert holds(_open_ec(seen[3].json(), EC_KEYS["P-256"]))


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    for form in forms(CANARY):
        (tmp_path / "file").write_bytes(b"before" + form + b"after")
        assert holds((tmp_path / "file").read_bytes())


def damage(broker: Running, **values: Any) -> None:
    with broker.store.writing() as connection:
        connection.execute(update(table).where(table.c.tag == "disk").values(values))


@pytest.mark.parametrize(
    "values", [{"ciphertext": b"x" * 44}, {"salt": None}, {"nonce": b""}, {"policy": "lax"}]
)
def test_a_tampered_row_is_refused_and_audited(broker: Running, values: Any) -> None:
    broker.put("policies/lax", policy()).raise_for_status()
    damage(broker, **values)
    refused(broker.release(), 500, "attestation.vault")
    detail = broker.audited("secret.release")[-1]["detail"]
    assert detail["outcome"] == "damaged"
    assert "was changed" in detail["reasons"][0]


def test_rows_that_were_swapped_never_give_another_secret(broker: Running) -> None:
    broker.put("secrets/default/key/other", b"other", policy="laboratory").raise_for_status()
    with broker.store.writing() as connection:
        for before, after in (("disk", "swap"), ("other", "disk"), ("swap", "other")):
            here = update(table).where(table.c.tag == before)
            connection.execute(here.values(tag=after))
    for name in (NAME, "default/key/other"):
        refused(broker.release(secret=name), 500, "attestation.vault")
    kbs = Client(broker)
    kbs.auth()
    kbs.attest()
    assert kbs.get().status_code == 500


def test_old_versions_and_deleted_secrets_leave_no_ciphertext(broker: Running) -> None:
    columns = (table.c.version, table.c.master, table.c.salt, table.c.nonce, table.c.ciphertext)

    def kept() -> dict[int, bool]:
        with broker.store.reading() as connection:
            rows = connection.execute(select(*columns).order_by(table.c.version)).all()
        assert all(len({value is None for value in row[1:]}) == 1 for row in rows)
        return {row.version: row.ciphertext is not None for row in rows}

    assert kept() == {1: True}
    broker.put(f"secrets/{NAME}", b"second", policy="laboratory").raise_for_status()
    assert kept() == {1: False, 2: True}
    broker.delete(f"secrets/{NAME}").raise_for_status()
    assert kept() == {1: False, 2: False, 3: False}


def test_what_is_erased_is_not_in_the_database_file(broker: Running) -> None:
    with broker.store.reading() as connection:
        (before,) = connection.execute(select(table.c.ciphertext)).one()
    broker.delete(f"secrets/{NAME}").raise_for_status()
    path = Path(broker.settings.database_url.removeprefix("sqlite:///"))
    with broker.store.reading() as connection:
        (erasing,) = connection.exec_driver_sql("PRAGMA secure_delete").one()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert erasing == 1  # a build of SQLite that does not by default would keep what it freed
    assert before not in path.read_bytes()


def test_without_its_master_key_a_broker_with_secrets_does_not_start(broker: Running) -> None:
    path = broker.settings.master_key_path
    path.rename(path.with_name("away"))
    refused(broker.release(), 500, "attestation.vault")
    with pytest.raises(KeyFileError, match="No such file"):
        create_broker(broker.settings)
    assert not path.exists()
    masterkey.create(path)
    with pytest.raises(ServiceError, match="1 secrets are under master keys that are not"):
        create_broker(broker.settings)
    refused(broker.release(), 500, "attestation.vault")
    assert "not in the key file" in broker.audited("secret.release")[-1]["detail"]["reasons"][0]
    path.with_name("away").replace(path)
    create_broker(broker.settings)
    assert broker.release().status_code == 200


def test_master_keys_are_rotated_while_brokers_run(broker: Running) -> None:
    settings = broker.settings
    (old,) = open_vault(settings, broker.store).ids()
    new, changed = rotate_master_key(settings, author="operator")
    assert changed == 1
    assert open_vault(settings, broker.store).ids() == (new.id, old)
    assert broker.release().status_code == 200
    assert drop_old_master_keys(settings) == 1
    nonce = broker.nonce()
    assert broker.open(broker.release(KEY, nonce), KEY, nonce) == SECRET
    assert broker.get(f"secrets/{NAME}").json()["version"] == 1
    assert broker.audited("secret.reencrypt")[0]["actor"] == "operator"


def test_a_master_key_in_use_is_not_dropped(broker: Running) -> None:
    masterkey.add_key(broker.settings.master_key_path)
    with pytest.raises(ServiceError, match="1 secrets are under"):
        drop_old_master_keys(broker.settings)
    assert broker.release().status_code == 200
    store, vault = open_broker(broker.settings)
    assert secrets.reencrypt(store, vault, author="operator", at=broker.clock()) == 1
    assert secrets.reencrypt(store, vault, author="operator", at=broker.clock()) == 0
    store.close()
    assert drop_old_master_keys(broker.settings) == 1


def test_of_racing_rotations_no_key_is_lost(broker: Running) -> None:
    """A key that one of them dropped could be the one that another has put all secrets under."""
    settings = broker.settings
    first = open_vault(settings, broker.store).ids()
    with concurrent.futures.ThreadPoolExecutor(6) as racers:
        made = list(racers.map(lambda _: rotate_master_key(settings, author="o"), range(12)))
    ids = open_vault(settings, broker.store).ids()
    assert sorted(ids) == sorted([*first, *(key.id for key, _ in made)])
    assert broker.release().status_code == 200


def test_dropping_while_somebody_rotates_loses_no_secret(broker: Running) -> None:
    settings = broker.settings

    def drop(_: int) -> int:
        try:
            return drop_old_master_keys(settings)
        except ServiceError:
            return 0  # a secret is under one of them still

    with concurrent.futures.ThreadPoolExecutor(6) as racers:
        dropped = racers.map(drop, range(8))
        rotated = racers.map(lambda _: rotate_master_key(settings, author="o"), range(8))
        assert len(list(rotated)) == 8
        assert 0 <= sum(dropped) <= 8
        assert broker.release().status_code == 200


def test_administrators_see_everything_but_the_content(broker: Running) -> None:
    entry = broker.get(f"secrets/{NAME}").json()
    assert entry.pop("at").endswith("+00:00")
    assert entry == {
        "name": NAME,
        "version": 1,
        "policy": "laboratory",
        "size": len(SECRET),
        "author": "alice",
    }
    assert [item["name"] for item in broker.get("secrets").json()] == [NAME]
    assert broker.get("secrets/default/key/nothing").status_code == 404
    assert [item["action"] for item in broker.get("audit").json()["records"]] == [
        "token.create",
        "policies.put",
        "secret.put",
    ]


BAD: list[tuple[str, bytes, dict[str, str]]] = [
    (NAME, b"x", {}),
    (NAME, b"x", {"policy": "nowhere"}),
    (NAME, b"x", {"policy": ""}),
    (NAME, b"x", {"policy": "\0"}),
    (NAME, b"", {"policy": "laboratory"}),
    (NAME, b"x" * 65_537, {"policy": "laboratory"}),
    ("default/key/a b", b"x", {"policy": "laboratory"}),
    ("default/key/" + "x" * 65, b"x", {"policy": "laboratory"}),
    ("%2E%2E/key/x", b"x", {"policy": "laboratory"}),
]


def test_what_can_not_be_stored_changes_nothing(broker: Running) -> None:
    for place, content, parameters in BAD:
        url = f"{broker.url}/v1/secrets/{place}"
        answer = broker.client.put(url, content=content, headers=broker.admin, params=parameters)
        assert answer.status_code == 400, f"{place} {parameters} {answer.text}"
    assert [(item["name"], item["version"]) for item in broker.get("secrets").json()] == [(NAME, 1)]


def test_a_secret_of_the_largest_size(broker: Running) -> None:
    content = os.urandom(secrets.MAX_SIZE)
    broker.put(f"secrets/{NAME}", content, policy="laboratory").raise_for_status()
    with BrokerClient(broker.url) as client:
        assert client.release(NAME, broker.evidence) == content


def test_every_route_that_is_not_public_needs_its_token(broker: Running) -> None:
    public, private = set(), set()
    auditor = broker.authorize("bob", Role.AUDITOR)
    for route in broker.app.routes:
        for handler in getattr(route, "route_handlers", ()):
            for method in sorted(set(handler.http_methods) - {"OPTIONS"}):
                path = route.path_format
                for part in ("repository", "kind", "tag", "name"):
                    path = path.replace(f"{{{part}}}", "x")
                if handler.opt.get(PUBLIC) is True:
                    public.add((method, path))
                    continue
                private.add((method, path))
                wrong = {"Authorization": "Bearer sgt_" + "A" * 43}
                for headers in ({}, wrong):
                    answer = broker.client.request(method, path, headers=headers)
                    assert answer.status_code in (401, 403), (method, path)
                if method in ("PUT", "DELETE"):
                    answer = broker.client.request(method, path, headers=auditor)
                    assert answer.status_code == 403, (method, path)
    secret = "/v1/secrets/x/x/x"
    assert {("PUT", secret), ("GET", secret), ("DELETE", secret), ("GET", "/v1/secrets")} < private
    assert public == {
        ("POST", "/v1/challenge"),
        ("POST", "/v1/release"),
        ("POST", "/kbs/v0/auth"),
        ("POST", "/kbs/v0/attest"),
        ("GET", "/kbs/v0/resource/x/x/x"),
        ("GET", "/kbs/v0/resource/x/x"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
    }


def test_of_racing_releases_with_one_nonce_on_two_brokers_one_succeeds(
    broker: Running, start: Callable[..., Running]
) -> None:
    other, nonce = start(), broker.nonce()
    body = broker.request(KEY, nonce)

    def ask(number: int) -> httpx.Response:
        place = (broker, other)[number % 2].url
        return httpx.post(f"{place}/v1/release", json=body, timeout=30)

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(32)))
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] + [409] * 31
    assert len(broker.audited("secret.release")) == 1


CHILD = """
import sys
from pathlib import Path
from secgear.middleware.attestation.broker.app import BrokerSettings, serve_broker
serve_broker(
    BrokerSettings(issuer="https://broker.example", directory=Path(sys.argv[1]), port=0),
    lambda url: print(url, flush=True),
)
"""


def test_what_was_acknowledged_survives_a_kill(broker: Running) -> None:
    command = [sys.executable, "-c", CHILD, str(broker.settings.directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        assert url.startswith("http://")
        for number in range(5):
            answer = httpx.put(
                f"{url}/v1/secrets/default/key/{number}",
                content=b"content %d" % number,
                params={"policy": "laboratory"},
                headers=broker.admin,
            )
            assert answer.status_code == 200, answer.text
        child.send_signal(signal.SIGKILL)
    # What is on the disk at this moment, without what this process has open.
    copy = broker.settings.directory.with_name("copy")
    shutil.copytree(broker.settings.directory, copy)
    store = open_store(f"sqlite:///{copy / 'attestation.db'}")
    assert len(secrets.current(store)) == 6
    store.close()
    with BrokerClient(broker.url) as client:
        for number in range(5):
            content = client.release(f"default/key/{number}", broker.evidence)
            assert content == b"content %d" % number
