"""Azure evidence as Confidential Containers' attesters write it, versions 0 and 1."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation.formats.tpm.pcrs import write_values

MAX_SIZE = 1 << 20  # bytes of JSON

_RSASSA_SHA256 = b"\x00\x14\x00\x0b"  # TPMT_SIGNATURE's head, which these files leave out
_PCRS, _PCR_SIZE = 24, 32


def from_coco(json: bytes) -> Evidence:
    """Evidence of ``az-snp-vtpm`` or ``az-tdx-vtpm``. Raises EvidenceMalformed."""
    if len(json) > MAX_SIZE:
        raise EvidenceMalformed(f"format: Azure evidence of {len(json)} bytes")
    try:
        content = msgspec.json.decode(json, type=dict[str, Any])
        quote = content["tpm_quote"] if "tpm_quote" in content else content["quote"]
        report = _octets(content["hcl_report"] if "hcl_report" in content else content["report"])
        signature = _octets(quote["signature"])
        attachments = {
            "quote": _octets(quote["message"]),
            "signature": _RSASSA_SHA256 + len(signature).to_bytes(2, "big") + signature,
            "pcrs": write_values({"sha256": _values(quote["pcrs"])}),
        }
        if "td_quote" in content:
            attachments["td-quote"] = _octets(content["td_quote"])
            return Evidence("azure.tdx", report, attachments)
        attachments["vcek"] = _certificate(content["vcek"])
    except (
        msgspec.DecodeError,
        binascii.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:
        raise EvidenceMalformed(
            f"format: no Azure evidence of Confidential Containers: {error}"
        ) from None
    return Evidence("azure.snp", report, attachments)


def _values(pcrs: list[Any]) -> dict[int, bytes]:
    values = [_octets(value) for value in pcrs]
    if len(values) != _PCRS or any(len(value) != _PCR_SIZE for value in values):
        raise ValueError("not 24 PCRs of SHA-256")
    return dict(enumerate(values))


def _octets(value: object) -> bytes:
    """A list of numbers (version 0), hexadecimal or URL-safe base64 (version 1)."""
    if isinstance(value, list):
        return bytes(value)
    if not isinstance(value, str):
        raise TypeError("bytes are missing")
    try:
        return bytes.fromhex(value)
    except ValueError:
        return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)


def _certificate(value: object) -> bytes:
    """PEM (version 0) or URL-safe base64 of DER (version 1)."""
    if isinstance(value, str) and "BEGIN CERTIFICATE" in value:
        return value.encode()
    return _octets(value)
