"""A certificate authority for SM2 whose key never leaves the enclave. This file is its program.

What it signs is put together here, by `secgear.services.crypto.pkix`; the module signs. Names,
serial numbers and what is revoked are the authority's own business and not the module's.
"""

from __future__ import annotations

import datetime
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from secgear.services.crypto import pkix
from secgear.services.crypto.client import PrivateKey, Session

DAY = datetime.timedelta(days=1)


class Authority:
    """key: an SM2 key in the module. session: where signatures of requests are checked."""

    def __init__(self, session: Session, key: PrivateKey, name: str) -> None:
        self._session = session
        self._key = key
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]).public_bytes()
        self._issued: set[int] = set()
        self._revoked: dict[int, datetime.datetime] = {}
        self._lists = 0

    def root(self) -> bytes:
        """The authority's own certificate, in DER."""
        extensions = [
            _extension(x509.BasicConstraints(ca=True, path_length=0), critical=True),
            _extension(_usage(signs_certificates=True), critical=True),
            _extension(x509.SubjectKeyIdentifier(_identifier(self._key.public_key_info))),
        ]
        return self._certificate(self._name, self._key.public_key_info, extensions, 3650 * DAY)

    def issue(self, request: bytes, host: str) -> bytes:
        """A certificate for who has the key of the request (PKCS#10, DER) and may be `host`.

        Whether they may is for a person to say. Raises ValueError for a request that does not hold.
        """
        asked = pkix.Request(request)
        if asked.algorithm != pkix.SM2_SM3:
            raise ValueError("the request is not signed with SM2")
        theirs = self._session.create_public(asked.spki)
        try:
            theirs.verify(asked.signature, asked.content)
        except InvalidSignature:
            raise ValueError("whoever asks does not have the key") from None
        finally:
            theirs.destroy()
        extensions = [
            _extension(x509.BasicConstraints(ca=False, path_length=None), critical=True),
            _extension(_usage(signs_certificates=False), critical=True),
            _extension(x509.SubjectAlternativeName([x509.DNSName(host)])),
            _extension(x509.SubjectKeyIdentifier(_identifier(asked.spki))),
            self._authority(),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]).public_bytes()
        return self._certificate(subject, asked.spki, extensions, 90 * DAY)

    def revoke(self, certificate: bytes) -> None:
        """Take a certificate back; the next list says so. Raises KeyError for one not issued."""
        serial = x509.load_der_x509_certificate(certificate).serial_number
        if serial not in self._issued:
            raise KeyError(serial)
        self._revoked[serial] = _now()

    def revocations(self) -> bytes:
        """What is revoked, in DER."""
        self._lists += 1
        return pkix.revocation_list(
            issuer=self._name,
            this_update=_now(),
            next_update=_now() + 7 * DAY,
            revoked=sorted(self._revoked.items()),
            extensions=[self._authority(), _extension(x509.CRLNumber(self._lists))],
            algorithm=pkix.SM2_SM3,
            sign=self._key.sign,
        )

    def _certificate(
        self,
        subject: bytes,
        spki: bytes,
        extensions: list[x509.Extension[x509.ExtensionType]],
        life: datetime.timedelta,
    ) -> bytes:
        serial = x509.random_serial_number()
        self._issued.add(serial)
        return pkix.certificate(
            issuer=self._name,
            subject=subject,
            spki=spki,
            serial=serial,
            not_before=_now(),
            not_after=_now() + life,
            extensions=extensions,
            algorithm=pkix.SM2_SM3,
            sign=self._key.sign,
        )

    def _authority(self) -> x509.Extension[x509.ExtensionType]:
        identifier = _identifier(self._key.public_key_info)
        return _extension(x509.AuthorityKeyIdentifier(identifier, None, None))


def _extension(
    value: x509.ExtensionType, *, critical: bool = False
) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(value.oid, critical, value)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier(spki: bytes) -> bytes:
    """RFC 7093, section 2, method 4."""
    return hashlib.sha256(spki).digest()[:20]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
