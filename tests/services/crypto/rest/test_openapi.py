"""The description is valid, whole, and what the service does."""

from __future__ import annotations

import re
from typing import Any

import requests

from secgear.services.crypto.rest.service import ROUTER
from tests.services.crypto.rest.conftest import Place


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
