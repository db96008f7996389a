"""A TPM quote under a provisioned attestation key, from bytes to claims."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import (
    Certificate,
    PublicKey,
    load_certificate,
    load_pem,
)
from secgear.middleware.attestation.chains import check_path
from secgear.middleware.attestation.claims import Claims, Root
from secgear.middleware.attestation.formats.tpm.pcrs import check_values
from secgear.middleware.attestation.formats.tpm.structures import (
    Quote,
    Signature,
    launch_digest,
    parse_public,
    parse_quote,
    parse_signature,
    signature_fault,
)
from secgear.middleware.attestation.verification import Context

FORMAT = "tpm.quote"
_ATTESTATION_KEY = x509.ObjectIdentifier("2.23.133.8.3")  # tcg-kp-AIKCertificate


def verify(evidence: Evidence, context: Context) -> Claims:
    """Quote under a key that the caller provisioned, or whose certificate leads to such a root.

    The measurement ``launch`` is `launch_digest`: of all quoted PCRs, and which they were.
    """
    quote, signature = read(evidence, context)
    root, fingerprint = authenticate(evidence, quote, signature, context)
    measurements = check_values(quote, signature, evidence.attachments, context.checks)
    return Claims(
        format=FORMAT,
        tee="tpm",
        measurements={"launch": launch_digest(quote), **measurements},
        debug=False,
        simulated=False,
        report_data=quote.extra_data,
        root=root,
        checks=context.checks.done,
        platform={"attestation_key": fingerprint},
        details=describe(quote),
    )


def read(evidence: Evidence, context: Context) -> tuple[Quote, Signature]:
    """Quote and signature. Records ``format``."""
    attached = evidence.attachments.get("signature")
    if attached is None:
        raise EvidenceMalformed("format: a TPM quote without its signature (attachment)")
    quote, signature = parse_quote(evidence.data), parse_signature(attached)
    context.checks.passed("format", f"TPM 2.0 quote, {signature.scheme} with {signature.digest}")
    return quote, signature


def authenticate(
    evidence: Evidence, quote: Quote, signature: Signature, context: Context
) -> tuple[Root, str]:
    """Find the attestation key among the provisioned ones, or through its certificate.

    Returns the root and the key's fingerprint. Records ``root`` and ``signature``.
    """
    checks = context.checks
    attached = _attached(evidence.attachments.get("ak"))
    if isinstance(attached, Certificate):
        root, key = _certified(attached, context, "tpm"), attached.public_key
        fault = purpose_fault(attached)
        checks.require(
            fault is None,
            "binding.purpose",
            "the certificate is for an attestation key",
            fault or "",
        )
        fault = signature_fault(quote, signature, key)
        checks.require(fault is None, "signature", "by the certified attestation key", fault or "")
        return root, attached.spki_digest.hex()
    for anchor in context.anchors.keys_of("tpm"):
        if attached is not None and anchor.key != attached:
            continue
        if signature_fault(quote, signature, anchor.key) is None:
            checks.passed("root", f"{anchor.name}, SHA-256 {anchor.fingerprint.hex()}")
            checks.passed("signature", "by the provisioned attestation key")
            return Root(anchor.name, anchor.fingerprint, builtin=False), anchor.fingerprint.hex()
        if attached is not None:
            checks.failed("signature", signature_fault(quote, signature, anchor.key) or "")
    return checks.failed(
        "root",
        "no provisioned attestation key signed the quote",
        fix="the machine's attestation key from its owner, as an anchor of family tpm",
    )


def describe(quote: Quote) -> dict[str, object]:
    """What a quote says of the TPM itself. The clock is no wall clock."""
    return {
        "pcrs": {bank: list(indices) for bank, indices in quote.selection.items()},
        "clock_ms": quote.clock,
        "clock_safe": quote.safe,
        "reset_count": quote.reset_count,
        "restart_count": quote.restart_count,
        "firmware_version": f"{quote.firmware_version:016x}",
    }


def purpose_fault(certificate: Certificate) -> str | None:
    """Why a certificate is none of an attestation key: a root vouches for other keys as well.

    tcg-kp-AIKCertificate among its extended key usages (TPM 2.0 Keys for Device Identity and
    Attestation, section 8); no authority's.
    """
    try:
        extensions = certificate.parsed.extensions
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "it says nothing of what its key is for"
    except ValueError as error:
        return f"its extensions can't be read: {error}"
    if _ATTESTATION_KEY not in usages:
        return "it is for other purposes than attestation"
    try:
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return "it is an authority's"
    except x509.ExtensionNotFound:
        pass
    try:
        if not extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            return "its key may not sign"
    except x509.ExtensionNotFound:
        pass
    return None


def certified(evidence: Evidence, context: Context, family: str) -> tuple[Root, Certificate]:
    """The attached certificate of the attestation key, under a root of `family`."""
    attached = _attached(evidence.attachments.get("ak"))
    if not isinstance(attached, Certificate):
        raise EvidenceMalformed("format: a quote without its attestation key's certificate (ak)")
    return _certified(attached, context, family), attached


def _certified(certificate: Certificate, context: Context, family: str) -> Root:
    path = check_path(
        certificate,
        context.collateral.certificates,
        context.anchors.of(family),
        at=context.at,
        crls=context.collateral.crls,
        checks=context.checks,
        revocable="nothing" if family == "simulated" else "chain",
    )
    return path.root


def _attached(data: bytes | None) -> Certificate | PublicKey | None:
    """A certificate (PEM, DER), a public key (PEM) or a TPMT_PUBLIC. Raises EvidenceMalformed."""
    if data is None:
        return None
    if b"BEGIN CERTIFICATE" in data[:64]:
        return load_pem(data)[0]
    if b"BEGIN PUBLIC KEY" in data[:64]:
        return _pem_key(data)
    if data[:1] == b"\x30":
        return load_certificate(data)
    return parse_public(data)


def _pem_key(data: bytes) -> PublicKey:
    try:
        key = serialization.load_pem_public_key(data)
    except Exception as error:  # noqa: BLE001  (a parser's own errors)
        raise EvidenceMalformed(f"format: attestation key: {error}") from None
    if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return key
    raise EvidenceMalformed(f"format: attestation key of kind {type(key).__name__}")
