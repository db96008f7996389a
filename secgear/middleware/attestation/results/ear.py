"""Attestation results: the claims of an EAR (draft-ietf-rats-ear), and their two written forms.

Two profiles of it are in use, which differ in names only; both are written and read. What came out
for the evidence is in ``submods`` under the TEE's name (``snp``), for a device that belongs to it
under that name and the part's (``snp.gpu0``).

=============================  ==============================  =====  ==================
`Profile.VERAISON`             `Profile.DRAFT`                 CBOR   is
=============================  ==============================  =====  ==================
``eat_profile``                the same                          265  which profile
``iss``, ``aud``               the same                         1, 3  who says it to whom
``exp``, ``nbf``, ``iat``      the same                      4, 5, 6  seconds since 1970
``jti`` (CWT: ``cti``)         the same                            7  name of this result
``eat_nonce``                  the same                           10  base64url of the challenge
``ear.status``                 ``ear_status``                   1000  `Tier`, here and per submod
``ear.verifier-id``            ``ear_verifier_id``              1004  ``developer``, ``build``
``submods``                    the same                          266  appraisals by name
``ear.trustworthiness-vector`` ``ear_trustworthiness_vector``   1001  values by category
``ear.appraisal-policy-id``    ``ear_appraisal_policy_ids``     1003  policy's name and digest
``secgear.claims``             the same                       -70001  claims, as JSON values
``secgear.user-data``          the same                       -70002  SHA-256 of the user data
=============================  ==============================  =====  ==================

`Profile.VERAISON` is what Veraison's libraries and the rules of Confidential Containers' broker
read today, with one policy as text. `Profile.DRAFT` is draft 04, with a list of policies.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from secgear import __version__
from secgear.errors import ResultInvalid, Untrusted
from secgear.middleware.attestation import base64url
from secgear.middleware.attestation.results import vector
from secgear.middleware.attestation.results.vector import CATEGORIES, Tier
from secgear.middleware.attestation.verdict import Verdict

MIN_NONCE, MAX_NONCE = 8, 64  # bytes: RFC 9711, section 4.1
MAX_LIFETIME: Final = datetime.timedelta(days=7)
MAX_TEXT: Final = 1024  # characters of an issuer or audience
_DEVELOPER: Final = "secgear"


class Profile(enum.Enum):
    """Which names the claims have; the value is the token's ``eat_profile``."""

    VERAISON = "tag:github.com,2023:veraison/ear"
    DRAFT = "tag:ietf.org,2026:rats/ear#04"


class Appraisal(msgspec.Struct, frozen=True):
    """What came out for one attester.

    vector: value by category (see `vector`). policy: name and SHA-256 of the policy.
    claims: `Claims.to_dict` without checks; empty where the evidence was not authentic.
    """

    status: Tier
    vector: Mapping[str, int]
    policy: str
    claims: Mapping[str, Any] = MappingProxyType({})


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """An attestation result: what a verifier says about an attester, to whom and until when.

    id: unique. nonce: of the relying party or attester who asked. status: the worst of all submods.
    verifier: who made it, ``developer`` and ``build``. user_data: SHA-256 of what the enclave
    vouches for besides itself (see `service.binding`), or None.
    """

    profile: Profile
    issuer: str
    audience: str
    id: str
    issued_at: datetime.datetime
    expires: datetime.datetime
    not_before: datetime.datetime | None = None
    nonce: bytes | None = None
    status: Tier
    verifier: Mapping[str, str]
    submods: Mapping[str, Appraisal]
    user_data: bytes | None = None


def make(
    verdict: Verdict,
    *,
    issuer: str,
    audience: str,
    nonce: bytes | None,
    lifetime: datetime.timedelta,
    now: datetime.datetime,
    profile: Profile = Profile.VERAISON,
    user_data: bytes | None = None,
    negative: bool = False,
) -> Result:
    """The result that says what `verdict` says, not signed yet.

    nonce: 8 to 64 bytes that the one who asked chose, or None. now: the time of issue.
    user_data: what the evidence was bound to besides the nonce, by the caller's own check.
    negative: make a result for a failed appraisal, which says so; without it Untrusted is raised.
    """
    if not verdict.trusted and not negative:
        verdict.require()
        raise Untrusted("not trusted", verdict)  # whatever `require` says
    if now.tzinfo is None:
        raise ValueError("now= needs a time zone")
    if not datetime.timedelta(seconds=1) <= lifetime <= MAX_LIFETIME:
        raise ValueError(f"a result lives from 1 second to {MAX_LIFETIME.days} days")
    if nonce is not None and not MIN_NONCE <= len(nonce) <= MAX_NONCE:
        raise ValueError(f"a nonce has {MIN_NONCE} to {MAX_NONCE} bytes, not {len(nonce)}")
    for name, text in (("issuer", issuer), ("audience", audience)):
        if not 1 <= len(text) <= MAX_TEXT:
            raise ValueError(f"{name}: 1 to {MAX_TEXT} characters")
    submods = _submods(verdict)
    issued_at = now.replace(microsecond=0)
    return Result(
        profile=profile,
        issuer=issuer,
        audience=audience,
        id=secrets.token_urlsafe(16),
        issued_at=issued_at,
        expires=issued_at + lifetime,
        nonce=nonce,
        status=max((item.status for item in submods.values()), key=lambda tier: tier.code),
        verifier={"developer": _DEVELOPER, "build": __version__},
        submods=submods,
        user_data=None if user_data is None else hashlib.sha256(user_data).digest(),
    )


