"""Verification of what a module says about its keys and itself: offline, by everybody.

A `KeyAttestation` or `ModuleAttestation` exists only after all of it was verified: the signature by
the attestation key, that key's certificate, the enclave's evidence in it under a policy, and that
the evidence is about this very key.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from secgear.errors import EvidenceMalformed, EvidenceRefused, EvidenceUnsupported
from secgear.middleware.attestation import cose, envelope
from secgear.middleware.attestation.verdict import Verdict
from secgear.middleware.channel import ratls
from secgear.middleware.channel.ratls import forms
from secgear.middleware.channel.ratls.certificate import parts
from secgear.services.crypto import pkix
from secgear.services.crypto.pkcs11.constants import KeyType, Mech, ObjectClass
from secgear.services.crypto.statement import (
    ATTESTS,
    ATTESTS_KEYS,
    CONTENT_TYPE,
    KEY_STATEMENT,
    KEY_TYPE,
    MODULE_TYPE,
    KeyStatement,
    ModuleStatement,
)

if TYPE_CHECKING:
    from secgear.middleware.attestation.anchors import Anchors
    from secgear.middleware.attestation.claims import Claims
    from secgear.middleware.attestation.collateral import Collateral
    from secgear.middleware.attestation.policy import Policy
    from secgear.middleware.attestation.reference import ReferenceValues

MAX_SIZE: Final = 128 << 10  # bytes of an attestation
_PEM = b"-----BEGIN CERTIFICATE-----"


class _Attestation(msgspec.Struct, frozen=True, kw_only=True):
    """What both kinds have. data: the attestation as it was verified. verdict: on the evidence.

    Making one by hand raises unless the data holds together and the verdict is one of trust, on the
    evidence in it.
    """

    data: bytes
    verdict: Verdict

    def __post_init__(self) -> None:
        claims = self.verdict.require()
        carried = _carried(self.data)
        found = carried.evidence
        digest = hashlib.sha256(envelope.to_cbor(found.evidence)).digest()
        if self.verdict.evidence_digest != digest:
            raise EvidenceRefused("the verdict is about other evidence than the attestation's")
        wanted = found.report_data.ljust(len(claims.report_data), b"\0")
        if not hmac.compare_digest(wanted, claims.report_data):
            raise EvidenceRefused("the evidence is not about the attestation key")

    @property
    def claims(self) -> Claims:
        """What the evidence says about the enclave."""
        return self.verdict.require()


class KeyAttestation(_Attestation, frozen=True, kw_only=True):
    """A verified statement about a key of a module that is trusted."""

    @property
    def statement(self) -> KeyStatement:
        """What the module says about the key."""
        return _key_statement(_carried(self.data))

    @property
    def public_key_info(self) -> bytes | None:
        """DER SubjectPublicKeyInfo of the key pair; None for a secret key."""
        return _carried(self.data).spki

    @property
    def public_key(self) -> Any:
        """The same as a key of `cryptography`. Raises EvidenceUnsupported where it has none."""
        spki = self.public_key_info
        try:
            return None if spki is None else load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm):
            raise EvidenceUnsupported("format: a public key of a kind without a class") from None

    def require(
        self,
        *flags: str,
        without: tuple[str, ...] = (),
        origin: str | None = None,
        module: bytes | None = None,
        serial: str | None = None,
    ) -> Self:
        """This attestation, if it says what is wanted. Raises EvidenceRefused.

        flags, without: what must be in the statement's flags, and what not. origin: see
        `KeyStatement.origin`. module: its audit key. serial: the token's.
        """
        said = self.statement
        missing = [name for name in flags if name not in said.flags]
        unwanted = [name for name in without if name in said.flags]
        for wrong, words in ((missing, "is not"), (unwanted, "is")):
            if wrong:
                raise EvidenceRefused(f"the key {words} {', '.join(wrong)}")
        if origin is not None and said.origin != origin:
            raise EvidenceRefused(f"the key's origin is {said.origin}, not {origin}")
        if module is not None and said.module != module:
            raise EvidenceRefused("the key is in another module")
        if serial is not None and said.serial != serial:
            raise EvidenceRefused("the key is on another token")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold: numbers of PKCS#11 as their names where they have one."""
        said, spki = self.statement, self.public_key_info
        return {
            "module": said.module.hex(),
            "token": said.token,
            "serial": said.serial,
            "class": _name(ObjectClass, said.class_),
            "type": _name(KeyType, said.type),
            "label": said.label.decode("utf-8", "replace"),
            "id": said.id.hex(),
            "origin": said.origin,
            "generated_by": None if said.generated_by is None else _name(Mech, said.generated_by),
            "envelope": said.envelope.hex(),
            "flags": list(said.flags),
            "mechanisms": [_name(Mech, number) for number in said.mechanisms],
            "size": said.size,
            "check_value": said.check_value.hex(),
            "public_key_info": None if spki is None else spki.hex(),
            "nonce": said.nonce.hex(),
            "at": datetime.datetime.fromtimestamp(said.at, datetime.UTC).isoformat(),
        }


