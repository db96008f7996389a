"""Administration: documents by authorised hands only, read strictly, for all instances at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from sqlalchemy import text

from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.reference import model
from secgear.middleware.attestation.service.tokens import Role, create_token, revoke_token
from tests.adversary.vendors.pki import Authority
from tests.middleware.attestation.service.conftest import POLICY

PUBLIC = {
    ("POST", "/v1/challenge"),
    ("POST", "/v1/attest"),
    ("GET", "/v1/keys"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
}
VALUES = b'{"secgear-reference-values":1,"values":[{"name":"n","tee":"snp","signer":"00"}]}'


def collateral() -> bytes:
    return Collateral(certificates=(Authority("somebody").certificate.der,)).to_json()


GOOD = {
    "policies": b'name = "p"\n[accept]\ntees = ["snp"]\n',
    "reference-values": VALUES,
    "collateral": collateral(),
}


def routes(app: Litestar, *, framework: bool = False) -> Iterator[tuple[str, str]]:
    """Every method and path that the application answers, from its own table.

    framework: those that the framework has added, instead of ours.
    """
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            assert isinstance(handler, HTTPRouteHandler)
            for method in handler.http_methods:
                added = route.path_format.startswith("/schema")
                if method != "OPTIONS" and added is framework:
                    yield method, route.path_format


def test_what_is_open_to_everybody_is_listed_here(service: Any) -> None:
    """A new route that is public must be added to this list, with thought."""
    found = set(routes(service.app))
    assert found >= PUBLIC
    for method, path in routes(service.app, framework=True):
        assert service.client.request(method, path, headers=service.admin).status_code == 403
    for method, path in sorted(found - PUBLIC):
        answer = service.client.request(method, path.format(name="x"))
        assert answer.status_code == 401, (method, path)
        assert answer.json()["code"] == "token.missing"
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer sgt_" + "A" * 43,
        "Bearer sgt_" + "A" * 42,
        "Basic c2d0",
        "sgt_" + "A" * 43,
        "Bearer " + "x" * 5000,
    ],
)
def test_tokens_that_nobody_was_given_are_refused_everywhere(service: Any, header: str) -> None:
    for method, path in sorted(set(routes(service.app)) - PUBLIC):
        answer = service.client.request(
            method, path.format(name="x"), headers={"Authorization": header}
        )
        assert answer.status_code == 401, (method, path)


def test_two_tokens_are_none(service: Any) -> None:
    mine = service.admin["Authorization"]
    answer = service.client.get(
        "/v1/policies", headers=[("Authorization", mine), ("Authorization", mine)]
    )
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v1//policies",
        "/v1/policies/",
        "/V1/policies",
        "/v1/./policies",
        "/v1/policies/..",
        "//v1/policies",
    ],
)
def test_other_spellings_of_a_path_open_no_door(service: Any, path: str) -> None:
    assert service.client.get(path).status_code in (401, 404)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_show_and_change_nothing(service: Any, method: str) -> None:
    answer = service.client.request(
        method, "/v1/policies/laboratory", headers={"X-HTTP-Method-Override": "DELETE"}
    )
    assert answer.status_code in (204, 401, 403, 405)
    assert b"laboratory" not in answer.content
    assert service.get("policies/laboratory").status_code == 200


def test_an_auditor_reads_and_changes_nothing(service: Any) -> None:
    token = create_token(service.store, Role.AUDITOR, "bob")
    headers = {"Authorization": f"Bearer {token}"}
    for method, path in sorted(set(routes(service.app)) - PUBLIC):
        answer = service.client.request(method, path.format(name="laboratory"), headers=headers)
        if method in ("PUT", "DELETE"):
            assert (answer.status_code, answer.json()["code"]) == (403, "token.role")
        else:
            assert answer.status_code in (200, 404)
    assert service.get("policies/laboratory").status_code == 200


def test_a_revoked_token_is_worth_nothing_at_once(service: Any) -> None:
    headers = {"Authorization": f"Bearer {create_token(service.store, Role.ADMIN, 'carol')}"}
    assert service.client.get("/v1/policies", headers=headers).status_code == 200
    revoke_token(service.store, "carol")
    assert service.client.get("/v1/policies", headers=headers).status_code == 401


@pytest.mark.parametrize("kind", GOOD)
def test_a_document_comes_back_byte_for_byte_with_all_its_versions(service: Any, kind: str) -> None:
    first = service.put(f"{kind}/mine", GOOD[kind]).json()
    second = service.put(f"{kind}/mine", GOOD[kind] + b"\n").json()
    assert (first["version"], second["version"]) == (1, 2)
    assert second["author"] == "alice"
    got = service.get(f"{kind}/mine")
    assert (got.content, got.headers["etag"]) == (GOOD[kind] + b"\n", '"2"')
    assert service.get(f"{kind}/mine?version=1").content == GOOD[kind]
    assert "mine" in [entry["name"] for entry in service.get(kind).json()]
    deleted = service.client.delete(f"/v1/{kind}/mine", headers=service.admin)
    assert deleted.json()["version"] == 3
    assert service.get(f"{kind}/mine").status_code == 404
    assert service.client.delete(f"/v1/{kind}/mine", headers=service.admin).status_code == 404
    history = service.get(f"{kind}/mine/versions").json()
    assert [(entry["version"], bool(entry["sha256"])) for entry in history] == [
        (1, True),
        (2, True),
        (3, False),
    ]
    assert service.get(f"{kind}/mine?version=1").content == GOOD[kind]


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("content", [b"=", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}'])
def test_what_can_not_be_read_is_not_stored(service: Any, kind: str, content: bytes) -> None:
    service.put(f"{kind}/mine", GOOD[kind]).raise_for_status()
    answer = service.put(f"{kind}/mine", content)
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert service.get(f"{kind}/mine").content == GOOD[kind]


@pytest.mark.parametrize("name", ["UPPER", "..", ".hidden", "a" * 65, "a%2fb", "a%00b", "ä"])
def test_unusual_names_are_refused(service: Any, name: str) -> None:
    assert service.put(f"policies/{name}", GOOD["policies"]).status_code in (400, 404, 405)
    assert [entry["name"] for entry in service.get("policies").json()] == ["laboratory"]


def test_a_change_counts_for_the_next_appraisal(service: Any) -> None:
    assert service.attest().status_code == 200
    service.put("policies/laboratory", 'name = "laboratory"\n').raise_for_status()
    assert service.attest().status_code == 403
    service.client.delete("/v1/policies/laboratory", headers=service.admin)
    assert service.attest().status_code == 404


def test_a_change_counts_in_another_instance(start: Callable[..., Any]) -> None:
    one, other = start(), start(administrator="bob")
    assert other.attest().status_code == 200
    one.put("policies/laboratory", 'name = "laboratory"\n').raise_for_status()
    assert other.attest().status_code == 403


def test_reference_values_make_a_measurement_known(service: Any) -> None:
    policy = 'name = "r"\n[accept]\ntees = ["process"]\nreference_values = true\n'
    allow = "[allow]\nsimulated = true\ntest_roots = true\n"
    service.put("policies/laboratory", policy + allow).raise_for_status()
    assert service.attest().status_code == 403
    values = VALUES.replace(b'"snp","signer":"00"', b'"process","measurements":{"launch":"%s"}')
    service.put("reference-values/mine", values % (b"m" * 48).hex().encode()).raise_for_status()
    assert service.attest().status_code == 200


def test_every_change_is_in_the_audit_trail(service: Any) -> None:
    service.put("policies/mine", GOOD["policies"])
    service.client.delete("/v1/policies/mine", headers=service.admin)
    records = service.get("audit?limit=1000").json()["records"]
    actions = [(record["actor"], record["action"], record["subject"]) for record in records]
    assert ("command line", "token.create", "alice") in actions
    changed = [action for action in actions if action[0] == "alice"]
    assert len(changed) >= 3
    assert all("mine" in subject or "laboratory" in subject for _, _, subject in changed)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "after=-1", "limit=x", f"after={2**63}", f"after={10**30}"]
)
def test_the_trail_is_read_within_limits(service: Any, query: str) -> None:
    assert service.get(f"audit?{query}").status_code == 400
    assert service.get(f"audit?after={2**63 - 1}").json()["records"] == []


@pytest.mark.parametrize("version", ["0", "-1", "x", "", str(2**31), str(10**30)])
def test_versions_that_can_not_be_are_the_askers_fault(service: Any, version: str) -> None:
    assert service.get(f"policies/laboratory?version={version}").status_code == 400
    assert service.get(f"policies/laboratory?version={2**31 - 1}").status_code == 404


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("name", ["a%00b", "UPPER", "laboratory%0A", "%ff", "x" * 5000])
def test_documents_of_unusual_names_are_not_there(service: Any, method: str, name: str) -> None:
    answer = service.client.request(method, f"/v1/policies/{name}", headers=service.admin)
    assert answer.status_code == 404
    assert service.get(f"policies/{name}/versions").json() == []


def test_a_document_beyond_the_limit_is_refused(service: Any) -> None:
    answer = service.put("policies/mine", b"#" * (4 << 20) + b"\n" + GOOD["policies"])
    assert answer.status_code == 400
    assert "at most" in answer.json()["detail"]
    assert service.put("policies/mine", bytes((8 << 20) + 1)).status_code == 413


def test_what_is_good_alone_but_not_together_is_refused(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every attestation would fail from then on."""
    monkeypatch.setattr(model, "MAX_VALUES", 1)
    service.put("reference-values/one", VALUES).raise_for_status()
    answer = service.put("reference-values/two", VALUES.replace(b'"n"', b'"other"'))
    assert answer.status_code == 400
    assert "at most 1" in answer.json()["detail"]
    assert [entry["name"] for entry in service.get("reference-values").json()] == ["one"]
    assert service.get("reference-values/two/versions").json() == []
    assert service.attest().status_code == 200


def test_changes_are_counted(service: Any) -> None:
    service.put("policies/mine", GOOD["policies"])
    service.put("policies/mine", b"=")
    service.client.delete("/v1/policies/mine", headers=service.admin)
    changed = 'secgear_documents_changed_total{action="%s",kind="policies"}'
    assert service.metric(changed % "put") == 2  # with the laboratory's
    assert service.metric(changed % "delete") == 1


def test_documents_of_no_use_are_the_services_fault(service: Any) -> None:
    """As after an update that reads more strictly: the attester is not to blame."""
    with service.store.writing() as connection:
        connection.execute(text("UPDATE documents SET data = X'3d', version = 2"))
        connection.execute(text("UPDATE generation SET number = number + 1"))
    answer = service.attest()
    assert (answer.status_code, answer.json()["code"]) == (503, "attestation.service")
    assert "detail" not in answer.json()
    service.put("policies/laboratory", POLICY).raise_for_status()  # how it is mended
    assert service.attest().status_code == 200
