"""Several enclaves over one store, for tests."""

from __future__ import annotations

from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.mechanism import Mechanism
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import MemoryStore, open_module


def two(store: MemoryStore) -> tuple[Module, Module]:
    return open_module(store), open_module(store)


def noted(*modules: Module) -> None:
    """The host tells everybody how far the store is."""
    for module in modules:
        module.vault.note(max(one.vault.known.epoch for one in modules))


def ecb() -> Mechanism:
    return Mechanism(Mech.AES_ECB)
