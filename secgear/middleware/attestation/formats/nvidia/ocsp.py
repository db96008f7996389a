"""Revocation by OCSP responses that come as collateral (RFC 6960), and by CRLs where there are any.

NVIDIA answers for all certificates of a chain but the root, and for a device's own key, which the
chip issues itself, it has no answer. Nobody asks here, so no nonce: a response is good from its
thisUpdate to its nextUpdate.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from secgear.errors import EvidenceMalformed, EvidenceRefused
from secgear.middleware.attestation.anchors import Anchor
from secgear.middleware.attestation.certificates import (
    Certificate,
    PublicKey,
    load_certificate,
    signature_fault,
)
from secgear.middleware.attestation.chains import check_path
from secgear.middleware.attestation.checks import Checks, Outcome

MAX_SIZE = 64 << 10  # bytes of one response
MAX_SINGLES = 64  # certificates one response is about

_DIGESTS = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_ID_DIGESTS = ("sha1", "sha256", "sha384")  # CertIDs name certificates; nothing rests on these


@dataclass(frozen=True, slots=True)
class Answer:
    """What one authentic response says about one certificate.

    start, end: when it holds. fault: why the certificate is not good; empty if it is.
    """

    start: datetime.datetime
    end: datetime.datetime
    fault: str


class BadResponse(Exception):
    """A response that can't be read. Passing it over could hide a revocation."""


def check_revocation(
    certificates: tuple[Certificate, ...],
    *,
    responses: tuple[bytes, ...],
    crls: tuple[bytes, ...],
    at: datetime.datetime,
    checks: Checks,
    label: str = "",
) -> None:
    """Each certificate but the last against the OCSP responses, or its issuer's CRL.

    certificates: from the first that can be revoked to the root, each issued by the next.
    label: goes before the name of the check, ``revocation``. Where neither a response nor a list
    is about a certificate, it is recorded as not performed. Raises EvidenceRefused.
    """
    name = f"{label}revocation"
    missing: list[str] = []
    until: list[datetime.datetime] = []
    for child, issuer in itertools.pairwise(certificates):
        try:
            known = answers(child, issuer, responses)
        except BadResponse as problem:
            checks.failed(name, str(problem), fix="a response as the vendor serves it, in DER")
        end = _judge(child, known, at, checks, name)
        listed = _by_list((child, issuer), crls, at, checks, name)
        if end is not None:
            until.append(end)
        elif not listed:
            missing.append(child.subject)
    if missing:
        checks.not_performed(
            name,
            "neither an OCSP response nor a revocation list is about " + "; ".join(missing),
            fix="give the responses of NVIDIA's OCSP service (ocsp.ndis.nvidia.com) as collateral",
        )
        return
    detail = f"; OCSP responses current until {min(until).isoformat()}" if until else ""
    checks.passed(name, f"nothing revoked{detail}")


@functools.lru_cache(maxsize=256)
def answers(
    child: Certificate, issuer: Certificate, responses: tuple[bytes, ...]
) -> tuple[Answer, ...]:
    """What authentic responses among `responses` say about `child`. Raises BadResponse.

    A response that is about others, or whose signature does not lead to `issuer`, says nothing.
    """
    return tuple(answer for der in responses for answer in _answers(_parsed(der), child, issuer))


def _judge(
    child: Certificate,
    known: tuple[Answer, ...],
    at: datetime.datetime,
    checks: Checks,
    name: str,
) -> datetime.datetime | None:
    """Until when the answers vouch for `child`; None if there are none."""
    begun = [answer for answer in known if answer.start <= at]
    for answer in begun:
        if answer.fault and (answer.end >= at or answer is max(begun, key=_started)):
            checks.failed(name, f"{child.subject} {answer.fault}", found=f"serial {child.serial:x}")
    current = [answer.end for answer in begun if answer.end >= at]
    if current:
        return max(current)
    if known:
        newest = max(known, key=_started)
        checks.failed(
            name,
            f"the OCSP response about {child.subject} is not current",
            expected=f"{newest.start.isoformat()} to {newest.end.isoformat()}",
            found=at.isoformat(),
            fix="fetch a current response",
        )
    return None


def _started(answer: Answer) -> datetime.datetime:
    return answer.start


