"""Huawei virtCCA: the token of a confidential virtual machine on Kunpeng.

Arm's CBOR tag 399 with the realm token alone, whose payload is wrapped in a byte string once more,
signed with PS256 (RFC 8230). The key in the token is the machine's attestation key, RSA-4096; its
certificate is not in the token and comes as the attachment ``device-certificate``, issued by
Huawei. Sources: virtCCA_sdk (attestation/samples) and secGear's own verifier.

Newer firmware adds a platform token and other keys (P-521); no genuine one was at hand to check a
verifier against, so they are not supported.
"""

from __future__ import annotations

import hashlib

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation import cbor, cose
from secgear.middleware.attestation.certificates import Certificate, load_certificate, load_pem
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.formats import arm_claims, cca
from secgear.middleware.attestation.verification import Context

FORMAT = "huawei.virtcca"
CERTIFICATE = "device-certificate"

_WHAT = "virtCCA token"
_PS256 = -37
_SALT = 32  # bytes; RFC 8230, section 2: that of the digest


class Token(msgspec.Struct, frozen=True):
    """The token as it was signed, and its claims. realm.public_key: a SubjectPublicKeyInfo."""

    message: cose.Sign1
    realm: arm_claims.Realm


def parse(data: bytes) -> Token:
    """Bytes to fields. Raises EvidenceMalformed.

    Raises EvidenceUnsupported for other algorithms, and for tokens with a platform token.
    """
    tokens = cca.collection(data, _WHAT)
    if cca.PLATFORM in tokens:
        raise EvidenceUnsupported(f"format: {_WHAT}: with a platform token")
    if set(tokens) != {cca.REALM}:
        raise EvidenceMalformed(f"format: {_WHAT}: not one realm token")
    message = arm_claims.signed(tokens[cca.REALM], _WHAT, (_PS256,))
    payload = cbor.decode(message.payload, f"{_WHAT}: payload")
    if not isinstance(payload, bytes):
        raise EvidenceMalformed(f"format: {_WHAT}: the payload is not wrapped in a byte string")
    realm = arm_claims.realm(payload, _WHAT)
    if realm.profile:
        raise EvidenceUnsupported(f"format: {_WHAT}: profile {realm.profile!r}")
    return Token(message, realm)


def authenticate(token: Token, certificate: Certificate, context: Context) -> Path:
    """Huawei's certificate for the machine's key, that it is the token's, and its signature."""
    checks = context.checks
    path = check_path(
        certificate,
        context.collateral.certificates,
        context.anchors.of("huawei"),
        at=context.at,
        crls=context.collateral.crls,
        checks=checks,
    )
    digest = hashlib.sha256(token.realm.public_key).digest()
    # The token is signed with the key that it names itself: only this ties it to a machine.
    checks.require(
        digest == certificate.spki_digest,
        "binding.realm-key",
        "the token's key is the one that is certified",
        "the token's key is not that of the device certificate",
        expected=certificate.spki_digest.hex(),
        found=digest.hex(),
    )
    key = certificate.public_key
    checks.require(
        isinstance(key, rsa.RSAPublicKey) and _signed(key, token.message),
        "signature",
        "PS256 over the token",
        "the machine's key did not sign this token",
    )
    return path


def verify(evidence: Evidence, context: Context) -> Claims:
    """Token under a device certificate of Huawei's.

    The token has no notion of debugging and says nothing of the firmware below it.
    """
    checks = context.checks
    token = parse(evidence.data)
    checks.passed("format", "virtCCA token")
    attached = evidence.attachments.get(CERTIFICATE)
    if attached is None:
        checks.failed(
            "certificate-chain",
            "the token comes without its device certificate",
            fix=f"the machine's certificate (DER or PEM), as attachment {CERTIFICATE}",
        )
    certificate = _certificate(attached)
    path = authenticate(token, certificate, context)
    names = certificate.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return Claims(
        format=FORMAT,
        tee="virtcca",
        measurements=token.realm.measurements,
        debug=False,
        simulated=False,
        report_data=token.realm.challenge,
        root=path.root,
        checks=checks.done,
        platform={"device": str(names[0].value) if names else certificate.subject},
        details={
            "realm": {
                "personalization": token.realm.personalization.hex(),
                "hash": token.realm.hash,
            }
        },
    )


def _certificate(attached: bytes) -> Certificate:
    return load_pem(attached)[0] if attached.startswith(b"-----") else load_certificate(attached)


def _signed(key: rsa.RSAPublicKey, message: cose.Sign1) -> bool:
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), _SALT)
    try:
        key.verify(message.signature, message.to_be_signed(), pss, hashes.SHA256())
    except InvalidSignature:
        return False
    return True
