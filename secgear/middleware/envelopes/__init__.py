"""Sealed envelopes: data for one enclave's attested key, from parties who are not online with it.

The enclave makes an `EnclaveKeyPair` and gives out the public form; a data owner verifies that
once (`verify_key`) and seals (`seal`, `Sealer`); the enclave opens (`open`, `Opener`). The format
is in docs/envelopes.md. Public names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secgear.middleware.envelopes.batches import open_batches as open_batches
    from secgear.middleware.envelopes.batches import seal_batches as seal_batches
    from secgear.middleware.envelopes.document import EnclaveKey as EnclaveKey
    from secgear.middleware.envelopes.kept_ledger import KeptLedger as KeptLedger
    from secgear.middleware.envelopes.keypair import EnclaveKeyPair as EnclaveKeyPair
    from secgear.middleware.envelopes.ledger import MemoryLedger as MemoryLedger
    from secgear.middleware.envelopes.ledger import ReplayLedger as ReplayLedger
    from secgear.middleware.envelopes.opener import Opener as Opener
    from secgear.middleware.envelopes.opener import open as open  # noqa: A004
    from secgear.middleware.envelopes.sealer import Sealer as Sealer
    from secgear.middleware.envelopes.sealer import seal as seal
    from secgear.middleware.envelopes.suites import CLASSIC as CLASSIC
    from secgear.middleware.envelopes.suites import HYBRID as HYBRID
    from secgear.middleware.envelopes.trust import TrustedKey as TrustedKey
    from secgear.middleware.envelopes.trust import verify_key as verify_key

_HERE = "secgear.middleware.envelopes"
_PUBLIC = {
    "CLASSIC": "suites",
    "EnclaveKey": "document",
    "EnclaveKeyPair": "keypair",
    "HYBRID": "suites",
    "KeptLedger": "kept_ledger",
    "MemoryLedger": "ledger",
    "Opener": "opener",
    "ReplayLedger": "ledger",
    "Sealer": "sealer",
    "TrustedKey": "trust",
    "open": "opener",
    "open_batches": "batches",
    "seal": "sealer",
    "seal_batches": "batches",
    "verify_key": "trust",
}

__all__ = [
    "CLASSIC",
    "HYBRID",
    "EnclaveKey",
    "EnclaveKeyPair",
    "KeptLedger",
    "MemoryLedger",
    "Opener",
    "ReplayLedger",
    "Sealer",
    "TrustedKey",
    "open",
    "open_batches",
    "seal",
    "seal_batches",
    "verify_key",
]


def __getattr__(name: str) -> Any:
    home = _PUBLIC.get(name)
    if home is None:
        raise AttributeError(f"module {_HERE!r} has no attribute {name!r}")
    value = getattr(import_module(f"{_HERE}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_PUBLIC)