def _by_list(
    link: tuple[Certificate, Certificate],
    crls: tuple[bytes, ...],
    at: datetime.datetime,
    checks: Checks,
    name: str,
) -> bool:
    """Whether the issuer's current CRL is there, and does not have the certificate on it."""
    if not crls:
        return False
    child, issuer = link
    record = Checks()
    try:
        check_path(
            child, (), (Anchor("issuer", "nvidia", issuer),), at=at, crls=crls, checks=record
        )
    except EvidenceRefused:
        failure = record.done[-1]
        checks.failed(name, failure.detail, found=failure.found, fix=failure.fix)
    return record.done[-1].outcome is Outcome.PASS


@functools.lru_cache(maxsize=256)
def _parsed(der: bytes) -> ocsp.OCSPResponse:
    if len(der) > MAX_SIZE:
        raise BadResponse(f"an OCSP response of {len(der)} bytes")
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise BadResponse(f"an OCSP response that is none: {response.response_status.name}")
        critical = [item.oid.dotted_string for item in response.extensions if item.critical]
        count = sum(1 for _ in response.responses)
    except BadResponse:
        raise
    except Exception as error:  # noqa: BLE001  (a parser's own errors)
        raise BadResponse(f"no OCSP response: {error}") from None
    if critical or not 1 <= count <= MAX_SINGLES:
        raise BadResponse("an OCSP response with critical extensions or too many answers")
    return response


def _answers(
    response: ocsp.OCSPResponse, child: Certificate, issuer: Certificate
) -> Iterator[Answer]:
    try:
        singles = [single for single in response.responses if _about(single, child, issuer)]
        if not singles:
            return
        responder, until = _responder(response, issuer)
        if responder is None or not _signed(response, responder):
            return
        for single in singles:
            start = single.this_update_utc
            yield Answer(start, min(single.next_update_utc or start, until), _fault(single))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: of odd names
        raise BadResponse(f"no OCSP response: {error}") from None


def _about(single: ocsp.OCSPSingleResponse, child: Certificate, issuer: Certificate) -> bool:
    """Whether its CertID is that of `child` under `issuer` (RFC 6960, section 4.1.1)."""
    algorithm = single.hash_algorithm.name
    if algorithm not in _ID_DIGESTS or single.serial_number != child.serial:
        return False
    return single.issuer_name_hash == _hash(algorithm, issuer.subject_name) and (
        single.issuer_key_hash == _hash(algorithm, _key_bits(issuer.public_key))
    )


def _responder(
    response: ocsp.OCSPResponse, issuer: Certificate
) -> tuple[PublicKey | None, datetime.datetime]:
    """The key that may answer for `issuer`, and until when: its own, or of whom it appointed.

    RFC 6960, section 4.2.2.2: an appointed responder has a certificate of the issuer itself, for
    the purpose of OCSP signing.
    """
    candidates = [issuer]
    for certificate in response.certificates:
        try:
            loaded = load_certificate(certificate.public_bytes(serialization.Encoding.DER))
            appointed = (
                loaded.issuer_name == issuer.subject_name
                and _for_ocsp(loaded)
                and signature_fault(loaded, issuer.public_key) is None
            )
        except EvidenceMalformed:
            continue
        if appointed and loaded.not_before <= response.produced_at_utc:
            candidates.append(loaded)
    for candidate in candidates:
        if _named(response, candidate):
            return candidate.public_key, candidate.not_after
    return None, issuer.not_after


def _named(response: ocsp.OCSPResponse, candidate: Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name.public_bytes() == candidate.subject_name
    return response.responder_key_hash == _hash("sha1", _key_bits(candidate.public_key))


def _for_ocsp(certificate: Certificate) -> bool:
    try:
        usage = certificate.parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _signed(response: ocsp.OCSPResponse, key: PublicKey) -> bool:
    digest = response.signature_hash_algorithm
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(digest, _DIGESTS):
        return False
    try:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
    except InvalidSignature:
        return False
    return True


def _fault(single: ocsp.OCSPSingleResponse) -> str:
    match single.certificate_status:
        case ocsp.OCSPCertStatus.GOOD:
            return ""
        case ocsp.OCSPCertStatus.REVOKED:
            since, reason = single.revocation_time_utc, single.revocation_reason
            when = f" since {since.isoformat()}" if since else ""
            if reason is x509.ReasonFlags.certificate_hold:
                return f"is on hold{when}"
            return f"is revoked{when}{f' ({reason.value})' if reason else ''}"
        case _:
            return "is unknown to its issuer's OCSP service"


def _key_bits(key: PublicKey) -> bytes:
    """The subjectPublicKey bit string's value, which CertIDs hash."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)


def _hash(algorithm: str, data: bytes) -> bytes:
    return hashlib.new(algorithm, data, usedforsecurity=False).digest()
