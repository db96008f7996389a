"""What every route needs: the service's parts, who asks, and reading a body within limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import InternalServerException
from litestar.handlers import BaseRouteHandler

from secgear.middleware.attestation.service.limits import Buckets, Space, Threads
from secgear.middleware.attestation.service.metrics import Metrics
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.service.settings import Settings
from secgear.middleware.attestation.service.store import Store
from secgear.middleware.attestation.service.tokens import Principal, Role, authenticate

PUBLIC: Final = "public"  # handler option: anybody may ask
ROLE: Final = "role"  # handler option: what the token must be for
DATABASE_THREADS: Final = 8

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Service:
    """What an application on top of this store, with these administrators, is made of.

    database, verification: threads for waiting and for computing. bodies: room for requests.
    failures: failed authentication by client.
    """

    settings: Settings
    store: Store
    metrics: Metrics
    database: Threads
    verification: Threads
    bodies: Space
    failures: Buckets


def service_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Service:
    """The parts of the application that this connection talks to."""
    service: Service = connection.app.state.service
    return service


def client_of(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The client's address; the server has put a trusted proxy's word for it here."""
    return connection.client.host if connection.client else "unknown"


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request through to a route that is public, or with a token for the route's role.

    A route that says neither is open to nobody. Raises Problem: 401, 403, 429.
    """
    if handler.opt.get(PUBLIC) is True:
        return
    needed = handler.opt.get(ROLE)
    if not isinstance(needed, Role):
        raise Problem(403, "token.role", "Nobody may do this")
    service, client = service_of(connection), client_of(connection)
    service.failures.take(client, 0)
    principal = await _principal(connection, service)
    if principal is None:
        service.failures.take(client)
        raise Problem(
            401,
            "token.missing",
            "This needs a token",
            "Authorization: Bearer <token of an administrator>",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if not principal.role.covers(needed):
        raise Problem(403, "token.role", f"This needs a token for the role {needed.value}")
    connection.scope["state"]["principal"] = principal


def principal_of(connection: ASGIConnection[Any, Any, Any, Any]) -> Principal:
    """Whom `guard` let through."""
    principal: Principal = connection.scope["state"]["principal"]
    return principal


@contextlib.asynccontextmanager
async def received(request: AnyRequest) -> AsyncIterator[bytes]:
    """The body, whole, and room for it until the work on it is done.

    Raises Problem: too slow (408), no room (429, 503); the framework refuses one too large.
    """
    service = service_of(request)
    with service.bodies.use(client_of(request)) as take:
        try:
            body = await asyncio.wait_for(_whole(request, take), service.settings.body_timeout)
        except TimeoutError:
            raise Problem(408, "request.too-slow", "The request did not arrive in time") from None
        yield body


async def _whole(request: AnyRequest, take: Callable[[int], None]) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            take(len(chunk))
            body += chunk
    except InternalServerException:  # so the framework calls a client that went away
        raise Problem(400, "request.invalid", "The request was cut off") from None
    return bytes(body)


async def _principal(
    connection: ASGIConnection[Any, Any, Any, Any], service: Service
) -> Principal | None:
    given = connection.headers.getall("authorization", [])
    if len(given) != 1:
        return None
    scheme, _, token = given[0].partition(" ")
    if scheme.lower() != "bearer":
        return None
    return await service.database.run(lambda: authenticate(service.store, token))
