"""The OpenAPI 3.1 document, made from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from secgear.services.crypto.rest.bodies import Answer, Errors, LoggedIn
from secgear.services.crypto.rest.routes import Form, Route

_REFUSALS: Final[Mapping[int, str]] = {
    400: "What was asked makes no sense, or the module refuses it.",
    403: "Nobody is logged in, or the PIN is locked.",
    404: "It is not there.",
    409: "It is there already.",
    413: "Too many bytes.",
    500: "The module or its host failed; nothing has happened.",
    503: "No room.",
}
_REF: Final = "#/components/schemas/{name}"


def describe(routes: Iterable[Route]) -> bytes:
    """The document, as JSON."""
    rows = tuple(routes)
    kinds = _kinds(rows)
    described, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    schemas = dict(zip(map(repr, kinds), described, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in rows:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "secGear cryptographic module",
            "version": "1",
            "description": (
                "Served inside an enclave. Bytes are base64 in JSON. LIST is GET with list=true, "
                "and PUT is POST, as with Vault."
            ),
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Vault-Token"}
            },
        },
        "security": [{"token": []}],
    }
    return msgspec.json.Encoder(order="sorted").encode(document)


def _kinds(routes: tuple[Route, ...]) -> list[Any]:
    kinds: list[Any] = [Errors]
    for route in routes:
        for kind in (route.body, _whole(route)):
            if kind is not None and kind not in kinds:
                kinds.append(kind)
    return kinds


def _whole(route: Route) -> Any:
    """The type of an answer's whole body; None where there is none, or it is no JSON."""
    if route.answer is None or route.form is Form.TEXT:
        return None
    if route.form is Form.LOGIN:
        return LoggedIn
    envelope: Any = Answer
    return envelope[route.answer] if route.form is Form.DATA else route.answer


def _operation(route: Route, schemas: Mapping[str, Any]) -> dict[str, Any]:
    whole = _whole(route)
    answer: dict[str, Any]
    if route.form is Form.TEXT:
        answer = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    else:
        answer = {} if whole is None else _content(schemas[repr(whole)])
    status = "204" if whole is None and route.form is not Form.TEXT else str(route.status)
    responses: dict[str, Any] = {status: {"description": route.about, **answer}}
    for refusal, about in _REFUSALS.items():
        responses[str(refusal)] = {"description": about, **_content(schemas[repr(Errors)])}
    if route.partial:
        either = {"anyOf": [schemas[repr(Errors)], schemas[repr(whole)]]}
        for code in ("400", "default"):
            responses[code] = {"description": "Some or all items failed.", **_content(either)}
    if route.path == "/v1/sys/health":
        responses["501"] = {"description": "The token has no PINs.", **answer}
        responses["503"] = {"description": "The module holds no keys.", **answer}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.about,
        "tags": [route.path.removeprefix("/v1/").strip("/").split("/")[0]],
        "responses": responses,
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    for query in route.query:
        schema: dict[str, Any] = {"type": "string"}
        if query.values:
            schema["enum"] = list(query.values)
        parameters.append(
            {"name": query.name, "in": "query", "description": query.about, "schema": schema}
        )
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = _content(schemas[repr(route.body)])
    if route.public:
        operation["security"] = []
    return operation


def _content(schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
