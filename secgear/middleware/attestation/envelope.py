"""Evidence as a file or a message: one envelope, in JSON and in CBOR.

JSON: ``{"secgear-evidence": 1, "format": "…", "data": "<base64>", "attachments": {name: base64},
"parts": {name: envelope without the first member}}``. CBOR: the same map with byte strings.
Decoding is strict: unknown members, other versions and anything beyond the limits are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cbor2
import msgspec

from secgear.base.tee import Evidence
from secgear.errors import EvidenceMalformed
from secgear.middleware.attestation import cbor
from secgear.middleware.attestation.reader import UNREADABLE

VERSION = 1
MAX_SIZE = 8 << 20  # bytes of one envelope; a TCG2 log is at most a few hundred kilobytes
MAX_PARTS = 64  # a machine with eight GPUs and four switches has twelve
MAX_ATTACHMENTS = 32  # of one piece of evidence; no format knows more than a handful
_MARK = "secgear-evidence"


class _Body(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    format: str
    data: bytes
    attachments: dict[str, bytes] = {}
    parts: dict[str, _Body] = {}


class _Envelope(_Body, forbid_unknown_fields=True, omit_defaults=True):
    version: int = msgspec.field(name=_MARK, default=0)


_FROM_JSON = msgspec.json.Decoder(_Envelope)


def to_json(evidence: Evidence) -> bytes:
    """The envelope in JSON."""
    return msgspec.json.encode({_MARK: VERSION} | msgspec.to_builtins(evidence))


def to_cbor(evidence: Evidence) -> bytes:
    """The envelope in deterministic CBOR."""
    body = msgspec.to_builtins(evidence, builtin_types=(bytes,))
    return cbor2.dumps({_MARK: VERSION} | body, canonical=True)


def from_json(data: bytes) -> Evidence:
    """Read an envelope. Raises EvidenceMalformed."""
    _small_enough(data)
    try:
        envelope = _FROM_JSON.decode(data)
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: no evidence envelope: {error}") from None
    return _checked(envelope)


def from_cbor(data: bytes) -> Evidence:
    """Read an envelope. Raises EvidenceMalformed."""
    _small_enough(data)
    content = cbor.decode(data, "evidence envelope", max_size=MAX_SIZE)
    try:
        envelope = msgspec.convert(content, _Envelope, builtin_types=(bytes,))
    except UNREADABLE as error:
        raise EvidenceMalformed(f"format: no evidence envelope: {error}") from None
    return _checked(envelope)


def _small_enough(data: bytes) -> None:
    if len(data) > MAX_SIZE:
        raise EvidenceMalformed(
            f"format: an evidence envelope of {len(data)} bytes; at most {MAX_SIZE} are read"
        )


def _checked(envelope: _Envelope) -> Evidence:
    if envelope.version != VERSION:
        raise EvidenceMalformed(
            f"format: envelope of version {envelope.version}; this release reads {VERSION}"
        )
    count = -1  # it is none itself
    layer: list[_Body] = [envelope]
    while layer:  # not by recursion, of which an interpreter may do less than the decoder
        count += len(layer)
        if count > MAX_PARTS:
            raise EvidenceMalformed(f"format: an envelope with more than {MAX_PARTS} parts")
        if any(len(body.attachments) > MAX_ATTACHMENTS for body in layer):
            raise EvidenceMalformed(f"format: more than {MAX_ATTACHMENTS} attachments")
        layer = [part for body in layer for part in body.parts.values()]
    return _evidence(envelope)


def _evidence(body: _Body) -> Evidence:
    parts: Mapping[str, Any] = {name: _evidence(part) for name, part in body.parts.items()}
    return Evidence(body.format, body.data, body.attachments, parts)
