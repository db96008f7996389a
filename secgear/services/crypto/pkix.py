"""X.509 certificates, requests and revocation lists (RFC 5280, RFC 2986), signed by whatever key.

For signatures and subject keys that `cryptography` has no classes for, above all SM2: it encodes
and decodes the DER here, and the caller signs. Of what others made only requests are read.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable
from typing import Annotated, Final

from cryptography import x509
from cryptography.hazmat import asn1

Signer = Callable[[bytes], bytes]
"""Given the bytes that are to be signed, the signature as certificates have it."""

ECDSA_SHA256: Final = x509.ObjectIdentifier("1.2.840.10045.4.3.2")
SM2_SM3: Final = x509.ObjectIdentifier("1.2.156.10197.1.501")
"""GM/T 0006; OpenSSL's ``SM2-with-SM3``."""
RSA_SHA256: Final = x509.ObjectIdentifier("1.2.840.113549.1.1.11")
NO_END: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""RFC 5280, section 4.1.2.5: no well-defined expiration."""
MAX_REQUEST: Final = 64 << 10  # bytes
_UTC_UNTIL = 2050  # years from here on are GeneralizedTime


@asn1.sequence
class _Algorithm:
    algorithm: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _Validity:
    not_before: asn1.UTCTime | asn1.GeneralizedTime
    not_after: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class _Extension:
    oid: x509.ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    value: bytes


@asn1.sequence
class _Certificate:
    version: Annotated[int, asn1.Explicit(0)]
    serial: int
    signature: _Algorithm
    issuer: asn1.TLV
    validity: _Validity
    subject: asn1.TLV
    spki: asn1.TLV
    extensions: Annotated[list[_Extension], asn1.Explicit(3)]


@asn1.sequence
class _Revoked:
    serial: int
    at: asn1.UTCTime | asn1.GeneralizedTime


@asn1.sequence
class _RevocationList:
    version: int
    signature: _Algorithm
    issuer: asn1.TLV
    this_update: asn1.UTCTime | asn1.GeneralizedTime
    next_update: asn1.UTCTime | asn1.GeneralizedTime
    revoked: list[_Revoked] | None
    extensions: Annotated[list[_Extension], asn1.Explicit(0)]


@asn1.sequence
class _Request:
    version: int
    subject: asn1.TLV
    spki: asn1.TLV
    attributes: Annotated[asn1.SetOf[asn1.TLV], asn1.Implicit(0)]


@asn1.sequence
class _Signed:
    content: asn1.TLV
    algorithm: _Algorithm
    signature: asn1.BitString


class Request:
    """A certificate request as it was read; its signature is the caller's to verify.

    subject: DER of the name. spki: DER of the key. content: what `signature` is over.
    """

    def __init__(self, der: bytes) -> None:
        """Raises ValueError for what is no request."""
        if len(der) > MAX_REQUEST:
            raise ValueError(f"a certificate request of {len(der)} bytes")
        signed = asn1.decode_der(_Signed, der)
        self.content = asn1.encode_der(signed.content)
        asked = asn1.decode_der(_Request, self.content)
        if asked.version != 0 or signed.signature.padding_bits():
            raise ValueError("a certificate request of another version")
        self.algorithm = signed.algorithm.algorithm
        self.signature = signed.signature.as_bytes()
        self.subject = asn1.encode_der(asked.subject)
        self.spki = asn1.encode_der(asked.spki)


def certificate(
    *,
    issuer: bytes,
    subject: bytes,
    spki: bytes,
    serial: int,
    not_before: datetime.datetime,
    not_after: datetime.datetime,
    extensions: Iterable[x509.Extension[x509.ExtensionType]],
    algorithm: x509.ObjectIdentifier,
    sign: Signer,
) -> bytes:
    """A certificate, in DER. issuer, subject, spki: DER. Raises what `sign` raises, ValueError."""
    content = _Certificate(
        version=2,
        serial=serial,
        signature=_algorithm(algorithm),
        issuer=_tlv(issuer),
        validity=_Validity(not_before=_time(not_before), not_after=_time(not_after)),
        subject=_tlv(subject),
        spki=_tlv(spki),
        extensions=_extensions(extensions),
    )
    return _signed(asn1.encode_der(content), algorithm, sign)


def revocation_list(
    *,
    issuer: bytes,
    this_update: datetime.datetime,
    next_update: datetime.datetime,
    revoked: Iterable[tuple[int, datetime.datetime]],
    extensions: Iterable[x509.Extension[x509.ExtensionType]],
    algorithm: x509.ObjectIdentifier,
    sign: Signer,
) -> bytes:
    """A certificate revocation list, in DER. revoked: serial number and time of each."""
    entries = [_Revoked(serial=serial, at=_time(at)) for serial, at in revoked]
    content = _RevocationList(
        version=1,
        signature=_algorithm(algorithm),
        issuer=_tlv(issuer),
        this_update=_time(this_update),
        next_update=_time(next_update),
        revoked=entries or None,
        extensions=_extensions(extensions),
    )
    return _signed(asn1.encode_der(content), algorithm, sign)


def request(
    *, subject: bytes, spki: bytes, algorithm: x509.ObjectIdentifier, sign: Signer
) -> bytes:
    """A certificate request without attributes, in DER. subject, spki: DER."""
    content = _Request(version=0, subject=_tlv(subject), spki=_tlv(spki), attributes=asn1.SetOf([]))
    return _signed(asn1.encode_der(content), algorithm, sign)


def _signed(content: bytes, algorithm: x509.ObjectIdentifier, sign: Signer) -> bytes:
    return asn1.encode_der(
        _Signed(
            content=_tlv(content),
            algorithm=_algorithm(algorithm),
            signature=asn1.BitString(data=sign(content), padding_bits=0),
        )
    )


def _algorithm(oid: x509.ObjectIdentifier) -> _Algorithm:
    null = asn1.Null() if oid == RSA_SHA256 else None  # RFC 4055, section 5
    return _Algorithm(algorithm=oid, parameters=null)


def _extensions(given: Iterable[x509.Extension[x509.ExtensionType]]) -> list[_Extension]:
    return [
        _Extension(oid=one.oid, critical=one.critical, value=one.value.public_bytes())
        for one in given
    ]


def _time(at: datetime.datetime) -> asn1.UTCTime | asn1.GeneralizedTime:
    whole = at.astimezone(datetime.UTC).replace(microsecond=0)
    return asn1.UTCTime(whole) if whole.year < _UTC_UNTIL else asn1.GeneralizedTime(whole)


def _tlv(der: bytes) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, der)
