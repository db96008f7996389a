"""The broker's own interface: a challenge, and one secret for the evidence that answers it.

The evidence's report data is ``release.report_data(nonce, suite, public_key)``: the key that the
secret is wrapped to is one that the enclave vouches for, for this purpose. Who shows no evidence
that the secret's policy trusts gets one and the same answer, whether there is such a secret or not.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

import msgspec
from litestar import Response, post
from litestar.handlers import HTTPRouteHandler
from sqlalchemy import Connection

from secgear.base.tee import Evidence
from secgear.errors import AttestationError
from secgear.middleware.attestation import envelope
from secgear.middleware.attestation.base64url import pack, unpack
from secgear.middleware.attestation.broker import release
from secgear.middleware.attestation.broker.decision import Judge
from secgear.middleware.attestation.broker.names import SecretName
from secgear.middleware.attestation.broker.release import Released
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.service import binding, nonces
from secgear.middleware.attestation.service.http import (
    PUBLIC,
    AnyRequest,
    client_of,
    received,
    service_of,
)
from secgear.middleware.attestation.service.limits import Buckets
from secgear.middleware.attestation.service.messages import ChallengeAnswer
from secgear.middleware.attestation.service.openapi import BODY
from secgear.middleware.attestation.service.problems import Problem

NO_STORE = {"Cache-Control": "no-store"}


class ReleaseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which secret, to which key, and the evidence that vouches for the key."""

    evidence: Annotated[
        msgspec.Raw,
        msgspec.Meta(
            description="The evidence envelope, as the verification service takes it. Its report "
            "data: SHA-512('secgear release v1' || 00 || nonce || "
            "SHA-256(suite || 00 || public_key))."
        ),
    ]
    nonce: Annotated[
        str, msgspec.Meta(max_length=64, description="As the challenge gave it; used up by this.")
    ]
    secret: Annotated[str, msgspec.Meta(max_length=200, description="repository/type/tag.")]
    suite: Annotated[
        Literal[
            "MLKEM768-X25519/HKDF-SHA256/AES-256-GCM",
            "X25519/HKDF-SHA256/AES-256-GCM",
        ],
        msgspec.Meta(description="HPKE (RFC 9180), base mode."),
    ]
    public_key: Annotated[
        str,
        msgspec.Meta(
            max_length=2048,
            description="ML-KEM-768 encapsulation key and X25519 key, or the latter alone, "
            "base64url without padding.",
        ),
    ]


class ReleaseAnswer(msgspec.Struct, frozen=True):
    """A secret that only the enclave can open. sealed: base64url."""

    secret: str
    suite: str
    sealed: Annotated[
        str,
        msgspec.Meta(
            description="Encapsulated key and ciphertext; info is the CBOR array "
            "['secgear key release v1', suite, secret, nonce]."
        ),
    ]


class Ask(msgspec.Struct, frozen=True):
    """A release request, read and checked."""

    evidence: Evidence
    nonce: bytes
    name: SecretName
    suite: str
    public: bytes


_RELEASE = msgspec.json.Decoder(ReleaseRequest)


def read_release(body: bytes) -> Ask:
    """Read a request. Raises Problem (400), EvidenceMalformed."""
    try:
        request = _RELEASE.decode(body)
        nonce, public = unpack(request.nonce), unpack(request.public_key)
        binding.report_data(nonce)  # for its length
        name = SecretName.parse(request.secret)
        release.check_public(request.suite, public)
    except (*UNREADABLE, AttestationError) as error:
        raise Problem(
            400,
            "request.invalid",
            "The request is not in the form that this broker reads",
            str(error)[:300],
        ) from None
    return Ask(envelope.from_json(bytes(request.evidence)), nonce, name, request.suite, public)


def challenge(judge: Judge) -> ChallengeAnswer:
    """A new nonce. Raises Problem (503) if too many are outstanding."""
    now = int(judge.clock().timestamp())
    lifetime = int(judge.settings.nonce_lifetime.total_seconds())
    nonce = nonces.issue(judge.store, now=now, lifetime=lifetime, limit=judge.settings.max_nonces)
    if nonce is None:
        raise Problem(
            503,
            "nonce.exhausted",
            "Too many challenges are outstanding",
            headers={"Retry-After": "5"},
        )
    judge.metrics.challenges.inc()
    expires = datetime.datetime.fromtimestamp(now + lifetime, datetime.UTC)
    return ChallengeAnswer(pack(nonce), expires.isoformat())


def answer(judge: Judge, ask: Ask, client: str) -> Released:
    """The secret, wrapped. The nonce is used up whatever comes out. Raises Problem."""
    now = int(judge.clock().timestamp())
    with judge.store.reading() as connection:
        if not nonces.is_good(connection, ask.nonce, now=now):
            raise _nonce_refused(judge)
    bound = release.report_data(ask.nonce, ask.suite, ask.public)
    decision = judge.decide(ask.name, ask.evidence, bound)

    def consume(connection: Connection) -> None:
        if not nonces.consume(connection, ask.nonce, now=now):
            raise _nonce_refused(judge)

    released = judge.settle(
        decision,
        lambda content: release.wrap(content, str(ask.name), ask.suite, ask.public, ask.nonce),
        client=client,
        interface="native",
        key=release.key_digest(ask.suite, ask.public),
        first=consume,
    )
    if released is None:
        raise Problem(
            403,
            "release.refused",
            "Not released",
            "There is no such secret, or the evidence does not satisfy its policy; "
            "the broker's audit trail says which",
        )
    return released


def release_routes(judge: Judge) -> list[HTTPRouteHandler]:
    """Challenge and release."""
    challenges = Buckets(judge.settings.challenge_rate)
    releases = Buckets(judge.settings.attest_rate)

    @post("/v1/challenge", opt={PUBLIC: True}, status_code=200, summary="Get a nonce")
    async def challenged(request: AnyRequest) -> ChallengeAnswer:
        """Give out a nonce that is good for one release within a few minutes."""
        challenges.take(client_of(request))
        return await service_of(request).database.run(lambda: challenge(judge))

    @post(
        "/v1/release",
        opt={PUBLIC: True, BODY: ReleaseRequest},
        status_code=200,
        summary="Get a secret for evidence",
    )
    async def released(request: AnyRequest) -> Response[ReleaseAnswer]:
        """Judge evidence under the secret's policy; wrap the secret to the key that it vouches for.

        403, code ``release.refused``: there is no such secret, or the evidence is not trusted under
        its policy. 409: the nonce is unknown, expired or used (``nonce.refused``), or something was
        changed meanwhile and the same request may be sent again (``release.changed``).
        """
        client = client_of(request)
        releases.take(client)
        async with received(request) as body:
            made = await service_of(request).verification.run(
                lambda: answer(judge, read_release(body), client)
            )
        return Response(
            ReleaseAnswer(made.name, made.suite, pack(made.sealed)),
            media_type="application/json",
            headers=NO_STORE,
        )

    return [challenged, released]


def _nonce_refused(judge: Judge) -> Problem:
    judge.metrics.nonces_refused.inc()
    return Problem(409, "nonce.refused", "The nonce is unknown, expired or was used already")
