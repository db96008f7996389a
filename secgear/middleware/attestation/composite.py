"""Composite evidence: a confidential machine and the devices that belong to it.

A genuine GPU proves nothing about the machine that shows its evidence: anybody's will do, relayed
from elsewhere. So a device's nonce must be the hash of the machine's evidence (`device_nonce`):
first the machine's evidence is made, then the devices'. Who verifies both knows that the device
answered somebody who held this very evidence, which is bound to a verifier's nonce or key in turn.

What this can't prove is that the device sits in the machine: software in the machine could relay
the question to a device elsewhere. That it does not is for the machine's own measurements to show.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceRefused
from secgear.middleware.attestation import verification
from secgear.middleware.attestation.checks import Check
from secgear.middleware.attestation.claims import Claims

MAX_PARTS = 64

# What may be a part, and how such parts are called. The evidence of each carries a nonce of 32
# bytes as a whole.
DEVICE_FORMATS: Mapping[str, str] = {
    "nvidia.gpu": "gpu",
    "nvidia.nvswitch": "nvswitch",
    "tpm.quote": "tpm",
}

# The data of these is made once, when the machine starts: a nonce is in the quote of its vTPM.
_FRESH: Mapping[str, str] = {"azure.snp": "quote", "azure.tdx": "quote"}
_LABEL = b"secgear device nonce v1\0"
_NUMBER = r"(0|[1-9][0-9]?)"


def device_nonce(evidence: Evidence) -> bytes:
    """The nonce to ask the devices of a machine with, once the machine's `evidence` is there.

    Returns 32 bytes: SHA-256 over a label and the evidence's data; where something attached is what
    carries the verifier's nonce, over that as well, each with its length before it.
    """
    fresh = _FRESH.get(evidence.format)
    if fresh is None:
        return hashlib.sha256(_LABEL + evidence.data).digest()
    pieces = (evidence.data, evidence.attachments.get(fresh, b""))
    sized = b"".join(len(piece).to_bytes(8, "big") + piece for piece in pieces)
    return hashlib.sha256(_LABEL + sized).digest()


def verify_parts(evidence: Evidence, claims: Claims, context: verification.Context) -> Claims:
    """The machine's `claims`, with those of its verified and bound parts.

    Each part's checks are taken over under its name, and ``<part>.binding.cpu`` is added. Raises
    EvidenceRefused when a part is not authentic, not bound to `evidence`, no device, or not called
    by its kind and a number (another name could pass for that of a check); when `evidence` is
    itself a device's; and when two parts are the same device.
    """
    checks = context.checks
    if claims.format in DEVICE_FORMATS:
        checks.malformed("only a machine has parts; a device does not")
    if len(evidence.parts) > MAX_PARTS:
        checks.malformed(f"{len(evidence.parts)} parts; at most {MAX_PARTS}")
    nonce = device_nonce(evidence)
    verified: dict[str, Claims] = {}
    devices: dict[tuple[str, ...], str] = {}
    for name, part in evidence.parts.items():
        verified[name] = found = _verified(name, part, context)
        first = devices.setdefault(_device(part, found), name)
        if first != name:
            checks.failed(f"{name}.binding.cpu", f"it is the same device as {first}")
        checks.require(
            found.report_data == nonce,
            f"{name}.binding.cpu",
            "its nonce is the hash of this machine's evidence",
            "it answered another machine, or no machine",
            expected=nonce.hex(),
            found=found.report_data.hex(),
            fix="ask the device with device_nonce() of this machine's evidence",
        )
    return msgspec.structs.replace(claims, parts=verified, checks=checks.done)


def _verified(name: str, part: Evidence, context: verification.Context) -> Claims:
    """Claims of one part, whose record goes into the machine's whatever comes out."""
    kind = DEVICE_FORMATS.get(part.format)
    if kind is None:
        context.checks.malformed(f"part {name[:32]!r} is {part.format[:32]!r}, which is no device")
    if not re.fullmatch(kind + _NUMBER, name):
        context.checks.malformed(f"a part is named {name[:32]!r}, not {kind}0, {kind}1, …")
    try:
        claims = verification.verify_within(part, context.fresh())
    except EvidenceRefused as refusal:
        context.checks.adopt(
            name, tuple(item for item in refusal.checks if isinstance(item, Check))
        )
        raise type(refusal)(f"{name}.{refusal}", context.checks.done) from refusal
    context.checks.adopt(name, claims.checks)
    return claims


def _device(part: Evidence, claims: Claims) -> tuple[str, ...]:
    """Which device it is: one must not count as two. Its evidence, where that does not tell."""
    if "serial" in claims.platform:
        return claims.tee, claims.platform["serial"]
    named = tuple(f"{key}={value}" for key, value in sorted(claims.platform.items()))
    return claims.tee, *(named or (part.data.hex(),))
