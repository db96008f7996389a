"""A certification authority without scruples."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from secgear.middleware.attestation.anchors import Anchor
from secgear.middleware.attestation.certificates import Certificate, load_certificate

NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=datetime.UTC)
YEAR = datetime.timedelta(days=365)

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP384R1())


@dataclass
class Authority:
    """Issues what it is told. `pss`: sign with RSA-PSS, as AMD does."""

    name: str
    key: Key = field(default_factory=ec_key)
    issuer: Authority | None = None
    pss: bool = False
    start: datetime.datetime = NOW - YEAR
    end: datetime.datetime = NOW + YEAR
    ca: bool = True
    path_length: int | None = None
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    certificate: Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = (self.issuer or self).issue(
            self.name,
            self.key.public_key(),
            start=self.start,
            end=self.end,
            extensions=[
                (x509.BasicConstraints(self.ca, self.path_length if self.ca else None), True)
            ],
        )

    def issue(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        *,
        start: datetime.datetime = NOW - YEAR / 2,
        end: datetime.datetime = NOW + YEAR / 2,
        serial: int | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    ) -> Certificate:
        """A certificate for `key`. Extensions come with their criticality."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(self.name))
            .public_key(key)
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(self.key, self.digest, rsa_padding=self._padding())
        return load_certificate(certificate.public_bytes(serialization.Encoding.DER))

    def revoke(
        self,
        *certificates: Certificate,
        start: datetime.datetime = NOW - YEAR / 12,
        end: datetime.datetime = NOW + YEAR / 12,
        key: Key | None = None,
        extension: x509.ExtensionType | None = None,
    ) -> bytes:
        """A revocation list in DER.

        key: sign with another key than this authority's. extension: of the list, critical.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(_name(self.name))
            .last_update(start)
            .next_update(end)
        )
        for certificate in certificates:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial)
                .revocation_date(start)
                .build()
            )
        if extension is not None:
            builder = builder.add_extension(extension, critical=True)
        crl = builder.sign(key or self.key, self.digest, rsa_padding=self._padding())
        return crl.public_bytes(serialization.Encoding.DER)

    def anchor(self, name: str, family: str) -> Anchor:
        """This authority as a root that a caller trusts."""
        return Anchor(name, family, self.certificate)

    def _padding(self) -> padding.PSS | None:
        if not self.pss:
            return None
        return padding.PSS(padding.MGF1(self.digest), self.digest.digest_size)


def opaque(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    """An extension with any DER in it."""
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
