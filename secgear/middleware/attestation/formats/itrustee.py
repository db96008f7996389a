"""Huawei iTrustee (Kunpeng TrustZone): the report of its attestation service, the "QCA report".

A header, a table of tagged parameters, and the bytes that these point at, little-endian; the layout
is that of kunpengsecl's ``ra_params`` (attestation/tee/tverlib). A report is signed with the
machine's attestation key (AK); the certificate of that key has the same form and is signed with the
device root key (DRK), whose X.509 certificate is issued by Huawei. RSA-4096, PSS, SHA-256.

Scenario 0 ("no AS") alone is verified. In scenario 1 an attestation server that somebody runs
vouches for the key, and in scenario 2 a group signature (DAA) hides which machine it is.

Huawei's authority issues for other products too, and nothing in a certificate tells a device root
key from their keys: that such a key signs reports only in a TEE is what trusting this root means.
"""

from __future__ import annotations

import base64
import binascii
import struct
import uuid
from collections.abc import Mapping, Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from secgear.base.tee import Evidence
from secgear.errors import CollateralError, EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.certificates import Certificate, load_certificate
from secgear.middleware.attestation.chains import Path, check_path
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.reader import Reader
from secgear.middleware.attestation.verification import Context

FORMAT = "huawei.itrustee"
MAX_SIZE = 32 << 10  # bytes; genuine reports have 4 kB
VERSION = 1

_NONCE_SIZE = 64
_DIGEST_SIZE = 32
_KEY_SIZE = 512  # bytes of an RSA-4096 modulus or signature
_PUBLIC_EXPONENT = 65537
_PURPOSE_SIZE = 32
_PURPOSE = b"provision no as"
_RSA_4096, _SHA_256 = 0x20001, 0x20002

_SCENARIOS = {
    1: "an attestation server vouches for the key (scenario 1, no DAA), whom nobody pins here",
    2: "signed anonymously for a group (scenario 2, DAA), which is not verified here",
}

# Tags: the four bits on top say what the parameter is.
_BLOB = 2
_PARAMETER = struct.Struct("<III")  # tag, and two that depend on it
_SIGN_TYPE, _HASH_TYPE = 0x10000000, 0x10000001
_QTA_IMAGE, _TA_IMAGE, _QTA_MEMORY, _TA_MEMORY, _RESERVED = range(0x20000000, 0x20000005)
_AK_KEY, _DRK_SIGNATURE, _AK_SIGNATURE, _DRK_CERTIFICATE, _AK_CERTIFICATE = range(
    0x20000005, 0x2000000A
)
# What each has, in this order. Everything before the signature is signed.
_REPORT = (_SIGN_TYPE, _HASH_TYPE, _TA_IMAGE, _TA_MEMORY, _RESERVED, _AK_SIGNATURE, _AK_CERTIFICATE)
_CERTIFICATE = (
    *(_SIGN_TYPE, _HASH_TYPE, _QTA_IMAGE, _QTA_MEMORY, _RESERVED),
    *(_AK_KEY, _DRK_SIGNATURE, _DRK_CERTIFICATE),
)
_SIZES = dict.fromkeys((_QTA_IMAGE, _TA_IMAGE, _QTA_MEMORY, _TA_MEMORY, _RESERVED), _DIGEST_SIZE)
_SIZES |= dict.fromkeys((_AK_KEY, _DRK_SIGNATURE, _AK_SIGNATURE), _KEY_SIZE)


class AkCertificate(msgspec.Struct, frozen=True):
    """The attestation key and what the device root key says of it.

    qta_image, qta_memory: digests of the attestation service itself. drk: DER. tbs: what the
    device root key signed.
    """

    timestamp: int
    qta_image: bytes
    qta_memory: bytes
    modulus: bytes
    drk: bytes
    tbs: bytes
    signature: bytes


class Report(msgspec.Struct, frozen=True):
    """The report's fields.

    nonce: 64 bytes; shorter ones were filled with zeros. timestamp: as in the report: seconds in
    the upper 32 bits, nanoseconds in the lower. application: the trusted application's UUID.
    image, memory: SHA-256 of its file and of its code as loaded. tbs: what the attestation key
    signed.
    """

    timestamp: int
    nonce: bytes
    application: uuid.UUID
    image: bytes
    memory: bytes
    tbs: bytes
    signature: bytes
    ak: AkCertificate
    ak_bytes: bytes


