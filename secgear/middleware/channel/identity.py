"""The key by which one side of a channel is known to TLS."""

from __future__ import annotations

import datetime
import functools
from typing import Final, NoReturn, Self, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
# An enclave's clock is its host's; a certificate that nobody judges by its dates needs none.
_FROM: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_UNTIL: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@final
class Identity:
    """A private key with the certificate that goes with it. Compared by identity.

    `fresh` makes one for the life of a process; nothing of it is ever stored.
    """

    def __init__(self, key: PrivateKey, certificate: x509.Certificate) -> None:
        if _spki(key.public_key()) != _spki(certificate.public_key()):
            raise ValueError("the certificate is about another key")
        self.key = key
        self.certificate = certificate

    def __repr__(self) -> str:
        return f"Identity({self.certificate.subject.rfc4514_string()!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key can't be pickled")

    @classmethod
    def fresh(cls, name: str = "secgear") -> Self:
        """A new key under a certificate that it signs itself. name: for people."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_FROM)
            .not_valid_after(_UNTIL)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @functools.cached_property
    def spki(self) -> bytes:
        """The public key: DER SubjectPublicKeyInfo."""
        return _spki(self.key.public_key())


def _spki(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]
