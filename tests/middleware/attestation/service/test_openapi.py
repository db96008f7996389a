"""The service's description of itself: complete, true, and of use to generators of clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

OPEN = {"/v1/challenge", "/v1/attest", "/v1/keys", "/healthz", "/metrics"}


@pytest.fixture
def described(service: Any) -> dict[str, Any]:
    answer = service.client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method in {"get", "put", "post", "delete", "patch"} & set(item):
            yield path, method, item[method]


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(found)}:
            yield found
        case dict():
            for inner in value.values():
                yield from references(inner)
        case list():
            for inner in value:
                yield from references(inner)


def test_every_route_is_described(service: Any, described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.")
    there = {
        (route.path_format, method.lower())
        for route in service.app.routes
        if not route.path_format.startswith(("/schema", "/openapi.json"))
        for method in route.methods
        if method != "OPTIONS"
    }
    assert {(path, method) for path, method, _ in operations(described)} == there
    for path, method, operation in operations(described):
        assert operation["summary"], (path, method)
        assert operation["description"], (path, method)


def test_who_needs_a_token_is_told(described: dict[str, Any]) -> None:
    assert described["components"]["securitySchemes"]["token"] == {
        "type": "http",
        "scheme": "bearer",
    }
    for path, method, operation in operations(described):
        needed: list[dict[str, list[str]]] | None = None if path in OPEN else [{"token": []}]
        assert operation.get("security") == needed, (path, method)


def test_every_operation_may_fail_with_a_problem(described: dict[str, Any]) -> None:
    for _, _, operation in operations(described):
        problem = operation["responses"]["default"]["content"]["application/problem+json"]
        assert "code" in problem["schema"]["required"]


def test_names_of_operations_are_unique(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(names) == len(set(names))


def test_references_lead_somewhere(described: dict[str, Any]) -> None:
    found = set(references(described))
    assert found
    for reference in found:
        place: Any = described
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_bodies_are_described(described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        expected = method == "put" or path == "/v1/attest"
        assert ("requestBody" in operation) is expected, (path, method)
    body = described["paths"]["/v1/attest"]["post"]["requestBody"]["content"]
    assert body["application/json"]["schema"]["$ref"].endswith("/AttestRequest")
    request = described["components"]["schemas"]["AttestRequest"]
    assert set(request["required"]) == {"evidence", "nonce", "policy", "audience"}
    assert request["additionalProperties"] is False


def test_parameters_and_their_bounds_are_described(described: dict[str, Any]) -> None:
    (parameters,) = [
        {one["name"]: one for one in operation["parameters"]}
        for path, _, operation in operations(described)
        if path == "/v1/audit"
    ]
    assert parameters["limit"]["schema"]["maximum"] == 1000
    assert parameters["after"]["schema"]["minimum"] == 0
    for path, method, operation in operations(described):
        named = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert ("name" in named) is ("{name}" in path), (path, method)