class BaseValue(msgspec.Struct, frozen=True):
    """Reference values of one trusted application."""

    application: uuid.UUID
    image: bytes
    memory: bytes


def parse(data: bytes) -> Report:
    """Bytes to fields. Raises EvidenceMalformed.

    Raises EvidenceUnsupported for other versions, scenarios and algorithms, and for the JSON form
    of newer services.
    """
    what = "iTrustee report"
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(f"format: {what} of {len(data)} bytes; at most {MAX_SIZE}")
    if data[:1] == b"{":
        raise EvidenceUnsupported(f"format: {what}: in JSON; only the binary form is read")
    reader = Reader(data, what)
    _check_version(reader, what)
    timestamp = reader.integer(8, "timestamp")
    nonce = reader.take(_NONCE_SIZE, "nonce")
    application = uuid.UUID(bytes_le=reader.take(16, "uuid"))
    scenario = reader.integer(4, "scenario")
    if scenario:
        reason = _SCENARIOS.get(scenario, f"scenario {scenario}")
        raise EvidenceUnsupported(f"format: {what}: {reason}")
    blobs, signed = _parameters(reader, _REPORT, _AK_SIGNATURE, what)
    return Report(
        timestamp=timestamp,
        nonce=nonce,
        application=application,
        image=blobs[_TA_IMAGE],
        memory=blobs[_TA_MEMORY],
        tbs=data[:signed],
        signature=blobs[_AK_SIGNATURE],
        ak=parse_ak_certificate(blobs[_AK_CERTIFICATE]),
        ak_bytes=blobs[_AK_CERTIFICATE],
    )


def parse_ak_certificate(data: bytes) -> AkCertificate:
    """Bytes to fields. Raises EvidenceMalformed, EvidenceUnsupported."""
    what = "iTrustee AK certificate"
    reader = Reader(data, what)
    _check_version(reader, what)
    timestamp = reader.integer(8, "timestamp")
    purpose = reader.take(_PURPOSE_SIZE, "purpose")
    if purpose != _PURPOSE.ljust(_PURPOSE_SIZE, b"\0"):
        raise EvidenceUnsupported(f"format: {what}: its purpose is not {_PURPOSE.decode()!r}")
    blobs, signed = _parameters(reader, _CERTIFICATE, _DRK_SIGNATURE, what)
    return AkCertificate(
        timestamp=timestamp,
        qta_image=blobs[_QTA_IMAGE],
        qta_memory=blobs[_QTA_MEMORY],
        modulus=_modulus(blobs[_AK_KEY], what),
        drk=_decoded(blobs[_DRK_CERTIFICATE], what),
        tbs=data[:signed],
        signature=blobs[_DRK_SIGNATURE],
    )


def authenticate(report: Report, context: Context) -> Path:
    """Huawei's certificate for the device root key, that key's for the attestation key, its report.

    Returns the chain of the device root key.
    """
    checks = context.checks
    drk = load_certificate(report.ak.drk)
    path = check_path(
        drk,
        context.collateral.certificates,
        context.anchors.of("huawei"),
        at=context.at,
        crls=context.collateral.crls,
        checks=checks,
    )
    key = drk.public_key
    checks.require(
        isinstance(key, rsa.RSAPublicKey) and _signed(key, report.ak.tbs, report.ak.signature),
        "binding.attestation-key",
        "the attestation key is certified by the device root key",
        "the device root key did not sign the attestation key's certificate",
    )
    modulus = int.from_bytes(report.ak.modulus, "big")
    ak = rsa.RSAPublicNumbers(_PUBLIC_EXPONENT, modulus).public_key()
    checks.require(
        _signed(ak, report.tbs, report.signature),
        "signature",
        "the attestation key over the report",
        "the attestation key did not sign this report",
    )
    return path


