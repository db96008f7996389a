"""Certification data of a quote: who vouches for the attestation key.

The quoting enclave's (QE) report, signed by the provisioning certification key (PCK), and how to
find the PCK's certificate. Intel's "SGX ECDSA QuoteLibReference DCAP API", A.4, table 9; quotes v4
and v5 wrap the same into certification data of type 6 ("TDX DCAP Quoting Library API", A.3.11).
"""

from __future__ import annotations

import functools

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.certificates import (
    MAX_CHAIN,
    Certificate,
    load_certificate,
    load_pem,
)
from secgear.middleware.attestation.formats.dcap import der
from secgear.middleware.attestation.formats.dcap.report import SGX_REPORT_SIZE, SgxReport, read_sgx
from secgear.middleware.attestation.reader import Reader

SIGNATURE_SIZE = 64

PLATFORM_CLEAR, PLATFORM_RSA2048, PLATFORM_RSA3072 = 1, 2, 3
PCK_LEAF, PCK_CHAIN, QE_REPORT, MANIFEST = 4, 5, 6, 7
_PPID_SIZES = {PLATFORM_CLEAR: 16, PLATFORM_RSA2048: 256, PLATFORM_RSA3072: 384}
_MAX_AUTH_DATA = 4096  # bytes; Intel's QE puts 32 there


class Platform(msgspec.Struct, frozen=True):
    """Which PCK certificate signed, where the certificate is not in the quote (types 1 to 3).

    ppid: platform provisioning id, None where it is encrypted for Intel. cpu_svn, pce_svn: the TCB
    that the certificate is for.
    """

    ppid: bytes | None
    cpu_svn: bytes
    pce_svn: int
    pce_id: int


class Certification(msgspec.Struct, frozen=True):
    """The QE's report and who signed it.

    kind: type of the certification data, 1 to 5. platform: for types 1 to 3. chain: for types 4 and
    5, leaf first.
    """

    qe_report: SgxReport
    qe_report_signature: bytes
    auth_data: bytes
    kind: int
    platform: Platform | None
    chain: tuple[Certificate, ...]


def read_plain(section: Reader) -> Certification:
    """The rest of a v3 quote's signature data. Raises EvidenceMalformed, EvidenceUnsupported."""
    return _read_plain(section.rest())


@functools.lru_cache(maxsize=256)
def _read_plain(data: bytes) -> Certification:
    """One platform sends the same with every quote, until its attestation key changes."""
    section = Reader(data, "quote signature data")
    qe_report = read_sgx(section.take(SGX_REPORT_SIZE, "QE report"))
    qe_report_signature = section.take(SIGNATURE_SIZE, "QE report signature")
    auth_size = section.integer(2, "size of the QE authentication data")
    if auth_size > _MAX_AUTH_DATA:
        raise EvidenceMalformed(f"format: quote: {auth_size} bytes of QE authentication data")
    auth_data = section.take(auth_size, "QE authentication data")
    kind, data = _typed(section)
    section.end()
    platform: Platform | None = None
    chain: tuple[Certificate, ...] = ()
    if kind in _PPID_SIZES:
        platform = _platform(kind, data)
    elif kind in (PCK_LEAF, PCK_CHAIN):
        chain = _chain(data)
    elif kind == QE_REPORT:
        raise EvidenceMalformed("format: quote: a QE report within a QE report's certification")
    else:
        known = "a platform manifest, which names no key" if kind == MANIFEST else "an unknown type"
        raise EvidenceUnsupported(f"format: quote: certification data of type {kind}: {known}")
    return Certification(
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        auth_data=auth_data,
        kind=kind,
        platform=platform,
        chain=chain,
    )


def read_nested(section: Reader) -> Certification:
    """The rest of a v4 or v5 quote's signature data: type 6 around what `read_plain` reads."""
    kind, data = _typed(section)
    section.end()
    if kind != QE_REPORT:
        raise EvidenceUnsupported(
            f"format: quote: certification data of type {kind}; quotes v4 and v5 have type 6 here"
        )
    return read_plain(Reader(data, "QE report certification data"))


def _typed(section: Reader) -> tuple[int, bytes]:
    kind = section.integer(2, "certification data type")
    size = section.integer(4, "size of the certification data")
    return kind, section.take(size, "certification data")


@functools.lru_cache(maxsize=256)
def _chain(data: bytes) -> tuple[Certificate, ...]:
    """PEM with a possible NUL at its end, as Intel's library writes it, or certificates in DER."""
    if data.startswith(b"\x30"):
        return tuple(load_certificate(element) for element in der.split(data, MAX_CHAIN))
    return load_pem(data.rstrip(b"\0"))


def _platform(kind: int, data: bytes) -> Platform:
    reader = Reader(data, "platform identification")
    ppid = reader.take(_PPID_SIZES[kind], "PPID")
    cpu_svn = reader.take(16, "CPUSVN")
    pce_svn = reader.integer(2, "PCESVN")
    pce_id = reader.integer(2, "PCEID")
    reader.end()
    return Platform(ppid if kind == PLATFORM_CLEAR else None, cpu_svn, pce_svn, pce_id)
