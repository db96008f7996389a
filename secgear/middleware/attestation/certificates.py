"""X.509 certificates of vendors, as they are and not as a profile would want them.

`cryptography` parses. Two habits of vendors need care: AMD gives every VCEK the serial number zero,
which `cryptography` announces to refuse, so such a certificate is parsed from a copy with serial
number one while its signature is checked over the original bytes; and AMD signs with RSA-PSS, which
the X.509 verifier in `cryptography` forbids for issuers, so the links of a chain are checked here.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.der import content

MAX_SIZE = 32 << 10  # bytes of one certificate; attested TLS puts evidence of 10 kB into them
MAX_CHAIN = 10  # certificates of one chain

_MIN_RSA_BITS = 2048
_DIGESTS = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Certificate:
    """A parsed certificate. Equal if its bytes are.

    parsed: for everything but the serial number and the signed bytes.
    serial: the real serial number. tbs: the bytes that the signature covers.
    subject: RFC 4514 text, for people. subject_name, issuer_name: DER, for comparing.
    not_before, not_after: its validity. All of these are kept because asking `parsed` for them
    costs more than checking a signature.
    """

    der: bytes
    parsed: x509.Certificate
    serial: int
    tbs: bytes
    subject: str
    subject_name: bytes
    issuer_name: bytes
    not_before: datetime.datetime
    not_after: datetime.datetime

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    @property
    def common_name(self) -> str:
        """The subject's common name; empty if it has none or several."""
        return _common_name(self)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate."""
        return hashlib.sha256(self.der).digest()

    @property
    def public_key(self) -> PublicKey:
        """Its key. Raises EvidenceMalformed for kinds that no vendor uses, and for weak RSA."""
        return _public_key(self)

    @property
    def spki_digest(self) -> bytes:
        """SHA-256 of the SubjectPublicKeyInfo."""
        return _spki_digest(self)

    def extension(self, oid: str) -> bytes | None:
        """The DER value of an extension that `cryptography` does not know; None if absent."""
        try:
            found = self.parsed.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid))
        except x509.ExtensionNotFound:
            return None
        except ValueError as error:
            raise EvidenceMalformed(f"format: certificate {self.subject}: {error}") from None
        value = found.value
        return (
            value.value if isinstance(value, x509.UnrecognizedExtension) else value.public_bytes()
        )

    def valid_at(self, at: datetime.datetime) -> bool:
        """Whether `at` is within its validity (RFC 5280, section 4.1.2.5)."""
        return self.not_before <= at <= self.not_after


@functools.lru_cache(maxsize=1024)
def _common_name(certificate: Certificate) -> str:
    names = certificate.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


@functools.lru_cache(maxsize=512)
def load_certificate(der: bytes) -> Certificate:
    """Parse one DER certificate. Raises EvidenceMalformed."""
    if len(der) > MAX_SIZE:
        raise EvidenceMalformed(f"format: a certificate of {len(der)} bytes")
    try:
        tbs_start, serial_start, serial_size, tbs_end, end = _layout(der)
    except IndexError:
        raise EvidenceMalformed("format: a certificate that ends early") from None
    if end != len(der):
        raise EvidenceMalformed("format: bytes after the end of a certificate")
    serial = int.from_bytes(der[serial_start : serial_start + serial_size], "big", signed=True)
    if serial < 0 or (serial == 0 and serial_size != 1):
        raise EvidenceMalformed("format: a certificate with a negative or padded serial number")
    readable = der
    if serial == 0:
        readable = der[:serial_start] + b"\x01" + der[serial_start + 1 :]
    try:
        parsed = x509.load_der_x509_certificate(readable)
        parsed.extensions  # noqa: B018  (parsed on first use: broken ones must show now)
        return Certificate(
            der,
            parsed,
            serial,
            der[tbs_start:tbs_end],
            parsed.subject.rfc4514_string(),
            parsed.subject.public_bytes(),
            parsed.issuer.public_bytes(),
            parsed.not_valid_before_utc,
            parsed.not_valid_after_utc,
        )
    except Exception as error:  # noqa: BLE001  (a parser's own errors: InvalidVersion, duplicates, …)
        raise EvidenceMalformed(f"format: no certificate: {error}") from None


def load_pem(pem: bytes) -> tuple[Certificate, ...]:
    """Parse the PEM certificates in `pem`, in order. Raises EvidenceMalformed."""
    if len(pem) > MAX_CHAIN * 2 * MAX_SIZE:
        raise EvidenceMalformed(f"format: {len(pem)} bytes of PEM")
    blocks = pem.split(b"-----BEGIN CERTIFICATE-----")[1:]
    if not blocks or len(blocks) > MAX_CHAIN:
        raise EvidenceMalformed(f"format: {len(blocks)} PEM certificates; 1 to {MAX_CHAIN} wanted")
    return tuple(load_certificate(_pem_body(block)) for block in blocks)


def to_pem(certificate: Certificate) -> bytes:
    """The certificate in PEM."""
    body = base64.encodebytes(certificate.der).replace(b"\n", b"")
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def signature_fault(certificate: Certificate, issuer: PublicKey) -> str | None:
    """Why `certificate` is not signed by the key `issuer`; None if it is. Success is remembered."""
    key = hashlib.sha256(_spki(issuer)).digest()
    try:
        _signed_by(certificate, key, _Hidden(issuer))
    except _Fault as fault:
        return str(fault)
    return None


class _Fault(Exception):
    pass


class _Hidden:
    """Carries the key past `lru_cache`, which must compare its digest only."""

    def __init__(self, key: PublicKey) -> None:
        self.key = key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden)

    def __hash__(self) -> int:
        return 0


@functools.lru_cache(maxsize=1024)
def _signed_by(certificate: Certificate, key_digest: bytes, issuer: _Hidden) -> None:
    """Raises _Fault, which `lru_cache` does not keep: only successes are remembered."""
    del key_digest
    parsed, key = certificate.parsed, issuer.key
    try:
        digest = parsed.signature_hash_algorithm
        parameters = parsed.signature_algorithm_parameters
    except (ValueError, UnsupportedAlgorithm):
        raise _Fault("an unsupported signature algorithm") from None
    if not isinstance(digest, _DIGESTS):
        raise _Fault(f"signed with {digest.name if digest else 'no digest'}")
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(parsed.signature, certificate.tbs, parameters)
        elif isinstance(key, rsa.RSAPublicKey) and isinstance(
            parameters, padding.PSS | padding.PKCS1v15
        ):
            key.verify(parsed.signature, certificate.tbs, parameters, digest)
        else:
            raise _Fault("the algorithm of its signature is not that of its issuer's key")
    except InvalidSignature:
        raise _Fault("its signature does not verify") from None


@functools.lru_cache(maxsize=1024)
def _public_key(certificate: Certificate) -> PublicKey:
    try:
        key = certificate.parsed.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EvidenceMalformed(f"format: certificate {certificate.subject}: {error}") from None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key
    raise EvidenceMalformed(f"format: certificate {certificate.subject}: {type(key).__name__}")


@functools.lru_cache(maxsize=1024)
def _spki_digest(certificate: Certificate) -> bytes:
    return hashlib.sha256(_spki(certificate.public_key)).digest()


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _pem_body(block: bytes) -> bytes:
    body, found, _ = block.partition(b"-----END CERTIFICATE-----")
    if not found:
        raise EvidenceMalformed("format: a PEM certificate without its end")
    try:
        return base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise EvidenceMalformed("format: a PEM certificate that is not base64") from None


def _layout(der: bytes) -> tuple[int, int, int, int, int]:
    """Where the signed part and the serial number are: RFC 5280, section 4.1.

    Returns start of the tbsCertificate, start and size of the serial number's value, end of the
    tbsCertificate, end of the certificate.
    """
    tbs_start, end = content(der, 0, 0x30)
    inner, tbs_end = content(der, tbs_start, 0x30)
    if der[inner] == 0xA0:
        _, inner = content(der, inner, 0xA0)
    value, after = content(der, inner, 0x02)
    _, algorithm_end = content(der, tbs_end, 0x30)
    signature, _ = content(der, algorithm_end, 0x03)
    if der[signature] != 0:
        raise EvidenceMalformed("format: a certificate whose signature is no whole bytes")
    return tbs_start, value, after - value, tbs_end, end
