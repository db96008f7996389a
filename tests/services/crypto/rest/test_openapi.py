"""The description is valid, whole, and what the service does."""

from __future__ import annotations

import re
from typing import Any

import requests

from secgear.services.crypto.rest.service import ROUTER
from tests.services.crypto.rest.conftest import SEEN, Place


def test_the_document_is_valid_and_served(place: Place, document: Any) -> None:
    session = requests.Session()
    session.trust_env = False
    assert session.get(f"{place.url}/openapi.json", timeout=60).json() == document


def test_every_route_is_described_with_its_parameters_and_bodies(document: Any) -> None:
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert described == {(route.method, route.path) for route in ROUTER.routes}
    names = []
    for route in ROUTER.routes:
        operation = document["paths"][route.path][route.method.lower()]
        names.append(operation["operationId"])
        inside = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert inside == set(re.findall(r"\{(\w+)\}", route.path))
        assert ("requestBody" in operation) == (route.body is not None)
        assert (operation.get("security") == []) == route.public
    assert len(set(names)) == len(names)


def test_what_needs_no_login_is_only_what_has_to(document: Any) -> None:
    public = {route.path for route in ROUTER.routes if route.public}
    assert public == {
        "/openapi.json", "/v1/sys/health", "/v1/sys/seal-status", "/v1/sys/init",
        "/v1/auth/userpass/login/{username}",
    }  # fmt: skip


def test_what_every_route_answers_is_what_is_described(place: Place) -> None:
    SEEN.clear()
    token = str(place.client().token)  # every answer is held against the document: see `conforms`
    place.ask("POST", "/v1/transit/keys/data", {"deletion_allowed": True}, token)
    for _ in range(2):  # of something, and of nothing
        place.ask("POST", "/v1/transit/keys/data", {}, token)
        for route in sorted(ROUTER.routes, key=lambda one: (one.method == "DELETE", one.path)):
            if "revoke" in route.path:
                continue
            path = re.sub(r"\{(\w+)\}", "data", route.path)
            for body in ({}, None) if route.body is not None else (None,):
                place.ask(route.method, path, body, token)
        place.ask("POST", "/v1/transit/keys/data/config", {"deletion_allowed": True}, token)
    place.ask("POST", "/v1/auth/token/revoke-self", {}, token)
    assert {(route.method, route.path) for route in ROUTER.routes} == SEEN
