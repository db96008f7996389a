"""The reference value store: one JSON file, and the question which value some claims match.

``{"secgear-reference-values": 1, "values": [{"name": …, "tee": …, "measurements": {"launch": hex},
"signer": hex, "product": …, "svn": …, "about": "program" or "platform", "platform": {…: …},
"not_after": …, "source": …}]}``
"""

from __future__ import annotations

import msgspec

from secgear.errors import PolicyError
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.reference.measure import from_measurement, is_measurement
from secgear.middleware.attestation.reference.model import (
    MARK,
    MAX_VALUES,
    VERSION,
    ReferenceValue,
    ReferenceValues,
)
from secgear.middleware.attestation.values import decode_hook

MAX_SIZE = 16 << 20  # bytes of one file


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int = msgspec.field(name=MARK)
    values: tuple[ReferenceValue, ...]


_DECODER = msgspec.json.Decoder(_File, dec_hook=decode_hook)


def load_reference_values(data: bytes) -> ReferenceValues:
    """Read a store, or what ``secgear measure --json`` printed. Raises PolicyError."""
    if len(data) > MAX_SIZE:
        raise PolicyError(f"reference values of {len(data)} bytes; at most {MAX_SIZE} are read")
    if is_measurement(data):
        return from_measurement(data)
    try:
        file = _DECODER.decode(data)
    except UNREADABLE as error:
        raise PolicyError(f"no reference values: {error}") from None
    if file.version != VERSION:
        raise PolicyError(
            f"reference values of version {file.version}; this release reads {VERSION}"
        )
    if len(file.values) > MAX_VALUES:
        raise PolicyError(f"{len(file.values)} reference values; at most {MAX_VALUES}")
    return ReferenceValues(file.values)