def _submods(verdict: Verdict) -> dict[str, Appraisal]:
    policy = f"{verdict.policy}@sha256:{verdict.policy_digest.hex()}"
    if verdict.claims is None:
        status, values = vector.without_claims(verdict)
        return {"evidence": Appraisal(status, values, policy)}
    found = {}
    for path, claims in verdict.claims.every():
        status, values = vector.assess(verdict, path, claims)
        plain = claims.to_dict()
        plain = {name: plain[name] for name in plain if name not in {"checks", "parts"}}
        label = f"{verdict.claims.tee}.{path}" if path else claims.tee
        found[label] = Appraisal(status, values, policy, plain)
    return found


class _Names(msgspec.Struct, frozen=True):
    status: Any
    vector: Any
    policy: Any
    verifier: Any
    submods: Any
    claims: Any
    profile: Any
    issuer: Any
    audience: Any
    expires: Any
    not_before: Any
    issued_at: Any
    id: Any
    nonce: Any
    user_data: Any


_REGISTERED: Final = {
    "submods": "submods",
    "claims": "secgear.claims",
    "profile": "eat_profile",
    "issuer": "iss",
    "audience": "aud",
    "expires": "exp",
    "not_before": "nbf",
    "issued_at": "iat",
    "id": "jti",
    "nonce": "eat_nonce",
    "user_data": "secgear.user-data",
}
_JSON: Final = {
    Profile.VERAISON: _Names(
        status="ear.status",
        vector="ear.trustworthiness-vector",
        policy="ear.appraisal-policy-id",
        verifier="ear.verifier-id",
        **_REGISTERED,
    ),
    Profile.DRAFT: _Names(
        status="ear_status",
        vector="ear_trustworthiness_vector",
        policy="ear_appraisal_policy_ids",
        verifier="ear_verifier_id",
        **_REGISTERED,
    ),
}
_CBOR: Final = _Names(
    status=1000,
    vector=1001,
    policy=1003,
    verifier=1004,
    submods=266,
    claims=-70001,
    profile=265,
    issuer=1,
    audience=3,
    expires=4,
    not_before=5,
    issued_at=6,
    id=7,
    nonce=10,
    user_data=-70002,
)


def to_json_claims(result: Result) -> dict[str, Any]:
    """The claims set of a JWT."""
    return _write(result, _JSON[result.profile], cbor=False)


def to_cbor_claims(result: Result) -> dict[Any, Any]:
    """The claims set of a CWT."""
    return _write(result, _CBOR, cbor=True)


def from_json_claims(claims: object) -> Result:
    """Read the claims set of a JWT. Claims that are not known are passed over, as EAR demands.

    Raises ResultInvalid. Nothing is judged here: neither signature nor times.
    """
    try:
        found = _map(claims)
        profile = Profile(found["eat_profile"])
        return _read(found, profile, _JSON[profile], cbor=False)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ResultInvalid(f"result: not the claims of an EAR: {_short(error)}") from None


def from_cbor_claims(claims: object) -> Result:
    """Read the claims set of a CWT. As `from_json_claims`."""
    try:
        found = _map(claims)
        profile = Profile(found[_CBOR.profile])
        return _read(found, profile, _CBOR, cbor=True)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ResultInvalid(f"result: not the claims of an EAR: {_short(error)}") from None


