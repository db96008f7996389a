"""Evidence as NVIDIA's attestation SDK writes it: a JSON array with one object for each device."""

from __future__ import annotations

import base64
import binascii

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed, EvidenceUnsupported
from secgear.middleware.attestation.reader import UNREADABLE

MAX_SIZE = 4 << 20  # bytes of JSON
MAX_DEVICES = 64

_FORMATS = {"HOPPER": "nvidia.gpu", "BLACKWELL": "nvidia.gpu", "LS10": "nvidia.nvswitch"}


class _Device(msgspec.Struct):
    """What the SDK writes about a device; what it copies out of the report is not believed."""

    arch: str
    evidence: str
    certificate: str


_DECODER = msgspec.json.Decoder(list[_Device])


def evidence_from_nvat(json: bytes) -> tuple[Evidence, ...]:
    """The evidence in a file of `nvattest collect-evidence`, in its order.

    Raises EvidenceMalformed; EvidenceUnsupported for an architecture nobody here knows.
    """
    if len(json) > MAX_SIZE:
        raise EvidenceMalformed(f"format: NVIDIA evidence of {len(json)} bytes")
    try:
        devices = _DECODER.decode(json)
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: no evidence of NVIDIA's SDK: {error}") from None
    if not 1 <= len(devices) <= MAX_DEVICES:
        raise EvidenceMalformed(f"format: evidence of {len(devices)} NVIDIA devices")
    return tuple(_evidence(device) for device in devices)


def _evidence(device: _Device) -> Evidence:
    kind = _FORMATS.get(device.arch)
    if kind is None:
        raise EvidenceUnsupported(f"format: NVIDIA architecture {device.arch[:32]!r}")
    return Evidence(
        kind, _decoded(device.evidence), attachments={"chain": _decoded(device.certificate)}
    )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise EvidenceMalformed("format: NVIDIA evidence that is not base64") from None