class ModuleAttestation(_Attestation, frozen=True, kw_only=True):
    """A verified statement of a module about itself."""

    @property
    def statement(self) -> ModuleStatement:
        """What it says."""
        return _module_statement(_carried(self.data))

    @property
    def audit_key(self) -> bytes:
        """The key that verifies its audit trail, 32 bytes; it names the module, too."""
        return self.statement.module

    def require(self, module: bytes | None) -> Self:
        """This attestation, if it is of the module with this audit key. Raises EvidenceRefused."""
        if module is not None and self.audit_key != module:
            raise EvidenceRefused("the attestation is another module's")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        said = self.statement
        return {
            "module": said.module.hex(),
            "tokens": [msgspec.structs.asdict(token) for token in said.tokens],
            "audit": {"seq": said.audit_seq, "hash": said.audit_hash.hex()},
            "nonce": said.nonce.hex(),
            "at": datetime.datetime.fromtimestamp(said.at, datetime.UTC).isoformat(),
        }


def verify(
    data: bytes,
    policy: Policy,
    *,
    at: datetime.datetime,
    nonce: bytes | None = None,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
    reference_values: ReferenceValues | None = None,
) -> KeyAttestation | ModuleAttestation:
    """Verify an attestation of either kind.

    nonce: the caller's own, for which the attestation has to be made; None takes an old one, too,
    if the policy does (``[freshness] report_data = "optional"``). The rest as in `examine`.
    Raises EvidenceMalformed, EvidenceRefused, EvidenceUnsupported for what is none; Untrusted, with
    the verdict, for evidence that the policy does not accept.
    """
    from secgear.middleware.attestation.appraisal import examine

    carried = _carried(data)
    is_key = carried.kind == KEY_TYPE
    said: KeyStatement | ModuleStatement = (
        _key_statement(carried) if is_key else _module_statement(carried)
    )
    if nonce is not None:
        for found in (said.nonce, carried.evidence.claims.get(forms.NONCE, b"")):
            if not nonce or not hmac.compare_digest(found, nonce):
                raise EvidenceRefused("the attestation was not made for this nonce")
        verdict = examine(
            carried.evidence.evidence,
            policy,
            at=at,
            report_data=carried.evidence.report_data,
            collateral=collateral,
            anchors=anchors,
            reference_values=reference_values,
        )
    else:
        verdict = ratls.examine_certificate(
            carried.issuer,
            policy,
            at=at,
            collateral=collateral,
            anchors=anchors,
            reference_values=reference_values,
        )
    verdict.require()
    kind = KeyAttestation if is_key else ModuleAttestation
    return kind(data=data, verdict=verdict)


def verify_key(
    data: bytes,
    policy: Policy,
    *,
    at: datetime.datetime,
    nonce: bytes | None = None,
    collateral: Collateral | None = None,
    anchors: Anchors | None = None,
    reference_values: ReferenceValues | None = None,
) -> KeyAttestation:
    """As `verify`, of a key. Raises EvidenceRefused for an attestation of a module."""
    found = verify(
        data,
        policy,
        at=at,
        nonce=nonce,
        collateral=collateral,
        anchors=anchors,
        reference_values=reference_values,
    )
    if not isinstance(found, KeyAttestation):
        raise EvidenceRefused("the attestation is a module's, not a key's")
    return found


