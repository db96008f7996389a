"""AWS Nitro Enclaves: the attestation document of the Nitro security module.

COSE_Sign1 with ES384; fields and their sizes as in AWS's "Nitro Enclaves attestation process"
(https://github.com/aws/aws-nitro-enclaves-nsm-api/blob/main/docs/attestation_process.md), section
3.1. The chain comes inside the document, the root first; the leaf lives for three hours.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation import cbor, cose
from secgear.middleware.attestation.certificates import Certificate, load_certificate
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.verification import Context

FORMAT = "aws.nitro"
MAX_SIZE = 64 << 10  # bytes; genuine documents have 5 kB, and at most 16 kB fit into NSM's answer
FRAME = 4  # bytes

_WHAT = "Nitro document"
_HEADER = {cose.ALG: -35}  # ES384; AWS defines no other header parameter
_REQUIRED = frozenset(("module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"))
# Smallest and largest size in bytes.
_OPTIONAL = {"public_key": (1, 1024), "user_data": (0, 512), "nonce": (0, 512)}
_PCRS = 32
_PCR_SIZES = (32, 48, 64)
_CERTIFICATE_MAX = 1024
_BUNDLE_MAX = 8
_MODULE_ID_MAX = 256  # characters
_TIMESTAMP_MAX = 1 << 47  # milliseconds: the year 6429, well within datetime's range
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Document(msgspec.Struct, frozen=True):
    """The document's fields, as they are in it.

    timestamp: milliseconds since 1970. pcrs: the locked registers by index. bundle: DER
    certificates, the root first. Optional fields are None where they are absent or null.
    """

    message: cose.Sign1
    module_id: str
    timestamp: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    bundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None

    @property
    def time(self) -> datetime.datetime:
        """When the document was made."""
        return _EPOCH + datetime.timedelta(milliseconds=self.timestamp)

    @property
    def debug(self) -> bool:
        """Whether the enclave runs in debug mode, which AWS shows by registers of zeros."""
        return not any(self.pcrs[0])


def unwrap(data: bytes) -> bytes:
    """The document in `data`, which has four bytes of transport framing before it.

    Some agents store the answer of the security module so; whoever knows that calls this. Raises
    EvidenceMalformed if no document follows the frame.
    """
    document = data[FRAME:]
    cose.parse(document, f"framed {_WHAT}")
    return document


def parse(data: bytes) -> Document:
    """Bytes to fields; COSE's tag 18 may be there or not. Raises EvidenceMalformed.

    Raises EvidenceUnsupported for another signature algorithm or register digest than AWS's.
    """
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: {_WHAT} of {len(data)} bytes; at most {MAX_SIZE}")
    message = cose.parse(data, _WHAT)
    header = cbor.decode(message.protected, _WHAT) if message.protected else {}
    if header != _HEADER or dict(message.headers) != _HEADER:
        raise EvidenceUnsupported(f"format: {_WHAT}: its headers are not those of ES384 alone")
    fields = cbor.decode(message.payload, f"{_WHAT}: payload")
    if not isinstance(fields, Mapping) or not fields.keys() >= _REQUIRED:
        raise EvidenceMalformed(f"format: {_WHAT} without {', '.join(sorted(_REQUIRED))}")
    unknown = fields.keys() - _REQUIRED - _OPTIONAL.keys()
    if unknown:
        raise EvidenceMalformed(f"format: {_WHAT}: {len(unknown)} fields that nobody knows")
    module_id, timestamp = fields["module_id"], fields["timestamp"]
    if not isinstance(module_id, str) or not 0 < len(module_id) <= _MODULE_ID_MAX:
        raise EvidenceMalformed(f"format: {_WHAT}: module_id is no short text")
    if fields["digest"] != "SHA384":
        raise EvidenceUnsupported(f"format: {_WHAT}: its registers are not of SHA384")
    if type(timestamp) is not int or not 0 < timestamp < _TIMESTAMP_MAX:
        raise EvidenceMalformed(f"format: {_WHAT}: timestamp is no number of milliseconds")
    bundle = fields["cabundle"]
    if not isinstance(bundle, list) or not 0 < len(bundle) <= _BUNDLE_MAX:
        raise EvidenceMalformed(f"format: {_WHAT}: cabundle is no list of 1 to {_BUNDLE_MAX}")
    return Document(
        message=message,
        module_id=module_id,
        timestamp=timestamp,
        pcrs=_registers(fields["pcrs"]),
        certificate=_sized(fields["certificate"], "certificate", 1, _CERTIFICATE_MAX),
        bundle=tuple(_sized(item, "cabundle", 1, _CERTIFICATE_MAX) for item in bundle),
        public_key=_optional(fields, "public_key"),
        user_data=_optional(fields, "user_data"),
        nonce=_optional(fields, "nonce"),
    )


def authenticate(document: Document, context: Context) -> Path:
    """Chain to the pinned root, signature, and what the two say of each other."""
    checks = context.checks
    leaf = load_certificate(document.certificate)
    path = check_path(
        leaf,
        document.bundle,
        context.anchors.of("aws"),
        at=context.at,
        # AWS says that "certificate revocation list (CRL) must be disabled" for its validation
        # (section 3.2.3.3). Leaves live for three hours, and their issuers for a day or so.
        crls=(),
        checks=checks,
        revocable="nothing",
    )
    key = leaf.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey):
        checks.failed("signature", "the certificate's key is not EC")
    fault = cose.verify(document.message, key)
    checks.require(fault is None, "signature", "ES384 over the document", fault or "")
    _check_bundle(document, path, context)
    _check_time(document, leaf, context)
    return path


def verify(evidence: Evidence, context: Context) -> Claims:
    """Document under a pinned root of family ``aws``.

    The nonce alone is the claims' report data: user_data and public_key say nothing of freshness,
    and whoever binds something through them finds them in the details.
    """
    document = parse(evidence.data)
    context.checks.passed("format", f"document of {document.module_id}")
    path = authenticate(document, context)
    locked = {index: value for index, value in document.pcrs.items() if any(value)}
    return Claims(
        format=FORMAT,
        tee="nitro",
        measurements={
            "launch": document.pcrs[0],
            **{f"pcr{index}": value for index, value in sorted(locked.items())},
        },
        debug=document.debug,
        simulated=False,
        report_data=document.nonce or b"",
        root=path.root,
        checks=context.checks.done,
        signer=locked.get(8),  # PCR8: digest of the certificate that signed the image
        platform={"module_id": document.module_id},
        evidence_time=document.time,
        details={
            name: value.hex()
            for name, value in (
                ("public_key", document.public_key),
                ("user_data", document.user_data),
            )
            if value is not None
        },
    )


def _check_bundle(document: Document, path: Path, context: Context) -> None:
    """The bundle is the chain, the root first, and nothing else."""
    context.checks.require(
        [item.der for item in path.certificates[1:]] == list(reversed(document.bundle)),
        "binding.cabundle",
        "the document's bundle is the chain, its first certificate the root",
        "the document's bundle is not the chain of its certificate, the root first",
    )


def _check_time(document: Document, leaf: Certificate, context: Context) -> None:
    context.checks.require(
        leaf.valid_at(document.time),
        "binding.timestamp",
        "made while its certificate was valid",
        "the document was made outside its certificate's validity",
        expected=f"{leaf.parsed.not_valid_before_utc.isoformat()} to "
        f"{leaf.parsed.not_valid_after_utc.isoformat()}",
        found=document.time.isoformat(),
    )


def _registers(value: object) -> Mapping[int, bytes]:
    if not isinstance(value, Mapping) or not 0 < len(value) <= _PCRS:
        raise EvidenceMalformed(f"format: {_WHAT}: pcrs is no map of 1 to {_PCRS}")
    for index, register in value.items():
        if type(index) is not int or not 0 <= index < _PCRS:
            raise EvidenceMalformed(f"format: {_WHAT}: a register that is none of 0 to 31")
        if not isinstance(register, bytes) or len(register) not in _PCR_SIZES:
            raise EvidenceMalformed(f"format: {_WHAT}: PCR{index} has no digest's size")
    if 0 not in value:
        # Always locked in an enclave; without it nobody could tell debug mode.
        raise EvidenceMalformed(f"format: {_WHAT}: no PCR0")
    return dict(value)


def _optional(fields: Mapping[Any, Any], name: str) -> bytes | None:
    value = fields.get(name)
    return None if value is None else _sized(value, name, *_OPTIONAL[name])


def _sized(value: object, name: str, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise EvidenceMalformed(f"format: {_WHAT}: {name} is not {least} to {most} bytes")
    return value
