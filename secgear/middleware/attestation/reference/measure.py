"""What ``secgear measure --json`` prints, as reference values."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from secgear.errors import PolicyError
from secgear.middleware.attestation.reader import UNREADABLE
from secgear.middleware.attestation.reference.model import ReferenceValue, ReferenceValues
from secgear.middleware.attestation.values import Hex

SCHEMA: Final = "secgear.measure/1"


class _Output(msgspec.Struct, forbid_unknown_fields=True):
    schema: str
    tees: dict[str, dict[str, Any]]


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_OUTPUT = msgspec.json.Decoder(_Output)


def is_measurement(data: bytes) -> bool:
    """Whether a file claims to be that output."""
    return b'"secgear.measure/' in data[:256]


def from_measurement(data: bytes) -> ReferenceValues:
    """One value for each TEE whose measurement could be computed. Raises PolicyError.

    The measurement decides; signer, product and svn come along and must agree.
    """
    try:
        output = _OUTPUT.decode(data)
        if output.schema != SCHEMA:
            raise PolicyError(f"no output of this release's secgear measure: {output.schema!r}")
        values = tuple(
            _value(tee, measured)
            for tee, measured in output.tees.items()
            if measured.get("measurement") is not None
        )
    except UNREADABLE as error:
        raise PolicyError(f"no output of secgear measure: {error}") from None
    if not values:
        raise PolicyError("this output of secgear measure holds no measurement")
    return ReferenceValues(values)


def _value(tee: str, measured: dict[str, Any]) -> ReferenceValue:
    signer = measured.get("signer")
    found = msgspec.convert(
        {name: measured.get(name) for name in ("product", "svn")}, dict[str, str | int | None]
    )
    product, svn = found["product"], found["svn"]
    if isinstance(product, int) or isinstance(svn, str):
        raise ValueError(f"product or svn of {tee} of the wrong type")
    debug = " (debug)" if measured.get("debug") else ""
    return ReferenceValue(
        name=f"{product or 'image'} {'' if svn is None else svn} on {tee}{debug}",
        tee=tee,
        measurements={"launch": Hex.parse(measured["measurement"])},
        signer=None if signer is None else Hex.parse(signer),
        product=product,
        svn=svn,
        source="secgear measure",
    )
