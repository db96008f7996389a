"""Results as JWT: JWS in compact form (RFC 7515, RFC 7519), ES256 or ES384.

The header has ``alg``, ``kid`` and ``typ`` and nothing else. The algorithm follows from the curve
of the key that ``kid`` names, never from the token; keys come from the reader, not from the token.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk, jws
from jwcrypto.common import JWException

from secgear.errors import ResultInvalid
from secgear.middleware.attestation import base64url
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.results import ear, judging
from secgear.middleware.attestation.results.ear import Profile, Result
from secgear.middleware.attestation.results.keys import ResultKey, jose_algorithm
from secgear.middleware.attestation.verdict import Verdict

TYPE: Final = "eat+jwt"  # RFC 9711, section 9; media types are compared without case
MAX_DEPTH: Final = 32  # nesting of the claims


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str
    typ: str


_HEADER: Final = msgspec.json.Decoder(_Header)


def issue_jwt(
    verdict: Verdict,
    key: ResultKey,
    *,
    issuer: str,
    audience: str,
    nonce: bytes | None,
    lifetime: datetime.timedelta,
    now: datetime.datetime,
    profile: Profile = Profile.VERAISON,
    user_data: bytes | None = None,
    negative: bool = False,
) -> str:
    """A signed result that says what `verdict` says.

    issuer: who verified; audience: the one reader it is for. nonce: 8 to 64 bytes which that reader
    or the attester chose. profile: which names the claims have. user_data: what the evidence was
    found to be bound to besides the nonce; the result carries its digest.
    negative: make a result of a failed appraisal as well, which says ``contraindicated``.
    Raises Untrusted for a failed appraisal otherwise.
    """
    result = ear.make(
        verdict,
        issuer=issuer,
        audience=audience,
        nonce=nonce,
        lifetime=lifetime,
        now=now,
        profile=profile,
        user_data=user_data,
        negative=negative,
    )
    return sign_jwt(result, key)


def sign_jwt(result: Result, key: ResultKey) -> str:
    """Sign a result that `ear.make` made. Raises ResultInvalid: more than a reader accepts."""
    header = {"alg": jose_algorithm(key.public), "kid": key.kid, "typ": TYPE}
    message = jws.JWS(msgspec.json.encode(ear.to_json_claims(result)))
    message.add_signature(
        jwk.JWK.from_pyca(key.private), None, protected=msgspec.json.encode(header).decode()
    )
    token: str = message.serialize(compact=True)
    if len(token) > judging.MAX_SIZE:
        raise ResultInvalid(f"result: claims too large: a token of {len(token)} characters")
    return token


def verify_jwt(
    token: str,
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    *,
    audience: str,
    nonce: bytes | None,
    issuer: str,
    now: datetime.datetime,
    allow_warning: bool = False,
    allow_negative: bool = False,
) -> Result:
    """The result in `token`, if one of `keys` signed it for this reader and it affirms.

    keys: those of the verifier that you trust, by ``kid``. audience: your own name. nonce: the one
    that you gave out; None if you gave none, and then the result may be a copy of another's.
    allow_warning: accept what the verifier's policy tolerated (debug, simulated, an older TCB).
    allow_negative: accept any status; then read it.
    Raises ResultInvalid.
    """
    if len(token) > judging.MAX_SIZE:
        raise ResultInvalid(f"result: a token of {len(token)} characters")
    parts = token.split(".")
    if len(parts) != 3:
        raise ResultInvalid("result: no JWT in compact form")
    header, payload, _ = (_decoded(part) for part in parts)
    try:
        fields = _HEADER.decode(header)
        _json(header)  # refuses a member twice, which the decoder above does not
    except UNREADABLE:
        raise ResultInvalid("result: the header is not just alg, kid and typ") from None
    if fields.typ.lower() != TYPE:
        raise ResultInvalid(f"result: a token of type {fields.typ[:40]!r}, not {TYPE}")
    key = keys.get(fields.kid)
    if key is None:
        raise ResultInvalid(f"result: signed by a key that is not known here: {fields.kid[:80]!r}")
    algorithm = jose_algorithm(key)
    if fields.alg != algorithm:
        raise ResultInvalid(f"result: algorithm {fields.alg[:40]!r} with a key for {algorithm}")
    message = jws.JWS()
    message.allowed_algs = [algorithm]
    try:
        message.deserialize(token, jwk.JWK.from_pyca(key))
    except JWException:
        raise ResultInvalid("result: the signature does not verify") from None
    if not message.is_valid or message.payload != payload:
        raise ResultInvalid("result: the signature does not verify")
    return judging.accept(
        ear.from_json_claims(_json(payload)),
        audience=audience,
        issuer=issuer,
        nonce=nonce,
        now=now,
        allow_warning=allow_warning,
        allow_negative=allow_negative,
    )


def _decoded(part: str) -> bytes:
    try:
        return base64url.unpack(part)
    except ValueError:
        raise ResultInvalid("result: no JWT: not base64url") from None


def _json(data: bytes) -> Any:
    """JSON, strictly: UTF-8, no member twice, no NaN, not too deep."""
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_once, parse_constant=_refuse, parse_float=_float
        )
    except (ValueError, RecursionError):
        raise ResultInvalid("result: the token's JSON is not strict") from None
    if _depth(value) > MAX_DEPTH:
        raise ResultInvalid("result: the claims are nested too deeply")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members


def _refuse(_: str) -> NoReturn:
    raise ValueError("no number")


def _float(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError("a number out of bounds")
    return value


def _depth(value: Any) -> int:
    depth, layer = 0, [value]
    while layer and depth <= MAX_DEPTH:
        depth += 1
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        layer = inner
    return depth
