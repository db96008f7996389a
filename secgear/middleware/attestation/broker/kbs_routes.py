"""The KBS protocol 0.4.0 over HTTP: ``/kbs/v0/auth``, ``/kbs/v0/attest``, ``/kbs/v0/resource``.

What 0.4.0 has and this does not: resources for a bearer token instead of the session's cookie,
evidence of additional devices, plugins other than ``resource``, and the protocol's administration,
instead of which there is ours.
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from secgear.middleware.attestation.broker import kbs, kbs_broker, sessions
from secgear.middleware.attestation.broker.decision import Judge
from secgear.middleware.attestation.broker.names import (
    DEFAULT_REPOSITORY,
    SecretInvalid,
    SecretName,
)
from secgear.middleware.attestation.broker.native import NO_STORE
from secgear.middleware.attestation.service import problems
from secgear.middleware.attestation.service.http import (
    PUBLIC,
    AnyRequest,
    client_of,
    received,
    service_of,
)
from secgear.middleware.attestation.service.limits import Buckets
from secgear.middleware.attestation.service.openapi import CONTENT
from secgear.middleware.attestation.service.problems import Problem

_JSON: Final = "application/json"
_PLACE: Final = "/kbs/v0/resource"


def kbs_routes(judge: Judge) -> list[HTTPRouteHandler]:
    """The protocol's routes."""
    auths = Buckets(judge.settings.challenge_rate)
    attests = Buckets(judge.settings.attest_rate)
    resources = Buckets(judge.settings.attest_rate)
    common: Final[dict[str, Any]] = {"exception_handlers": {Exception: _handle}}
    posted = {PUBLIC: True, CONTENT: _JSON}

    @post("/kbs/v0/auth", opt=posted, status_code=200, summary="KBS: request a challenge", **common)
    async def auth(request: AnyRequest) -> Response[bytes]:
        """Request → Challenge. Sets the cookie that the other routes need."""
        auths.take(client_of(request))
        async with received(request) as body:
            begun = await service_of(request).database.run(lambda: kbs_broker.auth(judge, body))
        cookie = Cookie(
            kbs.COOKIE,
            value=begun.session,
            path="/kbs",
            max_age=sessions.LIFETIME,
            httponly=True,
            samesite="strict",
            secure=judge.settings.tls_key is not None,
        )
        return _answer(begun.challenge, cookie)

    @post("/kbs/v0/attest", opt=posted, status_code=200, summary="KBS: attest", **common)
    async def attest(request: AnyRequest) -> Response[bytes]:
        """Attestation → a token that says how long the session lasts."""
        client = client_of(request)
        attests.take(client)
        session = _session(request)
        async with received(request) as body:
            return _answer(
                await service_of(request).verification.run(
                    lambda: kbs_broker.attest(judge, body, session, client)
                )
            )

    @get(
        [
            f"{_PLACE}/{{repository:str}}/{{kind:str}}/{{tag:str}}",
            f"{_PLACE}/{{kind:str}}/{{tag:str}}",
        ],
        opt={PUBLIC: True},
        summary="KBS: get a resource",
        **common,
    )
    async def resource(request: AnyRequest) -> Response[bytes]:
        """The resource, a secret, as a JWE to the key that the session's evidence vouches for."""
        client, session = client_of(request), _session(request)
        resources.take(client)
        name = _name(**request.path_params)
        return _answer(
            await service_of(request).verification.run(
                lambda: kbs_broker.resource(judge, name, session, client)
            )
        )

    return [auth, attest, resource]


def _session(request: AnyRequest) -> str:
    return request.cookies.get(kbs.COOKIE, "")


def _name(kind: str, tag: str, repository: str = DEFAULT_REPOSITORY) -> SecretName:
    try:
        return SecretName(repository, kind, tag)
    except SecretInvalid:
        raise Problem(404, "not-found", "There is no such resource") from None


def _answer(body: bytes, *cookies: Cookie) -> Response[bytes]:
    return Response(body, media_type=_JSON, headers=NO_STORE, cookies=cookies)


def _handle(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Errors in the protocol's form."""
    problem = problems.of(error)
    request.app.state.service.metrics.refused.labels(problem.code).inc()
    kind = "".join(word.title() for word in problem.code.replace("-", ".").split("."))
    return Response(
        kbs.problem(kind, ": ".join(filter(None, (problem.title, problem.detail)))),
        status_code=problem.status,
        headers=problem.headers | NO_STORE,
        media_type=_JSON,
    )
