"""The OpenAPI description: what the framework finds out, and the bodies, which it does not read."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

import msgspec
from litestar import Litestar, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from secgear.middleware.attestation.service.http import PUBLIC, AnyRequest

BODY: Final = "body"  # handler option: the struct that the body is, in JSON
CONTENT: Final = "content"  # handler option: the media type of a body that is a file

_COMPONENTS: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {
    "description": "What went wrong (RFC 9457); `code` is stable.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["title", "status", "code"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            }
        }
    },
}


def configuration(title: str, description: str) -> OpenAPIConfig:
    """For the framework. No pages: they would load scripts from elsewhere."""
    return OpenAPIConfig(
        title=title,
        version=version("secgear"),
        description=description,
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}
        ),
        render_plugins=(),
    )


def openapi_route() -> HTTPRouteHandler:
    """``GET /openapi.json``."""

    @get("/openapi.json", opt={PUBLIC: True}, include_in_schema=False)
    async def openapi(request: AnyRequest) -> Response[bytes]:
        """The description of all routes."""
        return Response(describe(request.app), media_type="application/json")

    return openapi


def describe(app: Litestar) -> bytes:
    """The application's description, in JSON."""
    kept: bytes | None = app.state.get("openapi")
    if kept is None:
        schema = app.openapi_schema.to_schema()
        schemas = schema["components"].setdefault("schemas", {})
        for handler, operation in _operations(app, schema):
            operation["responses"]["default"] = _PROBLEM
            if handler.opt.get(PUBLIC) is not True:
                operation["security"] = [{"token": []}]
            if BODY in handler.opt:
                (reference,), found = msgspec.json.schema_components(
                    [handler.opt[BODY]], ref_template=_COMPONENTS
                )
                schemas |= found
                operation["requestBody"] = _body("application/json", reference)
            elif CONTENT in handler.opt:
                operation["requestBody"] = _body(handler.opt[CONTENT], {"type": "string"})
        kept = app.state.openapi = msgspec.json.encode(schema)
    return kept


def _operations(
    app: Litestar, schema: dict[str, Any]
) -> Iterator[tuple[HTTPRouteHandler, dict[str, Any]]]:
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            path = schema["paths"].get(route.path_format, {})
            for method in getattr(handler, "http_methods", ()):
                if method.lower() in path:
                    yield handler, path[method.lower()]


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {media_type: {"schema": schema}}}