def _write(result: Result, names: _Names, *, cbor: bool) -> dict[Any, Any]:
    before = None if result.not_before is None else int(result.not_before.timestamp())
    optional = {
        names.nonce: _write_bytes(result.nonce, cbor=cbor),
        names.user_data: _write_bytes(result.user_data, cbor=cbor),
        names.not_before: before,
    }
    return {
        names.profile: result.profile.value,
        names.issuer: result.issuer,
        names.audience: result.audience,
        names.issued_at: int(result.issued_at.timestamp()),
        names.expires: int(result.expires.timestamp()),
        names.id: result.id.encode() if cbor else result.id,
        names.status: result.status.code if cbor else result.status.value,
        names.verifier: {
            (place if cbor else part): result.verifier[part]
            for place, part in enumerate(("developer", "build"))
        },
        names.submods: {
            name: _write_appraisal(item, names, result.profile, cbor=cbor)
            for name, item in result.submods.items()
        },
    } | {name: value for name, value in optional.items() if value is not None}


def _write_appraisal(
    item: Appraisal, names: _Names, profile: Profile, *, cbor: bool
) -> dict[Any, Any]:
    return {
        names.status: item.status.code if cbor else item.status.value,
        names.vector: {
            (place if cbor else name): item.vector[name] for place, name in enumerate(CATEGORIES)
        },
        names.policy: item.policy if profile is Profile.VERAISON else [item.policy],
        names.claims: dict(item.claims),
    }


def _read(claims: Mapping[Any, Any], profile: Profile, names: _Names, *, cbor: bool) -> Result:
    nonce = _read_bytes(claims.get(names.nonce), cbor=cbor)
    if nonce is not None and not MIN_NONCE <= len(nonce) <= MAX_NONCE:
        raise ValueError("a nonce out of bounds")
    user_data = _read_bytes(claims.get(names.user_data), cbor=cbor)
    if user_data is not None and len(user_data) != 32:
        raise ValueError("a digest out of bounds")
    id_ = _typed(claims[names.id], bytes).decode() if cbor else _typed(claims[names.id], str)
    before = claims.get(names.not_before)
    verifier = _map(claims[names.verifier])
    submods = {
        _typed(name, str): _read_appraisal(item, names, profile, cbor=cbor)
        for name, item in _map(claims[names.submods]).items()
    }
    status = _tier(claims[names.status], cbor=cbor)
    if not submods or any(item.status.code > status.code for item in submods.values()):
        raise ValueError("a status better than that of the worst submod")
    return Result(
        profile=profile,
        issuer=_typed(claims[names.issuer], str),
        audience=_typed(claims[names.audience], str),
        id=id_,
        issued_at=_time(claims[names.issued_at]),
        expires=_time(claims[names.expires]),
        not_before=None if before is None else _time(before),
        nonce=nonce,
        status=status,
        verifier={
            part: _typed(verifier[place if cbor else part], str)
            for place, part in enumerate(("developer", "build"))
        },
        submods=submods,
        user_data=user_data,
    )


def _read_appraisal(content: Any, names: _Names, profile: Profile, *, cbor: bool) -> Appraisal:
    labels: dict[Any, str] = {
        (place if cbor else name): name for place, name in enumerate(CATEGORIES)
    }
    item = _map(content)
    # Values that are not there say nothing, which is 0.
    values = dict.fromkeys(CATEGORIES, 0) | {
        labels[name]: _typed(value, int) for name, value in _map(item[names.vector]).items()
    }
    status = _tier(item[names.status], cbor=cbor)
    if not all(-128 <= value <= 127 for value in values.values()):
        raise ValueError("a trustworthiness value out of bounds")
    if vector.worst(values).code > status.code:
        raise ValueError("a status better than the worst of its vector")
    policy = item[names.policy]
    if profile is Profile.DRAFT:
        (policy,) = policy
    claims = _map(item.get(names.claims, {}))
    return Appraisal(status, values, _typed(policy, str), dict(claims))


def _tier(value: Any, *, cbor: bool) -> Tier:
    if not cbor:
        return Tier(value)
    for tier in Tier:
        if type(value) is int and tier.code == value:
            return tier
    raise ValueError("a status that is none of the tiers")


def _time(value: Any) -> datetime.datetime:
    seconds = _typed(value, int)
    if not 0 <= seconds < 1 << 40:
        raise ValueError("a time out of bounds")
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _typed(value: Any, kind: type[Any]) -> Any:
    """The value if it is of exactly that type; True is no integer."""
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _map(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{type(value).__name__} where a map belongs")
    return value


def _write_bytes(value: bytes | None, *, cbor: bool) -> bytes | str | None:
    if value is None or cbor:
        return value
    return base64url.pack(value)


def _read_bytes(value: Any, *, cbor: bool) -> bytes | None:
    if value is None:
        return None
    if cbor:
        data: bytes = _typed(value, bytes)
        return data
    return base64url.unpack(_typed(value, str))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:120]
