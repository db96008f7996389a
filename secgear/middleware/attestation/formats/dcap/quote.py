"""SGX and TDX quotes: bytes to fields, nothing else.

Layouts from Intel's "SGX ECDSA QuoteLibReference DCAP API" (quote v3, appendix A) and "TDX DCAP
Quoting Library API" (quotes v4 and v5, appendix A). Everything is little-endian.
"""

from __future__ import annotations

import msgspec

from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.formats.dcap.certification import (
    SIGNATURE_SIZE,
    Certification,
    read_nested,
    read_plain,
)
from secgear.middleware.attestation.formats.dcap.report import SGX_REPORT_SIZE, SgxReport, read_sgx
from secgear.middleware.attestation.reader import Reader

MAX_SIZE = 128 << 10  # bytes; genuine quotes have 4 to 5 kB, padded to 8 kB by some drivers

SGX, TDX = 0x00, 0x81  # TEE types

_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_ECDSA_P256 = 2
_TD10_SIZE, _TD15_SIZE = 584, 648
_BODY_SGX, _BODY_TD10, _BODY_TD15 = 1, 2, 3
_BODY_SIZES = {_BODY_SGX: SGX_REPORT_SIZE, _BODY_TD10: _TD10_SIZE, _BODY_TD15: _TD15_SIZE}
_LOCAL_TD_REPORT, _LOCAL_SGX_REPORT = 1024, 432


class TdReport(msgspec.Struct, frozen=True):
    """What the TDX module says about a TD: the body of a TDX quote.

    tee_tcb_svn: security versions of the TDX module; byte 0 its minor, byte 1 its major version.
    td_attributes, xfam: as numbers. tee_tcb_svn2, mrservicetd: TDX 1.5 bodies only.
    """

    tee_tcb_svn: bytes
    mrseam: bytes
    mrsignerseam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mrtd: bytes
    mrconfigid: bytes
    mrowner: bytes
    mrownerconfig: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None = None
    mrservicetd: bytes | None = None


class Quote(msgspec.Struct, frozen=True):
    """A quote's fields.

    user_data: the header's 20 bytes; the first 16 are the quoting enclave's platform id.
    signed: header and body, which `signature` (r and s, big-endian) covers.
    attestation_key: x and y of a P-256 point, big-endian.
    """

    version: int
    tee_type: int
    qe_vendor: bytes
    user_data: bytes
    body: SgxReport | TdReport
    signed: bytes
    signature: bytes
    attestation_key: bytes
    certification: Certification


def parse(data: bytes) -> Quote:
    """Bytes to fields. Raises EvidenceMalformed, EvidenceUnsupported."""
    data = bytes(data)
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(
            f"format: a quote of {len(data)} bytes; at most {MAX_SIZE} are read"
        )
    _refuse_local(data)
    reader = Reader(data, "quote")
    version = reader.integer(2, "version")
    if version not in (3, 4, 5):
        raise EvidenceUnsupported(f"format: quote version {version}; 3, 4 and 5 are known")
    key_type = reader.integer(2, "attestation key type")
    if key_type != _ECDSA_P256:
        raise EvidenceUnsupported(
            f"format: attestation key type {key_type}; 2 (ECDSA with P-256) is known"
        )
    tee_type = reader.integer(4, "TEE type")
    if tee_type not in (SGX, TDX) or (version == 3 and tee_type != SGX):
        raise EvidenceUnsupported(f"format: TEE type {tee_type:#x} in a quote of version {version}")
    reader.take(4, "security versions of QE and PCE")  # Intel: judge by the certificate instead
    vendor = reader.take(16, "QE vendor id")
    if vendor != _INTEL_QE:
        raise EvidenceUnsupported(
            f"format: a quoting enclave of vendor {vendor.hex()}, not Intel's"
        )
    user_data = reader.take(20, "user data")
    body = _body(reader, version, tee_type)
    signed = data[: reader.position]
    size = reader.integer(4, "size of the signature data")
    section = Reader(reader.take(size, "signature data"), "quote signature data")
    if any(reader.rest()):
        raise EvidenceMalformed("format: quote: bytes after its end that are no padding")
    signature = section.take(SIGNATURE_SIZE, "signature")
    attestation_key = section.take(64, "attestation key")
    certification = read_plain(section) if version == 3 else read_nested(section)
    return Quote(
        version=version,
        tee_type=tee_type,
        qe_vendor=vendor,
        user_data=user_data,
        body=body,
        signed=signed,
        signature=signature,
        attestation_key=attestation_key,
        certification=certification,
    )


def _refuse_local(data: bytes) -> None:
    """Reports carry a MAC under a key of the chip: nobody elsewhere can check them."""
    # Either size is too small for any quote.
    if len(data) == _LOCAL_TD_REPORT:
        raise EvidenceUnsupported(
            "format: a TDREPORT, which only the machine it was made on can check; ask the quoting "
            "service there for a quote (configfs-tsm gives one)"
        )
    if len(data) == _LOCAL_SGX_REPORT:
        raise EvidenceUnsupported(
            "format: an SGX REPORT, which only enclaves on the same machine can check; ask the "
            "quoting enclave for a quote"
        )


def _body(reader: Reader, version: int, tee_type: int) -> SgxReport | TdReport:
    kind = _BODY_SGX if tee_type == SGX else _BODY_TD10
    if version == 5:
        kind = reader.integer(2, "body type")
        expected = _BODY_SIZES.get(kind)
        if expected is None:
            raise EvidenceUnsupported(f"format: quote body of type {kind}; 1 to 3 are known")
        if (kind == _BODY_SGX) != (tee_type == SGX):
            raise EvidenceMalformed(f"format: quote body of type {kind} for TEE type {tee_type:#x}")
        size = reader.integer(4, "body size")
        if size != expected:
            raise EvidenceMalformed(f"format: quote body of {size} bytes, not {expected}")
    if kind == _BODY_SGX:
        return read_sgx(reader.take(SGX_REPORT_SIZE, "enclave report"))
    return _read_td(reader.take(_BODY_SIZES[kind], "TD report"), newer=kind == _BODY_TD15)


def _read_td(data: bytes, *, newer: bool) -> TdReport:
    """TDX DCAP Quoting Library API, A.3.2 (TD report for TDX 1.0) and A.3.3 (1.5)."""
    reader = Reader(data, "TD report")
    return TdReport(
        tee_tcb_svn=reader.take(16, "TEE_TCB_SVN"),
        mrseam=reader.take(48, "MRSEAM"),
        mrsignerseam=reader.take(48, "MRSIGNERSEAM"),
        seam_attributes=reader.take(8, "SEAMATTRIBUTES"),
        td_attributes=reader.integer(8, "TDATTRIBUTES"),
        xfam=reader.integer(8, "XFAM"),
        mrtd=reader.take(48, "MRTD"),
        mrconfigid=reader.take(48, "MRCONFIGID"),
        mrowner=reader.take(48, "MROWNER"),
        mrownerconfig=reader.take(48, "MROWNERCONFIG"),
        rtmrs=(
            reader.take(48, "RTMR0"),
            reader.take(48, "RTMR1"),
            reader.take(48, "RTMR2"),
            reader.take(48, "RTMR3"),
        ),
        report_data=reader.take(64, "REPORTDATA"),
        tee_tcb_svn2=reader.take(16, "TEE_TCB_SVN2") if newer else None,
        mrservicetd=reader.take(48, "MRSERVICETD") if newer else None,
    )
