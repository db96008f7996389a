"""Making an RA-TLS certificate, inside the enclave that holds the key."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from secgear.middleware.channel.identity import Identity
from secgear.middleware.channel.ratls import forms
from secgear.middleware.channel.trust import Attester


def certify(identity: Identity, attester: Attester, *, name: str = "secgear") -> Identity:
    """The same key under a certificate with evidence about it, in the interoperable form.

    attester: makes the evidence: ``guest().evidence``. It has to be this enclave's own, and the key
    must never leave it. name: for people.
    Raises what `attester` raises.
    """
    claims = forms.claims_about(identity.spki)
    evidence = attester(hashlib.sha256(claims).digest().ljust(64, b"\0"))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(identity.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(identity.certificate.not_valid_before_utc)
        .not_valid_after(identity.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.UnrecognizedExtension(
                x509.ObjectIdentifier(forms.INTEROPERABLE_OID), forms.pack(evidence, claims)
            ),
            critical=False,
        )
        .sign(identity.key, hashes.SHA256())
    )
    return Identity(identity.key, certificate)
