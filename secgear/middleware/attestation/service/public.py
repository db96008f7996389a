"""Routes that are open to everybody: challenge, attest, result keys, health, metrics."""

from __future__ import annotations

from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from secgear.middleware.attestation.base64url import pack
from secgear.middleware.attestation.results.keys import public_jwk
from secgear.middleware.attestation.service.appraiser import Answer, Appraiser
from secgear.middleware.attestation.service.http import (
    PUBLIC,
    AnyRequest,
    client_of,
    received,
    service_of,
)
from secgear.middleware.attestation.service.limits import Buckets
from secgear.middleware.attestation.service.messages import (
    AttestAnswer,
    AttestRequest,
    ChallengeAnswer,
    Health,
    read_attest,
)
from secgear.middleware.attestation.service.openapi import BODY
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.service.store import Store


def attestation_routes(appraiser: Appraiser) -> list[HTTPRouteHandler]:
    """Challenge, attest and the keys to verify results with."""
    challenges = Buckets(appraiser.settings.challenge_rate)
    attests = Buckets(appraiser.settings.attest_rate)

    @post("/v1/challenge", opt={PUBLIC: True}, status_code=200, summary="Get a nonce")
    async def challenge(request: AnyRequest) -> ChallengeAnswer:
        """Give out a nonce that is good for one attestation within a few minutes."""
        challenges.take(client_of(request))
        given = await service_of(request).database.run(appraiser.challenge)
        return ChallengeAnswer(pack(given.nonce), given.expires.isoformat())

    @post(
        "/v1/attest",
        opt={PUBLIC: True, BODY: AttestRequest},
        status_code=200,
        summary="Have evidence judged",
    )
    async def attest(request: AnyRequest) -> AttestAnswer:
        """Judge evidence under a policy; sign a result if it is trusted.

        Evidence that is not trusted is answered with 403, code ``attestation.untrusted``, and the
        verdict in the member ``verdict``: which check failed, with which values, and what would fix
        it. The nonce is used up in any case; a nonce that is unknown, expired or used is answered
        with 409.
        """
        client = client_of(request)
        attests.take(client)
        async with received(request) as body:
            return await service_of(request).verification.run(
                lambda: _answered(appraiser.attest(read_attest(body), client))
            )

    @get("/v1/keys", opt={PUBLIC: True}, summary="Get the keys that verify results")
    async def keys(request: AnyRequest) -> dict[str, list[dict[str, str]]]:
        """The public keys of results as a JWK set (RFC 7517), the signing one first."""
        found = await service_of(request).database.run(appraiser.keys)
        return {"keys": [public_jwk(key.public) for key in found]}

    return [challenge, attest, keys]


def operations_routes() -> list[HTTPRouteHandler]:
    """Health and metrics, for balancers and monitors."""

    @get("/healthz", opt={PUBLIC: True}, summary="Ask whether this instance works")
    async def health(request: AnyRequest) -> Health:
        """200 if the database answers, 503 if not."""
        service = service_of(request)
        await service.database.run(lambda: _ask(service.store))
        return Health("ok")

    @get("/metrics", opt={PUBLIC: True}, media_type="text/plain", summary="Get metrics")
    async def metrics(request: AnyRequest) -> Response[bytes]:
        """Counters of this instance in Prometheus' text form."""
        text = service_of(request).metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4")

    return [health, metrics]


def _answered(answer: Answer) -> AttestAnswer:
    verdict = answer.verdict.to_dict()
    if answer.token is None:
        raise Problem(
            403,
            "attestation.untrusted",
            "The evidence is not trusted under this policy",
            ", ".join(dict.fromkeys(check.name for check in answer.verdict.reasons)),
            members={"verdict": verdict},
        )
    if isinstance(answer.token, str):
        return AttestAnswer(answer.token, "jwt", verdict)
    return AttestAnswer(pack(answer.token), "cwt", verdict)


def _ask(store: Store) -> None:
    with store.reading() as connection:
        connection.exec_driver_sql("SELECT 1")
