"""Sealing: data that only this enclave, or its kin, can read again, wherever the host keeps it.

`seal` and `unseal` for what fits into memory, `ProtectedFile` for more; a `Counter` tells the
newest from older data. docs/sealing.md has the formats. Public names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secgear.base.tee import SealingPolicy as SealingPolicy
    from secgear.middleware.sealing.counters import CallCounter as CallCounter
    from secgear.middleware.sealing.counters import Counter as Counter
    from secgear.middleware.sealing.counters import FileCounter as FileCounter
    from secgear.middleware.sealing.counters import Standing as Standing
    from secgear.middleware.sealing.files import ProtectedFile as ProtectedFile
    from secgear.middleware.sealing.format import Header as Header
    from secgear.middleware.sealing.format import parse as parse
    from secgear.middleware.sealing.format import version_of as version_of
    from secgear.middleware.sealing.keys import derive_key as derive_key
    from secgear.middleware.sealing.remote_counter import RemoteCounter as RemoteCounter
    from secgear.middleware.sealing.sealed import commit as commit
    from secgear.middleware.sealing.sealed import reseal as reseal
    from secgear.middleware.sealing.sealed import seal as seal
    from secgear.middleware.sealing.sealed import store as store
    from secgear.middleware.sealing.sealed import unseal as unseal
    from secgear.middleware.sealing.storage import CallStorage as CallStorage
    from secgear.middleware.sealing.storage import PathStorage as PathStorage
    from secgear.middleware.sealing.storage import Storage as Storage
    from secgear.middleware.sealing.tpm_counter import TpmCounter as TpmCounter
    from secgear.middleware.sealing.witness import Witness as Witness
    from secgear.middleware.sealing.witness_service import WitnessClient as WitnessClient

_HERE = "secgear.middleware.sealing"
_PUBLIC = {
    "CallCounter": f"{_HERE}.counters",
    "CallStorage": f"{_HERE}.storage",
    "Counter": f"{_HERE}.counters",
    "FileCounter": f"{_HERE}.counters",
    "Header": f"{_HERE}.format",
    "PathStorage": f"{_HERE}.storage",
    "ProtectedFile": f"{_HERE}.files",
    "RemoteCounter": f"{_HERE}.remote_counter",
    "SealingPolicy": "secgear.base.tee",
    "Standing": f"{_HERE}.counters",
    "Storage": f"{_HERE}.storage",
    "TpmCounter": f"{_HERE}.tpm_counter",
    "Witness": f"{_HERE}.witness",
    "WitnessClient": f"{_HERE}.witness_service",
    "commit": f"{_HERE}.sealed",
    "derive_key": f"{_HERE}.keys",
    "parse": f"{_HERE}.format",
    "reseal": f"{_HERE}.sealed",
    "seal": f"{_HERE}.sealed",
    "store": f"{_HERE}.sealed",
    "unseal": f"{_HERE}.sealed",
    "version_of": f"{_HERE}.format",
}

__all__ = [
    "CallCounter",
    "CallStorage",
    "Counter",
    "FileCounter",
    "Header",
    "PathStorage",
    "ProtectedFile",
    "RemoteCounter",
    "SealingPolicy",
    "Standing",
    "Storage",
    "TpmCounter",
    "Witness",
    "WitnessClient",
    "commit",
    "derive_key",
    "parse",
    "reseal",
    "seal",
    "store",
    "unseal",
    "version_of",
]


def __getattr__(name: str) -> Any:
    home = _PUBLIC.get(name)
    if home is None:
        raise AttributeError(f"module {_HERE!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
