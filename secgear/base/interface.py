"""The interface of an app: what can be called, with which types, as data with a digest.

The type annotations of an app are its interface definition. Both sides compare the digest before
the first call, so a host that was written against another version is refused before it can send
something that would be misunderstood.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from secgear.base import typedesc as td
from secgear.base import wellformed
from secgear.base.declare import describe_function
from secgear.base.signature import (
    Described,
    ErrorDesc,
    Function,
    Param,
    bind,
    signature,
    signature_and_errors,
    spread,
)
from secgear.base.typedesc import top_level_bytes
from secgear.base.wellformed import EITHER, KEYWORD, POSITIONAL
from secgear.errors import InterfaceError

__all__ = [
    "EITHER",
    "KEYWORD",
    "MAX_BYTES",
    "POSITIONAL",
    "RESERVED",
    "Described",
    "ErrorDesc",
    "Function",
    "Interface",
    "Param",
    "bind",
    "check_name",
    "describe_function",
    "diff",
    "signature",
    "spread",
    "top_level_bytes",
]

MAX_BYTES = 1 << 20
"""Largest description that is written or read."""
_LABEL = b"secgear interface 1\n"

RESERVED = frozenset(
    {
        "aio",
        "alive",
        "call",
        "close",
        "enclave",
        "errors",
        "hand_over",
        "image",
        "interface",
        "layers",
        "map",
        "options",
        "pid",
        "shared",
        "stats",
        "submit",
        "switchless",
        "tee",
        "types",
    }
)
"""Names that the handle of an enclave or a generated client needs; no ECALL may have them."""


class Interface(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All functions of an app and the named types that they use.

    version: of the app, for people; it is not compared.
    """

    name: str
    version: str
    ecalls: dict[str, Function]
    ocalls: dict[str, Function]
    types: dict[str, td.TypeDef]

    @classmethod
    def gather(
        cls, name: str, version: str, ecalls: Iterable[Described], ocalls: Iterable[Described]
    ) -> Interface:
        """The interface of these functions.

        Raises InterfaceError when two different types or exceptions have the same name, and for
        whatever `from_json` would refuse.
        """
        if not isinstance(version, str):
            raise InterfaceError(f"{name}: an app's version is a text, not {version!r}")
        ecalls, ocalls = list(ecalls), list(ocalls)
        types: dict[str, td.TypeDef] = {}
        for entry in [*ecalls, *ocalls]:
            for label, definition in entry.definitions.items():
                if types.setdefault(label, definition) != definition:
                    raise InterfaceError(f"{name}: two different types are called {label}")
        interface = cls(
            name,
            version,
            {entry.function.name: entry.function for entry in ecalls},
            {entry.function.name: entry.function for entry in ocalls},
            types,
        )
        try:
            interface._check()
        except ValueError as error:
            raise InterfaceError(f"{name}: {error}") from error
        return interface

    def to_json(self) -> bytes:
        """The canonical form: sorted keys, no spaces, UTF-8.

        Raises InterfaceError when it is larger than `MAX_BYTES`.
        """
        data = _canonical(msgspec.to_builtins(self))
        if len(data) > MAX_BYTES:
            raise InterfaceError(
                f"{self.name}: the interface takes {len(data)} bytes; {MAX_BYTES} are allowed"
            )
        return data

    @classmethod
    def from_json(cls, data: bytes) -> Interface:
        """Read what `to_json` wrote. Raises InterfaceError for anything else."""
        if len(data) > MAX_BYTES:
            raise InterfaceError(
                f"not an interface: it has {len(data)} bytes; {MAX_BYTES} are allowed"
            )
        try:
            interface = _decoder.decode(data)
            interface._check()
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise InterfaceError(f"not an interface: {error}") from error
        return interface

    def digest(self) -> bytes:
        """SHA-384 (48 bytes) of what both sides must agree on: how a function is called.

        Not its documentation, not whether that is switchless, not the version.
        """
        plain = msgspec.to_builtins(self)
        del plain["version"]
        for functions in (plain["ecalls"], plain["ocalls"]):
            for function in functions.values():
                function.pop("doc", None)
                function.pop("switchless", None)
        return hashlib.sha384(_LABEL + _canonical(plain)).digest()

    def _check(self) -> None:
        wellformed.check(self)
        for name in self.ecalls:
            if name in RESERVED or name.startswith("_"):
                raise ValueError(f"an ECALL can't be called {name}")


_decoder = msgspec.json.Decoder(Interface)


def check_name(name: str) -> None:
    """Raise InterfaceError for an ECALL name that the handle of an enclave needs for itself."""
    if name.startswith("_"):
        raise InterfaceError(f"{name}: names of ECALLs don't begin with an underscore")
    if name in RESERVED:
        raise InterfaceError(
            f"{name}: this name belongs to the enclave's handle (enclave.{name}); "
            "call the ECALL something else"
        )


def diff(mine: Interface, theirs: Interface) -> list[str]:
    """What differs, in lines: ``-`` what the first has, ``+`` what the second has.

    Empty exactly when the digests are the same.
    """
    ours, others = _lines(mine), _lines(theirs)
    lines = []
    for key in sorted({*ours, *others}):
        one, other = ours.get(key), others.get(key)
        if one != other:
            lines += [f"- {one}"] if one is not None else []
            lines += [f"+ {other}"] if other is not None else []
    return lines


def _lines(interface: Interface) -> dict[tuple[int, str], str]:
    """Everything that the digest covers as lines for people, in order of their keys."""
    lines = {(0, ""): f"app {interface.name}"}
    for name, function in interface.ecalls.items():
        lines[1, name] = signature_and_errors(function)
    for name, function in interface.ocalls.items():
        lines[2, name] = f"ocall {signature_and_errors(function)}"
    for name, definition in interface.types.items():
        lines[3, name] = td.render_definition(name, definition)
    return lines


def _canonical(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
