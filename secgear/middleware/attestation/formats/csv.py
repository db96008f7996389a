"""Hygon CSV: evidence of a confidential virtual machine on a Hygon (Dhyana) processor.

Read, shown, and never trusted: its signatures are SM2, which `cryptography` does not offer, and
this project writes no cryptography of its own. So `parse` is complete and `verify` always refuses,
saying what is missing.

The JSON is that of Confidential Containers' attester. The report inside (Hygon's CSV guest API,
first form) hides the fields before its signature by XOR with a random word of its own, ``anonce``;
the processor hides what follows the signature as well, but that the attester has undone already.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.claims import Claims
from secgear.middleware.attestation.reader import UNREADABLE, Reader
from secgear.middleware.attestation.verification import Context

FORMAT = "hygon.csv"

_WHAT = "CSV report"
_PAGE = 4096  # bytes: the report's page, padded with zeros
_SIGNATURE = 144  # bytes: r and s, 72 each
_PEK_CERTIFICATE = 2084  # bytes
_SERIAL = 64  # bytes
_WORD = 4  # bytes

_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Report(msgspec.Struct, frozen=True):
    """The fields of a report, its masking undone.

    policy: the guest's policy bits. signature_algorithm, signature_usage: Hygon's numbers (4: SM2).
    signature: r and s as they stand. pek_certificate: of the key that signed, in Hygon's form.
    serial: of the chip, ASCII. mac: over what follows the signature.
    """

    user_key_digest: bytes
    vm_id: bytes
    vm_version: bytes
    report_data: bytes
    nonce: bytes
    measurement: bytes
    policy: int
    signature_usage: int
    signature_algorithm: int
    signature: bytes
    pek_certificate: bytes
    serial: str
    mac: bytes


class _Wrapper(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    data: Annotated[list[_Byte], msgspec.Meta(min_length=_PAGE, max_length=_PAGE)]
    flags: int
    magic: Annotated[list[_Byte], msgspec.Meta(min_length=16, max_length=16)]


class _Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attestation_report: _Wrapper
    cert_chain: dict[str, Any]
    serial_number: Annotated[list[_Byte], msgspec.Meta(min_length=_SERIAL, max_length=_SERIAL)]
    cc_eventlog: str | None = None


_DECODER = msgspec.json.Decoder(_Evidence)


def parse(data: bytes) -> Report:
    """JSON to fields. Raises EvidenceMalformed; EvidenceUnsupported for other forms of report."""
    try:
        evidence = _DECODER.decode(data)
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: {_WHAT}: {error}") from None
    wrapper = evidence.attestation_report
    if wrapper.flags or any(wrapper.magic):
        raise EvidenceUnsupported(f"format: {_WHAT}: in its extended form")
    report = parse_report(bytes(wrapper.data))
    if bytes(evidence.serial_number) != report.serial.encode().ljust(_SERIAL, b"\0"):
        raise EvidenceMalformed(f"format: {_WHAT}: the serial number beside it is another")
    return report


def parse_report(page: bytes) -> Report:
    """The report's page to fields. Raises EvidenceMalformed."""
    reader = Reader(page, _WHAT)
    masked = reader.take(188, "masked fields")
    anonce = reader.take(_WORD, "anonce")
    fields = Reader(_unmasked(masked, anonce), _WHAT)
    signature = reader.take(_SIGNATURE, "signature")
    pek = reader.take(_PEK_CERTIFICATE, "PEK certificate")
    serial = _text(reader.take(_SERIAL, "serial number"))
    reader.zeros(32, "reserved")
    mac = reader.take(32, "MAC")
    reader.zeros(reader.remaining, "padding")
    return Report(
        user_key_digest=fields.take(32, "user key digest"),
        vm_id=fields.take(16, "vm id"),
        vm_version=fields.take(16, "vm version"),
        report_data=fields.take(64, "user data"),
        nonce=fields.take(16, "nonce"),
        measurement=fields.take(32, "measurement"),
        policy=fields.integer(4, "policy"),
        signature_usage=fields.integer(4, "signature usage"),
        signature_algorithm=fields.integer(4, "signature algorithm"),
        signature=signature,
        pek_certificate=pek,
        serial=serial,
        mac=mac,
    )


def verify(evidence: Evidence, context: Context) -> Claims:
    """Refuse the evidence: nothing here can check its signature. Raises EvidenceRefused."""
    report = parse(evidence.data)
    context.checks.passed("format", f"a report of chip {report.serial}, not authenticated")
    context.checks.failed(
        "signature",
        "it is SM2 over SM3, which the cryptography library does not offer",
        fix="have it verified where SM2 is available, and trust that verifier's signed result",
    )


def _unmasked(data: bytes, anonce: bytes) -> bytes:
    """`data` XOR the repeated word. Masked fields are whole words."""
    repeated = anonce * (len(data) // _WORD)
    size = len(data)
    return (int.from_bytes(data) ^ int.from_bytes(repeated)).to_bytes(size)


def _text(padded: bytes) -> str:
    text = padded.rstrip(b"\0")
    if not text.isalnum():
        raise EvidenceMalformed(f"format: {_WHAT}: the serial number is no text")
    return text.decode("ascii")
