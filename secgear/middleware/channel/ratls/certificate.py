"""The two parts of a certificate that RA-TLS is about, from bytes that others refuse.

Gramine writes an algorithm with parameters that must not be there, and an object identifier of two
values in one; `cryptography` takes neither. What is wanted is found without understanding the rest.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping

import msgspec

from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.certificates import MAX_SIZE
from secgear.middleware.attestation.der import content

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_MAX_EXTENSIONS = 64
_SEQUENCE, _INTEGER, _OID, _OCTETS, _BOOLEAN = 0x30, 0x02, 0x06, 0x04, 0x01


class Parts(msgspec.Struct, frozen=True):
    """spki: DER SubjectPublicKeyInfo. extensions: values by the content of their identifier."""

    spki: bytes
    extensions: Mapping[bytes, bytes]


def to_der(certificate: bytes) -> bytes:
    """DER, from DER or one PEM block. Raises EvidenceMalformed."""
    if len(certificate) > 2 * MAX_SIZE:
        raise EvidenceMalformed(f"format: a certificate of {len(certificate)} bytes")
    if _BEGIN not in certificate:
        return certificate
    body, found, rest = certificate.partition(_BEGIN)[2].partition(_END)
    if not found or _BEGIN in rest:
        raise EvidenceMalformed("format: not one certificate in PEM")
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except binascii.Error:
        raise EvidenceMalformed("format: a PEM certificate that is not base64") from None


def parts(der: bytes) -> Parts:
    """The key and the extensions (RFC 5280, section 4.1). Raises EvidenceMalformed."""
    if len(der) > MAX_SIZE:
        raise EvidenceMalformed(f"format: a certificate of {len(der)} bytes")
    try:
        at, end = content(der, 0, _SEQUENCE)
        if end != len(der):
            raise EvidenceMalformed("format: bytes after the end of a certificate")
        at, end = content(der, at, _SEQUENCE)  # what is signed
        if der[at] == 0xA0:  # version
            at = content(der, at, 0xA0)[1]
        at = content(der, at, _INTEGER)[1]
        for _ in ("signature", "issuer", "validity", "subject"):
            at = content(der, at, _SEQUENCE)[1]
        _, after = content(der, at, _SEQUENCE)
        spki, at = der[at:after], after
        while at < end and der[at] in (0x81, 0x82):  # unique identifiers
            at = content(der, at, der[at])[1]
        found = _extensions(der, at) if at < end else {}
    except IndexError:
        raise EvidenceMalformed("format: a certificate that ends early") from None
    return Parts(spki, found)


def _extensions(der: bytes, at: int) -> dict[bytes, bytes]:
    at, _ = content(der, at, 0xA3)
    at, end = content(der, at, _SEQUENCE)
    found: dict[bytes, bytes] = {}
    while at < end:
        inner, after = content(der, at, _SEQUENCE)
        start, inner = content(der, inner, _OID)
        name = der[start:inner]
        if der[inner] == _BOOLEAN:
            inner = content(der, inner, _BOOLEAN)[1]
        start, inner = content(der, inner, _OCTETS)
        if inner != after or name in found or len(found) >= _MAX_EXTENSIONS:
            raise EvidenceMalformed("format: a certificate whose extensions are in disorder")
        found[name] = der[start:inner]
        at = after
    return found
