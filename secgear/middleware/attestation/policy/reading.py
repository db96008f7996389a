"""Policies from TOML, strictly: what is not understood is an error, never passed over."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from secgear.errors import PolicyError
from secgear.middleware.attestation.policy.model import (
    MAX_PART_DEPTH,
    Accept,
    Allow,
    Freshness,
    Parts,
    Policy,
    Rego,
    Rules,
    TcbRules,
    Unchecked,
)
from secgear.middleware.attestation.values import decode_hook

MAX_SIZE = 1 << 20  # bytes of one policy
MAX_DEPTH = 24  # of tables and lists in it
MAX_DOTS = 256  # in one line

_TABLES: Mapping[str, type[msgspec.Struct]] = {
    "accept": Accept,
    "tcb": TcbRules,
    "freshness": Freshness,
    "allow": Allow,
    "unchecked": Unchecked,
    "parts": Parts,
    "rego": Rego,
}


def load_policy(toml: bytes) -> Policy:
    """Read a policy. Raises PolicyError, which names the key and the nearest known one.

    toml: UTF-8 text; an empty one is a policy that trusts nothing.
    """
    if len(toml) > MAX_SIZE:
        raise PolicyError(f"a policy of {len(toml)} bytes; at most {MAX_SIZE} are read")
    # The reader takes quadratic time for a dotted key; no rule needs a long one.
    if any(line.count(b".") > MAX_DOTS for line in toml.split(b"\n")):
        raise PolicyError(f"the policy has a line with more than {MAX_DOTS} dots")
    try:
        table = tomllib.loads(toml.decode())
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the policy is no TOML: {error}") from None
    _check_values(table)
    _known_keys(table, Policy, "")
    try:
        return msgspec.convert(table, Policy, dec_hook=decode_hook)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        raise PolicyError(f"policy: {error}") from None


def _check_values(table: Any) -> None:
    """Refuse nesting and numbers that TOML allows and nothing else could hold."""
    layer = [table]
    for _ in range(MAX_DEPTH):
        items = [
            item
            for outer in layer
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if any(isinstance(item, int) and abs(item) >> 63 for item in items):
            raise PolicyError("policy: a number of more than 64 bits")
        layer = [item for item in items if isinstance(item, dict | list)]
        if not layer:
            return
    raise PolicyError(f"policy: nested deeper than {MAX_DEPTH}")


def _known_keys(table: Any, kind: type[msgspec.Struct], where: str, depth: int = 0) -> None:
    """Refuse keys that `kind` does not have; wrong types are left for the conversion."""
    if not isinstance(table, dict):
        return
    known = kind.__struct_fields__
    for key, value in table.items():
        if key not in known:
            raise PolicyError(
                f"policy: unknown key {_joined(where, key)!r}; {_nearest(key, known)}"
            )
        if key in _TABLES and kind in {Policy, Rules}:
            _known_keys(value, _TABLES[key], _joined(where, key), depth)
    if kind is Parts and isinstance(table.get("policy"), dict):
        if depth >= MAX_PART_DEPTH:
            raise PolicyError(f"policy: {where}: parts nested deeper than {MAX_PART_DEPTH}")
        for tee, rules in table["policy"].items():
            _known_keys(rules, Rules, _joined(where, f"policy.{tee}"), depth + 1)


def _joined(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _nearest(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(sorted(known))}"


# Made here, once: msgspec describes a struct at its first use, and threads must not share that.
_DESCRIBED = msgspec.json.Decoder(Policy, dec_hook=decode_hook)
