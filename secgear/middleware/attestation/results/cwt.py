"""Results as CWT: COSE_Sign1 (RFC 9052, RFC 8392), ES256 or ES384, in deterministic CBOR.

The protected header has ``alg``, ``kid`` and ``typ`` (RFC 9596) and nothing else; the unprotected
one is empty. As with JWT, the algorithm follows from the key, and keys come from the reader.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from secgear.errors import EvidenceMalformed, ResultInvalid
from secgear.middleware.attestation import cbor, cose
from secgear.middleware.attestation.results import ear, judging
from secgear.middleware.attestation.results.ear import Profile, Result
from secgear.middleware.attestation.results.keys import ResultKey, cose_algorithm
from secgear.middleware.attestation.verdict import Verdict

TYPE: Final = "application/eat+cwt"
_KID, _TYP = 4, 16  # COSE header parameters
_CWT_TAG: Final = 61
_DIGESTS: Final = {-7: (hashes.SHA256, 32), -35: (hashes.SHA384, 48)}


def issue_cwt(
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
) -> bytes:
    """A signed result that says what `verdict` says. As `issue_jwt`."""
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
    return sign_cwt(result, key)


def sign_cwt(result: Result, key: ResultKey) -> bytes:
    """Sign a result that `ear.make` made. Raises ResultInvalid: more than a reader accepts."""
    algorithm = cose_algorithm(key.public)
    digest, size = _DIGESTS[algorithm]
    header = {cose.ALG: algorithm, _KID: key.kid.encode(), _TYP: TYPE}
    protected = cbor2.dumps(header, canonical=True)
    payload = cbor2.dumps(ear.to_cbor_claims(result), canonical=True)
    unsigned = cose.Sign1(protected, header, payload, b"")
    r, s = decode_dss_signature(key.private.sign(unsigned.to_be_signed(), ec.ECDSA(digest())))
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    token = cbor2.dumps(cbor2.CBORTag(cose.TAG, [protected, {}, payload, signature]))
    if len(token) > judging.MAX_SIZE:
        raise ResultInvalid(f"result: claims too large: a token of {len(token)} bytes")
    return token


def verify_cwt(
    token: bytes,
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

    As `verify_jwt`. Raises ResultInvalid.
    """
    if len(token) > judging.MAX_SIZE:
        raise ResultInvalid(f"result: a token of {len(token)} bytes")
    try:
        message = cose.parse(_untagged(token), "result")
        fault = _fault(message, keys)
        claims = None if fault else cbor.decode(message.payload, "result: claims")
    except EvidenceMalformed as error:
        raise ResultInvalid(str(error).removeprefix("format: ")) from None
    if fault:
        raise ResultInvalid(f"result: {fault}")
    return judging.accept(
        ear.from_cbor_claims(claims),
        audience=audience,
        issuer=issuer,
        nonce=nonce,
        now=now,
        allow_warning=allow_warning,
        allow_negative=allow_negative,
    )


def _untagged(token: bytes) -> Any:
    """Without the CWT tag, which may be around the COSE tag (RFC 8392, section 6)."""
    item = cbor.decode(token, "result")
    if isinstance(item, cbor2.CBORTag) and item.tag == _CWT_TAG:
        item = item.value
        if not isinstance(item, cbor2.CBORTag):
            raise EvidenceMalformed("format: result: a CWT tag without a COSE tag")
    return item


def _fault(message: cose.Sign1, keys: Mapping[str, ec.EllipticCurvePublicKey]) -> str | None:
    """Why the token is not by one of these keys; None if it is."""
    protected = cbor.decode(message.protected, "result: header") if message.protected else {}
    if set(protected) != {cose.ALG, _KID, _TYP} or set(message.headers) != set(protected):
        return "the header is not just alg, kid and typ, all protected"
    if protected[_TYP] != TYPE:
        return f"a token of another type than {TYPE}"
    kid = protected[_KID]
    key = keys.get(kid.decode("ascii", "replace")) if isinstance(kid, bytes) else None
    if key is None:
        return "signed by a key that is not known here"
    if protected[cose.ALG] != cose_algorithm(key) or type(protected[cose.ALG]) is not int:
        return "the algorithm is not that of the key"
    return cose.verify(message, key)