def verify(evidence: Evidence, context: Context) -> Claims:
    """Report of scenario 0 under Huawei's certification authority.

    The report data is the nonce with its trailing zeros, always 64 bytes. There is no evidence
    time: the timestamps of genuine reports count from the machine's start, so they are in the
    details, and the nonce alone proves freshness.
    """
    checks = context.checks
    report = parse(evidence.data)
    checks.passed("format", f"report on trusted application {report.application}")
    attached = evidence.attachments.get("ak-certificate")
    if attached is not None and attached != report.ak_bytes:
        checks.failed("binding.ak-certificate", "the attached AK certificate is not the report's")
    path = authenticate(report, context)
    return Claims(
        format=FORMAT,
        tee="itrustee",
        measurements={
            "launch": report.image,
            "image": report.image,
            "memory": report.memory,
            "qta-image": report.ak.qta_image,
            "qta-memory": report.ak.qta_memory,
        },
        debug=False,
        simulated=False,
        report_data=report.nonce,
        root=path.root,
        checks=checks.done,
        product=str(report.application),
        platform={"device": _device(path.leaf)},
        details={
            "scenario": "no-as",
            "uptime": _uptime(report.timestamp),
            "ak_uptime": _uptime(report.ak.timestamp),
        },
    )


def read_basevalues(text: bytes) -> tuple[BaseValue, ...]:
    """Reference values as kunpengsecl keeps them: UUID, image and memory digest on each line.

    Raises CollateralError.
    """
    values = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            application, image, memory = line.decode("ascii").split()
            value = BaseValue(uuid.UUID(application), bytes.fromhex(image), bytes.fromhex(memory))
        except ValueError:
            raise CollateralError(
                f"base values: line {number} is no UUID and two digests"
            ) from None
        if len(value.image) != _DIGEST_SIZE or len(value.memory) != _DIGEST_SIZE:
            raise CollateralError(f"base values: line {number} has digests of the wrong size")
        values.append(value)
    return tuple(values)


def _check_version(reader: Reader, what: str) -> None:
    version = reader.integer(4, "version")
    if version != VERSION:
        raise EvidenceUnsupported(f"format: {what}: version {version}, not {VERSION}")


def _parameters(
    reader: Reader, tags: Sequence[int], signature: int, what: str
) -> tuple[Mapping[int, bytes], int]:
    """The table and what it points at: exactly `tags`, in order, with no gap and no overlap.

    Returns the blobs by tag, and where the one tagged `signature` begins.
    """
    count = reader.integer(4, "parameter count")
    if count != len(tags):
        raise EvidenceMalformed(f"format: {what}: {count} parameters, not {len(tags)}")
    integers: dict[int, int] = {}
    places: dict[int, tuple[int, int]] = {}
    table = _PARAMETER.iter_unpack(reader.take(_PARAMETER.size * len(tags), "parameters"))
    for wanted, (tag, first, second) in zip(tags, table, strict=True):
        if tag != wanted:
            raise EvidenceMalformed(f"format: {what}: parameter {tag:#x} where {wanted:#x} belongs")
        if tag >> 28 == _BLOB:
            places[tag] = (first, second)
        else:
            integers[tag] = first
            if second:
                raise EvidenceMalformed(f"format: {what}: padding that is not zero")
    if integers != {_SIGN_TYPE: _RSA_4096, _HASH_TYPE: _SHA_256}:
        raise EvidenceUnsupported(f"format: {what}: not signed with RSA-4096 and SHA-256")
    blobs: dict[int, bytes] = {}
    for tag, (size, offset) in places.items():
        if offset != reader.position or size != _SIZES.get(tag, size):
            raise EvidenceMalformed(f"format: {what}: {tag:#x} has {size} bytes at {offset}")
        blobs[tag] = reader.take(size, f"parameter {tag:#x}")
    reader.end()
    return blobs, places[signature][1]


def _modulus(value: bytes, what: str) -> bytes:
    """An odd number of 4096 bits; more than that the signature must show."""
    if not value[0] & 0x80 or not value[-1] & 1:
        raise EvidenceMalformed(f"format: {what}: no modulus of 4096 bits")
    return value


def _decoded(text: bytes, what: str) -> bytes:
    """The DRK's certificate: bare base64, in its one canonical form."""
    try:
        der = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise EvidenceMalformed(f"format: {what}: the DRK certificate is not base64") from None
    if base64.b64encode(der) != text:
        raise EvidenceMalformed(f"format: {what}: the DRK certificate is not canonical base64")
    return der


def _signed(key: rsa.RSAPublicKey, message: bytes, signature: bytes) -> bool:
    # The service leaves the length of the salt to its library.
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
    try:
        key.verify(signature, message, pss, hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _device(drk: Certificate) -> str:
    names = drk.parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else drk.subject


def _uptime(timestamp: int) -> str:
    """Seconds and nanoseconds, as a decimal number of seconds."""
    return f"{timestamp >> 32}.{timestamp & 0xFFFFFFFF:09}"
