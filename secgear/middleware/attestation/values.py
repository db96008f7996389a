"""Values as people write them in policies and reference values: hexadecimal, durations."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import msgspec

_DURATION = re.compile(r"([1-9][0-9]{0,6})(s|m|h|d)", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 36_500 * 86_400  # seconds
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,1024}", re.ASCII)


class Hex(bytes):
    """Bytes that are hexadecimal text in files. Never empty there: nothing is no digest."""

    @classmethod
    def parse(cls, text: object) -> Hex:
        """Raises ValueError."""
        if not isinstance(text, str) or not _HEX.fullmatch(text):
            raise ValueError(f"{_short(text)} is not hexadecimal (1 to 1024 bytes)")
        return cls(bytes.fromhex(text))


class Duration(datetime.timedelta):
    """A time span that is text such as ``30s``, ``5m``, ``1h``, ``30d`` in files."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Raises ValueError."""
        found = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"{_short(text)} is no duration such as 30s, 5m, 1h or 30d")
        seconds = int(found[1]) * _SECONDS[found[2]]
        if seconds > _LONGEST:
            raise ValueError(f"{_short(text)} is longer than a hundred years")
        return cls(seconds=seconds)


def decode_hook(kind: type, value: object) -> Any:
    """For msgspec: reads the types of this file."""
    if kind is Hex:
        return Hex.parse(value)
    if kind is Duration:
        return Duration.parse(value)
    raise NotImplementedError(f"nobody reads {kind.__name__}")


def to_plain(value: Any) -> Any:
    """Values that JSON can hold: the way back from `decode_hook`; defaults are left out."""
    return msgspec.to_builtins(value, enc_hook=_encode_hook, str_keys=True)


def _encode_hook(value: object) -> object:
    match value:
        case Hex():
            return value.hex()
        case Duration():
            return f"{value.total_seconds():.0f}s"
        case Mapping():
            return dict(value)
        case _:
            raise NotImplementedError(f"nobody writes {type(value).__name__}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
