"""Reading RA-TLS certificates of whatever make, and judging them for what they are worth."""

from __future__ import annotations

import datetime
import enum
import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation import base64url
from secgear.middleware.attestation.anchors import Anchors
from secgear.middleware.attestation.appraisal import examine
from secgear.middleware.attestation.checks import Check, Outcome
from secgear.middleware.attestation.collateral import Collateral
from secgear.middleware.attestation.policy import Policy
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.recognition import recognise
from secgear.middleware.attestation.reference import ReferenceValues
from secgear.middleware.attestation.verdict import Verdict
from secgear.middleware.channel.ratls import forms
from secgear.middleware.channel.ratls.certificate import Parts, parts, to_der

_REPORT_DATA = 64
_DIGEST = 32
_CHALLENGE = 32  # random bytes in front of the key's digest, in the original secGear's form


class Form(enum.Enum):
    """Who writes certificates like this. The values are the contents of the identifiers, in DER."""

    INTEROPERABLE = bytes.fromhex("678105050409")  # 2.23.133.5.4.9
    INTEL = bytes.fromhex("2a864886f84d010d01")  # 1.2.840.113741.1.13.1, Intel's SGX SDK
    GRAMINE = bytes.fromhex("06092a864886f84d8a3906")  # an identifier in an identifier, kept so
    SECGEAR = bytes.fromhex("2b060104018f5b0208")  # 1.3.6.1.4.1.2011.2.8, the original in C
    SECGEAR_TOKEN = bytes.fromhex("2b060104018f5b020a")  # 1.3.6.1.4.1.2011.2.10


class CertificateEvidence(msgspec.Struct, frozen=True):
    """What a certificate says, which nobody has judged.

    evidence: what the TEE said. report_data: what it must carry to be about this certificate's key
    (64 bytes). claims: others that it vouches for, by name. spki: the key.
    """

    form: Form
    evidence: Evidence
    report_data: bytes
    claims: Mapping[str, bytes]
    spki: bytes


class _Extension(msgspec.Struct):
    challenge: str
    quote: str


def carries_evidence(certificate: bytes) -> bool:
    """Whether a file, DER or PEM, is a certificate with evidence of a form known here."""
    try:
        found = parts(to_der(certificate))
    except EvidenceRefused:
        return False
    return any(form.value in found.extensions for form in Form)


def read(certificate: bytes) -> CertificateEvidence:
    """The evidence in a certificate, DER or PEM; its most telling form where there are several.

    Raises EvidenceUnsupported for a certificate without evidence that can be judged here,
    EvidenceMalformed for what is none, and for evidence that is not about the certificate's key.
    """
    found = parts(to_der(certificate))
    for form in Form:
        value = found.extensions.get(form.value)
        if value is not None:
            return _READERS[form](form, value, found)
    raise EvidenceUnsupported("format: a certificate without evidence of a form known here")


def examine_certificate(
    certificate: bytes,
    policy: Policy,
    *,
    at: datetime.datetime,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
    reference_values: ReferenceValues | None = None,
) -> Verdict:
    """Whether the enclave that made a certificate's key is trusted under `policy`.

    The verdict says ``freshness`` was not performed, and a policy that insists on it is not met:
    the certificate may be old, and whoever shows it need not be the enclave. To talk to an enclave,
    `connect`. Arguments as of `examine`. Raises EvidenceMalformed, EvidenceUnsupported.
    """
    carried = read(certificate)
    verdict = examine(
        carried.evidence,
        policy,
        at=at,
        collateral=collateral,
        anchors=anchors,
        reference_values=reference_values,
    )
    if verdict.claims is None:
        return verdict
    found = verdict.claims.report_data
    same = _is_about(carried.report_data, found)
    check = Check(
        "binding.certificate-key",
        Outcome.PASS if same else Outcome.FAIL,
        "the evidence is about the certificate's key" if same else "the evidence is not about it",
        expected="" if same else carried.report_data.hex(),
        found="" if same else found.hex(),
    )
    return msgspec.structs.replace(verdict, checks=(*verdict.checks, check))


def _is_about(expected: bytes, found: bytes) -> bool:
    """Whether report data is the expected, whatever the length of a TEE's field.

    Some evidence carries none (Nitro's documents), or as little as its host liked (a TPM's quotes):
    then it is about nobody's key.
    """
    least = _REPORT_DATA if any(expected[_DIGEST:]) else _DIGEST
    size = max(len(found), _REPORT_DATA)
    return len(found) >= least and hmac.compare_digest(
        expected.ljust(size, b"\0"), found.ljust(size, b"\0")
    )


def _interoperable(form: Form, value: bytes, found: Parts) -> CertificateEvidence:
    evidence, encoded = forms.unpack(value)
    claims = forms.read_claims(encoded)
    if not forms.vouches(claims, found.spki):
        raise EvidenceMalformed("format: the RA-TLS claims are about another key")
    rest = {name: value for name, value in claims.items() if name != forms.PUBKEY_HASH}
    digest = hashlib.sha256(encoded).digest()
    return CertificateEvidence(form, evidence, _padded(digest), rest, found.spki)


def _bare_quote(form: Form, value: bytes, found: Parts) -> CertificateEvidence:
    """Report data is the key's digest."""
    evidence = Evidence(forms.quote_format(value), value)
    digest = hashlib.sha256(found.spki).digest()
    return CertificateEvidence(form, evidence, _padded(digest), {}, found.spki)


def _secgear(form: Form, value: bytes, found: Parts) -> CertificateEvidence:
    """JSON with the challenge (32 bytes of the agent's, the key's SHA-256) and evidence as text."""
    if len(value) > forms.MAX_CLAIMS * 16:
        raise EvidenceMalformed(f"format: secGear's extension of {len(value)} bytes")
    try:
        content = msgspec.json.decode(value, type=_Extension)
        challenge = base64url.unpack(content.challenge)
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: secGear's extension: {error}") from None
    if len(challenge) != _REPORT_DATA:
        raise EvidenceMalformed(f"format: secGear's challenge of {len(challenge)} bytes")
    if challenge[_CHALLENGE:] != hashlib.sha256(found.spki).digest():
        raise EvidenceMalformed("format: secGear's challenge is about another key")
    evidence = recognise(content.quote.encode())
    return CertificateEvidence(form, evidence, challenge, {}, found.spki)


def _token(form: Form, value: bytes, found: Parts) -> CertificateEvidence:
    del form, value, found
    raise EvidenceUnsupported(
        "format: a certificate with the token of secGear's attestation service; that is somebody's "
        "word about the evidence, and not the evidence"
    )


def _padded(digest: bytes) -> bytes:
    return digest.ljust(_REPORT_DATA, b"\0")


_READERS = {
    Form.INTEROPERABLE: _interoperable,
    Form.INTEL: _bare_quote,
    Form.GRAMINE: _bare_quote,
    Form.SECGEAR: _secgear,
    Form.SECGEAR_TOKEN: _token,
}