class _Carried(NamedTuple):
    """An attestation whose signatures hold; whose enclave made them is not known yet.

    kind: content type of `statement`. spki: of the key pair that the statement is about. issuer:
    the attestation key's certificate, in DER, and the evidence in it.
    """

    kind: str
    statement: bytes
    spki: bytes | None
    issuer: bytes
    evidence: ratls.CertificateEvidence


def _carried(data: bytes) -> _Carried:
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: an attestation of {len(data)} bytes")
    return _in_certificates(data) if data.startswith(_PEM) else _in_message(data)


def _in_certificates(data: bytes) -> _Carried:
    try:
        leaf, issuer = x509.load_pem_x509_certificates(data)
        extension = leaf.extensions.get_extension_for_oid(KEY_STATEMENT).value
        led = leaf.issuer == issuer.subject
        der, issuer_der = leaf.public_bytes(Encoding.DER), issuer.public_bytes(Encoding.DER)
    except x509.ExtensionNotFound:
        raise EvidenceUnsupported("format: a certificate without a statement about a key") from None
    except (ValueError, x509.DuplicateExtension, UnsupportedAlgorithm) as error:
        raise EvidenceMalformed(f"format: not two certificates in PEM: {error}") from None
    key, evidence = _issuer(issuer_der)
    if not led or leaf.signature_algorithm_oid != pkix.ECDSA_SHA256:
        raise EvidenceRefused("the key's certificate is not the attestation key's")
    _check_signature(key, leaf)
    if not isinstance(extension, x509.UnrecognizedExtension):
        raise EvidenceMalformed("format: a certificate with another extension")
    return _Carried(KEY_TYPE, extension.value, parts(der).spki, issuer_der, evidence)


def _in_message(data: bytes) -> _Carried:
    message = cose.parse(data, "attestation")
    if cose.X5CHAIN not in _protected(message) or CONTENT_TYPE not in _protected(message):
        raise EvidenceMalformed("format: an attestation without certificate or content type")
    kind, issuer = message.headers[CONTENT_TYPE], message.headers[cose.X5CHAIN]
    if kind not in (KEY_TYPE, MODULE_TYPE) or not isinstance(issuer, bytes):
        raise EvidenceUnsupported("format: an attestation of another kind")
    key, evidence = _issuer(issuer)
    wrong = cose.verify(message, key)
    if wrong is not None:
        raise EvidenceRefused(f"the attestation is not the attestation key's: {wrong}")
    return _Carried(kind, message.payload, None, issuer, evidence)


def _protected(message: cose.Sign1) -> Any:
    from secgear.middleware.attestation import cbor

    return cbor.decode(message.protected, "protected header") if message.protected else {}


def _issuer(der: bytes) -> tuple[ec.EllipticCurvePublicKey, ratls.CertificateEvidence]:
    """The attestation key and the evidence about it; its certificate is signed by itself."""
    evidence = ratls.read(der)
    if evidence.claims.get(ATTESTS) != ATTESTS_KEYS:
        raise EvidenceUnsupported("format: the certificate of a key that attests no keys")
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceMalformed(f"format: an attestation key's certificate: {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EvidenceUnsupported("format: an attestation key that is not on P-256")
    _check_signature(key, certificate)
    return key, evidence


def _check_signature(key: ec.EllipticCurvePublicKey, certificate: x509.Certificate) -> None:
    try:
        key.verify(
            certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(hashes.SHA256())
        )
    except InvalidSignature:
        raise EvidenceRefused("a certificate is not signed by the attestation key") from None


def _key_statement(carried: _Carried) -> KeyStatement:
    said = KeyStatement.from_cbor(carried.statement)
    if (carried.spki is None) != (said.class_ == ObjectClass.SECRET_KEY):
        raise EvidenceRefused("the statement is about a key of another class")
    return said


def _module_statement(carried: _Carried) -> ModuleStatement:
    return ModuleStatement.from_cbor(carried.statement)


def _name(kind: type[ObjectClass] | type[KeyType] | type[Mech], number: int) -> str:
    try:
        return kind(number).name
    except ValueError:
        return f"{number:#x}"
