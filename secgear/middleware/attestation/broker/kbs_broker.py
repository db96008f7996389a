"""The KBS protocol's four messages against database and policies, without HTTP.

Evidence is verified when the client attests: it must be authentic and vouch for nonce and key.
Whether it is good enough is asked for each resource, by that secret's own policy.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from typing import Final

import msgspec
from sqlalchemy import Connection

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceRefused
from secgear.middleware.attestation.base64url import pack
from secgear.middleware.attestation.broker import kbs, sessions
from secgear.middleware.attestation.broker.decision import Judge
from secgear.middleware.attestation.broker.names import SecretName
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.service import audit
from secgear.middleware.attestation.service.problems import Problem
from secgear.middleware.attestation.verification import verify

NONCE_SIZE: Final = 32  # bytes
_TEE: Final = re.compile(r"[A-Za-z0-9-]{1,64}", re.ASCII)


class Begun(msgspec.Struct, frozen=True):
    """The challenge, and the identifier of the session for the cookie."""

    challenge: bytes
    session: str


def auth(judge: Judge, body: bytes) -> Begun:
    """Request → Challenge. Raises Problem, EvidenceMalformed, EvidenceUnsupported."""
    request = kbs.parse_request(body)
    if not _TEE.fullmatch(request.tee):
        raise Problem(400, "request.invalid", "That is the name of no TEE")
    algorithm = kbs.choose_digest(request)
    nonce = base64.b64encode(os.urandom(NONCE_SIZE)).decode()
    session = sessions.begin(
        judge.store, tee=request.tee, algorithm=algorithm, nonce=nonce, now=_now(judge)
    )
    if session is None:
        raise Problem(
            503,
            "session.exhausted",
            "Too many sessions are open",
            headers={"Retry-After": "5"},
        )
    judge.metrics.challenges.inc()
    return Begun(kbs.challenge(nonce, algorithm), session)


def attest(judge: Judge, body: bytes, identifier: str, client: str) -> bytes:
    """Attestation → token. A session gets one chance. client: its address, for the audit trail.

    Raises Problem (401: no session, or evidence that is not authentic or vouches for something
    else), EvidenceMalformed, EvidenceUnsupported.
    """
    now = _now(judge)
    with judge.store.reading() as connection:
        session = sessions.challenged(connection, identifier, now=now)
    if session is None:
        raise _no_session()
    attestation = kbs.parse_attestation(body)
    evidence = kbs.to_evidence(session.tee, attestation)
    expected = kbs.expected_report_data(attestation, session.algorithm)
    claims, reason = _authentic(judge, evidence)
    if not hmac.compare_digest(attestation.runtime_data.nonce.encode(), session.nonce.encode()):
        claims, reason = None, "nonce"
    elif claims and not _carries(claims, expected, hashlib.new(session.algorithm).digest_size):
        claims, reason = None, "freshness"
    key = attestation.runtime_data.tee_pubkey
    with judge.store.writing(serial=True) as connection:
        if claims is None:
            done = sessions.end(connection, session, now=now)
        else:
            done = sessions.attest(
                connection,
                session,
                key=key,
                evidence=evidence,
                report_data=claims.report_data,
                now=now,
            )
        if not done:
            raise _no_session()
        audit.append(
            connection,
            at=judge.clock(),
            actor=client,
            action="kbs.attest",
            subject=session.tee,
            detail={
                "outcome": "attested" if claims else "refused",
                "reasons": [] if claims else [reason],
                "key": _key_digest(key),
                "format": evidence.format,
            },
        )
    if claims is None:
        raise Problem(
            401, "attestation.refused", "The evidence is not authentic, or not for this session"
        )
    return msgspec.json.encode({"token": _token(now, session.expires)})


def resource(judge: Judge, name: SecretName, identifier: str, client: str) -> bytes:
    """The secret as a JWE to the session's key.

    Raises Problem: 401 no attested session, 403 its policy refuses, 404 no such secret.
    """
    now = _now(judge)
    with judge.store.reading() as connection:
        session = sessions.attested(connection, identifier, now=now)
    if session is None:
        raise _no_session()
    key, evidence, bound = session.key, session.evidence, session.report_data
    if key is None or evidence is None or bound is None:
        raise _no_session()
    decision = judge.decide(name, evidence, bound)

    def session_lasts(connection: Connection) -> None:
        if not sessions.still_attested(connection, session, now=_now(judge)):
            raise _no_session()

    response = judge.settle(
        decision,
        lambda content: kbs.wrap(content, key),
        client=client,
        interface="kbs",
        key=_key_digest(key),
        first=session_lasts,
    )
    if response is not None:
        return response
    if decision.sealed is None:
        raise Problem(404, "not-found", "There is no such resource")
    raise Problem(403, "release.refused", "The evidence does not satisfy the resource's policy")


def _authentic(judge: Judge, evidence: Evidence) -> tuple[Claims | None, str]:
    """What the evidence claims, or None and the name of the check that failed."""
    collateral = judge.shelf.rules().collateral
    try:
        return verify(evidence, at=judge.clock(), collateral=collateral, anchors=judge.anchors), ""
    except EvidenceRefused as refusal:
        return None, str(getattr(refusal.checks[-1], "name", "format") if refusal.checks else "")
    except CollateralError:
        return None, "collateral"


def _carries(claims: Claims, expected: bytes, digest_size: int) -> bool:
    """Whether the report data is the digest, with zeros after it as far as the field goes."""
    found = claims.report_data
    return len(found) >= digest_size and hmac.compare_digest(
        found.ljust(len(expected), b"\0"), expected.ljust(len(found), b"\0")
    )


def _token(now: int, expires: int) -> str:
    """What clients of the protocol wait for before they ask for resources: a JWT with its time.

    It is not signed (RFC 7519, section 6), because it says nothing to anybody: what lets a client
    in is the session. Results for others come from the verification service.
    """
    parts = ({"alg": "none"}, {"nbf": now, "exp": expires})
    return ".".join([*(pack(msgspec.json.encode(part)) for part in parts), ""])


def _key_digest(key: object) -> str:
    return hashlib.sha256(msgspec.json.encode(key, order="deterministic")).hexdigest()


def _no_session() -> Problem:
    return Problem(401, "session.missing", "There is no such session; begin with /kbs/v0/auth")


def _now(judge: Judge) -> int:
    return int(judge.clock().timestamp())
